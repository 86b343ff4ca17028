"""Pictures of a scene's embeddings: components as colours, similarity with its scale."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from eo_backbones.files import atomic_file, utf8

_MAX_PX, _MIN_PX = 2048, 512
_DISPLAYED = (2, 98)  # percentiles that become black and full colour
_INK = "#1f2430"


def write_components_picture(path: Path, values: np.ndarray) -> None:
    """Draw the first three components of each cell as red, green and blue; cells without a value are transparent.

    Each component is stretched from its 2nd to its 98th percentile. With fewer than three, the first one in grey. Small
    grids are enlarged and large ones thinned out, both by whole factors.

    Args:
        path: the PNG.
        values: ``(rows, cols, components)``, NaN where a cell has no value.
    """
    known = ~np.isnan(values[..., 0])
    shown = values[..., :3] if values.shape[-1] >= 3 else values[..., :1]
    low, high = np.percentile(shown[known], _DISPLAYED, axis=0)
    span = np.where(high > low, high - low, 1.0)
    unit = np.nan_to_num(((shown - low) / span).clip(0, 1), nan=0.0)
    colours = np.broadcast_to(np.rint(unit * 255).astype(np.uint8), (*known.shape, 3))
    pixels = np.dstack([colours, known.astype(np.uint8) * 255])
    with atomic_file(path) as unfinished:
        Image.fromarray(_scaled(pixels)).save(unfinished, format="PNG")


def write_similarity_picture(path: Path, values: np.ndarray, *, cell: tuple[int, int], title: str) -> None:
    """Draw a map of cosine similarity with its scale, and a cross at the cell that all are compared with.

    Args:
        path: the PNG.
        values: ``(rows, cols)``, NaN where a cell has no value.
        cell: row and column of that cell.
        title: stands above the map.
    """
    rows, cols = values.shape
    height = min(max(7.0 * rows / cols, 2.5), 14.0)
    figure = Figure(figsize=(8.5, height + 0.7), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#ffffff")
    low, high = np.nanpercentile(values, _DISPLAYED)
    drawn = axes.imshow(values, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    axes.plot(cell[1], cell[0], marker="+", color="white", markersize=18, markeredgewidth=4)
    axes.plot(cell[1], cell[0], marker="+", color="#d55e00", markersize=16, markeredgewidth=2)
    axes.set_title(utf8(title).decode(), loc="left", fontsize=10, color=_INK, parse_math=False)
    axes.set_xlabel("column of cells")
    axes.set_ylabel("row of cells")
    figure.colorbar(drawn, ax=axes, label="cosine similarity (2nd to 98th percentile)", extend="both")
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Return the picture, enlarged or thinned out by a whole factor."""
    longest = max(pixels.shape[:2])
    if longest > _MAX_PX:
        step = -(-longest // _MAX_PX)
        return np.ascontiguousarray(pixels[::step, ::step])
    times = max(_MIN_PX // longest, 1)
    return pixels.repeat(times, axis=0).repeat(times, axis=1)
