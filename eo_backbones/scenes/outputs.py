"""What is written about a scene: embeddings as a GeoTIFF or a Parquet table, a map of similarity, and pictures.

GeoTIFF: one band per feature, one pixel per cell. Uncompressed (features hardly compress), pixel-interleaved, one row
per strip: written and read row by row in the order of the file. BigTIFF above 4 GB. ``float16`` is GDAL's 16-bit float
(``NBITS=16``), which GDAL returns as float32. ``int8`` is coded per band by its own smallest and largest value in the
scene: ``value = scale * code + offset``, both in the file as GDAL keeps them, code -128 is nodata. Elsewhere nodata is
NaN.

Parquet: one row for each cell that has a value. Columns: ``row``, ``col`` (of the grid), ``x``, ``y`` (its centre in
the scene's coordinate system), ``lon``, ``lat`` (WGS 84; null where the scene has no coordinate system), ``embedding``
(a list of fixed length). What the embedding is of stands in the schema's metadata.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from affine import Affine
from matplotlib.figure import Figure
from PIL import Image
from rasterio.crs import CRS
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file, utf8
from eo_backbones.rasters.reader import without_georeference_warnings
from eo_backbones.scenes.grid import Grid, to_degrees

Rows = Callable[[], Iterator[np.ndarray]]
"""Gives all rows of cells from the first on, float32 ``(cols, bands)`` each; may be called more than once."""
EmbeddingDtype = Literal["float32", "float16", "int8"]

TAG = "EO_BACKBONES"
"""Metadata item that holds, as JSON, what the embedding is of."""
MAX_BANDS = 65_535  # TIFF counts samples of a pixel in 16 bits
_INT8_NODATA, _INT8_MAX = -128, 127
_MAX_PX, _MIN_PX = 2048, 512
_DISPLAYED = (2, 98)  # percentiles that become black and full colour
_INK = "#1f2430"


def write_geotiff(
    path: Path,
    rows: Rows,
    *,
    grid: Grid,
    bands: int,
    dtype: EmbeddingDtype,
    facts: Mapping[str, Any],
    names: Sequence[str] = (),
) -> None:
    """Write the file; it appears when it is whole.

    Args:
        path: the file.
        rows: the values.
        grid: where the cells lie.
        bands: values per cell.
        dtype: of the values.
        facts: what the embedding is of, as JSON types.
        names: descriptions of the bands, if they have any.

    Raises:
        UserError: more bands than a TIFF can have.
    """
    if bands > MAX_BANDS:
        raise UserError(f"{bands:,} values per cell; a GeoTIFF has at most {MAX_BANDS:,} bands; pass --components")
    coded = dtype == "int8"
    scale, offset = _codes(rows, bands) if coded else (np.ones(bands), np.zeros(bands))
    profile = {
        "driver": "GTiff",
        "height": grid.rows,
        "width": grid.cols,
        "count": bands,
        "dtype": "int8" if coded else "float32",
        "nodata": _INT8_NODATA if coded else np.nan,
        "crs": grid.crs,
        "transform": grid.transform,
        "interleave": "pixel",
        "blockysize": 1,
        "photometric": "minisblack",
        "bigtiff": "if_needed",
    }
    if dtype == "float16":
        profile["nbits"] = 16
    row_mib = grid.cols * bands * 4 >> 20
    with (
        atomic_file(path) as unfinished,
        rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=max(64, 4 * row_mib)),
        without_georeference_warnings(),
        rasterio.open(unfinished, "w", **profile) as target,
    ):
        target.update_tags(**{TAG: json.dumps(facts)})
        if names:
            target.descriptions = tuple(names)
        if coded:
            target.scales, target.offsets = scale.tolist(), offset.tolist()
        for number, row in enumerate(rows()):
            values = _encoded(row, scale, offset) if coded else row
            target.write(values.T[:, None], window=Window(0, number, grid.cols, 1))


def _codes(rows: Rows, bands: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset of each band, ``(bands,)`` both."""
    low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
    for row in rows():
        known = row[~np.isnan(row[:, 0])]
        if len(known):
            low, high = np.minimum(low, known.min(axis=0)), np.maximum(high, known.max(axis=0))
    span = high - low
    return np.where(span > 0, span / (2 * _INT8_MAX), 1.0), (low + high) / 2


