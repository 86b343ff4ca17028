"""Rows of ``results.csv`` as Markdown tables and as the Hub's ``model-index`` entries.

Rows of several seeds with equal settings become one figure, the mean; so do their intervals.
"""

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from huggingface_hub import EvalResult

from eo_backbones.errors import UserError
from eo_backbones.weights import Score

# FOLDED eo_backbones/results.py: '``results.csv``: one row per figure, complete enough that nothing else is needed to say what was measured.\n\nThe file is only ever replaced as a whole, so an interruption leaves the rows that were finished. A row that is there\nis not measured again.'

RESULTS_FILE = "results.csv"
_OWN = "eo-backbones"
_OTHERS = ("torch", "timm", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row; the fields are the columns, in order.

    Attributes:
        model: as typed.
        dataset: kind of data set.
        band: canonical name, ``paper-order:NAME``, or of several bands ``B02+B03+B04 (concat)`` or ``(mean)``.
        protocol: ``paper``, ``logistic``, ``knn`` (5 neighbours) or ``knn-20``.
        split: ``seeded``, ``standard`` or ``spatial``.
        fraction: share of the labels, e.g. ``"0.1"``, or ``"5-shot"``.
        size: side in pixels of what the encoder got.
        input_scaling: ``contract``, ``div10000`` or ``standardised``.
        seed: of split (where seeded), label subset and initialisation.
        n_train: images the classifier was fitted on, train + validation.
        n_test: test images.
        f1_weighted: F1 averaged over classes with their number of test images as weight.
        accuracy: share of test images that were right.
        f1_low: lower end of the 95 % bootstrap interval of ``f1_weighted`` over the test images.
        f1_high: its upper end.
        weights_digest: sha256 of the weights, or the version of a definition without weights.
        data_digest: digest of the images and their classes.
        versions: of the packages that decide the figure, and the number format of the features.
        f1_micro: F1 of all decisions on labels together, where an image has several labels. There ``f1_weighted`` is
            the labels' F1 weighted by their number of test images, and ``accuracy`` the share of images whose labels
            are all right.
        map_macro: mean average precision over the labels that the test images have, where an image has several.
        map_micro: average precision of all (image, label) pairs in one list, where an image has several.
        miou: mean intersection over union, protocol ``segmentation``. There F1 and accuracy are of pixels.
        per_class: F1, average precision or intersection over union of each class of the test images.
    """

    model: str
    dataset: str
    band: str
    protocol: str
    split: str
    fraction: str
    size: int
    input_scaling: str
    seed: int
    n_train: int
    n_test: int
    f1_weighted: float
    accuracy: float
    f1_low: float
    f1_high: float
    weights_digest: str
    data_digest: str
    versions: str
    f1_micro: float | None = None
    map_macro: float | None = None
    map_micro: float | None = None
    miou: float | None = None
    per_class: str = ""

    @property
    def key(self) -> "Key":
        """What tells this figure from every other one."""
        return Key(*(getattr(self, field.name) for field in fields(Key)))


@dataclass(frozen=True, slots=True)
class Key:
    """The columns that tell a row from every other one in the same file, and the weights it was measured with."""

    model: str
    dataset: str
    band: str
    protocol: str
    split: str
    fraction: str
    size: int
    input_scaling: str
    seed: int
    weights_digest: str

    @property
    def place(self) -> tuple[object, ...]:
        """The key without the weights: two rows of one place cannot both stand in a table."""
        return tuple(getattr(self, field.name) for field in fields(self) if field.name != "weights_digest")


COLUMNS = tuple(field.name for field in fields(Result))
_ADDED = ("f1_micro", "map_macro", "map_micro", "miou", "per_class")  # files from before are without these
_NUMBERS = {field.name: field.type for field in fields(Result) if field.type is not str}


def versions(number_format: str) -> str:
    """Return the versions that decide a figure, for the column of that name."""
    return "; ".join([f"{name} {version(name)}" for name in (_OWN, *_OTHERS)] + [number_format])


class ResultsFile:
    """The rows of one ``results.csv``, read at the beginning and replaced whenever there are more."""

    def __init__(self, path: Path, *, data_digest: str) -> None:
        """Read the rows that are there.

        Raises:
            UserError: the file is damaged, was written by another version, or holds figures of other images.
        """
        self.path = path
        self.rows: list[Result] = read_results(path) if path.exists() else []
        for row in self.rows:
            if row.data_digest != data_digest:
                raise UserError(
                    f"{path} holds figures of other images (data digest {row.data_digest}, now {data_digest}; --limit "
                    "changes it too); pass another --out"
                )
        self._keys = {row.key for row in self.rows}

    def has(self, key: Key) -> bool:
        """Return whether this figure is there."""
        return key in self._keys

    def add(self, rows: Iterable[Result]) -> None:
        """Add rows and replace the file; a row of the same place with other weights gives way."""
        new = list(rows)
        places = {row.key.place for row in new}
        self.rows = [row for row in self.rows if row.key.place not in places] + new
        self._keys = {row.key for row in self.rows}
        write_atomically(self.path, _to_csv(self.rows))


def read_results(path: Path) -> list[Result]:
    """Read a ``results.csv``.

    Raises:
        UserError: other columns, another version of this package, or a value that cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header = tuple(reader.fieldnames or ())
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away or pass another --out") from error
    if header not in (COLUMNS, COLUMNS[: -len(_ADDED)]):
        differing = sorted(set(header) ^ set(COLUMNS)) or ["their order"]
        raise UserError(
            f"{path} was written by another version (columns differ: {', '.join(differing)}); move it away or pass "
            "another --out"
        )
    rows = [_parse(path, number, line) for number, line in enumerate(lines, start=2)]
    own = f"{_OWN} {version(_OWN)}"
    for row in rows:
        if row.versions.split("; ")[0] != own:
            raise UserError(
                f"{path} was written by {row.versions.split('; ')[0]!r}, this is {own}: figures may differ; move it "
                "away or pass another --out"
            )
    return rows


def _parse(path: Path, number: int, line: dict[str, str]) -> Result:
    try:
        values = {name: _number(line.get(name, ""), kind) for name, kind in _NUMBERS.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}, line {number}: {error}; delete the line, it will be measured again") from error
    return Result(**{**line, **values})  # type: ignore[arg-type]


def _number(text: str, kind: object) -> float | int | None:
    if kind is int:
        return int(text)
    return None if kind is not float and text == "" else float(text)


def _to_csv(rows: Sequence[Result]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in asdict(row).items()}
        )
    return text.getvalue()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


