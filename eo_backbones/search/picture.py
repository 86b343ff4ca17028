"""Hits as a picture: their places on a map of the scenes, and their windows where the images can still be read."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file, utf8
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.rasters.reader import is_remote
from eo_backbones.scenes.scene import Scene
from eo_backbones.search.hits import Hit
from eo_backbones.search.index import IndexedScene, SearchIndex
from eo_backbones.search.queries import Query

_SHOWN = 18  # thumbnails
_A_ROW = 6
_STRETCHED = (2, 98)  # percentiles of all thumbnails that become black and white
_COLOURS = ("B04", "B03", "B02")  # red, green and blue, where the embeddings were made from them
_INK, _FAINT, _HIT, _ASKED = "#1f2430", "#9aa3b2", "#0072b2", "#d55e00"


def draw_hits(path: Path, index: SearchIndex, query: Query, hits: Sequence[Hit]) -> None:
    """Draw the picture; it appears when it is whole.

    Args:
        path: the PNG.
        index: that the hits were found in.
        query: what was searched for.
        hits: best first.
    """
    windows = _windows(index, query, hits)
    rows = -(-len(windows) // _A_ROW)
    figure = Figure(figsize=(10, 5.2 + 1.95 * rows), layout="constrained")
    heights = [5.2, *[1.95] * rows]
    grid = figure.add_gridspec(1 + rows, _A_ROW, height_ratios=heights)
    _draw_map(figure.add_subplot(grid[0, :]), index, query, hits)
    if windows:
        known = np.concatenate([pixels[~np.isnan(pixels)] for _, pixels, _ in windows])
        low, high = np.percentile(known, _STRETCHED)
        for number, (title, pixels, colour) in enumerate(windows):
            axes = figure.add_subplot(grid[1 + number // _A_ROW, number % _A_ROW])
            shown = np.nan_to_num((pixels - low) / max(high - low, 1e-9)).clip(0, 1)
            axes.imshow(shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(title, fontsize=8, color=colour, parse_math=False)
            for side in axes.spines.values():
                side.set_color(colour)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")


def _draw_map(axes: Axes, index: SearchIndex, query: Query, hits: Sequence[Hit]) -> None:
    """Draw outlines of the scenes, the cells of the query, and hits with their rank."""
    placed = [scene for scene in index.scenes if scene.crs is not None]
    for scene in placed:
        axes.add_patch(Polygon(np.stack(scene.corners(), axis=1), fill=False, edgecolor=_FAINT, linewidth=0.8))
    cells = index.cells[query.cells]
    axes.scatter(cells["lon"], cells["lat"], marker="+", s=120, color=_ASKED, linewidth=2, zorder=3, label="query")
    found = [hit for hit in hits if hit.lon is not None and hit.lat is not None]
    drawn = axes.scatter(
        [hit.lon or 0.0 for hit in found],
        [hit.lat or 0.0 for hit in found],
        c=[hit.score for hit in found],
        cmap="viridis",
        s=60,
        edgecolor="white",
        linewidth=0.8,
        zorder=4,
    )
    for hit in found:
        assert hit.lon is not None
        assert hit.lat is not None
        axes.annotate(str(hit.rank), (hit.lon, hit.lat), (5, 4), textcoords="offset points", fontsize=8, color=_INK)
    if found:
        assert axes.figure is not None
        axes.figure.colorbar(drawn, ax=axes, label="cosine similarity", shrink=0.8, format="%.3f")
    axes.autoscale_view()
    axes.margins(0.05)
    axes.set_aspect(1 / max(math.cos(math.radians(sum(axes.get_ylim()) / 2)), 0.05))
    axes.set_xlabel("longitude")
    axes.set_ylabel("latitude")
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=8)
    title = f"{len(hits)} places most like the {query.text}"
    axes.set_title(utf8(title).decode(), loc="left", fontsize=9, color=_INK, parse_math=False, wrap=True)


def _windows(index: SearchIndex, query: Query, hits: Sequence[Hit]) -> list[tuple[str, np.ndarray, str]]:
    """Return title, pixels ``(size, size, 1 or 3)`` and colour of the windows whose images can still be read."""
    scenes = {scene.id: scene for scene in index.scenes}
    read = []
    if query.image:
        read.append(("query", _pixels(index, query.image, top=0, left=0), _ASKED))
    elif len(query.cells) == 1:
        cell = index.cells[int(query.cells[0])]
        scene = index.scenes[int(index.scene_of(query.cells)[0])]
        read.append(("query", _window(index, scene, int(cell["row"]), int(cell["col"])), _ASKED))
    for hit in hits[: _SHOWN - len(read)]:
        title = f"{hit.rank}: {hit.score:.3f}\n{(hit.datetime or hit.scene)[:10]}"
        read.append((title, _window(index, scenes[hit.scene], hit.row, hit.col), _INK))
    return [(title, pixels, colour) for title, pixels, colour in read if pixels is not None]


def _window(index: SearchIndex, scene: IndexedScene, row: int, col: int) -> np.ndarray | None:
    """Return the pixels of the window of a cell, see :func:`_pixels`."""
    stride = scene.facts["stride"]
    return _pixels(index, scene.facts["scene"], top=row * stride, left=col * stride)


def _pixels(index: SearchIndex, files: Sequence[str], *, top: int, left: int) -> np.ndarray | None:
    """Return the pixels of a window, in colour where the bands allow it; ``None`` if the image is not at hand."""
    if any(map(is_remote, files)):
        return None  # a picture is not worth a wait
    bands, size = index.facts["bands"], index.facts["size"]
    shown = _COLOURS if set(_COLOURS) <= set(bands) else bands[:1]
    pixels = np.full((len(shown), size, size), np.nan, np.float32)
    try:
        with Scene(find_bands(files, shown)) as image:
            image.read(pixels, top=top, left=left)
    except (UserError, ValueError, KeyError):
        return None
    return None if np.isnan(pixels).all() else pixels.transpose(1, 2, 0)
