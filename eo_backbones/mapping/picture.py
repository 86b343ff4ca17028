"""A picture of a map: all scenes in place, the labelled points, a legend and a scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.warp import transform as between_crs

from eo_backbones.files import atomic_file, utf8
from eo_backbones.mapping.cells import LabelledCells
from eo_backbones.mapping.rasters import NODATA, raster_path
from eo_backbones.mapping.source import MapScene
from eo_backbones.prediction.mask_file import class_colours
from eo_backbones.regions.picture import length_text, round_length
from eo_backbones.scenes.grid import at, from_degrees

_LONGEST_PX = 1000  # of the map in the picture
_DPI = 120
_INK = "#1f2430"
_PALE = 0.45  # how much of their colour cells keep whose set does not hold exactly one class
_WEB_MERCATOR = 3857  # in metres, but not those of the ground
_POINTS_WITH_LARGE_DOTS = 200
_WIDTH, _MAP_WIDTH = 10.0, 7.6  # inches
_SPARSE = 0.05  # of the picture: with less that is covered, scenes are shown one by one
_PANELS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """What stands beside the map.

    Attributes:
        title: above the map.
        labels: text of each class.
        pale: text about the pale cells.
    """

    title: str
    labels: Sequence[str]
    pale: str


@dataclass(frozen=True, eq=False, slots=True)
class _Canvas:
    crs: CRS
    transform: Affine
    shape: tuple[int, int]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        rows, cols = self.shape
        left, top = at(self.transform, 0, 0)
        right, bottom = at(self.transform, cols, rows)
        return left, right, bottom, top


@dataclass(frozen=True, eq=False, slots=True)
class _Panel:
    """What one pair of axes shows: values of classes and sizes of sets on a canvas."""

    canvas: _Canvas
    classes: np.ndarray
    set_sizes: np.ndarray
    title: str = ""


def draw_map(
    path: Path,
    folder: Path,
    scenes: Sequence[MapScene],
    cells: LabelledCells,
    values: Sequence[int],
    legend: Legend,
) -> None:
    """Draw the map as a PNG, 1200 pixels wide: all scenes in place, or side by side if they are far from each other.

    Args:
        path: the PNG.
        folder: of the map, with the rasters of all scenes.
        scenes: those without a coordinate system are left out; where some overlap, the first one is shown.
        cells: the labelled ones.
        values: of the classes in the rasters.
        legend: texts.
    """
    placed = [scene for scene in scenes if scene.crs is not None]
    colours = np.array(class_colours(len(values)), np.float64) / 255
    whole = _canvas(placed)
    panels = [_Panel(whole, *_shown(folder, placed, whole))]
    if (panels[0].classes != NODATA).mean() < _SPARSE:
        points = np.bincount(cells.scene, minlength=len(scenes))
        most = [scenes[number] for number in np.argsort(-points, kind="stable") if scenes[number].crs is not None]
        panels = [_panel_of(folder, scene) for scene in most[:_PANELS]]
    beside = math.ceil(math.sqrt(len(panels)))
    below = math.ceil(len(panels) / beside)
    shape = max(panel.canvas.shape[0] / panel.canvas.shape[1] for panel in panels)
    height = min(max(_MAP_WIDTH * shape * below / beside, 3.2), 12.0)
    figure = Figure(figsize=(_WIDTH, height + 0.6), layout="constrained")
    grid = figure.subplots(below, beside, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, panel in zip(grid, panels, strict=False):
        axes.axis("on")
        _draw(axes, panel, cells, colours, values)
    figure.suptitle(utf8(legend.title).decode(), x=0.01, ha="left", fontsize=12, color=_INK, parse_math=False)
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, edgecolor=_INK, linewidth=0.5, label=utf8(text).decode())
        for colour, text in zip(colours, legend.labels, strict=True)
    ]
    handles.append(Patch(facecolor="#c9c9c9", edgecolor=_INK, linewidth=0.5, label=legend.pale))
    handles.append(
        Line2D([], [], marker="o", linestyle="none", markerfacecolor="white", markeredgecolor=_INK, label="point")
    )
    box = figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9.5, labelcolor=_INK)
    for text in box.get_texts():
        text.set_parse_math(False)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=_DPI, format="png", facecolor="white")


def _panel_of(folder: Path, scene: MapScene) -> _Panel:
    canvas = _canvas([scene])
    return _Panel(canvas, *_shown(folder, [scene], canvas), title=scene.id)


def _shown(folder: Path, scenes: Sequence[MapScene], canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of classes and the sizes of sets on a canvas; where scenes overlap, those of the first."""
    classes, sizes = np.full(canvas.shape, NODATA, np.uint8), np.full(canvas.shape, NODATA, np.uint8)
    for scene in scenes:
        free = classes == NODATA
        if not free.any():
            break
        classes[free] = _warped(raster_path(folder, scene.id, "classes"), canvas)[free]
        sizes[free] = _warped(raster_path(folder, scene.id, "sets"), canvas)[free]
    return classes, sizes


