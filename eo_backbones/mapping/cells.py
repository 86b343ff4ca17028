"""The cells that labelled points lie in, in every scene that shows them."""

import csv
import logging
from collections import Counter
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import write_atomically
from eo_backbones.mapping.points import Points
from eo_backbones.mapping.source import MapRegion, MapScene
from eo_backbones.rasters.reader import GdalError
from eo_backbones.scenes.grid import at, from_degrees

logger = logging.getLogger(__name__)

OUTSIDE = "outside all scenes"
MISSING = "its cell has no value"
NO_CLASS = "no class"
CONTRADICTED = "another point in its cell has another class"
REPEATED = "another point of its class is in its cell"
_LARGE_SCENE = 0.35  # radii of the globe, 20 degrees: beyond, its corners say little about what lies in it
_MARGIN = 1.5  # edges of a scene may be curved
_READ_WHOLE = 0.25  # of the rows of a scene: with more, one pass over the file is quicker than single rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A point that no cell was taken for, and why."""

    lon: float
    lat: float
    name: str
    reason: str


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LabelledCells:
    """What a classifier learns from. A point that several scenes show has a cell in each of them.

    Attributes:
        features: float32 ``(n, features)``.
        labels: class of each cell, int64 ``(n,)``.
        point: which point it was found by, int64 ``(n,)``.
        scene: which scene of the region it is in, int64 ``(n,)``.
        lon, lat: of that point, ``(n,)``.
        left_out: points without a cell.
    """

    features: np.ndarray
    labels: np.ndarray
    point: np.ndarray
    scene: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    left_out: tuple[LeftOut, ...]

    @property
    def points(self) -> int:
        """How many points have a cell."""
        return len(np.unique(self.point))

    def reasons(self) -> str:
        """Return in words how many points have no cell, and why; empty if all have one."""
        counts = Counter(one.reason for one in self.left_out)
        return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def find_cells(region: MapRegion, points: Points) -> LabelledCells:
    """Return the cells at labelled points.

    Points of one cell count once where they agree, and not at all where they do not.

    Raises:
        UserError: no scene has a coordinate system, no point is on a cell with a value, or a file is damaged.
    """
    placed = sum(scene.crs is not None for scene in region.scenes)
    if not placed:
        raise UserError(f"no scene in {region.folder} has a coordinate system, so no point can be found in them")
    if placed < len(region.scenes):
        logger.warning("%d scenes have no coordinate system: no point can be in them", len(region.scenes) - placed)
    reasons = np.where(points.labels < 0, NO_CLASS, OUTSIDE).astype(object)
    features = [np.empty((0, region.features), np.float32)]
    chosen, scenes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number, scene in enumerate(region.scenes):
        if scene.crs is None:
            continue
        inside, rows, cols = _inside(scene, points)
        if not len(inside):
            continue
        values = _read(scene, rows, cols)
        state = _states(points.labels[inside], rows * scene.cols + cols, np.isnan(values[:, 0]))
        reasons[inside] = state
        features.append(values[state == ""])
        chosen.append(inside[state == ""])
        scenes.append(np.full(len(chosen[-1]), number))
    point = np.concatenate(chosen)
    left = np.setdiff1d(np.arange(len(points)), point)
    left_out = tuple(
        LeftOut(
            lon=float(points.lon[number]),
            lat=float(points.lat[number]),
            name=points.classes[points.labels[number]] if points.labels[number] >= 0 else "",
            reason=str(reasons[number]),
        )
        for number in left.tolist()
    )
    return LabelledCells(
        features=np.concatenate(features),
        labels=points.labels[point],
        point=point,
        scene=np.concatenate(scenes),
        lon=points.lon[point],
        lat=points.lat[point],
        left_out=left_out,
    )


def _inside(scene: MapScene, points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which points with a class lie in a scene, and the rows and columns of their cells."""
    assert scene.crs is not None, "scenes without a coordinate system were left out"
    known = np.flatnonzero((points.labels >= 0) & _near(scene, points.lon, points.lat))
    col, row = at(~scene.transform, *from_degrees(scene.crs, points.lon[known], points.lat[known]))
    inside = (row >= 0) & (row < scene.rows) & (col >= 0) & (col < scene.cols)  # false where they are NaN or infinite
    return known[inside], row[inside].astype(np.int64), col[inside].astype(np.int64)


def _near(scene: MapScene, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return which places are worth a look: projections may show the other side of the globe, or fail there."""
    try:
        corners = _on_sphere(*scene.corners())
    except GdalError:
        return np.full(len(lon), True)
    middle = corners.mean(axis=0)
    reach = np.linalg.norm(corners - middle, axis=1).max()
    if not reach < _LARGE_SCENE:
        return np.full(len(lon), True)
    near: np.ndarray = np.linalg.norm(_on_sphere(lon, lat) - middle, axis=1) <= _MARGIN * reach
    return near


def _on_sphere(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return places as points of the unit sphere, ``(n, 3)``."""
    east, north = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)


def _read(scene: MapScene, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return the features of some cells, float32 ``(n, features)``."""
    values = np.empty((len(rows), scene.features), np.float32)
    wanted = np.unique(rows)
    if len(wanted) > _READ_WHOLE * scene.rows:
        blocks = scene.blocks()
    else:
        blocks = ((row, scene.read(row)) for row in wanted.tolist())
    for first, block in blocks:
        here = np.flatnonzero((rows >= first) & (rows < first + len(block)))
        values[here] = block[rows[here] - first, cols[here]]
    return values


def _states(labels: np.ndarray, cells: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return for each point of a scene why its cell is not taken for it; empty text: it is."""
    _, first, group = np.unique(cells, return_index=True, return_inverse=True)
    state = np.full(len(labels), REPEATED, dtype=object)
    state[first] = ""
    low, high = np.full(len(first), labels.max()), np.zeros(len(first), np.int64)
    np.minimum.at(low, group, labels)
    np.maximum.at(high, group, labels)
    state[(low != high)[group]] = CONTRADICTED
    state[missing] = MISSING
    return state


def write_left_out(path: Path, left_out: tuple[LeftOut, ...]) -> None:
    """Write the points without a cell as a CSV file."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["lon", "lat", "class", "reason"])
    table.writerows([one.lon, one.lat, one.name, one.reason] for one in left_out)
    write_atomically(path, text.getvalue())
