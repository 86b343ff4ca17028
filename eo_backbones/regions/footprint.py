"""Where a grid of cells lies on the globe: its outline in WGS 84 as GeoJSON has it.

A straight edge in one coordinate system is none in another, so each side gets points between its corners. RFC 7946
(GeoJSON), section 3.1.9: what crosses the antimeridian is cut there; 5.2: its box has the western end first, hence the
larger number; 3.1.6: outer rings run anticlockwise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from eo_backbones.rasters.reader import GdalError
from eo_backbones.scenes.grid import at, from_degrees, to_degrees

_POINTS_PER_SIDE = 16  # a side of a UTM tile of 110 km is then within 0.1 m of its true course
_DIGITS = 7  # 1 cm
Ring = list[tuple[float, float]]


class Footprint(NamedTuple):
    """GeoJSON geometry and box ``[west, south, east, north]``."""

    geometry: dict[str, Any]
    bbox: list[float]


def footprint(crs: CRS | None, transform: Affine, rows: int, cols: int) -> Footprint | None:
    """Return the outline of a grid.

    Args:
        crs: of its coordinates.
        transform: cell ``(col, row)`` -> coordinates.
        rows: of cells.
        cols: of cells.

    Returns:
        ``None`` where the grid has no coordinate system, or reaches beyond the globe.
    """
    if crs is None:
        return None
    steps = np.linspace(0, 1, _POINTS_PER_SIDE + 1)[:-1]
    along = np.concatenate([np.zeros_like(steps), steps, np.ones_like(steps), 1 - steps])
    down = np.concatenate([steps, np.ones_like(steps), 1 - steps, np.zeros_like(steps)])
    try:
        longitude, latitude = to_degrees(crs, *at(transform, along * cols, down * rows))
    except GdalError:
        return None
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        return None
    pole = next((pole for pole in (90.0, -90.0) if _holds_pole(crs, transform, rows, cols, pole)), None)
    if pole is not None:
        nearest = float(latitude.min() if pole > 0 else latitude.max())
        south, north = sorted((round(nearest, _DIGITS), pole))
        ring = [(-180.0, south), (180.0, south), (180.0, north), (-180.0, north)]
        return Footprint(_polygon([ring]), [-180.0, south, 180.0, north])
    turns = np.unwrap(longitude, period=360)  # without the jump from 180 to -180
    turns -= 360 * np.floor((turns.min() + 180) / 360)
    ring = list(zip(turns.tolist(), latitude.tolist(), strict=True))
    south, north = round(float(latitude.min()), _DIGITS), round(float(latitude.max()), _DIGITS)
    west, east = float(turns.min()), float(turns.max())
    if east <= 180:
        return Footprint(_polygon([ring]), [round(west, _DIGITS), south, round(east, _DIGITS), north])
    beyond = [(x - 360, y) for x, y in _cut(ring, keep_west=False)]
    return Footprint(
        _polygon([_cut(ring, keep_west=True), beyond]), [round(west, _DIGITS), south, round(east - 360, _DIGITS), north]
    )


def _holds_pole(crs: CRS, transform: Affine, rows: int, cols: int, latitude: float) -> bool:
    """Return whether a pole is inside a grid of a projection that shows it as a point."""
    if crs.is_geographic:
        return False
    first, second = np.stack(from_degrees(crs, np.array([0.0, 90.0]), np.full(2, latitude)), axis=1)
    if not np.isfinite([first, second]).all() or not np.allclose(first, second, atol=1.0):  # a line if cylindrical
        return False
    col, row = at(~transform, *first)
    return bool(0 < col < cols and 0 < row < rows)


def _cut(ring: Ring, *, keep_west: bool) -> Ring:
    """Return the part of a ring on one side of 180 degrees (Sutherland and Hodgman 1974, for one edge)."""
    kept: Ring = []
    for (x, y), (next_x, next_y) in zip(ring, ring[1:] + ring[:1], strict=True):
        if (x <= 180) == keep_west:
            kept.append((x, y))
        if (x <= 180) != (next_x <= 180):
            kept.append((180.0, y + (next_y - y) * (180 - x) / (next_x - x)))
    return kept


def _polygon(rings: Sequence[Ring]) -> dict[str, Any]:
    """Return one polygon, or several, of closed rings that run anticlockwise."""
    closed = []
    for ring in rings:
        x, y = np.array(ring).T
        area = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
        points = [[round(x, _DIGITS), round(y, _DIGITS)] for x, y in (ring if area > 0 else ring[::-1])]
        closed.append([[*points, points[0]]])
    if len(closed) == 1:
        return {"type": "Polygon", "coordinates": closed[0]}
    return {"type": "MultiPolygon", "coordinates": closed}
