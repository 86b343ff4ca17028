"""What a report says, before it is Markdown or HTML: tables, comparisons, setup, definitions, commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from eo_backbones.contract import Unit
from eo_backbones.datasets import LabelledImages
from eo_backbones.evaluation import encoders, protocols
from eo_backbones.evaluation.band_choice import FUSES, PLUS
from eo_backbones.evaluation.comparison import Comparison, compare
from eo_backbones.evaluation.metrics import RESAMPLES, Estimate
from eo_backbones.evaluation.paper_table import PAPER_FIGURES
from eo_backbones.evaluation.results import Result
from eo_backbones.evaluation.summary import Cell, Section, sections

NOT_MEASURED = "not measured here"
INTRODUCTION = (
    "Every encoder is frozen and sees one band at a time; only the small classifier behind it is trained. Cells: "
    f"weighted F1, mean over seeds [95 % interval over the test images, {RESAMPLES:,} bootstrap resamples] ± standard "
    "deviation over seeds."
)
COMPARISON_NOTE = (
    "Differences in weighted F1 on the same test images, mean over seeds [paired 95 % interval]; * where the interval "
    "leaves out 0."
)
PAPER_NOTE = (
    "The paper's own figures (Jain et al., IGARSS 2021, Table I), for orientation: its split, input size and "
    "normalisation are not stated."
)

_SPLITS = {
    "seeded": "60 % train, 20 % validation, 20 % test of every class, redrawn with every seed",
    "standard": "the published lists of arXiv 1911.06721",
    "spatial": "the published lists by longitude (torchgeo)",
}
_UNITS: dict[Unit, str] = {
    "dn": "digital numbers (reflectance x 10000)",
    "reflectance": "reflectance (1 = white)",
    "db": "backscatter in dB",
    "linear": "linear backscatter",
    "uint8": "8-bit display values (optical: 0...255 read as 0...2750 digital numbers, radar: as -25...0 dB)",
}
_FURTHER = {
    "map_macro": "mean average precision, macro",
    "map_micro": "mean average precision, micro",
    "f1_micro": "F1, micro",
    "miou": "mean intersection over union",
}
FURTHER_NOTE = (
    "Weighted F1 above weighs the labels, or the pixels' classes, by their number; figures of each: results.csv."
)
_DIGITS = 12  # of a digest
_DIGESTS_SHOWN = 3

Grid = list[list[str]]
"""A table as text: the first line is its header."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Contents:
    """Everything in a report.

    Attributes:
        data: the images.
        rows: of ``results.csv``.
        tables: each section with its comparisons.
        commands: those that made the rows.
        imagenet_command: how to measure the ImageNet line of a section, shown where it is missing.
    """

    data: LabelledImages
    rows: Sequence[Result]
    tables: list[tuple[Section, list[Comparison]]]
    commands: Sequence[str]
    imagenet_command: Callable[[Section], str]

    @property
    def title(self) -> str:
        """Heading of the report."""
        return f"Frozen encoders on {self.data.name}, band by band"


def gather(
    out: Path,
    data: LabelledImages,
    rows: Sequence[Result],
    *,
    commands: Sequence[str],
    imagenet_command: Callable[[Section], str],
) -> Contents:
    """Bring rows and predictions together.

    Args:
        out: folder of the results, for the predictions behind them.
        data: the images the rows are about.
        rows: of ``results.csv``.
        commands: those that made the rows.
        imagenet_command: see :class:`Contents`.
    """
    tables = [(section, compare(out, data.labels, len(data.classes), section.rows)) for section in sections(rows)]
    return Contents(data=data, rows=rows, tables=tables, commands=commands, imagenet_command=imagenet_command)


def shown(cell: Cell) -> str:
    """Return a cell as text."""
    spread = "" if cell.spread is None else f" ± {cell.spread:.3f}"
    return f"{cell.f1:.3f} [{cell.low:.3f}, {cell.high:.3f}]{spread}"


def heading(section: Section) -> str:
    """Return the title of a section."""
    labels = "all labels" if section.fraction == "1" else f"label budget {section.fraction}"
    return f"Protocol {section.protocol}, split {section.split}, {labels}"


def counts(section: Section) -> str:
    """Return how many images and seeds stand behind a section."""
    seeds = max(cell.seeds for cell in section.cells.values())
    return (
        f"{section.n_train:,} labelled images (train + validation), {section.n_test:,} test images, "
        f"{seeds} seed{'s' if seeds > 1 else ''}."
    )


def has_imagenet(section: Section) -> bool:
    """Return whether ImageNet weights were measured in a section."""
    return any(model.startswith(encoders.IMAGENET) for model in section.models)