# FOLDED eo_backbones/results.py: 'Rows of ``results.csv`` gathered into what a table or a chart shows: one cell per model and band, over all seeds.'


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model on one band.

    Attributes:
        f1: weighted F1, mean over seeds.
        low: lower end of the 95 % interval over the test images, mean over seeds.
        high: its upper end.
        spread: standard deviation of the F1 over seeds; ``None`` for a single seed.
        accuracy: mean over seeds.
        seeds: how many.
    """

    f1: float
    low: float
    high: float
    spread: float | None
    accuracy: float
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table: everything that may be compared with each other.

    Attributes:
        dataset, split, fraction, protocol: as in the rows.
        n_train: labelled images.
        n_test: test images.
        bands: columns, in order of appearance.
        models: lines, in order of appearance; with size and scaling where these tell two lines apart.
        cells: (model line, band) -> cell, where measured.
        rows: model line -> the rows behind its cells.
    """

    dataset: str
    split: str
    fraction: str
    protocol: str
    n_train: int
    n_test: int
    bands: tuple[str, ...]
    models: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    rows: dict[str, list[Result]] = field(default_factory=dict)


def sections(rows: Sequence[Result]) -> list[Section]:
    """Return one section for each data set, split, label budget and protocol, in order of appearance."""
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.split, row.fraction, row.protocol), []).append(row)
    return [_section(key, group) for key, group in groups.items()]


def line_name(row: Result) -> str:
    """Return how a model is called in a table: its name, with size and scaling where it has several settings."""
    return row.model if row.input_scaling == "contract" else f"{row.model} ({row.size} px, {row.input_scaling})"


def _section(key: tuple[str, str, str, str], rows: Sequence[Result]) -> Section:
    dataset, split, fraction, protocol = key
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.model, set()).add(row.size)

    def named(row: Result) -> str:
        several = row.input_scaling == "contract" and len(sizes[row.model]) > 1
        return f"{row.model} ({row.size} px)" if several else line_name(row)

    lines: dict[str, list[Result]] = {}
    cells: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        lines.setdefault(named(row), []).append(row)
        cells.setdefault((named(row), row.band), []).append(row)
    return Section(
        dataset=dataset,
        split=split,
        fraction=fraction,
        protocol=protocol,
        n_train=rows[0].n_train,
        n_test=rows[0].n_test,
        bands=tuple(dict.fromkeys(row.band for row in rows)),
        models=tuple(lines),
        cells={place: _cell(group) for place, group in cells.items()},
        rows=lines,
    )


