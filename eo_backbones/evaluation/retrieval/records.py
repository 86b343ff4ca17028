"""``retrieval.csv``: one row for each model, setting, asking band and answering band."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import write_atomically

RETRIEVAL_FILE = "retrieval.csv"
RECALL_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """One row; the fields are the columns, in order.

    Attributes:
        model: as typed.
        dataset: kind of data set.
        size: height and width in pixels of the images that the encoder got.
        input_scaling: as in :class:`eo_backbones.results.Result`.
        places: among how many places is looked up.
        asked: the band that asks.
        found: the band of the answers.
        recall_1, recall_5: share of places whose own is the most similar, or among the five most similar.
        weights_digest: sha256 of the weights, or the version of a definition without weights.
        data_digest: of the places.
        versions: as in :class:`eo_backbones.results.Result`.
    """

    model: str
    dataset: str
    size: int
    input_scaling: str
    places: int
    asked: str
    found: str
    recall_1: float
    recall_5: float
    weights_digest: str
    data_digest: str
    versions: str

    @property
    def line(self) -> tuple[str, int, str]:
        """What is one line of a table, and one matrix."""
        return (self.model, self.size, self.input_scaling)


COLUMNS = tuple(column.name for column in fields(Recall))


class RetrievalFile:
    """The ``retrieval.csv`` of an evaluation: read at the beginning, replaced whenever there are more rows."""

    def __init__(self, path: Path, *, data_digest: str) -> None:
        """Read the rows that are there.

        Raises:
            UserError: the file is damaged, has other columns, or holds results of other places.
        """
        self.path = path
        self.rows = _read(path) if path.exists() else []
        if any(row.data_digest != data_digest for row in self.rows):
            raise UserError(f"{path} holds results of other images (--limit changes them too); pass another --out")

    def of(self, line: tuple[str, int, str]) -> list[Recall]:
        """Return the rows of one model in one setting."""
        return [row for row in self.rows if row.line == line]

    def replace(self, new: Sequence[Recall]) -> None:
        """Put in the rows of one model in one setting, instead of those that are there, and write the file."""
        self.rows = [row for row in self.rows if row.line != new[0].line] + list(new)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, _text(self.rows), shared=True)


def matrix_of(rows: Iterable[Recall], bands: Sequence[str], *, rank: int) -> np.ndarray:
    """Return the recalls of one line as a matrix, asking bands in rows; NaN where not measured."""
    cells = {(row.asked, row.found): getattr(row, f"recall_{rank}") for row in rows}
    return np.array([[cells.get((asked, found), np.nan) for found in bands] for asked in bands])


def _text(rows: Iterable[Recall]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row)
        writer.writerow(
            {**values, **{name: f"{values[name]:.{RECALL_DECIMALS}f}" for name in ("recall_1", "recall_5")}}
        )
    return text.getvalue()


def _read(path: Path) -> list[Recall]:
    kinds = {column.name: column.type for column in fields(Recall)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        return [
            Recall(**{name: kinds[name](text) for name, text in line.items()})  # type: ignore[operator]
            for line in lines
        ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or was written by another version ({error}); move it away or pass another --out"
        ) from error
