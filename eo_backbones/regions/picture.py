"""All scenes of a region on one map, in colours that mean the same in each of them."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from affine import Affine
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform

from eo_backbones.files import atomic_file, utf8
from eo_backbones.regions.folder import EmbeddedRegion, EmbeddedScene
from eo_backbones.regions.layout import PICTURE_FILE
from eo_backbones.scenes.components import Components, components_of
from eo_backbones.scenes.grid import METRES_A_DEGREE, at, to_degrees

logger = logging.getLogger(__name__)

_MIN_PX, _MAX_PX = 1024, 2048  # of the longer side; cells are drawn as several pixels where there are few
_SAMPLED_CELLS = 8192
_DISPLAYED = (2, 98)  # percentiles that become black and full colour
_EDGE_POINTS = 8  # of a side of a scene, which is no straight line in another projection
_INK, _LINE, _EMPTY = "#1f2430", "#5b6472", "#f1f2f4"


def draw_region(region: EmbeddedRegion) -> Path | None:
    """Draw the first three components of every cell as red, green and blue, each scene in its place.

    Where the files hold features, the components are computed from a sample of them. Each one is stretched from its
    2nd to its 98th percentile over all scenes. Scenes of several coordinate systems are drawn in an equal-area
    projection around their middle; where scenes overlap, the first by name is seen.

    Args:
        region: the scenes; those without a coordinate system are left out, saying so.

    Returns:
        The picture, or ``None`` if no scene has a place.
    """
    placed = [scene for scene in region.scenes if scene.crs is not None]
    if len(placed) < len(region.scenes):
        logger.warning(
            "%s lacks scenes without a coordinate system: %d", PICTURE_FILE, len(region.scenes) - len(placed)
        )
    if not placed:
        return None
    crs = _common_crs(placed)
    outlines = [_outline(scene, crs) for scene in placed]
    left, bottom = np.concatenate(outlines).min(axis=0)
    right, top = np.concatenate(outlines).max(axis=0)
    cell = min(_cell_side(scene, outline) for scene, outline in zip(placed, outlines, strict=True))
    longest = max(right - left, top - bottom)
    pixel = max(longest / _MAX_PX, min(cell, longest / _MIN_PX))
    width, height = (max(math.ceil(side / pixel), 1) for side in (right - left, top - bottom))
    mosaic = np.full((3, height, width), np.nan, np.float32)
    components = None if region.facts.get("components") else _sampled_components(placed)
    for scene, outline in zip(placed, outlines, strict=True):
        _paste(scene, outline, mosaic, Affine(pixel, 0, left, 0, -pixel, top), crs, components)
    path = region.folder / PICTURE_FILE
    _draw(path, _coloured(mosaic), outlines, (left, left + width * pixel, top - height * pixel, top), crs)
    return path


def _common_crs(scenes: Sequence[EmbeddedScene]) -> CRS:
    """Return the coordinate system of the scenes, or an equal-area projection around the middle of all."""
    known = Counter(scene.crs.to_wkt() for scene in scenes if scene.crs is not None)
    if len(known) == 1:
        return CRS.from_wkt(next(iter(known)))
    middles = []
    for scene in scenes:
        x, y = at(scene.transform, np.array([scene.cols / 2]), np.array([scene.rows / 2]))
        lon, lat = (np.radians(part[0]) for part in to_degrees(scene.crs, x, y))
        middles.append((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)))
    x, y, z = np.mean(middles, axis=0)
    lon, lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))
    return CRS.from_proj4(f"+proj=laea +lat_0={lat:.4f} +lon_0={lon:.4f} +datum=WGS84 +units=m")


def _outline(scene: EmbeddedScene, crs: CRS) -> np.ndarray:
    """Return points around the cells of a scene, float64 ``(n, 2)``."""
    step = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    zero, one = np.zeros_like(step), np.ones_like(step)
    col = np.concatenate([step, one, 1 - step, zero]) * scene.cols
    row = np.concatenate([zero, step, one, 1 - step]) * scene.rows
    x, y = at(scene.transform, col, row)
    return np.column_stack(transform(scene.crs, crs, x.tolist(), y.tolist()))


def _cell_side(scene: EmbeddedScene, outline: np.ndarray) -> float:
    """Return the side of a cell on the map, about."""
    return float(math.dist(outline[0], outline[_EDGE_POINTS]) / scene.cols)


def _sampled_components(scenes: Sequence[EmbeddedScene]) -> Components | None:
    """Return three components of cells spread over all scenes; ``None`` if there are too few cells."""
    step = max(sum(scene.rows * scene.cols for scene in scenes) // _SAMPLED_CELLS, 1)
    found = [block.reshape(-1, block.shape[2])[::step] for scene in scenes for _, block in scene.blocks()]
    sample = np.concatenate([part[~np.isnan(part[:, 0])] for part in found])
    count = min(3, len(sample) - 1, sample.shape[1])
    return components_of(sample, count, belongs_to="") if count > 0 else None


def _paste(
    scene: EmbeddedScene,
    outline: np.ndarray,
    mosaic: np.ndarray,
    place: Affine,
    crs: CRS,
    components: Components | None,
) -> None:
    """Put a scene where the mosaic is empty."""
    step = max(int(place.a / _cell_side(scene, outline)), 1)
    rows = []
    for first, block in scene.blocks():
        thinned = block[-first % step :: step, ::step]
        shown = thinned if components is None else components.project(thinned)
        rows.append(shown[..., :3] if shown.shape[-1] >= 3 else np.repeat(shown[..., :1], 3, axis=-1))
    values = np.ascontiguousarray(np.moveaxis(np.concatenate(rows), -1, 0), np.float32)
    cols, lines = at(~place, outline[:, 0], outline[:, 1])
    left, right = max(math.floor(cols.min()), 0), min(math.ceil(cols.max()), mosaic.shape[2])
    top, bottom = max(math.floor(lines.min()), 0), min(math.ceil(lines.max()), mosaic.shape[1])
    target = np.full((3, max(bottom - top, 1), max(right - left, 1)), np.nan, np.float32)
    x, y = at(place, left, top)
    a, b, c, d, e, f = scene.transform[:6]
    reproject(
        values,
        target,
        src_transform=Affine(a * step, b * step, c, d * step, e * step, f),
        src_crs=scene.crs,
        src_nodata=np.nan,
        dst_transform=Affine(place.a, 0, x, 0, place.e, y),
        dst_crs=crs,
        dst_nodata=np.nan,
        resampling=Resampling.nearest,
    )
    part = mosaic[:, top : top + target.shape[1], left : left + target.shape[2]]
    np.copyto(part, target[:, : part.shape[1], : part.shape[2]], where=np.isnan(part))


def _coloured(mosaic: np.ndarray) -> np.ndarray:
    """Return ``(rows, cols, 4)`` from 0 to 1, transparent where there is nothing."""
    known = ~np.isnan(mosaic[0])
    colours = np.zeros((*known.shape, 4), np.float32)
    if known.any():
        low, high = np.percentile(mosaic[:, known], _DISPLAYED, axis=1)
        span = np.where(high > low, high - low, 1.0)
        colours[known, :3] = ((mosaic[:, known].T - low) / span).clip(0, 1)
    colours[..., 3] = known
    return colours


def _draw(
    path: Path,
    colours: np.ndarray,
    outlines: Sequence[np.ndarray],
    extent: tuple[float, float, float, float],
    crs: CRS,
) -> None:
    """Write the picture: map, outlines, a bar of length and what the colours are."""
    rows, cols = colours.shape[:2]
    height = min(max(8.0 * rows / cols, 0.6), 14.0)
    figure = Figure(figsize=(8.5, height + 1.1), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(_EMPTY)
    axes.imshow(colours, extent=extent, interpolation="nearest")
    axes.add_collection(PolyCollection(list(outlines), facecolors="none", edgecolors=_LINE, linewidths=0.6))
    left, right, bottom, top = extent
    margin = 0.02 * max(right - left, top - bottom)
    axes.set_xlim(left - margin, right + margin)
    axes.set_ylim(bottom - margin, top + margin)
    if crs.is_geographic:
        axes.set_aspect(1 / max(math.cos(math.radians((bottom + top) / 2)), 0.1))
    axes.set_xticks([])
    axes.set_yticks([])
    metres = (right - left) * _metres_a_unit(crs, (bottom + top) / 2)
    length = round_length(metres / 5)
    end = length / metres * (right - left) / (right - left + 2 * margin)
    below = offset_copy(axes.transAxes, figure, y=-10, units="points")
    axes.plot([0, end], [0, 0], transform=below, color=_INK, linewidth=3, clip_on=False)
    axes.text(end + 0.01, 0, length_text(length), transform=below, va="center", fontsize=9, color=_INK)
    axes.set_title(
        utf8(f"{path.parent.resolve().name}: {len(outlines)} scenes").decode(),
        loc="left",
        fontsize=11,
        color=_INK,
        parse_math=False,
    )
    axes.set_xlabel(
        "red, green, blue: first three principal components, shared by all scenes (2nd to 98th percentile)",
        fontsize=8,
        color=_INK,
        labelpad=18,
    )
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=150, format="png")


def _metres_a_unit(crs: CRS, latitude: float) -> float:
    """Return the length of a unit of x on the ground."""
    if crs.is_geographic:
        return METRES_A_DEGREE * max(math.cos(math.radians(latitude)), 0.01)
    return float(crs.linear_units_factor[1])


def round_length(metres: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is not longer."""
    power: float = 10.0 ** math.floor(math.log10(max(metres, 1e-6)))
    return max(step * power for step in (1, 2, 5) if step * power <= metres or step == 1)


def length_text(metres: float) -> str:
    """Return a round length as it stands beside a bar of that length."""
    return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
