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

_COLUMNS = ("path", "label")
_SPLIT = "split"


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
    rows = _rows(table)
    missing = [row["path"] for row in rows if not (table.parent / row["path"]).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(rows)} files in {table} are missing (paths count from {table.parent}): "
            f"{', '.join(missing)}; correct the paths, or remove the lines"
        )
    classes = tuple(sorted({row["label"] for row in rows}))
    if len(classes) == 1:
        raise UserError(f"{table} has one class only, {classes[0]}; list images of at least two classes")
    official = None
    if _SPLIT in rows[0]:
        official = OfficialSplit(parts=np.array([row[_SPLIT] for row in rows]), source=f"column {_SPLIT} of {table}")
    return own_images(
        [table.parent / row["path"] for row in rows],
        classes=classes,
        labels=np.array([classes.index(row["label"]) for row in rows], dtype=np.int64),
        positions=positions,
        units=units,
        official=official,
    )


def _rows(table: Path) -> list[dict[str, str]]:
    """Return the table's lines with all columns filled in, checked for what the table alone can tell."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            rows = [{name: (row.get(name) or "").strip() for name in columns} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table ({error}); pass a CSV file, or a folder") from error
    lacking = [name for name in _COLUMNS if name not in columns]
    if lacking:
        raise UserError(f"{table} has no column {' and no column '.join(lacking)}; its first line must be path,label")
    if not rows:
        raise UserError(f"{table} lists no image; write one line path,label for each")
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        if not row["path"] or not row["label"]:
            raise UserError(f"{table}, line {number}: path or label is empty; fill both in")
        if row["path"] in seen:
            raise UserError(f"{table}, line {number}: {row['path']} is listed twice; keep one of the lines")
        seen.add(row["path"])
        if row.get(_SPLIT, "") not in ("", *PARTS):
            raise UserError(f"{table}, line {number}: split {row[_SPLIT]!r} is unknown; write {', '.join(PARTS)}")
    return rows
