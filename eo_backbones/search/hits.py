"""From the nearest cells to hits: one for each place, because windows overlap and scenes of several dates do."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eo_backbones.scenes.grid import EARTH_RADIUS_M
from eo_backbones.search.index import SearchIndex
from eo_backbones.search.nearest import nearest
from eo_backbones.search.queries import Query

_SIDE_SHARE = 0.98  # of a window's side: projections and the sphere are off by less than that
_AT_ONCE = 50  # candidates for each hit: a window of twice the stride overlaps eight others, at each date
_PAIRS = 4_000_000  # of places whose distances are computed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A cell that was found.

    Attributes:
        rank: from 1 on.
        score: cosine with the query.
        scene: its name.
        datetime: when the scene was taken, if that is known.
        cloud_cover: of the scene, percent, if that is known.
        row, col: of the cell in the scene.
        lon, lat: of its centre; ``None`` without a coordinate system.
    """

    rank: int
    score: float
    scene: str
    datetime: str | None
    cloud_cover: float | None
    row: int
    col: int
    lon: float | None
    lat: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def find_hits(
    index: SearchIndex,
    query: Query,
    count: int,
    *,
    allowed: np.ndarray | None = None,
    apart_m: float | None = None,
    with_query: bool = False,
    exact: bool = False,
) -> list[Hit]:
    """Return the nearest cells that are apart from each other, best first; fewer where there are no more.

    Args:
        index: the cells.
        query: what to search for.
        count: how many.
        allowed: bool ``(cells,)``: the cells that may be found; ``None``: all.
        apart_m: least distance between two hits, and between a hit and the cells of the query, in metres; 0: every cell
            counts. Default: about the side of a window, so that hits do not overlap.
        with_query: also find the cells that the query was made from.
        exact: scan all cells, although there are lists.
    """
    apart = _SIDE_SHARE * (index.window_side_m() or 1.0) if apart_m is None else apart_m
    excluded = np.empty(0, np.int64) if with_query else query.cells
    asked, available = min(_AT_ONCE * count + len(excluded), len(index.cells)), len(index.cells)
    while True:
        numbers, scores = nearest(index, query.vectors, asked, allowed=allowed, exact=exact)
        kept = _apart(index, numbers, excluded, apart, count)
        if len(kept) == count or asked >= available or len(numbers) < asked:
            break
        asked = min(8 * asked, available)
    return [_hit(index, rank, numbers[one], scores[one]) for rank, one in enumerate(kept, start=1)]


def _apart(index: SearchIndex, numbers: np.ndarray, excluded: np.ndarray, apart: float, count: int) -> list[int]:
    """Return the positions of the first cells, at most ``count``, that are not excluded and apart from all others."""
    places, scenes = index.cells[numbers], index.scene_of(numbers)
    free = ~np.isin(numbers, excluded)
    if apart > 0 and len(excluded):
        step = max(_PAIRS // max(len(numbers), 1), 1)
        for first in range(0, len(excluded), step):
            others = excluded[first : first + step]
            free &= ~_close(index, places, scenes, index.cells[others], index.scene_of(others), apart).any(axis=1)
    kept: list[int] = []
    while len(kept) < count and free.any():
        best = int(free.argmax())
        kept.append(best)
        free[best] = False
        if apart > 0:
            free &= ~_close(index, places, scenes, places[[best]], scenes[[best]], apart)[:, 0]
    return kept


def _close(
    index: SearchIndex, ones: np.ndarray, of: np.ndarray, others: np.ndarray, theirs: np.ndarray, apart: float
) -> np.ndarray:
    """Return which cells are closer than ``apart`` to which others, bool ``(n, m)``.

    Without coordinates: whose windows overlap in the same scene.
    """
    lon, lat = (np.radians(ones[axis])[:, None] for axis in ("lon", "lat"))
    lon2, lat2 = (np.radians(others[axis])[None] for axis in ("lon", "lat"))
    haversine = np.sin((lat - lat2) / 2) ** 2 + np.cos(lat) * np.cos(lat2) * np.sin((lon - lon2) / 2) ** 2
    close: np.ndarray = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(haversine, 1))) < apart
    if np.isnan(lon).any():
        windows = np.array([index.facts["size"] / scene.facts["stride"] for scene in index.scenes])[of]
        rows, cols = (np.abs(ones[axis][:, None] - others[axis][None]) for axis in ("row", "col"))
        close |= np.isnan(lon) & (of[:, None] == theirs[None]) & (np.maximum(rows, cols) < windows[:, None])
    return close


def _hit(index: SearchIndex, rank: int, number: int, score: float) -> Hit:
    cell = index.cells[number]
    scene = index.scenes[int(index.scene_of(np.array([number]))[0])]
    known = not np.isnan(cell["lon"])
    return Hit(
        rank=rank,
        score=float(score),
        scene=scene.id,
        datetime=scene.datetime,
        cloud_cover=scene.cloud_cover,
        row=int(cell["row"]),
        col=int(cell["col"]),
        lon=float(cell["lon"]) if known else None,
        lat=float(cell["lat"]) if known else None,
    )
