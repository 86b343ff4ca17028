"""Measured results: the rows of ``results.csv``, and what tables and charts show of them.

One row per model, band, protocol, split, label budget and seed, complete enough that nothing else is needed to say what
was measured. The file is only ever replaced as a whole, so an interruption leaves the rows that were finished, and a
row that is there is not measured again. Rows of several seeds with equal settings become one value, the mean; so do
their intervals.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Self

from eo_backbones.errors import UserError
from eo_backbones.files import write_atomically

RESULTS_FILE = "results.csv"
_PACKAGE = "eo-backbones"
_DEPENDENCIES = ("torch", "timm", "numpy")  # those that decide a result


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value with its 95 % bootstrap interval over the test images.

    Attributes:
        value: of the metric, or the mean over seeds.
        low: lower end of the interval, or the mean of the seeds' lower ends.
        high: its upper end.
        spread: standard deviation of the value over seeds; ``None`` for a single seed.
    """

    value: float
    low: float
    high: float
    spread: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @classmethod
    def mean(cls, estimates: Iterable[Self]) -> Self:
        """Return the mean over seeds."""
        seeds = list(estimates)
        values = [each.value for each in seeds]
        return cls(
            value=fmean(values),
            low=fmean(each.low for each in seeds),
            high=fmean(each.high for each in seeds),
            spread=stdev(values) if len(values) > 1 else None,
        )


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
    def setting(self) -> tuple[object, ...]:
        """The key without the weights: two rows of one setting cannot both stand in a table."""
        return tuple(getattr(self, column.name) for column in fields(self) if column.name != "weights_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row; the fields are the columns, in order.

    Attributes:
        model: as typed.
        dataset: kind of data set.
        band: canonical name, ``paper-order:NAME``, or of several bands ``B02+B03+B04 (concat)`` or ``(mean)``.
        protocol: ``paper``, ``logistic``, ``knn`` (5 neighbours), ``knn-20`` or ``segmentation``.
        split: ``seeded``, ``standard`` or ``spatial``.
        fraction: share of the labels, e.g. ``"0.1"``, or ``"5-shot"``.
        size: height and width in pixels of the images that the encoder got.
        input_scaling: ``contract``, ``div10000`` or ``standardised``.
        seed: of split (where seeded), label subset and initialisation.
        n_train: images the classifier was fitted on, train + validation.
        n_test: test images.
        f1_weighted: F1 averaged over classes with their number of test images as weight.
        accuracy: share of test images that were classified correctly.
        f1_low: lower end of the 95 % bootstrap interval of ``f1_weighted`` over the test images.
        f1_high: its upper end.
        weights_digest: sha256 of the weights, or the version of a definition without weights.
        data_digest: digest of the images and their classes.
        versions: of the packages that decide the result, and the dtype of the features.
        f1_micro: F1 of all decisions on labels together, where an image has several labels. There ``f1_weighted`` is
            the labels' F1 weighted by their number of test images, and ``accuracy`` the share of images whose labels
            are all predicted correctly.
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
    def key(self) -> Key:
        """What tells this row from every other one."""
        return Key(*(getattr(self, column.name) for column in fields(Key)))

    @property
    def f1(self) -> Estimate:
        """The weighted F1 with its interval."""
        return Estimate(self.f1_weighted, self.f1_low, self.f1_high)


# Reading and writing

COLUMNS = tuple(column.name for column in fields(Result))
_LATER_COLUMNS = ("f1_micro", "map_macro", "map_micro", "miou", "per_class")  # older files are without these
_DEFAULTS = {"input_scaling": "contract", "data_digest": "", "versions": ""}  # where a file has no such column
_REQUIRED_COLUMNS = tuple(name for name in COLUMNS if name not in (*_LATER_COLUMNS, *_DEFAULTS))


def versions(dtype: str) -> str:
    """Return what stands in the column of that name: versions of the packages that decide a result, and the dtype."""
    return "; ".join([f"{name} {version(name)}" for name in (_PACKAGE, *_DEPENDENCIES)] + [dtype])


def read_results(path: Path) -> list[Result]:
    """Read a ``results.csv``, or the one inside a folder; columns that are not of :class:`Result` are ignored.

    Raises:
        UserError: no such file, no rows, a column that is missing, or a value that cannot be read.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    header, lines = _read_csv(path, advice="name the --out of 'eo-backbones evaluate'")
    missing = [name for name in _REQUIRED_COLUMNS if not lines or name not in header]
    if missing:
        raise UserError(f"{path} holds no results with the columns {', '.join(missing)}; measure them again")
    return _parse(path, lines)


def csv_text(rows: Iterable[Result]) -> str:
    """Return rows as the text of a ``results.csv``."""
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in asdict(row).items()}
        )
    return text.getvalue()


class ResultsFile:
    """The ``results.csv`` of an evaluation: read at the beginning, replaced whenever there are more rows."""

    def __init__(self, path: Path, *, data_digest: str) -> None:
        """Read the rows that are there.

        Raises:
            UserError: the file is damaged, was written by another version, or holds results of other images.
        """
        self.path = path
        self.rows = self._read() if path.exists() else []
        for row in self.rows:
            if row.data_digest != data_digest:
                raise UserError(
                    f"{path} holds results of other images (data digest {row.data_digest}, now {data_digest}; --limit "
                    "changes it too); pass another --out"
                )
        self._keys = {row.key for row in self.rows}

    def has(self, key: Key) -> bool:
        """Return whether this row is there."""
        return key in self._keys

    def add(self, rows: Iterable[Result]) -> None:
        """Add rows and replace the file; rows of the same setting with other weights are dropped."""
        new = list(rows)
        settings = {row.key.setting for row in new}
        self.rows = [row for row in self.rows if row.key.setting not in settings] + new
        self._keys = {row.key for row in self.rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, csv_text(self.rows), shared=True)

    def _read(self) -> list[Result]:
        header, lines = _read_csv(self.path, advice="move it away or pass another --out")
        if header not in (COLUMNS, COLUMNS[: -len(_LATER_COLUMNS)]):
            differing = sorted(set(header) ^ set(COLUMNS)) or ["their order"]
            raise UserError(
                f"{self.path} was written by another version (columns differ: {', '.join(differing)}); move it away or "
                "pass another --out"
            )
        rows = _parse(self.path, lines)
        this_package = f"{_PACKAGE} {version(_PACKAGE)}"
        for row in rows:
            if row.versions.split("; ")[0] != this_package:
                raise UserError(
                    f"{self.path} was written by {row.versions.split('; ')[0]!r}, this is {this_package}: results may "
                    "differ; move it away or pass another --out"
                )
        return rows


def _read_csv(path: Path, *, advice: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Return the header and the lines of a file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return tuple(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}") from error


def _parse(path: Path, lines: Sequence[Mapping[str, str]]) -> list[Result]:
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            values = {
                column.name: _value(line[column.name], column.type) for column in fields(Result) if column.name in line
            }
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: {error}; delete the line, it will be measured again") from error
        rows.append(Result(**{**_DEFAULTS, **values}))  # type: ignore[arg-type]
    return rows


def _value(text: str | None, kind: object) -> str | float | int | None:
    if text is None:
        raise ValueError("the line has too few columns")
    if kind is str:
        return text
    if kind is int:
        return int(text)
    return None if kind is not float and text == "" else float(text)


# The rows of some weights


def measured_with(row: Result, sha256: str) -> bool:
    """Return whether a row's ``weights_digest`` (a sha256 or the beginning of one) is that of these weights."""
    return bool(row.weights_digest) and sha256.startswith(row.weights_digest)


def rows_of(rows: Iterable[Result], name: str, sha256: str) -> list[Result]:
    """Return the rows that were measured with these weights, whatever name was typed for them.

    Raises:
        UserError: a row has the model's name, but was measured with other weights.
    """
    of_weights = []
    for row in rows:
        if measured_with(row, sha256):
            of_weights.append(row)
        elif row.model == name:
            raise UserError(
                f"results of {name} were measured with weights {row.weights_digest or 'without a digest'}, "
                f"not with {sha256[:12]}…; evaluate these weights"
            )
    return of_weights


def renamed(rows: Iterable[Result], name: str, sha256: str) -> list[Result]:
    """Return the rows with one name for these weights; paths of the measuring machine are removed from other names."""
    return [
        replace(row, model=name if measured_with(row, sha256) else re.sub(r"local-dir:.*/", "local-dir:", row.model))
        for row in rows
    ]


# Means over seeds


def grouped(rows: Iterable[Result], columns: Sequence[str]) -> dict[tuple[Any, ...], list[Result]]:
    """Return the rows by their values in some columns, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, column) for column in columns), []).append(row)
    return groups


def mean_f1(rows: Iterable[Result]) -> Estimate:
    """Return the weighted F1 of rows that differ in the seed only."""
    return Estimate.mean(row.f1 for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well a classifier on the frozen features of some weights did on one band in one setting, over all seeds.

    Attributes:
        dataset, band, protocol, split, fraction, size: what was measured, as in :class:`Result`.
        seeds: number of seeds.
        n_train, n_test: images.
        f1: weighted F1, to four decimals.
        accuracy: share of test images that were classified correctly, to four decimals.
    """

    dataset: str
    band: str
    protocol: str
    split: str
    fraction: str
    size: int
    seeds: int
    n_train: int
    n_test: int
    f1: Estimate
    accuracy: float

    @property
    def setting(self) -> tuple[object, ...]:
        """What two scores must share to be compared."""
        return (self.dataset, self.band, self.protocol, self.split, self.fraction, self.size)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types: the value and the ends of the interval are ``f1``, ``f1_low`` and ``f1_high``."""
        facts = {column.name: getattr(self, column.name) for column in fields(self)}
        accuracy, f1 = facts.pop("accuracy"), facts.pop("f1")
        return {**facts, "f1": f1.value, "f1_low": f1.low, "f1_high": f1.high, "accuracy": accuracy}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Return the score that :meth:`to_dict` gave."""
        rest = dict(facts)
        return cls(f1=Estimate(rest.pop("f1"), rest.pop("f1_low"), rest.pop("f1_high")), **rest)


def scores(rows: Iterable[Result]) -> list[Score]:
    """Return one score per band and setting from the rows of one model."""
    settings = ("dataset", "band", "protocol", "split", "fraction", "size")
    means = []
    for setting, group in grouped(rows, settings).items():
        f1 = mean_f1(group)
        means.append(
            Score(
                **dict(zip(settings, setting, strict=True)),
                seeds=len({row.seed for row in group}),
                n_train=group[0].n_train,
                n_test=group[0].n_test,
                f1=Estimate(round(f1.value, 4), round(f1.low, 4), round(f1.high, 4)),
                accuracy=round(fmean(row.accuracy for row in group), 4),
            )
        )
    return means


# Tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table: everything that may be compared with each other.

    Attributes:
        dataset, split, fraction, protocol: as in the rows.
        n_train: labelled images.
        n_test: test images.
        seeds: the largest number of seeds behind a cell.
        bands: columns, in order of appearance.
        models: lines, in order of appearance; with size and scaling where these tell two lines apart.
        cells: (line, band) -> weighted F1 over all seeds, where measured.
        rows: line -> the rows behind its cells.
    """

    dataset: str
    split: str
    fraction: str
    protocol: str
    n_train: int
    n_test: int
    seeds: int
    bands: tuple[str, ...]
    models: tuple[str, ...]
    cells: dict[tuple[str, str], Estimate]
    rows: dict[str, list[Result]] = field(repr=False)


def sections(rows: Iterable[Result]) -> list[Section]:
    """Return one section for each data set, split, label budget and protocol, in order of appearance."""
    return [_section(group) for group in grouped(rows, ("dataset", "split", "fraction", "protocol")).values()]


def _section(rows: Sequence[Result]) -> Section:
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.model, set()).add(row.size)

    def line_of(row: Result) -> str:
        if row.input_scaling != "contract":
            return f"{row.model} ({row.size} px, {row.input_scaling})"
        return f"{row.model} ({row.size} px)" if len(sizes[row.model]) > 1 else row.model

    lines: dict[str, list[Result]] = {}
    for row in rows:
        lines.setdefault(line_of(row), []).append(row)
    cells = {
        (line, band): group for line, of_line in lines.items() for (band,), group in grouped(of_line, ("band",)).items()
    }
    first = rows[0]
    return Section(
        dataset=first.dataset,
        split=first.split,
        fraction=first.fraction,
        protocol=first.protocol,
        n_train=first.n_train,
        n_test=first.n_test,
        seeds=max(map(len, cells.values())),
        bands=tuple(dict.fromkeys(row.band for row in rows)),
        models=tuple(lines),
        cells={cell: mean_f1(group) for cell, group in cells.items()},
        rows=lines,
    )
