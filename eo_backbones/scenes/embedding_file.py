"""A file of embeddings read back, whatever its format: where its cells lie, what they are of, and their values.

GeoTIFF (of any layout: strips, or the tiles of a cloud-optimised one), Parquet tables and Zarr stores, as
:mod:`eo_backbones.scenes.outputs` writes them. Values arrive as float32, decoded, in blocks of rows, so that memory
holds one block. A table leaves cells without a value out; where its metadata do not hold its grid, the grid follows
from the centres of the cells.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import opened, unreadable
from eo_backbones.scenes.encoding import TAG, Int8Codes
from eo_backbones.scenes.grid import CellGrid
from eo_backbones.scenes.parquet import load_pyarrow
from eo_backbones.scenes.zarr_store import load_zarr

BLOCK_BYTES = 64 * 2**20
"""Size of a block of float32 values, where the caller does not say."""
_ALIGNED_BYTES = 4 * BLOCK_BYTES  # a block may grow to whole rows of tiles up to here
_PARQUET_MAGIC = b"PAR1"
_STORE_FILES = (".zgroup", "zarr.json")  # of Zarr 2 and 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFile(CellGrid):
    """A file that :func:`eo_backbones.scenes.embed_scene` wrote. It is opened by each call that reads values.

    Attributes:
        path: the file.
        format: of the file.
        facts: what the embedding is of: model, digest of the weights, bands, size and stride of the windows, ...
        features: values per cell.
    """

    path: Path
    format: Literal["geotiff", "parquet", "zarr"]
    facts: Mapping[str, Any]
    features: int

    def blocks(self, cells: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows in blocks: the first row, and float32 ``(n, cols, features)``, NaN where a cell has no value.

        Args:
            cells: of a block, about (whole rows, and of a tiled GeoTIFF whole rows of tiles where these are not
                large); default: :data:`BLOCK_BYTES`.

        Raises:
            UserError: the file is damaged.
        """
        step = max((cells or BLOCK_BYTES // (4 * self.features)) // self.cols, 1)
        if self.format == "parquet":
            table = _Table(self.path)
            for first in range(0, self.rows, step):
                yield first, table.read(first, min(step, self.rows - first), self.cols, self.features)
            return
        if self.format == "zarr":
            store = _Store(self.path)
            step = self._aligned(step, store.chunk_rows)
            for first in range(0, self.rows, step):
                yield first, store.read(first, min(step, self.rows - first))
            return
        with opened(self.path) as source:
            step = self._aligned(step, source.block_shapes[0][0])
            for first in range(0, self.rows, step):
                yield first, _read_geotiff(source, first, min(step, self.rows - first))

    def read(self, first: int, count: int = 1) -> np.ndarray:
        """Return rows of cells, float32 ``(count, cols, features)``, NaN where a cell has no value.

        Raises:
            UserError: the file is damaged.
        """
        if self.format == "parquet":
            return _Table(self.path).read(first, count, self.cols, self.features)
        if self.format == "zarr":
            return _Store(self.path).read(first, count)
        with opened(self.path) as source:
            return _read_geotiff(source, first, count)

    def _aligned(self, step: int, tile: int) -> int:
        """Return a number of rows that reads every tile once, if rows of tiles are not too large."""
        if step % tile and tile * self.cols * self.features * 4 <= _ALIGNED_BYTES:
            return max(step // tile, 1) * tile
        return step


def open_embedding(path: Path) -> EmbeddingFile:
    """Return what a file of embeddings says about itself; values are read later.

    Raises:
        UserError: no such file, a damaged one, or one that holds something else.
    """
    found = find_embedding(path)
    if found is None:
        raise UserError(f"{path} is not an embedding; make one with eo-backbones embed SCENE --out {path}")
    return found


def find_embedding(path: Path) -> EmbeddingFile | None:
    """Return what a file of embeddings says about itself; ``None``: a raster or table that holds something else.

    Raises:
        UserError: no such file, or a damaged one.
    """
    if path.is_dir():
        return _describe_store(path) if any((path / name).is_file() for name in _STORE_FILES) else None
    if _is_parquet(path):
        return _describe_table(path)
    with opened(path) as source:
        if TAG not in source.tags():
            return None
        return EmbeddingFile(
            path=path,
            format="geotiff",
            facts=_facts(path, source.tags()[TAG]),
            crs=source.crs,
            transform=source.transform,
            rows=source.height,
            cols=source.width,
            features=source.count,
        )


def cosine(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the cosine of cells ``(..., features)`` with one ``(features,)``; 0 for cells of zeros, NaN stays NaN."""
    lengths = np.linalg.norm(features, axis=-1) * np.linalg.norm(reference)
    cosines: np.ndarray = features @ reference / np.maximum(lengths, np.finfo(np.float32).tiny)
    return cosines


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == ".parquet" or file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def _facts(path: Path, text: str) -> Mapping[str, Any]:
    """Return the metadata that says what the embedding is of.

    Raises:
        UserError: it is damaged.
    """
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: its metadata item {TAG} is damaged ({error}); embed the scene again") from error
    if not isinstance(facts, dict):
        raise UserError(f"{path}: its metadata item {TAG} is not an object; embed the scene again")
    return facts


def _read_geotiff(source: Any, first: int, count: int) -> np.ndarray:
    try:
        values = source.read(window=Window(0, first, source.width, count)).transpose(1, 2, 0)
    except RasterioError as error:
        raise unreadable(source.name, error) from error
    if source.dtypes[0] != "int8":
        return np.ascontiguousarray(values, np.float32)
    return Int8Codes(scale=np.asarray(source.scales), offset=np.asarray(source.offsets)).decode(values)


class _Table:
    """A Parquet table of cells, open for reading.

    Raises:
        UserError: it is damaged, or pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrow, parquet = load_pyarrow()
        try:
            self._file = parquet.ParquetFile(path, memory_map=True)
        except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
            raise self._damaged(error) from error
        self.schema = self._file.schema_arrow
        self.metadata = self.schema.metadata or {}

    def columns(self, names: list[str], groups: list[int] | None = None) -> Any:
        """Return columns as a pyarrow table, of all or some row groups."""
        try:
            if groups is None:
                return self._file.read(names)
            return self._file.read_row_groups(groups, names)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error

    def read(self, first: int, count: int, cols: int, features: int) -> np.ndarray:
        """Return rows of cells, float32 ``(count, cols, features)``."""
        values = np.full((count, cols, features), np.nan, np.float32)
        groups = [number for number in range(self._file.num_row_groups) if self._may_hold(number, first, count)]
        for group in groups:
            table = self.columns(["row", "col", "embedding"], [group])
            row, col = (table.column(name).to_numpy() for name in ("row", "col"))
            chosen = np.flatnonzero((row >= first) & (row < first + count))
            stored = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(row), features)
            values[row[chosen] - first, col[chosen]] = stored[chosen]
        return values

    def _may_hold(self, group: int, first: int, count: int) -> bool:
        statistics = self._file.metadata.row_group(group).column(self.schema.names.index("row")).statistics
        return (
            statistics is None
            or not statistics.has_min_max
            or (statistics.min < first + count and statistics.max >= first)
        )

    def _damaged(self, error: Exception) -> UserError:
        reason = str(error).splitlines()[0]
        return UserError(f"cannot read {self.path}: it is truncated or not a Parquet file ({reason}); embed it again")


def _describe_table(path: Path) -> EmbeddingFile | None:
    table = _Table(path)
    if TAG.encode() not in table.metadata:
        return None
    facts = _facts(path, table.metadata[TAG.encode()].decode())
    wkt = table.metadata.get(b"crs", b"").decode()
    try:
        crs = CRS.from_wkt(wkt) if wkt else None
    except CRSError as error:
        raise UserError(f"{path}: its coordinate system is damaged; embed the scene again") from error
    rows, cols, transform = _grid(table, facts)
    return EmbeddingFile(
        path=path,
        format="parquet",
        facts=facts,
        crs=crs,
        transform=transform,
        rows=rows,
        cols=cols,
        features=table.schema.field("embedding").type.list_size,
    )


class _Store:
    """A Zarr store of cells, open for reading.

    Raises:
        UserError: it is damaged, or zarr is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        zarr = load_zarr()
        try:
            self.group = zarr.open_group(path, mode="r")
            self.values = self.group["embedding"] if TAG in self.group.attrs else None
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error

    @property
    def chunk_rows(self) -> int:
        """Rows of cells of a chunk."""
        assert self.values is not None
        return int(self.values.chunks[0])

    def read(self, first: int, count: int) -> np.ndarray:
        """Return rows of cells, float32 ``(count, cols, features)``."""
        assert self.values is not None
        try:
            return np.asarray(self.values[first : first + count], np.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error

    def grid(self) -> tuple[CRS | None, Affine]:
        """Return coordinate system and transform of the cells."""
        if "spatial_ref" in self.group:
            attributes = self.group["spatial_ref"].attrs
            transform = Affine.from_gdal(*map(float, attributes["GeoTransform"].split()))
            return CRS.from_wkt(attributes["crs_wkt"]), transform
        assert self.values is not None
        rows, cols = self.values.shape[:2]
        row, col = np.divmod(np.arange(rows * cols), cols)
        if "xc" in self.group:
            x, y = (np.asarray(self.group[name]).ravel() for name in ("xc", "yc"))
        else:
            x, y = np.asarray(self.group["x"])[col], np.asarray(self.group["y"])[row]
        return None, _fitted(self.path, row, col, x, y)

    def _damaged(self, error: Exception) -> UserError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return UserError(f"cannot read {self.path}: it is incomplete or not a Zarr store ({reason}); embed it again")


def _describe_store(path: Path) -> EmbeddingFile | None:
    store = _Store(path)
    if store.values is None:
        return None
    facts = _facts(path, str(store.group.attrs[TAG]))
    try:
        crs, transform = store.grid()
    except (KeyError, ValueError, CRSError) as error:
        raise UserError(f"{path}: its coordinates are damaged ({error}); embed the scene again") from error
    rows, cols, features = store.values.shape
    return EmbeddingFile(
        path=path,
        format="zarr",
        facts=facts,
        crs=crs,
        transform=transform,
        rows=rows,
        cols=cols,
        features=features,
    )


def _grid(table: _Table, facts: Mapping[str, Any]) -> tuple[int, int, Affine]:
    """Return rows, columns and transform of a table's grid."""
    if "grid" in facts:
        grid = facts["grid"]
        return grid["rows"], grid["cols"], Affine(*grid["transform"])
    cells = table.columns(["row", "col", "x", "y"])
    row, col, x, y = (cells.column(name).to_numpy() for name in ("row", "col", "x", "y"))
    return int(row.max()) + 1, int(col.max()) + 1, _fitted(table.path, row, col, x, y)


def _fitted(path: Path, row: np.ndarray, col: np.ndarray, x: np.ndarray, y: np.ndarray) -> Affine:
    """Return the transform that the centres of the cells follow; cells of one row or column are taken as squares.

    Raises:
        UserError: the centres do not say how large a cell is.
    """
    centres = np.stack([col + 0.5, row + 0.5, np.ones(len(row))], axis=1)
    origin = np.array([x[0], y[0]])
    found, _, rank, _ = np.linalg.lstsq(centres, np.stack([x, y], axis=1) - origin, rcond=None)
    if rank == 3:
        (a, d), (b, e), _ = found
    elif len(set(row.tolist())) == 1 and len(row) > 1:
        a, d = (np.array([x[-1], y[-1]]) - origin) / (col[-1] - col[0])
        b, e = d, -a
    elif len(set(col.tolist())) == 1 and len(row) > 1:
        b, e = (np.array([x[-1], y[-1]]) - origin) / (row[-1] - row[0])
        a, d = -e, b
    else:
        raise UserError(f"{path} does not say how large its cells are; embed the scene again with this version")
    corner = origin - np.array([a, d]) * (col[0] + 0.5) - np.array([b, e]) * (row[0] + 0.5)
    return Affine(a, b, corner[0], d, e, corner[1])
