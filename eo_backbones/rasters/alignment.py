"""Whether two rasters of the same size lie on the same ground, pixel by pixel."""

import numpy as np
from rasterio.crs import CRS

from eo_backbones.rasters.reader import RasterFacts

LARGEST_SHIFT_PX = 0.1
"""Distance of two corners, in pixels, that rounded coordinates explain; half a pixel is another convention (ours)."""

_GEOREFERENCED = ("GTiff", "COG")  # drivers whose files would have coordinates, had nobody lost them


def misalignment(image: RasterFacts, mask: RasterFacts) -> str | None:
    """Return where a mask of the same size lies instead of on its image; ``None`` if it lies there.

    A picture that cannot have coordinates (PNG, JPEG) may stand beside a file that has some. A coordinate system that
    only one of them names is not compared.
    """
    if (image.transform is None) != (mask.transform is None):
        without, text = (
            (image, "has coordinates, its image has none")
            if image.transform is None
            else (mask, "has no coordinates, its image has some")
        )
        return text if without.driver in _GEOREFERENCED else None
    return shift(image, mask, largest_px=LARGEST_SHIFT_PX)


def shift(image: RasterFacts, other: RasterFacts, *, largest_px: float) -> str | None:
    """Return how far another raster of the same size lies beside an image; ``None`` if by ``largest_px`` at most.

    Coordinates, and coordinate systems, that only one of them has are not compared.
    """
    if image.transform is None or other.transform is None:
        return None
    if image.crs and other.crs and not _same(image.crs, other.crs):
        return f"is in {_named(other.crs)}, its image in {_named(image.crs)}"
    to_map, other_to_map = (np.array(transform).reshape(3, 3) for transform in (image.transform, other.transform))
    corners = np.array([(x, y, 1) for x in (0, image.width) for y in (0, image.height)]).T
    shifts = np.abs(np.linalg.inv(to_map) @ other_to_map @ corners - corners)[:2]
    if shifts.max() <= largest_px:
        return None
    columns, rows = shifts.max(axis=1)
    if (image.transform.e > 0) != (other.transform.e > 0):
        return "is upside down beside its image: one of them begins at its southern edge"
    return f"lies up to {columns:.4g} columns and {rows:.4g} rows beside its image"


def _same(first: CRS, second: CRS) -> bool:
    """Return whether two coordinate systems are one, also where they are written differently."""
    codes: tuple[int | None, int | None] = first.to_epsg(), second.to_epsg()
    if first == second:
        return True
    if None not in codes:
        return codes[0] == codes[1]
    written = first.to_dict()
    return bool(written) and bool(written == second.to_dict())


def _named(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else "another coordinate system"