def _draw(axes: Axes, panel: _Panel, cells: LabelledCells, colours: np.ndarray, values: Sequence[int]) -> None:
    """Draw one panel with its points and its scale."""
    canvas = panel.canvas
    index = np.full(NODATA + 1, -1)
    index[list(values)] = np.arange(len(values))
    number = index[panel.classes]
    pixels = np.ones((*canvas.shape, 4))
    pixels[..., :3] = colours[number]
    pixels[panel.set_sizes != 1, :3] = 1 - _PALE * (1 - pixels[panel.set_sizes != 1, :3])
    pixels[number < 0] = (1, 1, 1, 0)
    axes.set_facecolor("#f4f4f2")
    axes.imshow(pixels, extent=canvas.extent, interpolation="nearest")
    x, y = from_degrees(canvas.crs, cells.lon, cells.lat)
    size = 36 if cells.points <= _POINTS_WITH_LARGE_DOTS else 12
    axes.scatter(x, y, s=size * 1.9, c="white", linewidths=0, zorder=3)
    axes.scatter(x, y, s=size, c=colours[cells.labels], edgecolors=_INK, linewidths=0.9, zorder=4)
    axes.set_xlim(*canvas.extent[:2])
    axes.set_ylim(*canvas.extent[2:])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(utf8(panel.title).decode(), loc="left", fontsize=8, color=_INK, parse_math=False)
    _draw_scale(axes, canvas)


def _canvas(scenes: Sequence[MapScene]) -> _Canvas:
    """Return a grid that holds all scenes: their coordinate system if it is one and in metres, else one around them."""
    crs = scenes[0].crs
    assert crs is not None, "scenes without a coordinate system were left out"
    in_metres = crs.is_projected and crs.linear_units_factor[1] == 1.0 and crs.to_epsg() != _WEB_MERCATOR
    if not in_metres or any(scene.crs != crs for scene in scenes):
        lon, lat = (np.concatenate(parts) for parts in zip(*(scene.corners() for scene in scenes), strict=True))
        middle = math.degrees(float(np.angle(np.exp(1j * np.radians(lon)).mean())))
        crs = CRS.from_dict(proj="laea", lon_0=middle, lat_0=float(lat.mean()), datum="WGS84", units="m")
    corners = [_outline(scene, crs) for scene in scenes]
    x, y = (np.concatenate([corner[axis] for corner in corners]) for axis in (0, 1))
    resolution = max(np.ptp(x), np.ptp(y)) / _LONGEST_PX
    shape = math.ceil(np.ptp(y) / resolution), math.ceil(np.ptp(x) / resolution)
    return _Canvas(crs, Affine(resolution, 0, x.min(), 0, -resolution, y.max()), shape)


def _outline(scene: MapScene, crs: CRS) -> tuple[np.ndarray, np.ndarray]:
    col, row = np.array([0, scene.cols, scene.cols, 0]), np.array([0, 0, scene.rows, scene.rows])
    x, y = at(scene.transform, col, row)
    if scene.crs == crs:
        return x, y
    there = between_crs(scene.crs, crs, x.tolist(), y.tolist())
    return np.asarray(there[0]), np.asarray(there[1])


def _warped(path: Path, canvas: _Canvas) -> np.ndarray:
    """Return the first band of a raster on the canvas."""
    target = np.full(canvas.shape, NODATA, np.uint8)
    with rasterio.open(path) as source:
        reproject(
            rasterio.band(source, 1),
            target,
            dst_transform=canvas.transform,
            dst_crs=canvas.crs,
            dst_nodata=NODATA,
            resampling=Resampling.nearest,
        )
    return target


def _draw_scale(axes: Axes, canvas: _Canvas) -> None:
    """Draw a bar of a round length at the lower left."""
    left, right, bottom, top = canvas.extent
    length = round_length((right - left) / 5)
    x, y = left + 0.03 * (right - left), bottom + 0.04 * (top - bottom)
    for colour, width in (("white", 6), (_INK, 2.5)):
        axes.plot([x, x + length], [y, y], color=colour, linewidth=width, solid_capstyle="butt", zorder=5)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    y_text = y + 0.015 * (top - bottom)
    axes.text(x, y_text, length_text(length), fontsize=9, color=_INK, ha="left", va="bottom", bbox=box, zorder=5)