def _cell(rows: Iterable[Result]) -> Cell:
    rows = list(rows)
    figures = [row.f1_weighted for row in rows]
    return Cell(
        f1=fmean(figures),
        low=fmean(row.f1_low for row in rows),
        high=fmean(row.f1_high for row in rows),
        spread=stdev(figures) if len(figures) > 1 else None,
        accuracy=fmean(row.accuracy for row in rows),
        seeds=len(rows),
    )


Row = Mapping[str, Any]
"""One row of ``results.csv``: column -> text or number."""

REQUIRED_COLUMNS = (
    *("model", "dataset", "band", "protocol", "split", "fraction", "size", "seed", "n_train", "n_test"),
    *("f1_weighted", "accuracy", "f1_low", "f1_high", "weights_digest"),
)
"""Columns that are read here; a file may have more."""

SETTING = ("dataset", "protocol", "split", "fraction", "size")
"""Columns that must agree for two figures to stand in one table."""

_TASK = "image-classification"


def read_rows(path: Path) -> list[Row]:
    """Read a ``results.csv``, or the one inside a folder.

    Raises:
        UserError: no such file, no rows, or a column that is missing.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); name the --out of 'eo-backbones evaluate'") from error
    missing = [column for column in REQUIRED_COLUMNS if not rows or rows[0].get(column) is None]
    if missing:
        raise UserError(f"{path} holds no results with the columns {', '.join(missing)}; measure them again")
    return list(rows)


def csv_text(rows: Sequence[Row]) -> str:
    """Return rows as the text of a ``results.csv``."""
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def scores(rows: Iterable[Row]) -> list[Score]:
    """Return one figure per band and setting from the rows of one model: the mean over the seeds."""
    return [
        Score(
            dataset=dataset,
            band=band,
            protocol=protocol,
            split=split,
            fraction=fraction,
            size=int(size),
            seeds=len({str(row["seed"]) for row in group}),
            n_train=int(group[0]["n_train"]),
            n_test=int(group[0]["n_test"]),
            f1=round(_mean(group, "f1_weighted"), 4),
            f1_low=round(_mean(group, "f1_low"), 4),
            f1_high=round(_mean(group, "f1_high"), 4),
            accuracy=round(_mean(group, "accuracy"), 4),
        )
        for (band, dataset, protocol, split, fraction, size), group in _grouped(rows, ("band", *SETTING)).items()
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def result_sections(rows: Sequence[Row]) -> str:
    """Return one section per setting, each with a table of bands by models, in the order of the rows."""
    sections = []
    for (dataset, protocol, split, fraction, size), group in _grouped(rows, SETTING).items():
        seeds = len({str(row["seed"]) for row in group})
        sections.append(
            f"### {dataset}, protocol `{protocol}`, split `{split}`\n\n"
            f"Fraction {fraction} of the training part ({group[0]['n_train']} images), {group[0]['n_test']} test "
            f"images, {size} px, {seeds} seed{'s' if seeds > 1 else ''}.\n\n{_bands_by_models(group)}"
        )
    return "\n\n".join(sections)


def summary_tables(rows: Sequence[Row], protocols: Sequence[str]) -> str:
    """Return one table per data set, split and size: a line per label budget, protocol and band, a column per model.

    Figures as in :func:`result_sections`; the largest of a line is bold. Models stand in the order of the rows.

    Args:
        rows: of any number of models.
        protocols: those to show, in this order.
    """
    tables = []
    for (dataset, split, size), group in _grouped(rows, ("dataset", "split", "size")).items():
        lined = [{**row, "model": _line(row)} for row in group]
        models = list(dict.fromkeys(row["model"] for row in lined))
        lines = []
        for (_, protocol, band), alike in sorted(
            _grouped((row for row in lined if row["protocol"] in protocols), ("fraction", "protocol", "band")).items(),
            key=lambda item: (-int(item[1][0]["n_train"]), protocols.index(item[0][1])),
        ):
            found = {model: own for (model,), own in _grouped(alike, ("model",)).items()}
            best = max(found, key=lambda model: _mean(found[model], "f1_weighted"))
            shown = {model: _markdown_cell(own) for model, own in found.items()}
            shown[best] = f"**{shown[best]}**"
            cells = [shown.get(model, "") for model in models]
            lines.append([f"{int(alike[0]['n_train']):,}", f"`{protocol}`", band, *cells])
        seeds = len({str(row["seed"]) for row in group})
        tables.append(
            f"`{dataset}`, split `{split}`, {int(group[0]['n_test']):,} test images, {size} px, {seeds} "
            f"seed{'s' if seeds > 1 else ''}:\n\n"
            + markdown_table(["labelled images", "protocol", "band", *models], lines)
        )
    return "\n\n".join(tables)


def evaluation_commands(rows: Sequence[Row]) -> list[str]:
    """Return the commands that measure these rows again, one per data set, split, fraction and size."""
    commands = []
    for (dataset, split, fraction, size), group in _grouped(rows, ("dataset", "split", "fraction", "size")).items():
        models, bands, protocols, seeds = (
            list(dict.fromkeys(str(row[column]) for row in group)) for column in ("model", "band", "protocol", "seed")
        )
        protocols = list(dict.fromkeys("knn" if name.startswith("knn") else name for name in protocols))
        shots = re.fullmatch(r"(\d+)-shot", fraction)
        labels = f"--shots {shots[1]}" if shots else f"--fraction {fraction}"
        commands.append(
            f"eo-backbones evaluate --dataset {dataset} --root DIR --models {' '.join(models)} "
            f"--bands {' '.join(bands)} --protocol {' '.join(protocols)} --split {split} {labels} "
            f"--seeds {len(seeds)} --size {size} --out RESULTS"
        )
    return commands


def imagenet_note(rows: Iterable[Row]) -> str:
    """Return what a table without ImageNet's weights must say about them, or ``""``."""
    if any(str(row["model"]).startswith("imagenet") for row in rows):
        return ""
    return (
        "ImageNet weights (the channel copied to three): not measured here, they could not be reached; add `imagenet` "
        "to `--models` to measure them."
    )


