"""What a product says about its own values: scale, offset, nodata, processing level; each with its source in words."""

from typing import Any

from eo_backbones.rasters.scaling import Statement


def statements_of(path: str, dataset: Any, index: int, band: str) -> tuple[Statement, ...]:
    """Return what is said about one band of an open file.

    Args:
        path: as the user typed it.
        dataset: the open rasterio dataset.
        index: 1-based index of the band in it.
        band: its canonical name.
    """
    scale, offset = dataset.scales[index - 1], dataset.offsets[index - 1]
    if (scale, offset) == (1.0, 0.0):
        return ()
    return (Statement(source="GDAL scale and offset", scale=scale, offset=offset),)