def table(section: Section) -> Grid:
    """Return models by bands; the ImageNet line is never left out."""
    grid = [["model", *section.bands]]
    for model in section.models:
        cells = (section.cells.get((model, band)) for band in section.bands)
        grid.append([model, *("" if cell is None else shown(cell) for cell in cells)])
    if not has_imagenet(section):
        grid.append([encoders.IMAGENET, *[NOT_MEASURED] * len(section.bands)])
    return grid


def further_table(section: Section) -> Grid | None:
    """Return the other figures of several labels an image, or of pixels, by bands; ``None`` where there are none."""
    grid = [["figure, mean over seeds", *section.bands]]
    for model, rows in section.rows.items():
        for column, name in _FURTHER.items():
            by_band = {
                band: [value for row in rows if row.band == band and (value := getattr(row, column)) is not None]
                for band in section.bands
            }
            if any(by_band.values()):
                means = (f"{fmean(values):.3f}" if values else "" for values in by_band.values())
                grid.append([f"{name}: {model}", *means])
    return grid if len(grid) > 1 else None


def comparison_table(section: Section, comparisons: Sequence[Comparison]) -> Grid:
    """Return pairs of models by bands."""
    grid = [["difference", *section.bands]]
    for pair in comparisons:
        cells = (pair.bands.get(band) for band in section.bands)
        grid.append([f"{pair.first} - {pair.second}", *("" if cell is None else _signed(cell) for cell in cells)])
    return grid


def paper_table(section: Section) -> Grid | None:
    """Return the paper's own figures for the bands of a section, if it used this protocol on this kind of data."""
    bands = [band for band in section.bands if band in PAPER_FIGURES["ImageNet"]]
    if section.protocol != "paper" or not section.dataset.startswith("eurosat") or not bands:
        return None
    return [
        ["the paper", *bands],
        *([model, *(f"{figures[band]:.2f}" for band in bands)] for model, figures in PAPER_FIGURES.items()),
    ]


def setup(contents: Contents) -> Grid:
    """Return what was read, how, and with which versions and weights."""
    data, rows = contents.data, contents.rows
    names = dict.fromkeys(row.input_scaling for row in rows)
    scalings = [f"{name}: {meaning}" for name, meaning in encoders.SCALINGS.items() if name in names]
    sizes = dict.fromkeys(f"{row.size}" for row in rows)
    splits = dict.fromkeys(row.split for row in rows)
    facts = [
        ["data", f"{data.name}, {len(data):,} images, {len(data.classes)} classes, digest {data.digest}"],
        ["values", _values(data)],
        ["input", f"{', '.join(sizes)} px; {'; '.join(scalings)}"],
        ["split", "; ".join(f"{name}: {_split(data, name)}" for name in splits)],
        ["features", "taken once, standardised on the training part"],
        ["seed", "draws the split (where seeded), the labelled subset, the probe's and a random encoder's weights"],
        ["final fit", "on train + validation labels, with every protocol"],
    ]
    facts += [["versions", found] for found in dict.fromkeys(row.versions for row in rows)]
    facts += [[f"weights of {model}", digests] for model, digests in _digests(rows).items()]
    return [["", ""], *facts]


def definitions(rows: Sequence[Result]) -> Grid:
    """Return the names in the tables and what they mean."""
    models = dict.fromkeys(row.model for row in rows)
    used = dict.fromkeys(row.protocol for row in rows)
    grid = [["name", "meaning"]]
    grid += [[name, encoders.DESCRIPTIONS[name]] for name in models if name in encoders.DESCRIPTIONS]
    fused = [fuse for fuse in FUSES if any(PLUS in row.band and row.band.endswith(f" ({fuse})") for row in rows)]
    grid += [[f"BAND{PLUS}BAND ({fuse})", FUSES[fuse]] for fuse in fused]
    return grid + [[f"protocol {name}", protocols.DESCRIPTIONS[name]] for name in used]


def _signed(estimate: Estimate) -> str:
    clear = "*" if estimate.low > 0 or estimate.high < 0 else ""
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]{clear}"


def _values(data: LabelledImages) -> str:
    """Return the units, with their bands where there are several."""
    named = {
        unit: [band for band, own in zip(data.bands, data.units, strict=True) if own == unit] for unit in data.units
    }
    if len(named) == 1:
        return _UNITS[data.units[0]]
    return "; ".join(f"{', '.join(bands)}: {_UNITS[unit]}" for unit, bands in named.items())


def _split(data: LabelledImages, name: str) -> str:
    if name == "standard" and data.official is not None:
        return data.official.source
    return _SPLITS[name]


def _digests(rows: Sequence[Result]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        found.setdefault(row.model, {})[row.weights_digest[:_DIGITS]] = None
    return {
        model: ", ".join(digests) if len(digests) <= _DIGESTS_SHOWN else f"{len(digests)} different ones (results.csv)"
        for model, digests in found.items()
    }
