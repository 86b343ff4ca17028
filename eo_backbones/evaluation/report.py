"""The report of an evaluation, as Markdown and as one HTML page: tables, comparisons, setup, definitions, commands.

``report.md`` has the tables and everything a reader needs to judge and repeat them. ``report.html`` says the same in
one file that opens anywhere, with pictures of what the models did.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from types import MappingProxyType

from eo_backbones.bands import PAPER_BANDS
from eo_backbones.cards.tables import markdown_table
from eo_backbones.contract import Unit
from eo_backbones.datasets import LabelledImages
from eo_backbones.evaluation import encoders, plots
from eo_backbones.evaluation.columns import FUSES, PLUS, sources_of
from eo_backbones.evaluation.metrics import RESAMPLES
from eo_backbones.evaluation.predictions import Comparison, compare_models, read_predictions
from eo_backbones.evaluation.probes import protocols
from eo_backbones.results import Estimate, Result, Section, sections

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
CHART_FILE = "bands.png"

# Jain et al., IGARSS 2021, Table I; columns: B02 B03 B04 B05 B06 B07 B08 B8A B11 B12
_TABLE = {
    "ImageNet": (0.65, 0.62, 0.56, 0.61, 0.51, 0.47, 0.41, 0.44, 0.58, 0.47),
    "SimSiam, baseline": (0.74, 0.77, 0.76, 0.70, 0.68, 0.70, 0.75, 0.50, 0.72, 0.67),
    "BYOL, baseline": (0.67, 0.77, 0.77, 0.72, 0.69, 0.69, 0.74, 0.52, 0.70, 0.68),
    "SimSiam-90K": (0.85, 0.86, 0.85, 0.80, 0.82, 0.81, 0.83, 0.59, 0.77, 0.81),
    "BYOL-90K": (0.87, 0.88, 0.86, 0.80, 0.74, 0.74, 0.79, 0.59, 0.83, 0.73),
}

PAPER_F1: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {model: MappingProxyType(dict(zip(PAPER_BANDS, values, strict=True))) for model, values in _TABLE.items()}
)
"""Column of the paper -> band -> weighted F1, to be shown as the paper's only.

Its split, input size and normalisation are not stated, so these are not measurements of this project, and not a target
that could be met exactly.
"""

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
    "The paper's own results (Jain et al., IGARSS 2021, Table I), for orientation: its split, input size and "
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
    "Weighted F1 above weighs the labels, or the pixels' classes, by their number; values of each: results.csv."
)
_DIGITS = 12  # of a digest
_DIGESTS_SHOWN = 3

Grid = list[list[str]]
"""A table as text: the first line is its header."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Report:
    """Everything that a report says.

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


def gather_report(
    out: Path,
    data: LabelledImages,
    rows: Sequence[Result],
    *,
    commands: Sequence[str],
    imagenet_command: Callable[[Section], str],
) -> Report:
    """Collect rows, and the comparisons that follow from the predictions behind them.

    Args:
        out: folder of the results, for the predictions behind them.
        data: the images the rows are about.
        rows: of ``results.csv``.
        commands: those that made the rows.
        imagenet_command: see :class:`Report`.
    """
    tables = [
        (section, compare_models(out, data.labels, len(data.classes), section.rows)) for section in sections(rows)
    ]
    return Report(data=data, rows=rows, tables=tables, commands=commands, imagenet_command=imagenet_command)


def format_estimate(estimate: Estimate) -> str:
    """Return a value with its interval and, where there are several seeds, its spread."""
    return str(estimate) if estimate.spread is None else f"{estimate} ± {estimate.spread:.3f}"


def heading_text(section: Section) -> str:
    """Return the title of a section."""
    labels = "all labels" if section.fraction == "1" else f"label budget {section.fraction}"
    return f"Protocol {section.protocol}, split {section.split}, {labels}"


def counts_text(section: Section) -> str:
    """Return how many images and seeds stand behind a section."""
    return (
        f"{section.n_train:,} labelled images (train + validation), {section.n_test:,} test images, "
        f"{section.seeds} seed{'s' if section.seeds > 1 else ''}."
    )


def has_imagenet(section: Section) -> bool:
    """Return whether ImageNet weights were measured in a section."""
    return any(model.startswith(encoders.IMAGENET) for model in section.models)


def f1_table(section: Section) -> Grid:
    """Return models by bands; the ImageNet line is never left out."""
    grid = [["model", *section.bands]]
    for model in section.models:
        cells = (section.cells.get((model, band)) for band in section.bands)
        grid.append([model, *("" if cell is None else format_estimate(cell) for cell in cells)])
    if not has_imagenet(section):
        grid.append([encoders.IMAGENET, *[NOT_MEASURED] * len(section.bands)])
    return grid


def further_table(section: Section) -> Grid | None:
    """Return the other metrics of several labels an image, or of pixels, by bands; ``None`` where there are none."""
    grid = [["metric, mean over seeds", *section.bands]]
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
    """Return the paper's own results for the bands of a section, if it used this protocol on this kind of data."""
    bands = [band for band in section.bands if band in PAPER_F1["ImageNet"]]
    if section.protocol != "paper" or not section.dataset.startswith("eurosat") or not bands:
        return None
    return [
        ["the paper", *bands],
        *([model, *(f"{values[band]:.2f}" for band in bands)] for model, values in PAPER_F1.items()),
    ]


