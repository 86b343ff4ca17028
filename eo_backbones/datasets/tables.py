"""Tables that list a user's images with their labels, masks or parts, and tables of class names: CSV, UTF-8.

Commas separate the columns; semicolons and tabs, as spreadsheets write them in many countries, are understood too.
"""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from eo_backbones.datasets.image_files import same_file
from eo_backbones.datasets.labelled import OfficialSplit
from eo_backbones.datasets.splits import PARTS
from eo_backbones.errors import UserError

logger = logging.getLogger(__name__)

SPLIT_COLUMN = "split"
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table.

    Attributes:
        line: its line in the file, counted from 1; the last one, if a quoted value has several.
        values: column -> value without surrounding blanks.
    """

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]


def read_table(table: Path, required: Sequence[str], what: str = "image", *, places: bool = False) -> list[TableRow]:
    """Return the rows of a table, after every check that needs no other file; empty lines do not count.

    Args:
        table: CSV file, UTF-8.
        required: columns that must be there and filled in; values of the first must be unique.
        what: what a row stands for, for messages.
        places: the first column is a coordinate, which rows may share, and no column names a part.

    Raises:
        UserError: no such table, columns or values missing or too many, something listed twice, or an unknown part in
            ``split``.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
        delimiter = _delimiter(text, required)
        lines = csv.reader(StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
        records = [(lines.line_num, [field.strip() for field in record]) for record in lines if any(record)]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table ({error}); pass a CSV file, or a folder") from error
    columns = records[0][1] if records else []
    while columns and not columns[-1]:  # a spreadsheet may end every line with empty columns
        columns.pop()
    missing = [name for name in required if name not in columns]
    if missing:
        header = ",".join(required)
        raise UserError(f"{table} has no column {' and no column '.join(missing)}; its first line must be {header}")
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated:
        raise UserError(f"{table} has the column {repeated[0]!r} twice; rename or remove one of them")
    if delimiter != ",":
        logger.warning("%s: %s separate its columns", table, _DELIMITERS[delimiter])
    if len(records) == 1:
        raise UserError(f"{table} lists no {what}; write one line {','.join(required)} for each")
    rows = [_row(table, line, columns, fields, delimiter) for line, fields in records[1:]]
    key, seen = required[0], set[str]()
    for row in rows:
        if not all(row[name] for name in required):
            raise UserError(f"{table}, line {row.line}: {' or '.join(required)} is empty; fill both in")
        if places:
            continue
        if row[key] in seen:
            raise UserError(f"{table}, line {row.line}: {row[key]} is listed twice; keep one of the lines")
        seen.add(row[key])
        if row.values.get(SPLIT_COLUMN, "") not in ("", *PARTS):
            raise UserError(
                f"{table}, line {row.line}: split {row[SPLIT_COLUMN]!r} is unknown; write {', '.join(PARTS)}"
            )
    return rows


def _delimiter(text: str, required: Sequence[str]) -> str:
    """Return what separates the columns: the first by which the required ones are found, else a comma."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in _DELIMITERS:
        header = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        if set(required) <= {name.strip() for name in header}:
            return delimiter
    return ","


def _row(table: Path, line: int, columns: Sequence[str], fields: Sequence[str], delimiter: str) -> TableRow:
    """Return a row whose fields fit the columns.

    Raises:
        UserError: it has more or fewer.
    """
    if any(fields[len(columns) :]):
        raise UserError(
            f"{table}, line {line}: {len(fields)} values for the {len(columns)} columns {','.join(columns)}; put a "
            f'value that holds a {_DELIMITERS[delimiter].removesuffix("s")} into double quotes, "like{delimiter} this"'
        )
    if len(fields) < len(columns):
        raise UserError(
            f"{table}, line {line}: {len(fields)} value{'s' if len(fields) > 1 else ''} for the {len(columns)} columns "
            f"{','.join(columns)}; write all of them (an empty one ends with its {_DELIMITERS[delimiter][:-1]})"
        )
    return TableRow(line, dict(zip(columns, fields, strict=False)))


def refuse_missing(table: Path, names: Sequence[str]) -> None:
    """Check that the files a table names are there.

    Raises:
        UserError: some are not; all are named.
    """
    missing = [name for name in names if not (table.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(names)} files in {table} are missing (paths are relative to {table.parent}): "
            f"{', '.join(missing)}; correct the paths, or remove the lines"
        )


def refuse_same_file(table: Path, rows: Sequence[TableRow], *, label: str | None = None) -> None:
    """Check that no two rows name one image, as ``a.tif`` and ``./a.tif`` do, or a link to it.

    Args:
        table: the table.
        rows: with the column ``path``; the files are there.
        label: column of the labels, for the message.

    Raises:
        UserError: two do.
    """
    twice = same_file([table.parent / row["path"] for row in rows])
    if twice is None:
        return
    first, second = (rows[place] for place in twice)
    labels = f", with the labels {first[label]} and {second[label]}" if label and first[label] != second[label] else ""
    raise UserError(
        f"{table}, lines {first.line} and {second.line}{labels}: {first['path']} and {second['path']} are one file; "
        "list each image once"
    )


def split_of(table: Path, rows: Sequence[TableRow]) -> OfficialSplit | None:
    """Return the split of a table, if it has a column for it."""
    if SPLIT_COLUMN not in rows[0].values:
        return None
    return OfficialSplit(
        parts=np.array([row[SPLIT_COLUMN] for row in rows]), source=f"column {SPLIT_COLUMN} of {table}"
    )
