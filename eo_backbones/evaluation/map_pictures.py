"""The pictures of ``report.html`` for the protocol ``segmentation``: confusion of pixels, and maps beside the truth."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eo_backbones.datasets import LabelledImages
from eo_backbones.datasets.labelled import IGNORED, ClassMaps
from eo_backbones.evaluation.pictures import draw_confusion, png
from eo_backbones.evaluation.predictions import Predictions

# The colours of the IEEE GRSS Data Fusion Contest 2020, its classes in order (lukasliebel/dfc2020_baseline).
_COLOURS = (
    "#009900",
    "#c6b044",
    "#fbff13",
    "#b6ff05",
    "#27ff87",
    "#c24f44",
    "#a5a5a5",
    "#69fff8",
    "#f9ffa4",
    "#1c0dff",
)
_UNKNOWN = "#ffffff"


def confusion(maps: ClassMaps, kept: Predictions) -> bytes:
    """Draw the confusion of all pixels of the test images, of the classes that occur."""
    whole = kept.predicted.sum(axis=0)
    present = np.flatnonzero(whole.sum(axis=0) + whole.sum(axis=1)).tolist()
    figure = Figure(figsize=(6.5, 5.6), layout="constrained")
    names = [maps.classes[number] for number in present]
    draw_confusion(figure.subplots(), whole[np.ix_(present, present)], names)
    return png(figure)


def examples(data: LabelledImages, maps: ClassMaps, band: str, kept: Predictions) -> bytes:
    """Draw the first test images in one band, above their true and their predicted classes.

    Args:
        data: the images.
        maps: their classes.
        band: canonical name of the band to show.
        kept: what was predicted.
    """
    colours = ListedColormap(_COLOURS)
    figure = Figure(figsize=(2.0 * len(kept.maps) + 1.6, 6.4), layout="constrained")
    grid = figure.subplots(3, len(kept.maps), squeeze=False)
    present: set[int] = set()
    for column, (row, predicted) in enumerate(zip(kept.test.tolist(), kept.maps, strict=False)):
        image = data.read(row, [band])[0].astype(np.float32)
        low, high = np.percentile(image, (1, 99))
        grid[0, column].imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        for place, classes in ((1, maps.reader(data.paths[row])), (2, predicted)):
            present |= set(np.unique(classes).tolist()) - {IGNORED}
            shown = np.ma.masked_equal(classes, IGNORED)
            grid[place, column].set_facecolor(_UNKNOWN)
            grid[place, column].imshow(shown, cmap=colours, vmin=0, vmax=len(_COLOURS) - 1, interpolation="nearest")
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], (band, "true", "predicted"), strict=True):
        axes.set_ylabel(name, fontsize=9)
    handles = [Patch(facecolor=_COLOURS[number], label=maps.classes[number]) for number in sorted(present)]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    return png(figure)