def setup_table(report: Report) -> Grid:
    """Return what was read, how, and with which versions and weights."""
    data, rows = report.data, report.rows
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
    facts += [["versions", text] for text in dict.fromkeys(row.versions for row in rows)]
    facts += [[f"weights of {model}", digests] for model, digests in _digests(rows).items()]
    return [["", ""], *facts]


def definitions_table(rows: Sequence[Result]) -> Grid:
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
    named = {unit: [band for band in data.bands if data.unit_of(band) == unit] for unit in data.units}
    if len(named) == 1:
        return _UNITS[data.units[0]]
    return "; ".join(f"{', '.join(bands)}: {_UNITS[unit]}" for unit, bands in named.items())


def _split(data: LabelledImages, name: str) -> str:
    if name == "standard" and data.official is not None:
        return data.official.source
    return _SPLITS[name]


def _digests(rows: Sequence[Result]) -> dict[str, str]:
    by_model: dict[str, dict[str, None]] = {}
    for row in rows:
        by_model.setdefault(row.model, {})[row.weights_digest[:_DIGITS]] = None
    return {
        model: ", ".join(digests) if len(digests) <= _DIGESTS_SHOWN else f"{len(digests)} different ones (results.csv)"
        for model, digests in by_model.items()
    }


# Markdown


