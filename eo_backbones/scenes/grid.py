"""Where the windows of a scene are, and where their cells are on the ground.

Window ``(row, col)`` takes the pixels from ``(row * stride, col * stride)`` on, ``size`` a side; only whole windows
count. Its centre is at pixel coordinate ``col * stride + size / 2``. A cell is ``stride`` pixels a side and has the
same centre, so the grid begins ``(size - stride) / 2`` pixels inside the scene (outside, where windows do not touch),
which may be half a pixel. As affine maps: that of the scene after translation(margin, margin) after scale(stride),
which holds for rotated and sheared scenes too.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as between_crs

from eo_backbones.errors import UserError

WGS84 = CRS.from_epsg(4326)
_METRES_A_DEGREE = 111_320.0  # of latitude: 40,075 km / 360; within 0.6 % of the ellipsoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The windows of a scene.

    Attributes:
        height, width: pixels of the scene.
        size: side of a window in pixels.
        stride: pixels from one window to the next, which is the side of a cell.
        scene_transform: pixel ``(col, row)`` of the scene -> coordinates.
        crs: of the coordinates; ``None`` where the scene has none.
    """

    height: int
    width: int
    size: int
    stride: int
    scene_transform: Affine
    crs: CRS | None

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise UserError(f"--size {self.size} --stride {self.stride}: both are pixels, at least 1")
        if min(self.height, self.width) < self.size:
            raise UserError(
                f"the scene has {self.width} x {self.height} pixels, fewer than a window of {self.size}; pass --size "
                f"{min(self.height, self.width)} or less"
            )

    @property
    def rows(self) -> int:
        """Rows of windows."""
        return (self.height - self.size) // self.stride + 1

    @property
    def cols(self) -> int:
        """Columns of windows."""
        return (self.width - self.size) // self.stride + 1

    @property
    def columns_px(self) -> int:
        """Columns of pixels that any window needs."""
        return (self.cols - 1) * self.stride + self.size

    @property
    def transform(self) -> Affine:
        """Cell ``(col, row)`` -> coordinates (corners at whole numbers, centres at halves)."""
        margin = (self.size - self.stride) / 2
        x, y = at(self.scene_transform, margin, margin)
        a, b, _, d, e, _ = self.scene_transform[:6]
        return Affine(a * self.stride, b * self.stride, x, d * self.stride, e * self.stride, y)

    def centres(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of the centres of a row of cells, float64 ``(cols,)`` each."""
        return at(self.transform, np.arange(self.cols) + 0.5, np.full(self.cols, row + 0.5))

    @property
    def cell_km2(self) -> float | None:
        """Area of a cell in square kilometres; ``None`` without a coordinate system. Degrees: at the scene's middle."""
        if self.crs is None:
            return None
        area = abs(self.transform.determinant)
        if self.crs.is_geographic:
            _, latitude = at(self.scene_transform, self.width / 2, self.height / 2)
            return area * _METRES_A_DEGREE**2 * math.cos(math.radians(latitude)) / 1e6
        _, metres = self.crs.linear_units_factor
        return area * float(metres) ** 2 / 1e6


def at(transform: Affine, col: Any, row: Any) -> tuple[Any, Any]:
    """Return x and y of a column and row, numbers or arrays (affine 3 renames its operator for this)."""
    a, b, c, d, e, f = transform[:6]
    return a * col + b * row + c, d * col + e * row + f


def to_degrees(crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude (WGS 84) of coordinates."""
    longitude, latitude = between_crs(crs, WGS84, x.tolist(), y.tolist())
    return np.asarray(longitude), np.asarray(latitude)


def from_degrees(crs: CRS, longitude: float, latitude: float) -> tuple[float, float]:
    """Return the coordinates of a longitude and latitude (WGS 84)."""
    x, y = between_crs(WGS84, crs, [longitude], [latitude])
    return float(x[0]), float(y[0])
