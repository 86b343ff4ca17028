"""Embeddings as a cloud-optimised GeoTIFF: tiles, overviews, the directory first, written by GDAL's COG driver.

One band per feature, one pixel per cell. GDAL's driver keeps all bands of a tile together, so reading a cell reads all
values of its neighbours too: tiles are as large as 1 MiB allows, from 512 cells a side (one float32 band) to 16 (more
than 256 bands). Overviews (the mean of 2 x 2 cells that have a value) halve the sides until both fit 256 cells. There
are none where their tiles, which GDAL makes 64 cells a side at least, would take more than 8 MiB (512 float32 bands):
nobody looks at thousands of bands, and a file of a few components shows the same.

GDAL makes such a file from another one only, and its own way from strips or tiles of many bands takes minutes (it reads
all bands of a tile again for each of them). So the values go, band after band within each row, into plain files beside
the output, which a VRT describes; they take the size of the cells once more, uncompressed.

DEFLATE makes features of networks that end in a ReLU, mostly zeros, two to four times smaller, components hardly.
``int8`` and nodata are as in the plain GeoTIFF (:mod:`eo_backbones.scenes.geotiff`). ``float16`` are float32 values
rounded to half precision, whose last 13 bits DEFLATE removes: GDAL's 16-bit floats are no option, since GDAL 3.10 fills
the tiles at the edges with what the memory holds, which makes small files larger than float32 and no two alike.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
from rasterio.shutil import copy

from eo_backbones.files import atomic_file
from eo_backbones.scenes.encoding import INT8_NODATA, TAG, EmbeddingDtype, Int8Codes, Rows, blocks_of, to_half
from eo_backbones.scenes.geotiff import refuse_too_many, writing_with_gdal
from eo_backbones.scenes.grid import Grid

_TILE_BYTES = 2**20
_OVERVIEW_TILE_BYTES = 8 * 2**20
_SIDES = (512, 256, 128, 64, 32, 16)  # of a tile in cells; TIFF wants multiples of 16
_OVERVIEW_SIDE = 64  # least side of a tile of an overview (GDAL_TIFF_OVR_BLOCKSIZE)
_SMALLEST = 256  # an overview that fits so many cells has none above it
_BLOCK_BYTES = 32 * 2**20  # values at once


def write_cog(
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
    side = tile_side(bands, dtype)
    overview_side = max(side, _OVERVIEW_SIDE)
    sizes = [(grid.rows, grid.cols)]
    if has_overviews(bands, dtype):
        while max(sizes[-1]) > _SMALLEST:
            sizes.append(_halved(sizes[-1]))
    options = {
        "BLOCKSIZE": side,
        "COMPRESS": "DEFLATE",
        "OVERVIEWS": "FORCE_USE_EXISTING" if len(sizes) > 1 else "NONE",
        "BIGTIFF": "IF_NEEDED",
        "STATISTICS": "NO",
    }
    with atomic_file(path) as unfinished, _folder_beside(unfinished) as folder:
        _write_levels(folder, rows, _storage(codes, dtype), sizes, bands)
        source = _describe(folder, sizes, grid, bands=bands, codes=codes, facts=facts, names=names)
        settings = {
            "GDAL_TIFF_OVR_BLOCKSIZE": overview_side,
            "GDAL_NUM_THREADS": 1,
            "GDAL_VALIDATE_CREATION_OPTIONS": "NO",  # it warns of tiles below 128, and makes them
            "GDAL_CACHEMAX": max(64, 2 * overview_side * grid.cols * bands * 4 >> 20),  # MiB; two rows of tiles
        }
        with writing_with_gdal(path), rasterio.Env(**settings):
            copy(source, unfinished, driver="COG", **options)


def tile_side(bands: int, dtype: EmbeddingDtype) -> int:
    """Return the side of a tile in cells."""
    return next((side for side in _SIDES if side**2 * _pixel_bytes(bands, dtype) <= _TILE_BYTES), _SIDES[-1])


def has_overviews(bands: int, dtype: EmbeddingDtype) -> bool:
    """Return whether a file that is large enough gets overviews."""
    return max(tile_side(bands, dtype), _OVERVIEW_SIDE) ** 2 * _pixel_bytes(bands, dtype) <= _OVERVIEW_TILE_BYTES


def _pixel_bytes(bands: int, dtype: EmbeddingDtype) -> int:
    return bands * (1 if dtype == "int8" else 4)


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Give an empty folder beside a file; it is removed at the end."""
    folder = path.with_name(f"{path.name}.bands")
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _level(number: int) -> str:
    return f"level{number}.bil"


