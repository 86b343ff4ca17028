"""Embeddings as a plain GeoTIFF, and a map of similarity.

One band per feature, one pixel per cell. Uncompressed (features hardly compress), pixel-interleaved, one row per strip:
written and read row by row in the order of the file. BigTIFF above 4 GB. ``float16`` is GDAL's 16-bit float
(``NBITS=16``), which GDAL returns as float32. Scale and offset of ``int8``
(:class:`~eo_backbones.scenes.encoding.Int8Codes`) are in the file as GDAL keeps them, code -128 is nodata. Elsewhere
nodata is NaN.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file, write_problem
from eo_backbones.rasters.reader import GdalError, without_georeference_warnings
from eo_backbones.scenes.encoding import INT8_NODATA, TAG, EmbeddingDtype, Int8Codes, Rows, blocks_of
from eo_backbones.scenes.grid import Grid

MAX_BANDS = 65_535  # TIFF counts samples of a pixel in 16 bits
_BLOCK_BYTES = 32 * 2**20  # written at once: each call of rasterio costs time that grows with the square of the bands


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
        UserError: more bands than a TIFF can have, or GDAL could not write the file.
    """
    refuse_too_many(bands)
    codes = Int8Codes.of(rows(), bands) if dtype == "int8" else None
    profile = {
        "driver": "GTiff",
        "height": grid.rows,
        "width": grid.cols,
        "count": bands,
        "dtype": "float32" if codes is None else "int8",
        "nodata": np.nan if codes is None else INT8_NODATA,
        "crs": grid.crs,
        "transform": grid.transform,
        "interleave": "pixel",
        "blockysize": 1,
        "photometric": "minisblack",
        "bigtiff": "if_needed",
    }
    if dtype == "float16":
        profile["nbits"] = 16
    row_bytes = grid.cols * bands * 4
    step = max(_BLOCK_BYTES // row_bytes, 1)
    with (
        atomic_file(path) as unfinished,
        writing_with_gdal(path),
        rasterio.Env(GDAL_CACHEMAX=max(64, 4 * row_bytes >> 20)),
        rasterio.open(unfinished, "w", **profile) as target,
    ):
        target.update_tags(**{TAG: json.dumps(facts)})
        if names:
            target.descriptions = tuple(names)
        if codes is not None:
            target.scales, target.offsets = codes.scale.tolist(), codes.offset.tolist()
        for number, block in enumerate(blocks_of(rows(), step)):
            values = block if codes is None else codes.encode(block)
            target.write(values.transpose(2, 0, 1), window=Window(0, number * step, grid.cols, len(block)))


@contextmanager
def writing_with_gdal(path: Path) -> Iterator[None]:
    """Say in one line that GDAL could not write a file: most often the disk is full.

    Raises:
        UserError: it could not.
    """
    try:
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), without_georeference_warnings():
            yield
    except (RasterioError, GdalError, SystemError) as error:
        raise UserError(f"cannot write {path}: {write_problem(error)}; make room, or pass another --out") from error


def refuse_too_many(bands: int) -> None:
    """Check that a TIFF can hold so many values per cell.

    Raises:
        UserError: it cannot.
    """
    if bands > MAX_BANDS:
        raise UserError(f"{bands:,} values per cell; a GeoTIFF has at most {MAX_BANDS:,} bands; pass --components")


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
        writing_with_gdal(path),
        rasterio.open(unfinished, "w", **profile) as target,
    ):
        target.update_tags(**{f"{TAG}_SIMILAR": json.dumps(facts)})
        target.descriptions = ("cosine similarity",)
        target.write(values.astype(np.float32), 1)
