"""A user's own images listed in a table: ``labels.csv`` with the columns ``path``, ``label`` and, if wanted, ``split``.

Paths count from the table's folder. ``split`` says ``train``, ``val`` or ``test`` for each image; an image with an
empty one is left out. What holds for the files themselves is said in :mod:`eo_backbones.datasets.class_folders`.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eo_backbones.datasets.class_folders import own_images
from eo_backbones.datasets.labelled import LabelledImages, OfficialSplit
from eo_backbones.datasets.splits import PARTS
from eo_backbones.errors import UserError

SPLIT_COLUMN = "split"


def label_table(
    table: Path, *, positions: Mapping[str, int] | None = None, units: Sequence[str] = ()
) -> LabelledImages:
    """Open the images that a table lists; classes are its labels in alphabetical order.

    Args:
        table: the CSV file, UTF-8.
        positions: band name -> its place in every file, counted from 1; default: what the files say.
        units: one unit for all bands, or ``BAND=UNIT`` for some.

    Raises:
        UserError: no such table, columns or labels missing, files that are not there (all are named) or named twice,
            one class only, an unknown part, or files that cannot be used together.
    """
    rows = read_table(table, ("path", "label"))
    refuse_missing(table, [row["path"] for row in rows])
    classes = tuple(sorted({row["label"] for row in rows}))
    if len(classes) == 1:
        raise UserError(f"{table} has one class only, {classes[0]}; list images of at least two classes")
    return own_images(
        [table.parent / row["path"] for row in rows],
        classes=classes,
        labels=np.array([classes.index(row["label"]) for row in rows], dtype=np.int64),
        positions=positions,
        units=units,
        official=parts_of(table, rows),
    )


def read_table(table: Path, required: Sequence[str], what: str = "image") -> list[dict[str, str]]:
    """Return a table's lines, checked for what the table alone can tell.

    Args:
        table: CSV file, UTF-8.
        required: columns that must be there and filled in; the first tells the lines apart.
        what: what a line stands for, for messages.

    Raises:
        UserError: no such table, columns or values missing, something listed twice, or an unknown part in ``split``.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            rows = [{name: (row.get(name) or "").strip() for name in columns} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table ({error}); pass a CSV file, or a folder") from error
    lacking = [name for name in required if name not in columns]
    if lacking:
        first = ",".join(required)
        raise UserError(f"{table} has no column {' and no column '.join(lacking)}; its first line must be {first}")
    if not rows:
        raise UserError(f"{table} lists no {what}; write one line {','.join(required)} for each")
    key, seen = required[0], set[str]()
    for number, row in enumerate(rows, start=2):
        if not all(row[name] for name in required):
            raise UserError(f"{table}, line {number}: {' or '.join(required)} is empty; fill both in")
        if row[key] in seen:
            raise UserError(f"{table}, line {number}: {row[key]} is listed twice; keep one of the lines")
        seen.add(row[key])
        if row.get(SPLIT_COLUMN, "") not in ("", *PARTS):
            raise UserError(f"{table}, line {number}: split {row[SPLIT_COLUMN]!r} is unknown; write {', '.join(PARTS)}")
    return rows


def refuse_missing(table: Path, names: Sequence[str]) -> None:
    """Check that the files a table names are there.

    Raises:
        UserError: some are not; all are named.
    """
    missing = [name for name in names if not (table.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(names)} files in {table} are missing (paths count from {table.parent}): "
            f"{', '.join(missing)}; correct the paths, or remove the lines"
        )


def parts_of(table: Path, rows: Sequence[Mapping[str, str]]) -> OfficialSplit | None:
    """Return the parts that a table gives its images, if it has a column for them."""
    if SPLIT_COLUMN not in rows[0]:
        return None
    return OfficialSplit(
        parts=np.array([row[SPLIT_COLUMN] for row in rows]), source=f"column {SPLIT_COLUMN} of {table}"
    )