def _encoded(row: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    codes = np.rint((row - offset) / scale).clip(-_INT8_MAX, _INT8_MAX)
    return np.where(np.isnan(codes), _INT8_NODATA, codes).astype(np.int8)


def load_pyarrow() -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``, which come with an extra.

    Raises:
        UserError: they are missing.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("--format parquet needs pyarrow: pip install 'eo-backbones[parquet]'") from error


def write_parquet(path: Path, rows: Rows, *, grid: Grid, features: int, dtype: str, facts: Mapping[str, Any]) -> None:
    """Write the table; it appears when it is whole.

    Args:
        path: the file.
        rows: the values.
        grid: where the cells lie.
        features: values per cell.
        dtype: ``"float32"`` or ``"float16"``.
        facts: what the embedding is of, as JSON types.
    """
    pa, pq = load_pyarrow()
    value = pa.float16() if dtype == "float16" else pa.float32()
    indices = [(name, pa.int32()) for name in ("row", "col")]
    coordinates = [(name, pa.float64()) for name in ("x", "y", "lon", "lat")]
    crs = grid.crs.to_wkt() if grid.crs else ""
    schema = pa.schema(
        [*indices, *coordinates, ("embedding", pa.list_(value, features))],
        metadata={TAG: json.dumps(facts), "crs": crs},
    )
    with atomic_file(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for number, values in enumerate(rows()):
            known = np.flatnonzero(~np.isnan(values[:, 0]))
            if not len(known):
                continue
            x, y = (centre[known] for centre in grid.centres(number))
            degrees = to_degrees(grid.crs, x, y) if grid.crs else (None, None)
            lon, lat = (pa.nulls(len(known), pa.float64()) if part is None else pa.array(part) for part in degrees)
            flat = pa.array(values[known].astype(dtype).ravel(), value)
            columns = [
                pa.array(np.full(len(known), number), pa.int32()),
                pa.array(known, pa.int32()),
                *(pa.array(part) for part in (x, y)),
                lon,
                lat,
                pa.FixedSizeListArray.from_arrays(flat, features),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def write_similarity_map(
    path: Path, values: np.ndarray, *, crs: CRS | None, transform: Affine, facts: Mapping[str, Any]
) -> None:
    """Write a map of cosine similarity as a GeoTIFF of one band; it appears when it is whole.

    Args:
        path: the file.
        values: ``(rows, cols)``, NaN where a cell has no value.
        crs: of the cells.
        transform: cell ``(col, row)`` -> coordinates.
        facts: what the map is of, as JSON types.
    """
    profile = {
        "driver": "GTiff",
        "height": values.shape[0],
        "width": values.shape[1],
        "count": 1,
        "dtype": "float32",
        "nodata": np.nan,
        "crs": crs,
        "transform": transform,
        "compress": "deflate",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(path) as unfinished,
        rasterio.Env(GDAL_PAM_ENABLED="NO"),
        without_georeference_warnings(),
        rasterio.open(unfinished, "w", **profile) as target,
    ):
        target.update_tags(**{f"{TAG}_SIMILAR": json.dumps(facts)})
        target.descriptions = ("cosine similarity",)
        target.write(values.astype(np.float32), 1)


def write_components_picture(path: Path, values: np.ndarray) -> None:
    """Draw the first three components of each cell as red, green and blue; cells without a value are transparent.

    Each component is stretched from its 2nd to its 98th percentile. With fewer than three, the first one in grey. Small
    grids are enlarged and large ones thinned out, both by whole factors.

    Args:
        path: the PNG.
        values: ``(rows, cols, components)``, NaN where a cell has no value.
    """
    known = ~np.isnan(values[..., 0])
    shown = values[..., :3] if values.shape[-1] >= 3 else values[..., :1]
    low, high = np.percentile(shown[known], _DISPLAYED, axis=0)
    span = np.where(high > low, high - low, 1.0)
    unit = np.nan_to_num(((shown - low) / span).clip(0, 1), nan=0.0)
    colours = np.broadcast_to(np.rint(unit * 255).astype(np.uint8), (*known.shape, 3))
    pixels = np.dstack([colours, known.astype(np.uint8) * 255])
    with atomic_file(path) as unfinished:
        Image.fromarray(_scaled(pixels)).save(unfinished, format="PNG")


def write_similarity_picture(path: Path, values: np.ndarray, *, cell: tuple[int, int], title: str) -> None:
    """Draw a map of cosine similarity with its scale, and a cross at the cell that all are compared with.

    Args:
        path: the PNG.
        values: ``(rows, cols)``, NaN where a cell has no value.
        cell: row and column of that cell.
        title: stands above the map.
    """
    rows, cols = values.shape
    height = min(max(7.0 * rows / cols, 2.5), 14.0)
    figure = Figure(figsize=(8.5, height + 0.7), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#ffffff")
    low, high = np.nanpercentile(values, _DISPLAYED)
    drawn = axes.imshow(values, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    axes.plot(cell[1], cell[0], marker="+", color="white", markersize=18, markeredgewidth=4)
    axes.plot(cell[1], cell[0], marker="+", color="#d55e00", markersize=16, markeredgewidth=2)
    axes.set_title(utf8(title).decode(), loc="left", fontsize=10, color=_INK, parse_math=False)
    axes.set_xlabel("column of cells")
    axes.set_ylabel("row of cells")
    figure.colorbar(drawn, ax=axes, label="cosine similarity (2nd to 98th percentile)", extend="both")
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Return the picture, enlarged or thinned out by a whole factor."""
    longest = max(pixels.shape[:2])
    if longest > _MAX_PX:
        step = -(-longest // _MAX_PX)
        return np.ascontiguousarray(pixels[::step, ::step])
    times = max(_MIN_PX // longest, 1)
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def write_embedding(
    path: Path,
    rows: Rows,
    *,
    format: str,  # noqa: A002 -- as the option is called
    grid: Grid,
    numbers: int,
    dtype: EmbeddingDtype,
    facts: Mapping[str, Any],
    names: Sequence[str] = (),
) -> None:
    """Write an embedding; the file appears when it is whole.

    Args:
        path: the file.
        rows: the values.
        format: of the file.
        grid: where the cells lie.
        numbers: values per cell.
        dtype: of the values.
        facts: what the embedding is of, as JSON types.
        names: what the values are called, if they have names.
    """
    if format == "parquet":
        write_parquet(path, rows, grid=grid, features=numbers, dtype=dtype, facts=facts)
    else:
        write_geotiff(path, rows, grid=grid, bands=numbers, dtype=dtype, facts=facts, names=names)
