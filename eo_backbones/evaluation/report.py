"""``report.md``: the tables, and everything a reader needs to judge and repeat them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eo_backbones.datasets import LabelledImages
from eo_backbones.evaluation import encoders, protocols
from eo_backbones.evaluation.metrics import RESAMPLES
from eo_backbones.evaluation.results import Result, write_atomically
from eo_backbones.evaluation.summary import Cell, Section, sections
from eo_backbones.result_tables import markdown_table

REPORT_FILE = "report.md"
FIGURE_FILE = "bands.png"
NOT_MEASURED = "not measured here"

_SPLITS = {
    "seeded": "60 % train, 20 % validation, 20 % test of every class, redrawn with every seed",
    "standard": "the published lists of arXiv 1911.06721",
    "spatial": "the published lists by longitude (torchgeo)",
}
_UNITS = {
    "dn": "digital numbers (reflectance x 10000)",
    "uint8": "8-bit display values (0...255 read as 0...2750 digital numbers)",
}


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report and its figure are."""

    report: Path
    figure: Path


def write(
    out: Path, data: LabelledImages, rows: Sequence[Result], *, commands: Sequence[str], imagenet_command: str
) -> Written:
    """Write ``report.md`` from all rows.

    Args:
        out: folder of the results.
        data: the images the rows are about.
        rows: of ``results.csv``.
        commands: those that made the rows.
        imagenet_command: how to measure the ImageNet line, shown where it is missing.
    """
    written = Written(out / REPORT_FILE, out / FIGURE_FILE)
    write_atomically(written.report, text(data, rows, commands=commands, imagenet_command=imagenet_command))
    return written


def text(data: LabelledImages, rows: Sequence[Result], *, commands: Sequence[str], imagenet_command: str) -> str:
    """Return the report as Markdown."""
    parts = [
        f"# Frozen encoders on {data.name}, band by band",
        "Every encoder is frozen and sees one band; only the small classifier behind it is trained. Cells: weighted "
        f"F1, mean over seeds [95 % interval over the test images, {RESAMPLES:,} bootstrap resamples] ± standard "
        "deviation over seeds.",
        f"![weighted F1 per band]({FIGURE_FILE})",
    ]
    for section in sections(rows):
        parts += [_heading(section), _table(section)]
        if not _has_imagenet(section):
            parts.append(f"`{encoders.IMAGENET}` is {NOT_MEASURED}; this measures it:\n\n```\n{imagenet_command}\n```")
    parts += ["## Setup", _setup(data, rows), "## What the names mean", _definitions(rows)]
    parts += ["## Commands", "```\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def shown(cell: Cell) -> str:
    """Return a cell as text."""
    spread = "" if cell.spread is None else f" ± {cell.spread:.3f}"
    return f"{cell.f1:.3f} [{cell.low:.3f}, {cell.high:.3f}]{spread}"


def _heading(section: Section) -> str:
    labels = "all labels" if section.fraction == "1" else f"label budget {section.fraction}"
    seeds = max(cell.seeds for cell in section.cells.values())
    return (
        f"## Protocol `{section.protocol}`, split `{section.split}`, {labels}\n\n"
        f"{section.n_train:,} labelled images (train + validation), {section.n_test:,} test images, "
        f"{seeds} seed{'s' if seeds > 1 else ''}."
    )


def _has_imagenet(section: Section) -> bool:
    return any(model.startswith(encoders.IMAGENET) for model in section.models)


def _table(section: Section) -> str:
    lines = []
    for model in section.models:
        cells = (section.cells.get((model, band)) for band in section.bands)
        lines.append([f"`{model}`", *("" if cell is None else shown(cell) for cell in cells)])
    if not _has_imagenet(section):
        lines.append([f"`{encoders.IMAGENET}`", *[NOT_MEASURED] * len(section.bands)])
    return markdown_table(["model", *section.bands], lines)


def _setup(data: LabelledImages, rows: Sequence[Result]) -> str:
    splits = dict.fromkeys(row.split for row in rows)
    sizes = dict.fromkeys(f"{row.size}" for row in rows)
    facts = [
        ["data", f"{data.name}, {len(data):,} images, {len(data.classes)} classes, digest `{data.digest}`"],
        ["values", _UNITS.get(data.unit, data.unit)],
        ["input", f"{', '.join(sizes)} px; " + "; ".join(_scalings(rows))],
        ["split", "; ".join(f"`{name}`: {_SPLITS[name]}" for name in splits)],
        ["features", "taken once, standardised on the training part"],
        ["seed", "draws the split (where seeded), the labelled subset, the probe's and a random encoder's weights"],
        ["final fit", "on train + validation labels, with every protocol"],
    ]
    facts += [["versions", found] for found in dict.fromkeys(row.versions for row in rows)]
    facts += [[f"weights of `{model}`", digests] for model, digests in _digests(rows).items()]
    return markdown_table(["", ""], facts)


def _scalings(rows: Sequence[Result]) -> list[str]:
    names = dict.fromkeys(row.input_scaling for row in rows)
    return [f"`{name}`: {meaning}" for name, meaning in encoders.SCALINGS.items() if name in names]


def _digests(rows: Sequence[Result]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        found.setdefault(row.model, {})[row.weights_digest] = None
    return {model: _few([f"`{digest[:12]}`" for digest in digests]) for model, digests in found.items()}


def _few(digests: Sequence[str]) -> str:
    return ", ".join(digests) if len(digests) <= 3 else f"{len(digests)} different ones, see results.csv"


def _definitions(rows: Sequence[Result]) -> str:
    models = dict.fromkeys(row.model for row in rows)
    lines = [f"- `{name}`: {encoders.DESCRIPTIONS[name]}" for name in models if name in encoders.DESCRIPTIONS]
    lines += [
        f"- protocol `{name}`: {protocols.DESCRIPTIONS[name]}" for name in dict.fromkeys(r.protocol for r in rows)
    ]
    return "\n".join(lines)
