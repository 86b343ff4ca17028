"""One search from beginning to end: open the index, make the query, filter, find, write."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from eo_backbones.errors import UserError, unknown_name
from eo_backbones.files import refuse_unwritable
from eo_backbones.rasters.options import AS_FILES_SAY, ReadingOptions
from eo_backbones.scenes.parquet import load_pyarrow
from eo_backbones.search.filters import Filters
from eo_backbones.search.hits import Hit, find_hits
from eo_backbones.search.index import SearchIndex
from eo_backbones.search.nearest import has_lists
from eo_backbones.search.outputs import write_geojson, write_geoparquet
from eo_backbones.search.picture import draw_hits
from eo_backbones.search.queries import Query, at_place, in_area, of_image

_SUFFIXES = (".geojson", ".json", ".parquet", ".png")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What to search for: exactly one of ``at``, ``geometry`` and ``image``.

    Attributes:
        index: the index.
        at: longitude and latitude of a place, WGS 84.
        scene: the scene to take its cell from; default: the latest one there.
        geometry: GeoJSON file with polygons.
        combine: ``"mean"`` or ``"best"``, see :func:`eo_backbones.search.queries.in_area`.
        image: files of an image.
        model: where the model of the index is now, for an image.
        reading: what is declared about the image's values; the unit by default is that of the scenes.
        count: how many hits.
        out: files to write: ``.geojson``, ``.parquet`` or ``.png``.
        filters: limits for what may be found.
        apart_m, with_query, exact: see :func:`eo_backbones.search.hits.find_hits`.
    """

    index: Path
    at: tuple[float, float] | None = None
    scene: str | None = None
    geometry: Path | None = None
    combine: str = "mean"
    image: tuple[str, ...] = ()
    model: str | None = None
    reading: ReadingOptions = AS_FILES_SAY
    count: int = 10
    out: tuple[Path, ...] = ()
    filters: Filters = field(default_factory=Filters)
    apart_m: float | None = None
    with_query: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if sum((self.at is not None, self.geometry is not None, bool(self.image))) != 1:
            raise UserError("say what to search for with one of --at LON,LAT, --geometry AREA.geojson and --image FILE")
        if self.combine not in ("mean", "best"):
            raise unknown_name("--combine", self.combine, ("mean", "best"))
        if self.count < 1:
            raise UserError(f"--top {self.count}: pass 1 or more")
        if self.apart_m is not None and not self.apart_m >= 0:
            raise UserError(f"--apart {self.apart_m:g}: pass metres, 0 for every cell")
        for path in self.out:
            if path.suffix.lower() not in _SUFFIXES:
                raise UserError(f"--out {path}: its suffix names no format; end it in .geojson, .parquet or .png")
            if path.suffix.lower() == ".parquet":
                load_pyarrow()
            refuse_unwritable(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found.

    Attributes:
        query: what was searched for, in words.
        hits: best first.
        searched: cells that could be found.
        exact: whether all of them were scanned.
        out: files that were written.
    """

    query: str
    hits: tuple[Hit, ...]
    searched: int
    exact: bool
    out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def search(request: SearchRequest, *, device: torch.device, dtype: torch.dtype) -> Found:
    """Search an index and write what was found.

    Args:
        request: what to search for.
        device: where an image is embedded.
        dtype: of the network's computation then.

    Raises:
        UserError: anything about the request, the files or the model that the caller can correct; or no cell is left.
    """
    index = SearchIndex.open(request.index)
    allowed = request.filters.allowed(index)
    query = _query(request, index, device, dtype)
    hits = find_hits(
        index,
        query,
        request.count,
        allowed=allowed,
        apart_m=request.apart_m,
        with_query=request.with_query,
        exact=request.exact,
    )
    if not hits:
        raise UserError(
            "nothing is left but the cells of the query and their neighbours; widen the filters, pass --apart 0, or "
            "--with-query"
        )
    for path in request.out:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, index, query, hits)
    return Found(
        query=query.text,
        hits=tuple(hits),
        searched=len(index.cells) if allowed is None else int(allowed.sum()),
        exact=request.exact or allowed is not None or not has_lists(index),
        out=tuple(map(str, request.out)),
    )


def _query(request: SearchRequest, index: SearchIndex, device: torch.device, dtype: torch.dtype) -> Query:
    if request.at is not None:
        return at_place(index, *request.at, scene=request.scene)
    if request.geometry is not None:
        return in_area(index, request.geometry, combine="best" if request.combine == "best" else "mean")
    return of_image(index, request.image, model=request.model, reading=request.reading, device=device, dtype=dtype)


def _write(path: Path, index: SearchIndex, query: Query, hits: Sequence[Hit]) -> None:
    suffix = path.suffix.lower()
    if suffix == ".png":
        draw_hits(path, index, query, hits)
    elif suffix == ".parquet":
        write_geoparquet(path, index, hits, query=query.text)
    else:
        write_geojson(path, index, hits, query=query.text)
