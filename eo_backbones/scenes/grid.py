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
from eo_backbones.rasters.reader import GdalError

WGS84 = CRS.from_epsg(4326)
METRES_A_DEGREE = 111_320.0
"""Of latitude: 40,075 km / 360; within 0.6 % of the ellipsoid."""
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius (IUGG, GRS 80)."""


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
        _, middle = at(self.scene_transform, self.width / 2, self.height / 2)
        return _cell_km2(self.crs, self.transform, middle)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGrid:
    """Where the cells of an embedding are.

    Attributes:
        crs: of the cells; ``None`` where the scene has none.
        transform: cell ``(col, row)`` -> coordinates (corners at whole numbers, centres at halves).
        rows, cols: cells, those without a value included.
    """

    crs: CRS | None
    transform: Affine
    rows: int
    cols: int

    def cell_at(self, longitude: float, latitude: float) -> tuple[int, int] | None:
        """Return row and column of the cell at a place (WGS 84); ``None`` outside, or without a coordinate system."""
        if self.crs is None:
            return None
        x, y = from_degrees(self.crs, np.array([longitude]), np.array([latitude]))
        col, row = at(~self.transform, x[0], y[0])
        if not (0 <= row < self.rows and 0 <= col < self.cols):  # also where the projection does not reach
            return None
        return int(row), int(col)

    def corners(self, row: Any = None, col: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return longitudes and latitudes of the corners, from the upper left one on, anticlockwise on a north-up grid.

        Args:
            row: of cells, a number or an array ``(n,)``; default: the whole grid.
            col: likewise.

        Returns:
            Each ``(4,)`` or ``(4, n)``, NaN without a coordinate system.
        """
        if row is None or col is None:
            return self._degrees(np.array([0, self.rows, self.rows, 0]), np.array([0, 0, self.cols, self.cols]))
        rows = np.stack([np.asarray(row) + step for step in (0, 1, 1, 0)])
        return self._degrees(rows, np.stack([np.asarray(col) + step for step in (0, 0, 1, 1)]))

    def centres(self, row: Any, col: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return longitudes and latitudes of the centres of cells; NaN without a coordinate system."""
        return self._degrees(np.asarray(row) + 0.5, np.asarray(col) + 0.5)

    @property
    def cell_km2(self) -> float | None:
        """Area of a cell in square kilometres; ``None`` without a coordinate system. Degrees: at the grid's middle."""
        _, middle = at(self.transform, self.cols / 2, self.rows / 2)
        return _cell_km2(self.crs, self.transform, middle)

    def _degrees(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = at(self.transform, col, row)
        if self.crs is None:
            return np.full(np.shape(x), np.nan), np.full(np.shape(x), np.nan)
        longitude, latitude = to_degrees(self.crs, np.ravel(x), np.ravel(y))
        return longitude.reshape(np.shape(x)), latitude.reshape(np.shape(x))


def _cell_km2(crs: CRS | None, transform: Affine, middle: float) -> float | None:
    """Return the area of a cell; ``middle`` is the y of the grid's middle, a latitude where x and y are degrees."""
    if crs is None:
        return None
    area = abs(transform.determinant)
    if crs.is_geographic:
        return area * METRES_A_DEGREE**2 * math.cos(math.radians(middle)) / 1e6
    _, metres = crs.linear_units_factor
    return area * float(metres) ** 2 / 1e6


def at(transform: Affine, col: Any, row: Any) -> tuple[Any, Any]:
    """Return x and y of a column and row, numbers or arrays (affine 3 renames its operator for this)."""
    a, b, c, d, e, f = transform[:6]
    return a * col + b * row + c, d * col + e * row + f


def to_degrees(crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude (WGS 84) of coordinates."""
    longitude, latitude = between_crs(crs, WGS84, x.tolist(), y.tolist())
    return np.asarray(longitude), np.asarray(latitude)


def from_degrees(crs: CRS, longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of places (WGS 84), ``(n,)`` each; NaN or infinite where the projection does not reach."""
    try:
        x, y = between_crs(WGS84, crs, longitude.tolist(), latitude.tolist())
    except GdalError:  # raised for all if it is so for one
        if len(longitude) == 1:
            return np.full(1, np.nan), np.full(1, np.nan)
        places = [from_degrees(crs, longitude[one : one + 1], latitude[one : one + 1]) for one in range(len(longitude))]
        return np.concatenate([x for x, _ in places]), np.concatenate([y for _, y in places])
    return np.asarray(x, np.float64), np.asarray(y, np.float64)