def _storage(codes: Int8Codes | None, dtype: EmbeddingDtype) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from values ``(n, cols, bands)`` to what GDAL reads: codes, or float32."""
    if codes is not None:
        return codes.encode
    return to_half if dtype == "float16" else lambda values: values


def _write_levels(
    folder: Path,
    rows: Rows,
    stored: Callable[[np.ndarray], np.ndarray],
    sizes: Sequence[tuple[int, int]],
    bands: int,
) -> None:
    """Write the cells, and the overviews above them, band after band within each row."""
    times = 2 ** (len(sizes) - 1)  # rows of cells below a row of the smallest overview
    step = max(_BLOCK_BYTES // (sizes[0][1] * bands * 4) // times, 1) * times
    files = [(folder / _level(number)).open("wb") for number in range(len(sizes))]
    try:
        for block in blocks_of(rows(), step):
            level = block
            for number, file in enumerate(files):
                if number:
                    level = _averaged(level)
                file.write(np.ascontiguousarray(stored(level).transpose(0, 2, 1)).data)
    finally:
        for file in files:
            file.close()


def _averaged(block: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 cells of ``(n, cols, numbers)`` that have a value; NaN where none has."""
    rows, cols, numbers = block.shape
    height, width = _halved((rows, cols))
    total = np.zeros((height, width, numbers), np.float32)
    count = np.zeros((height, width, 1), np.float32)
    for top in range(2):
        for left in range(2):
            part = block[top::2, left::2]
            known = ~np.isnan(part[..., :1])
            area = (slice(part.shape[0]), slice(part.shape[1]))
            total[area] += np.where(known, part, 0)
            count[area] += known
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan))


def _describe(
    folder: Path,
    sizes: Sequence[tuple[int, int]],
    grid: Grid,
    *,
    bands: int,
    codes: Int8Codes | None,
    facts: Mapping[str, Any],
    names: Sequence[str],
) -> Path:
    """Write VRTs of the plain files; return that of the cells, which names those of the overviews."""
    for number, (height, width) in reversed(list(enumerate(sizes))):
        root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
        if number == 0:
            if grid.crs is not None:
                ET.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = grid.crs.to_wkt()
            ET.SubElement(root, "GeoTransform").text = ", ".join(map(repr, grid.transform.to_gdal()))
            metadata = ET.SubElement(root, "Metadata")
            ET.SubElement(metadata, "MDI", key=TAG).text = json.dumps(facts)
        kind, item = ("Float32", 4) if codes is None else ("Int8", 1)
        for band in range(bands):
            node = ET.SubElement(root, "VRTRasterBand", dataType=kind, band=str(band + 1), subClass="VRTRawRasterBand")
            if number == 0 and names:
                ET.SubElement(node, "Description").text = names[band]
            ET.SubElement(node, "NoDataValue").text = "nan" if codes is None else str(INT8_NODATA)
            if number == 0 and codes is not None:
                ET.SubElement(node, "Offset").text = repr(float(codes.offset[band]))
                ET.SubElement(node, "Scale").text = repr(float(codes.scale[band]))
            ET.SubElement(node, "SourceFilename", relativeToVRT="1").text = _level(number)
            ET.SubElement(node, "ImageOffset").text = str(band * width * item)
            ET.SubElement(node, "PixelOffset").text = str(item)
            ET.SubElement(node, "LineOffset").text = str(bands * width * item)
            for above in range(1, len(sizes)) if number == 0 else ():
                overview = ET.SubElement(node, "Overview")
                ET.SubElement(overview, "SourceFilename", relativeToVRT="1").text = f"level{above}.vrt"
                ET.SubElement(overview, "SourceBand").text = str(band + 1)
        ET.ElementTree(root).write(folder / f"level{number}.vrt")
    return folder / "level0.vrt"
