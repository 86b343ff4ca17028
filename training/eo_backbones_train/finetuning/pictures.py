"""A picture of what a segmentation got right and wrong: images, their masks, and the answers beside each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eo_backbones.bands import BANDS
from eo_backbones.class_colours import class_colours
from eo_backbones.datasets.labelled import IGNORED, LabelledImages
from eo_backbones.evaluation.pictures import png

SHOWN = 6
"""Images in the picture, at most."""

_INCHES, _LEGEND_INCHES = 1.9, 1.7
_ROWS_OF_LEGEND = 24  # more classes get a second column
_NO_CLASS = "#ffffff"


def draw_examples(
    path: Path,
    data: LabelledImages,
    bands: Sequence[str],
    rows: np.ndarray,
    answers: Sequence[np.ndarray],
    *,
    part: str,
) -> None:
    """Draw the first images of a part above their masks and the answers.

    Args:
        path: PNG file to write.
        data: the images, with maps.
        bands: canonical names: three or more are shown in colour, the longest three wavelengths as red, green and blue
            in the order of their wavelengths; of fewer the first.
        rows: the images of the part.
        answers: class numbers ``(H, W)`` for the first of them.
        part: its name.
    """
    assert data.maps is not None, "images to segment have masks"
    by_wavelength = sorted(bands, key=lambda name: BANDS[name].wavelength_nm, reverse=True)
    shown = by_wavelength[:3] if len(bands) >= 3 else bands[:1]
    palette = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in class_colours(len(data.classes))]
    colours = ListedColormap(palette)
    legend = _LEGEND_INCHES * (1 + (len(data.classes) - 1) // _ROWS_OF_LEGEND)
    figure = Figure(figsize=(_INCHES * len(answers) + legend, 3 * _INCHES + 0.4), layout="constrained")
    grid = figure.subplots(3, len(answers), squeeze=False)
    for column, (row, answer) in enumerate(zip(rows.tolist(), answers, strict=False)):
        path_of_image = data.paths[row]
        grid[0, column].imshow(_stretched(data.read(row, shown)), cmap="gray", interpolation="nearest")
        grid[0, column].set_title(path_of_image.stem, fontsize=7)
        truth = data.maps.reader(path_of_image)
        for place, classes in ((1, np.ma.masked_equal(truth, IGNORED)), (2, answer)):
            axes = grid[place, column]
            axes.set_facecolor(_NO_CLASS)
            axes.imshow(classes, cmap=colours, vmin=-0.5, vmax=len(palette) - 0.5, interpolation="nearest")
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], (", ".join(shown), "mask", "answer"), strict=True):
        axes.set_ylabel(name, fontsize=9)
    figure.suptitle(f"The first images of the {part} part; white: no class in the mask", fontsize=9, x=0.01, ha="left")
    handles = [
        Patch(facecolor=colour, edgecolor="#596273", linewidth=0.4, label=name)
        for colour, name in zip(palette, data.classes, strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="outside right center",
        frameon=False,
        fontsize=8,
        ncols=1 + (len(handles) - 1) // _ROWS_OF_LEGEND,
    )
    path.write_bytes(png(figure))


def _stretched(image: np.ndarray) -> np.ndarray:
    """Return bands ``(C, H, W)`` between their percentiles 1 and 99 as 0 to 1: ``(H, W, C)``, or ``(H, W)`` for one."""
    values = image.astype(np.float32)
    low, high = np.nanpercentile(values, (1, 99), axis=(1, 2), keepdims=True)
    scaled: np.ndarray = ((values - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
    return scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0)
