"""What ``retrieval`` leaves beside its rows: pictures of all pairs of bands, and a page with means over groups."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from eo_backbones.bands import BANDS
from eo_backbones.cards.tables import markdown_table
from eo_backbones.evaluation.plots import literal, names_in_pictures
from eo_backbones.evaluation.retrieval.recall import RANKS, between
from eo_backbones.evaluation.retrieval.records import Recall, matrix_of
from eo_backbones.files import atomic_file, write_atomically

REPORT_FILE = "retrieval.md"
PANELS_A_ROW = 2
_CELL_INCHES, _MARGIN_INCHES, _MIN_PANEL_INCHES = 0.4, 1.1, 3.2
_DIGITS = 12  # of a digest
_VISIBLE_BELOW_NM = 700
_WHITE_BELOW = 0.6  # a number on the dark end of the colours

INTRODUCTION = (
    "Features of each place in one band (asked by) are looked up among those of all places in another (found in), by "
    "cosine, after each band's features are standardised over the places. recall@k: share of places whose own is among "
    "the k most similar. Cells: means over the pairs of bands of two groups, both directions; a band with itself is "
    "left out. No labels, no training."
)


def picture_file(rank: int) -> str:
    """Return the name of the picture of a rank."""
    return f"recall-at-{rank}.png"


def band_groups(bands: Sequence[str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the groups of bands that a table compares, those with at least one pair of different bands.

    Visible is what has less than 700 nm; infrared includes the red edge.

    Args:
        bands: labels of columns: canonical names, also after ``paper-order:``.
    """
    entries = {label: BANDS[label.rpartition(":")[2]] for label in bands}
    radar = tuple(label for label, entry in entries.items() if entry.sensor == "s1")
    optical = tuple(label for label in bands if label not in radar)
    visible = tuple(label for label in optical if entries[label].wavelength_nm < _VISIBLE_BELOW_NM)
    infrared = tuple(label for label in optical if label not in visible)
    groups = {
        "visible, visible": (visible, visible),
        "visible, infrared": (visible, infrared),
        "infrared, infrared": (infrared, infrared),
        "optical, radar": (optical, radar),
        "radar, radar": (radar, radar),
    }
    return {
        name: (first, second)
        for name, (first, second) in groups.items()
        if any(one != other for one in first for other in second)
    }


def names_of_lines(rows: Sequence[Recall]) -> dict[tuple[str, int, str], str]:
    """Return what each line of the table is called: the model, with size and scaling where these tell lines apart."""
    lines = list(dict.fromkeys(row.line for row in rows))
    sizes = {model: {size for other, size, _ in lines if other == model} for model, _, _ in lines}
    names = {}
    for model, size, scaling in lines:
        extra = [f"{size} px"] if len(sizes[model]) > 1 or scaling != "contract" else []
        extra += [scaling] if scaling != "contract" else []
        names[model, size, scaling] = f"{model} ({', '.join(extra)})" if extra else model
    return names


def summary(rows: Sequence[Recall]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table of means over groups of bands."""
    bands = _bands(rows)
    groups = band_groups(bands)
    lines = []
    for rank in RANKS:
        for name, matrix in _matrices(rows, rank).items():
            means = (between(matrix, bands, *pair) for pair in groups.values())
            lines.append([name, f"recall@{rank}", *("" if math.isnan(mean) else f"{mean:.3f}" for mean in means)])
    return ["model", "", *groups], lines


def write_report(out: Path, rows: Sequence[Recall], *, commands: Sequence[str]) -> Path:
    """Write the pictures and ``retrieval.md`` from all rows; return the path of the page."""
    for rank in RANKS:
        matrices = _matrices(rows, rank)
        shown = names_in_pictures(list(matrices))
        titled = {shown[name]: matrix for name, matrix in matrices.items()}
        write_matrices(out / picture_file(rank), titled, _bands(rows), rank=rank)
    header, lines = summary(rows)
    places = rows[0].places
    versions = ", ".join(dict.fromkeys(row.versions for row in rows))
    digests = dict.fromkeys(f"- weights of `{row.model}`: {row.weights_digest[:_DIGITS]}" for row in rows)
    parts = [
        f"# Places of {rows[0].dataset} found again by another band",
        INTRODUCTION,
        f"{places:,} places, digest {rows[0].data_digest}. By guessing, recall@1 is {1 / places:.4f} and recall@5 "
        f"{5 / places:.4f}.",
        markdown_table(header, [[f"`{name}`", *cells] for name, *cells in lines]),
        *(f"![recall@{rank} of all pairs of bands]({picture_file(rank)})" for rank in RANKS),
        "## Setup",
        "\n".join([f"- versions: {versions}", *digests]),
        "## Commands",
        "```\n" + "\n".join(commands) + "\n```",
    ]
    path = out / REPORT_FILE
    write_atomically(path, "\n\n".join(parts) + "\n")
    return path


def _bands(rows: Sequence[Recall]) -> list[str]:
    return list(dict.fromkeys(row.asked for row in rows))


def _matrices(rows: Sequence[Recall], rank: int) -> dict[str, np.ndarray]:
    bands = _bands(rows)
    return {
        name: matrix_of([row for row in rows if row.line == line], bands, rank=rank)
        for line, name in names_of_lines(rows).items()
    }


def write_matrices(path: Path, matrices: Mapping[str, np.ndarray], bands: Sequence[str], *, rank: int) -> None:
    """Draw one matrix a model, :data:`PANELS_A_ROW` side by side, and write the picture (PNG)."""
    columns = min(PANELS_A_ROW, len(matrices))
    rows = -(-len(matrices) // columns)
    side = max(_MIN_PANEL_INCHES, _CELL_INCHES * len(bands) + _MARGIN_INCHES)
    figure = Figure(figsize=(side * columns, (side + 0.1) * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(matrices) :]:
        axes.set_axis_off()
    for axes, (model, matrix) in zip(grid, matrices.items(), strict=False):
        axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        axes.set_title(model, fontsize=11, loc="left")
        axes.set_xticks(range(len(bands)), bands, rotation=90, fontsize=9)
        axes.set_yticks(range(len(bands)), bands, fontsize=9)
        axes.tick_params(length=0)
        axes.set_xlabel("found in", fontsize=9)
        axes.set_ylabel("asked by", fontsize=9)
        for (row, column), value in np.ndenumerate(matrix):
            if not math.isnan(value):
                colour = "white" if value < _WHITE_BELOW else "black"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=colour)
    figure.suptitle(f"recall@{rank} in percent", fontsize=12)
    with atomic_file(path) as unfinished:
        literal(figure).savefig(unfinished, dpi=110, format="png")
