"""``results.csv``: one row per figure, complete enough that nothing else is needed to say what was measured.

The file is only ever replaced as a whole, so an interruption leaves the rows that were finished. A row that is there
is not measured again.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from eo_backbones.errors import UserError

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