def markdown_report(report: Report) -> str:
    """Return the content of ``report.md``."""
    parts = [f"# {report.title}", INTRODUCTION, f"![weighted F1 per band]({CHART_FILE})"]
    for section, comparisons in report.tables:
        parts += [f"## {heading_text(section)}", counts_text(section), _markdown_with_names(f1_table(section))]
        if not has_imagenet(section):
            parts.append(
                f"`{encoders.IMAGENET}` is {NOT_MEASURED}; this measures it:\n\n"
                f"```\n{report.imagenet_command(section)}\n```"
            )
        if further := further_table(section):
            parts += [FURTHER_NOTE, _markdown(further)]
        if comparisons:
            parts += [COMPARISON_NOTE, _markdown(comparison_table(section, comparisons))]
        if paper := paper_table(section):
            parts += [PAPER_NOTE, _markdown(paper)]
    parts += ["## Setup", _markdown(setup_table(report))]
    parts += ["## What the names mean", _markdown_with_names(definitions_table(report.rows))]
    parts += ["## Commands", "```\n" + "\n".join(report.commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _markdown_with_names(grid: Grid) -> str:
    """Return a table whose first column holds names to type."""
    return _markdown([grid[0], *([f"`{line[0]}`", *line[1:]] for line in grid[1:])])


def _markdown(grid: Sequence[Sequence[str]]) -> str:
    return markdown_table(grid[0], grid[1:])


# HTML

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2430; max-width: 1120px; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-top: 1px solid #e6e8ec; padding-top: 1.2rem }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem }
p.note { color: #596273; margin: .3rem 0 .8rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid #e6e8ec; white-space: nowrap }
table.facts td { white-space: normal; vertical-align: top }
th { font-weight: 600 }
td small { color: #596273 }
td.missing { color: #8a93a1; font-style: italic }
pre { background: #f5f6f8; padding: .7rem .9rem; overflow-x: auto; border-radius: 6px; font-size: .82rem }
img { max-width: 100%; height: auto }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0 }
"""


def html_report(report: Report, out: Path, chart: bytes) -> str:
    """Return the content of ``report.html``.

    Args:
        report: what it says.
        out: folder of the results, for the predictions behind them.
        chart: the content of ``bands.png``.
    """
    body = [f"<h1>{escape(report.title)}</h1>", _note(INTRODUCTION), _picture(chart, "weighted F1 per band")]
    for section, comparisons in report.tables:
        body += [f"<h2>{escape(heading_text(section))}</h2>", _note(counts_text(section)), _f1_html(section)]
        if not has_imagenet(section):
            body.append(_note(f"{encoders.IMAGENET} is {NOT_MEASURED}; this measures it:"))
            body.append(_code([report.imagenet_command(section)]))
        if further := further_table(section):
            body += [_note(FURTHER_NOTE), _html_table(further)]
        if comparisons:
            body += [_note(COMPARISON_NOTE), _html_table(comparison_table(section, comparisons))]
        if paper := paper_table(section):
            body += [_note(PAPER_NOTE), _html_table(paper)]
    section, _ = report.tables[0]
    body.append(f"<h2>A closer look: {escape(heading_text(section))}</h2>")
    body.append(_note("Each model on the band that suits it best, first seed."))
    body += _closer_looks(report, section, out)
    body += ["<h2>Setup</h2>", _html_table(setup_table(report), facts=True)]
    body += ["<h2>What the names mean</h2>", _html_table(definitions_table(report.rows), facts=True)]
    body += ["<h2>Commands</h2>", _code(report.commands)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(report.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _closer_looks(report: Report, section: Section, out: Path) -> Iterator[str]:
    for number, (model, rows) in enumerate(section.rows.items()):
        best = max(section.bands, key=lambda band, model=model: _value(section, model, band))  # type: ignore[misc]
        row = min((row for row in rows if row.band == best), key=lambda row: row.seed)
        pictures = _closer_look(report, row, out)
        if pictures:
            opened = " open" if number == 0 else ""
            title = f"{model} on {best}: weighted F1 {row.f1_weighted:.3f}, accuracy {row.accuracy:.3f}"
            yield f"<details{opened}><summary>{escape(title)}</summary>{pictures}</details>"


def _closer_look(report: Report, row: Result, out: Path) -> str:
    kept = read_predictions(out, row.key)
    if kept is None:
        return ""
    maps = report.data.maps
    if kept.predicted.ndim == 3 and maps is not None:
        (band, *_) = sources_of(report.data, row.band)
        return _picture(plots.pixel_confusion_picture(maps, kept), "confusion matrix of pixels") + _picture(
            plots.class_maps_picture(report.data, maps, band, kept), "class maps of test images"
        )
    samples = plots.samples_picture(report.data, sources_of(report.data, row.band), kept)
    return _picture(plots.confusion_picture(report.data, kept), "confusion matrix") + _picture(
        samples, "test images that were classified correctly and wrongly"
    )


def _value(section: Section, model: str, band: str) -> float:
    cell = section.cells.get((model, band))
    return -1.0 if cell is None else cell.value


def _f1_html(section: Section) -> str:
    """Return the main table: values in bold, intervals small, higher values in darker blue."""
    header, *lines = f1_table(section)
    rows = [_html_row("th", header)]
    for line in lines:
        cells = [f"<td><code>{escape(line[0])}</code></td>"]
        for band, text in zip(section.bands, line[1:], strict=True):
            cell = section.cells.get((line[0], band))
            if cell is None:
                cells.append(f'<td class="missing">{escape(text)}</td>')
                continue
            value, _, rest = text.partition(" ")
            shade = f"background: rgba(0, 114, 178, {0.45 * cell.value**2:.3f})"
            cells.append(f'<td style="{shade}"><b>{value}</b> <small>{escape(rest)}</small></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _html_table(grid: Grid, *, facts: bool = False) -> str:
    header, *lines = grid
    rows = ([_html_row("th", header)] if any(header) else []) + [_html_row("td", line) for line in lines]
    return f'<div class="scroll"><table class="{"facts" if facts else "plain"}">{"".join(rows)}</table></div>'


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _code(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _picture(content: bytes, alt: str) -> str:
    return f'<p><img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(content).decode()}"></p>'
