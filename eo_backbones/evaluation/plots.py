"""``bands.png``: weighted F1 per band as bars with their intervals, one panel per protocol and label budget."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eo_backbones.evaluation.comparison import is_baseline
from eo_backbones.evaluation.results import Result
from eo_backbones.evaluation.summary import Section, sections

# Baselines in greys, encoders in colours that stay apart for colour-blind readers (Okabe & Ito 2008).
GREYS = ("#c9ced6", "#9aa3b0", "#6b7583", "#434b57", "#e3dccf", "#b8ab94")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK = "#1f2430"
_LABELLED_BARS = 24  # more bars are too narrow to write a figure above each
_LEGEND_LETTERS = 60
_LETTERS_BESIDE_A_NAME, _LETTERS_AN_INCH = 7, 12  # at the legend's font size: the coloured patch; letters in an inch
_BAND_WIDTH_INCHES, _MIN_WIDTH_INCHES, _PANEL_HEIGHT_INCHES = 0.34, 7.5, 3.6


def write_bands(path: Path, rows: Sequence[Result]) -> None:
    """Draw all rows and write the picture."""
    panels = sections(rows)
    bars = max(len(panel.bands) * (len(panel.models) + 1) for panel in panels)
    width = max(_MIN_WIDTH_INCHES, bars * _BAND_WIDTH_INCHES + 1.2)
    figure = Figure(figsize=(width, _PANEL_HEIGHT_INCHES * len(panels) + 0.5), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        draw_section(axes, panel)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=150, format="png")
    temporary.replace(path)


def colours(models: Sequence[str]) -> dict[str, str]:
    """Return a colour for each line of a table."""
    greys, colourful = iter(GREYS * len(models)), iter(COLOURS * len(models))
    return {model: next(greys) if is_baseline(model) else next(colourful) for model in models}


def _short(name: str) -> str:
    """Return a name for the legend; of a long one its end, which tells folders apart."""
    return name if len(name) <= _LEGEND_LETTERS else f"…{name[1 - _LEGEND_LETTERS :]}"


def _columns(models: Sequence[str], axes: Axes) -> int:
    """Return how many names fit side by side below the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are drawn in a figure"
    letters = max(len(_short(model)) for model in models) + _LETTERS_BESIDE_A_NAME
    return max(1, min(len(models), 5, int(figure.get_figwidth() * _LETTERS_AN_INCH / letters)))


def draw_section(axes: Axes, section: Section) -> None:
    """Draw the bars of one table."""
    palette = colours(section.models)
    width = 0.84 / len(section.models)
    labelled = len(section.cells) <= _LABELLED_BARS
    for number, model in enumerate(section.models):
        offset = (number - (len(section.models) - 1) / 2) * width
        found = [(place + offset, section.cells.get((model, band))) for place, band in enumerate(section.bands)]
        measured = [(x, cell) for x, cell in found if cell is not None]
        places = [x for x, _ in measured]
        heights = [cell.f1 for _, cell in measured]
        axes.bar(places, heights, width * 0.94, color=palette[model], label=_short(model), zorder=2)
        for x, cell in measured:
            axes.vlines(x, cell.low, cell.high, color=_INK, linewidth=1.3, zorder=3)
            if labelled:
                axes.text(x, cell.high + 0.012, f"{cell.f1:.2f}", ha="center", va="bottom", fontsize=8, color=_INK)
    names = [band.replace(" (", "\n(") for band in section.bands]  # of several bands: how they are fused, below
    axes.set_xticks(range(len(section.bands)), names)
    axes.set_ylim(0, 1)
    axes.set_ylabel("weighted F1")
    labels = "" if section.fraction == "1" else f", labels {section.fraction}"
    axes.set_title(
        f"{section.dataset}, protocol {section.protocol}{labels}",
        loc="left",
        fontsize=11,
        fontweight="bold",
        color=_INK,
    )
    axes.set_title(
        f"{section.n_train:,} labelled, {section.n_test:,} test images", loc="right", fontsize=8.5, color="#596273"
    )
    axes.grid(axis="y", color="#e6e8ec", zorder=0)
    axes.tick_params(length=0, colors=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14 if any("\n" in name for name in names) else -0.09),
        ncols=_columns(section.models, axes),
        frameon=False,
        fontsize=9,
    )
