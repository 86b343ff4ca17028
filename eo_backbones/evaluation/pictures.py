"""The pictures of ``report.html``: confusion, projection of the features, images that were right and wrong."""

from collections.abc import Sequence
from io import BytesIO
from textwrap import fill

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eo_backbones.bands import BANDS
from eo_backbones.datasets import LabelledImages
from eo_backbones.evaluation import metrics, multilabel_metrics
from eo_backbones.evaluation.predictions import Predictions

_INK, _PALE = "#1f2430", "#596273"
_RIGHT, _WRONG = "#009e73", "#d55e00"
_POINT_SIZE = 4
_NAME_LENGTH = 28
_TITLE_WIDTH = 16  # characters above a sample
_DARK = 0.55  # share above which a cell's figure is written in white


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    content = BytesIO()
    figure.savefig(content, dpi=110, format="png")
    return content.getvalue()


def confusion_and_projection(data: LabelledImages, kept: Predictions) -> bytes:
    """Draw the confusion matrix and, where it was kept, the test images in two principal components.

    Where images have several labels there is no such matrix: the F1 of each label takes its place.
    """
    both = len(kept.projection) > 0
    figure = Figure(figsize=(12.5 if both else 6.5, 5.6), layout="constrained")
    axes = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    true = data.labels[kept.test]
    if data.multilabel:
        decisions = multilabel_metrics.count_decisions(true, kept.predicted).sum(axis=0)
        _bars(axes[0], multilabel_metrics.label_f1(decisions), decisions[:, 0] + decisions[:, 2], data.classes)
    else:
        draw_confusion(axes[0], metrics.confusion_matrix(true, kept.predicted, len(data.classes)), data.classes)
    if both:
        groups = data.strata[kept.test]  # of several labels the rarest, as a rule
        _projection(axes[1], kept.projection, groups, [_short(name) for name in data.classes])
    return png(figure)


def samples(data: LabelledImages, bands: Sequence[str], kept: Predictions) -> bytes:
    """Draw for every class one test image that was recognised and one that was not.

    Args:
        data: the images.
        bands: canonical names of the bands to show: three as red, green and blue from the longest wavelength to the
            shortest; of any other number the first.
        kept: what was predicted.
    """
    true = data.labels[kept.test]
    by_wavelength = sorted(bands, key=lambda name: BANDS[name].wavelength_nm, reverse=True)
    shown = by_wavelength if len(bands) == 3 else bands[:1]
    present = np.flatnonzero(true.any(axis=0)).tolist() if data.multilabel else range(len(data.classes))
    figure = Figure(figsize=(1.25 * len(present), 3.3), layout="constrained")
    grid = figure.subplots(2, len(present), squeeze=False)
    for column, label in enumerate(present):
        for row, hit in enumerate((True, False)):
            axes: Axes = grid[row, column]
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color=_RIGHT if hit else _WRONG, linewidth=2)
            has, said = (
                (true[:, label], kept.predicted[:, label])
                if data.multilabel
                else (true == label, kept.predicted == label)
            )
            found = np.flatnonzero(has & (said == hit))
            if row == 0:
                axes.set_title(fill(_short(data.classes[label]), _TITLE_WIDTH), fontsize=7, color=_INK)
            if len(found) == 0:
                axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=8, color=_PALE)
                continue
            axes.imshow(_stretched(data.read(int(kept.test[found[0]]), shown)), cmap="gray", interpolation="nearest")
            if not hit and not data.multilabel:
                axes.set_xlabel(f"→ {data.classes[kept.predicted[found[0]]]}", fontsize=7, color=_WRONG)
    grid[0, 0].set_ylabel("right", color=_RIGHT, fontsize=9)
    grid[1, 0].set_ylabel("wrong", color=_WRONG, fontsize=9)
    return png(figure)


def _stretched(image: np.ndarray) -> np.ndarray:
    """Return bands ``(C, H, W)`` as ``(H, W, C)``, or ``(H, W)`` for one.

    Each goes from 0 to 1 between its own percentiles 1 and 99.
    """
    values = image.astype(np.float32)
    low, high = np.percentile(values, (1, 99), axis=(1, 2), keepdims=True)
    scaled: np.ndarray = ((values - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
    return scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0)


def draw_confusion(axes: Axes, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Draw a matrix of counts, row = true class, as percentages of each row."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            colour = "white" if value > _DARK else _INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted", color=_PALE)
    axes.set_ylabel("true", color=_PALE)
    axes.set_title("Of each true class, % predicted as", loc="left", fontsize=10, color=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _bars(axes: Axes, f1: np.ndarray, support: np.ndarray, names: Sequence[str]) -> None:
    present = np.flatnonzero(support).tolist()
    axes.barh(range(len(present)), f1[present], color=_RIGHT, height=0.7)
    for place, label in enumerate(present):
        axes.text(f1[label] + 0.01, place, f"{f1[label]:.2f}", va="center", fontsize=7.5, color=_INK)
    axes.set_yticks(
        range(len(present)), [f"{_short(names[label])} ({support[label]:,})" for label in present], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.tick_params(length=0)
    axes.set_title("F1 of each label (test images that have it)", loc="left", fontsize=10, color=_INK)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1].rstrip(' ,')}…"


def _projection(axes: Axes, points: np.ndarray, true: np.ndarray, classes: Sequence[str]) -> None:
    palette = colormaps["tab10" if len(classes) <= colormaps["tab10"].N else "tab20"]
    order = np.random.default_rng(0).permutation(len(points))  # so that no class is drawn on top of the others
    x, y = points[order].T
    axes.scatter(x, y, c=palette(true[order] % palette.N), s=_POINT_SIZE, linewidths=0, alpha=0.7)
    for label in np.unique(true).tolist():
        name = classes[label] if label < len(classes) else "other labels"
        axes.scatter([], [], color=palette(label % palette.N), s=30, label=name)
    low, high = np.quantile(points, (0.005, 0.995), axis=0)
    margin = 0.06 * (high - low) + 1e-6
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("Test images in two principal components of the features", loc="left", fontsize=10, color=_INK)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    for spine in axes.spines.values():
        spine.set_color("#d5d9df")
