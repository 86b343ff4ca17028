"""The pictures of a report: ``bands.png``, and what ``report.html`` shows of the predictions."""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from eo_backbones.bands import BANDS
from eo_backbones.datasets import LabelledImages
from eo_backbones.datasets.labelled import IGNORED, ClassMaps
from eo_backbones.evaluation import metrics
from eo_backbones.evaluation.predictions import Predictions, is_baseline
from eo_backbones.files import atomic_file, utf8
from eo_backbones.results import Result, Section, sections

_TEXT, _PALE = "#1f2430", "#596273"


def literal(figure: Figure) -> Figure:
    """Return the figure with all its texts as they are: names of classes and files are no mathematics between dollars.

    Bytes of a file name that are no text are shown as escapes.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text), "what was asked for"
        text.set_parse_math(False)
        text.set_text(utf8(text.get_text()).decode())
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file, its texts :func:`literal`."""
    content = BytesIO()
    literal(figure).savefig(content, dpi=110, format="png")
    return content.getvalue()


# bands.png: weighted F1 per band as bars with their intervals, one panel per protocol and label budget

# Baselines in greys, encoders in colours that stay apart for colour-blind readers (Okabe & Ito 2008).
GREYS = ("#c9ced6", "#9aa3b0", "#6b7583", "#434b57", "#e3dccf", "#b8ab94")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LABELLED_BARS = 24  # more bars are too narrow to write the value above each
_LEGEND_LETTERS = 60
_LETTERS_BESIDE_A_NAME, _LETTERS_AN_INCH = 7, 12  # at the legend's font size: the coloured patch; letters in an inch
_BAND_WIDTH_INCHES, _MIN_WIDTH_INCHES, _PANEL_HEIGHT_INCHES = 0.34, 7.5, 3.6


def write_band_chart(path: Path, rows: Sequence[Result]) -> None:
    """Draw all rows and write ``bands.png``."""
    with atomic_file(path) as unfinished:
        literal(band_chart(rows)).savefig(unfinished, dpi=150, format="png")


