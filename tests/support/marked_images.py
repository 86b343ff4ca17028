"""Images whose missing pixels are marked in every way that GeoTIFFs in the wild do it."""

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

BRIGHT = 9999
"""What is stored in missing pixels where a mask says that they are missing: a bright, plausible value."""

MARKS = (
    "nodata 65535",
    "nodata -9999",
    "nodata 0",
    "nodata of each band",
    "NaN",
    "nodata NaN",
    "internal mask",
    "mask beside it",
    "nodata beside it",
    "alpha band",
    "nodata and mask",
)


def write_marked(
    path: Path, values: np.ndarray, missing: np.ndarray, mark: str | None, *, names: tuple[str, ...] = ()
) -> Path:
    """Write digital numbers as a GeoTIFF.

    Args:
        path: the file.
        values: uint16 ``(bands, height, width)``, 1 to 30,000.
        missing: bool ``(height, width)``: the pixels without a value, in all bands.
        mark: one of :data:`MARKS`; ``None``: nothing is missing.
        names: band descriptions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored, profile = values.copy(), dict[str, object]()
    match mark:
        case "nodata 65535" | "nodata beside it" | "nodata of each band":
            stored[:, missing] = 65535
        case "nodata -9999":
            stored = stored.astype(np.int16)
            stored[:, missing] = -9999
            profile["nodata"] = -9999
        case "nodata 0":
            stored[:, missing] = 0
            profile["nodata"] = 0
        case "NaN" | "nodata NaN":
            stored = stored.astype(np.float32)
            stored[:, missing] = np.nan
        case "internal mask" | "mask beside it" | "alpha band" | "nodata and mask":
            stored[:, missing] = min(BRIGHT, np.iinfo(stored.dtype).max)
    if mark == "nodata 65535":
        profile["nodata"] = 65535
    if mark == "nodata NaN":
        profile["nodata"] = np.nan
    masked = missing.copy()
    if mark == "nodata and mask":  # each marks a part
        masked[: len(missing) // 2] = False
        stored[:, missing & ~masked] = 65535
        profile["nodata"] = 65535
    count, height, width = stored.shape
    if mark == "alpha band":
        stored = np.concatenate([stored, np.where(missing, 0, 65535).astype(stored.dtype)[None]])
    transform = Affine(10, 0, 600_000, 0, -10, 5_400_000)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=mark != "mask beside it"),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            dtype=stored.dtype,
            count=len(stored),
            height=height,
            width=width,
            crs="EPSG:32632",
            transform=transform,
            **profile,
        ) as target,
    ):
        if mark == "alpha band":
            target.colorinterp = (ColorInterp.gray, *[ColorInterp.undefined] * (count - 1), ColorInterp.alpha)
        target.write(stored)
        if mark in {"internal mask", "mask beside it", "nodata and mask"}:
            target.write_mask(~masked)
        if names:
            target.descriptions = (*names, *[None] * (len(stored) - count))
    if mark in {"nodata beside it", "nodata of each band"}:
        bands = [
            f'<PAMRasterBand band="{band}"><NoDataValue>65535</NoDataValue></PAMRasterBand>'
            for band in range(1, count + 1)
        ]
        path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{''.join(bands)}</PAMDataset>")
    return path
