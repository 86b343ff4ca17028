"""Embeddings as a GeoTIFF: one band a feature, one pixel a cell.

Uncompressed (features hardly compress), pixel-interleaved, one row a strip: written and read row by row in the order of
the file. BigTIFF where it passes 4 GB. ``float16`` is GDAL's 16-bit float (``NBITS=16``), which GDAL hands out as
float32. ``int8`` is coded per band by its own smallest and largest value in the scene: ``value = scale * code +
offset``, both in the file as GDAL keeps them, code -128 is nodata. Elsewhere nodata is NaN.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.scenes.grid import Grid

Rows = Callable[[], Iterator[np.ndarray]]
"""Gives all rows of cells from the first on, float32 ``(cols, bands)`` each; may be called more than once."""
NumberFormat = Literal["float32", "float16", "int8"]

TAG = "EO_BACKBONES"
"""Metadata item that holds, as JSON, what the embedding is of."""
MOST_BANDS = 65_535  # TIFF counts samples of a pixel in 16 bits
_INT8_NODATA, _INT8_HIGHEST = -128, 127


def write_geotiff(
    path: Path,
    rows: Rows,
    *,
    grid: Grid,
    bands: int,
    dtype: NumberFormat,
    facts: Mapping[str, Any],
    names: Sequence[str] = (),
) -> None:
    """Write the file; it appears when it is whole.

    Args:
        path: the file.
        rows: the values.
        grid: where the cells lie.
        bands: numbers a cell.
        dtype: number format.
        facts: what the embedding is of, as JSON types.
        names: descriptions of the bands, if they have any.

    Raises:
        UserError: more bands than a TIFF can have.
    """
    if bands > MOST_BANDS:
        raise UserError(f"{bands:,} numbers a cell, a GeoTIFF has at most {MOST_BANDS:,} bands; pass --components")
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
    temporary = path.with_name(f".{path.name}")
    row_mib = grid.cols * bands * 4 >> 20
    try:
        with (
            rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=max(64, 4 * row_mib)),
            rasterio.open(temporary, "w", **profile) as target,
        ):
            target.update_tags(**{TAG: json.dumps(facts)})
            if names:
                target.descriptions = tuple(names)
            if coded:
                target.scales, target.offsets = scale.tolist(), offset.tolist()
            for number, row in enumerate(rows()):
                values = _encoded(row, scale, offset) if coded else row
                target.write(values.T[:, None], window=Window(0, number, grid.cols, 1))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _codes(rows: Rows, bands: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset of each band."""
    low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
    for row in rows():
        known = row[~np.isnan(row[:, 0])]
        if len(known):
            low, high = np.minimum(low, known.min(axis=0)), np.maximum(high, known.max(axis=0))
    span = high - low
    return np.where(span > 0, span / (2 * _INT8_HIGHEST), 1.0), (low + high) / 2


def _encoded(row: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    codes = np.rint((row - offset) / scale).clip(-_INT8_HIGHEST, _INT8_HIGHEST)
    return np.where(np.isnan(codes), _INT8_NODATA, codes).astype(np.int8)