def band_chart(rows: Sequence[Result]) -> Figure:
    """Draw all rows, a panel for each table; panels of the same models share one legend."""
    panels = sections(rows)
    bars = max(len(panel.bands) * (len(panel.models) + 1) for panel in panels)
    width = max(_MIN_WIDTH_INCHES, bars * _BAND_WIDTH_INCHES + 1.2)
    figure = Figure(figsize=(width, _PANEL_HEIGHT_INCHES * len(panels) + 0.5), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    alike = len({panel.models for panel in panels}) == 1
    for axes, panel in zip(all_axes, panels, strict=True):
        draw_section(axes, panel, legend=not alike or axes is all_axes[-1])
    return figure


def line_colours(models: Sequence[str]) -> dict[str, str]:
    """Return a colour for each line of a table."""
    greys, colourful = iter(GREYS * len(models)), iter(COLOURS * len(models))
    return {model: next(greys) if is_baseline(model) else next(colourful) for model in models}


def names_in_pictures(models: Sequence[str]) -> dict[str, str]:
    """Return what each model is called in a picture: a folder by its last part, if that tells all models apart."""
    last_parts = [re.sub(r"(local-dir:)\S*/", r"\1", model) for model in models]
    shown = last_parts if len(set(last_parts)) == len(set(models)) else models
    return dict(zip(models, map(_short, shown), strict=True))


def _short(name: str) -> str:
    """Return a name; of a long one its end, which tells folders apart."""
    return name if len(name) <= _LEGEND_LETTERS else f"…{name[1 - _LEGEND_LETTERS :]}"


def _columns(names: Sequence[str], axes: Axes) -> int:
    """Return how many names fit side by side below the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are drawn in a figure"
    letters = max(map(len, names)) + _LETTERS_BESIDE_A_NAME
    return max(1, min(len(names), 5, int(figure.get_figwidth() * _LETTERS_AN_INCH / letters)))


def draw_section(axes: Axes, section: Section, *, legend: bool = True) -> None:
    """Draw the bars of one table, and below them which colour is which model."""
    names = names_in_pictures(section.models)
    palette = line_colours(section.models)
    width = 0.84 / len(section.models)
    labelled = len(section.cells) <= _LABELLED_BARS
    for number, model in enumerate(section.models):
        offset = (number - (len(section.models) - 1) / 2) * width
        measured = [
            (number_of_band + offset, section.cells[model, band])
            for number_of_band, band in enumerate(section.bands)
            if (model, band) in section.cells
        ]
        positions = [x for x, _ in measured]
        heights = [cell.value for _, cell in measured]
        axes.bar(positions, heights, width * 0.94, color=palette[model], label=names[model], zorder=2)
        for x, cell in measured:
            axes.vlines(x, cell.low, cell.high, color=_TEXT, linewidth=1.3, zorder=3)
            if labelled:
                axes.text(x, cell.high + 0.012, f"{cell.value:.2f}", ha="center", va="bottom", fontsize=8, color=_TEXT)
    bands = [band.replace(" (", "\n(") for band in section.bands]  # of several bands: how they are fused, below
    axes.set_xticks(range(len(section.bands)), bands)
    axes.set_ylim(0, 1)
    axes.set_ylabel("weighted F1")
    labels = "" if section.fraction == "1" else f", labels {section.fraction}"
    axes.set_title(
        f"{section.dataset}, protocol {section.protocol}{labels}",
        loc="left",
        fontsize=11,
        fontweight="bold",
        color=_TEXT,
    )
    axes.set_title(
        f"{section.n_train:,} labelled, {section.n_test:,} test images", loc="right", fontsize=8.5, color=_PALE
    )
    axes.grid(axis="y", color="#e6e8ec", zorder=0)
    axes.tick_params(length=0, colors=_TEXT)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if legend:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14 if any("\n" in band for band in bands) else -0.09),
            ncols=_columns(list(names.values()), axes),
            frameon=False,
            fontsize=9,
        )


# report.html: confusion matrix, projection of the features, images that were classified correctly and wrongly

_RIGHT, _WRONG = "#009e73", "#d55e00"
_POINT_SIZE = 4
_NAME_LENGTH = 28
_TITLE_WIDTH = 16  # characters above a sample
_DARK = 0.55  # share above which a cell's value is written in white


def confusion_picture(data: LabelledImages, kept: Predictions) -> bytes:
    """Draw the confusion matrix and, where it was kept, the test images in two principal components.

    Where images have several labels there is no such matrix: the F1 of each label takes its place.
    """
    both = len(kept.projection) > 0
    figure = Figure(figsize=(12.5 if both else 6.5, 5.6), layout="constrained")
    axes = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    true = data.labels[kept.test]
    if data.multilabel:
        decisions = metrics.count_decisions(true, kept.predicted).sum(axis=0)
        _label_bars(axes[0], metrics.label_f1(decisions), decisions[:, 0] + decisions[:, 2], data.classes)
    else:
        draw_confusion(axes[0], metrics.confusion_matrix(true, kept.predicted, len(data.classes)), data.classes)
    if both:
        groups = data.strata[kept.test]  # of several labels the rarest, as a rule
        _projection(axes[1], kept.projection, groups, [_short_name(name) for name in data.classes])
    return png(figure)


def samples_picture(data: LabelledImages, bands: Sequence[str], kept: Predictions) -> bytes:
    """Draw for every class one test image that was classified correctly and one that was not.

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
            has_label, predicted = (
                (true[:, label], kept.predicted[:, label])
                if data.multilabel
                else (true == label, kept.predicted == label)
            )
            matching = np.flatnonzero(has_label & (predicted == hit))
            if row == 0:
                axes.set_title(fill(_short_name(data.classes[label]), _TITLE_WIDTH), fontsize=7, color=_TEXT)
            if len(matching) == 0:
                axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=8, color=_PALE)
                continue
            axes.imshow(_stretched(data.read(int(kept.test[matching[0]]), shown)), cmap="gray", interpolation="nearest")
            if not hit and not data.multilabel:
                axes.set_xlabel(f"→ {data.classes[kept.predicted[matching[0]]]}", fontsize=7, color=_WRONG)
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
            colour = "white" if value > _DARK else _TEXT
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted", color=_PALE)
    axes.set_ylabel("true", color=_PALE)
    axes.set_title("Of each true class, % predicted as", loc="left", fontsize=10, color=_TEXT)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label_bars(axes: Axes, f1: np.ndarray, support: np.ndarray, names: Sequence[str]) -> None:
    present = np.flatnonzero(support).tolist()
    axes.barh(range(len(present)), f1[present], color=_RIGHT, height=0.7)
    for position, label in enumerate(present):
        axes.text(f1[label] + 0.01, position, f"{f1[label]:.2f}", va="center", fontsize=7.5, color=_TEXT)
    axes.set_yticks(
        range(len(present)), [f"{_short_name(names[label])} ({support[label]:,})" for label in present], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.tick_params(length=0)
    axes.set_title("F1 of each label (test images that have it)", loc="left", fontsize=10, color=_TEXT)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _short_name(name: str) -> str:
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
    axes.set_title("Test images in two principal components of the features", loc="left", fontsize=10, color=_TEXT)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    for spine in axes.spines.values():
        spine.set_color("#d5d9df")


# report.html, protocol segmentation: confusion matrix of pixels, and class maps beside the truth

# The colours of the IEEE GRSS Data Fusion Contest 2020, its classes in order (lukasliebel/dfc2020_baseline).
_CLASS_COLOURS = (
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


def pixel_confusion_picture(maps: ClassMaps, kept: Predictions) -> bytes:
    """Draw the confusion of all pixels of the test images, of the classes that occur."""
    whole = kept.predicted.sum(axis=0)
    present = np.flatnonzero(whole.sum(axis=0) + whole.sum(axis=1)).tolist()
    figure = Figure(figsize=(6.5, 5.6), layout="constrained")
    names = [maps.classes[number] for number in present]
    draw_confusion(figure.subplots(), whole[np.ix_(present, present)], names)
    return png(figure)


def class_maps_picture(data: LabelledImages, maps: ClassMaps, band: str, kept: Predictions) -> bytes:
    """Draw the first test images in one band, above their true and their predicted classes.

    Args:
        data: the images.
        maps: their classes.
        band: canonical name of the band to show.
        kept: what was predicted.
    """
    colours = ListedColormap(_CLASS_COLOURS)
    figure = Figure(figsize=(2.0 * len(kept.maps) + 1.6, 6.4), layout="constrained")
    grid = figure.subplots(3, len(kept.maps), squeeze=False)
    present: set[int] = set()
    for column, (row, predicted) in enumerate(zip(kept.test.tolist(), kept.maps, strict=False)):
        image = data.read(row, [band])[0].astype(np.float32)
        low, high = np.percentile(image, (1, 99))
        grid[0, column].imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        for line, classes in ((1, maps.reader(data.paths[row])), (2, predicted)):
            present |= set(np.unique(classes).tolist()) - {IGNORED}
            shown = np.ma.masked_equal(classes, IGNORED)
            grid[line, column].set_facecolor(_UNKNOWN)
            grid[line, column].imshow(
                shown, cmap=colours, vmin=0, vmax=len(_CLASS_COLOURS) - 1, interpolation="nearest"
            )
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], (band, "true", "predicted"), strict=True):
        axes.set_ylabel(name, fontsize=9)
    handles = [Patch(facecolor=_CLASS_COLOURS[number], label=maps.classes[number]) for number in sorted(present)]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    return png(figure)