def measured_with(row: Row, sha256: str) -> bool:
    """Return whether a row's ``weights_digest`` (a sha256 or the beginning of one) is that of these weights."""
    digest = str(row["weights_digest"])
    return bool(digest) and sha256.startswith(digest)


def rows_of(rows: Iterable[Row], name: str, sha256: str) -> list[Row]:
    """Return the rows that were measured with these weights, whatever name was typed for them.

    Raises:
        UserError: a row has the model's name, but was measured with other weights.
    """
    own = []
    for row in rows:
        if measured_with(row, sha256):
            own.append(row)
        elif row["model"] == name:
            raise UserError(
                f"results of {name} were measured with weights {row['weights_digest'] or 'without a digest'}, "
                f"not with {sha256[:12]}…; evaluate these weights"
            )
    return own


def renamed(rows: Iterable[Row], name: str, sha256: str) -> list[Row]:
    """Return the rows with one name for these weights, and no path of the machine that measured in other names."""
    return [
        {**row, "model": name if measured_with(row, sha256) else re.sub(r"local-dir:.*/", "local-dir:", row["model"])}
        for row in rows
    ]


def eval_results(rows: Iterable[Row]) -> list[EvalResult]:
    """Return the rows of one model as ``model-index`` entries: one per data set and band, one metric per setting."""
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", score.dataset.lower()),
            dataset_name=score.dataset,
            dataset_config=score.band,
            dataset_split="test",
            metric_type="f1",
            metric_name=f"weighted F1, {score.protocol}, fraction {score.fraction}",
            metric_value=score.f1,
            metric_args={
                "protocol": score.protocol,
                "split": score.split,
                "fraction": score.fraction,
                "size": str(score.size),
                "interval": [score.f1_low, score.f1_high],
            },
        )
        for score in scores(rows)
    ]


def _bands_by_models(rows: Sequence[Row]) -> str:
    rows = [{**row, "model": _line(row)} for row in rows]
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    bands = list(dict.fromkeys(str(row["band"]) for row in rows))
    cells = {key: _markdown_cell(group) for key, group in _grouped(rows, ("band", "model")).items()}
    return markdown_table(
        ["band", *models], [[band, *(cells.get((band, model), "") for model in models)] for band in bands]
    )


def _line(row: Row) -> str:
    """Return the column of a table that a row belongs to: a baseline may be measured with several scalings."""
    scaling = row.get("input_scaling", "contract")
    return str(row["model"]) if scaling == "contract" else f"{row['model']}, {scaling}"


def _markdown_cell(rows: Sequence[Row]) -> str:
    value, low, high = (_mean(rows, column) for column in ("f1_weighted", "f1_low", "f1_high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[column]) for column in columns), []).append(row)
    return groups


def _mean(rows: Sequence[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)
