"""A user's own images with one class each: a folder for each class, or a table ``labels.csv``.

All files must agree in bands, size and dtype. Which band is where: as the user says (``B04=4``), else as
:mod:`eo_backbones.rasters.reader` finds it. Unit of the values: as the user says, else 8-bit files hold display values
and others the unit that the space agencies distribute; the input contract checks it.

A table has the columns ``path``, ``label`` and, optionally, ``split`` (``train``, ``val`` or ``test``; images with an
empty one are left out). Paths are relative to the table's folder.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eo_backbones.bands import band
from eo_backbones.datasets.copies import without_copies
from eo_backbones.datasets.labelled import LabelledImages, OfficialSplit
from eo_backbones.datasets.labelled_folders import find_images, official_parts, refuse_alike
from eo_backbones.datasets.stored_files import StoredFile, common_units, levels_of, reading_of_values
from eo_backbones.datasets.tables import read_table, refuse_missing, refuse_same_file, split_of
from eo_backbones.errors import UserError
from eo_backbones.rasters.offset_test import is_open_to_doubt, refuse_shifted
from eo_backbones.rasters.options import AS_FILES_SAY, ReadingOptions
from eo_backbones.rasters.reader import (
    RasterFacts,
    band_order,
    facts_of,
    opened,
    read_positions,
    readings_of,
    tell_sources,
)
from eo_backbones.rasters.scaling import BandReading, DeclaredReading

logger = logging.getLogger(__name__)

_SAMPLED = 64  # images whose values are compared with what the files say about them


def class_folders(
    root: Path, *, positions: Mapping[str, int] | None = None, reading: ReadingOptions = AS_FILES_SAY
) -> LabelledImages:
    """Open a folder of class folders.

    Args:
        root: holds one folder a class; images may lie at any depth in it. Folders ``train``, ``val`` and ``test`` (see
            :data:`eo_backbones.datasets.labelled_folders.PART_FOLDERS`) above the classes or in each of them are the
            official split.
        positions: band name -> its position in every file, counted from 1; default: as the files say.
        reading: what the user says about the stored values.

    Raises:
        UserError: no class folders or one only, parts with different classes, one image in two classes, files that
            differ, bands that cannot be identified, a position that the files do not have, or an unknown unit.
    """
    root = Path(root)
    found = find_images(root)
    classes = tuple(dict.fromkeys(image.label for image in found))
    data = labelled_files(
        [image.path for image in found],
        classes=classes,
        labels=np.array([classes.index(image.label) for image in found], dtype=np.int64),
        positions=positions,
        reading=reading,
        official=official_parts(root, [image.part for image in found]),
    )
    return without_copies(data)


def labelled_files(
    paths: Sequence[Path],
    *,
    classes: tuple[str, ...],
    labels: np.ndarray,
    positions: Mapping[str, int] | None = None,
    reading: ReadingOptions = AS_FILES_SAY,
    official: OfficialSplit | None = None,
) -> LabelledImages:
    """Return a user's files as a labelled set; they must agree in bands, size and dtype.

    Args:
        paths: existing image files.
        classes: class names.
        labels: class number of each file, int64 ``(n,)``.
        positions: as in :func:`class_folders`.
        reading: likewise.
        official: the user's own split.

    Raises:
        UserError: as :func:`class_folders`, but for the folders.
    """
    first = facts_of(paths[0])
    band_positions = _band_positions(paths[0], first, positions or {})
    bands = tuple(band_positions)
    files = _read_headers(paths, first, band_positions, reading.for_bands(bands))
    units = common_units(files)
    where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    refuse_shifted(_sample(paths, band_positions, files), where)
    described = "; ".join(
        f"{name}={position} {unit}" for (name, position), unit in zip(band_positions.items(), units, strict=True)
    )
    tell_sources(reading for file in files.values() for reading in file.readings)
    return LabelledImages(
        name="folder",
        classes=classes,
        paths=tuple(paths),
        labels=labels,
        bands=bands,
        units=units,
        reader=partial(_read, band_positions, files),
        load_bytes=Path.read_bytes,
        reading=f"{described}{reading_of_values(files)}",
        levels=levels_of(files),
        official=official,
    )


def _read_headers(
    paths: Sequence[Path], first: RasterFacts, positions: Mapping[str, int], declared: DeclaredReading
) -> dict[Path, StoredFile]:
    """Return how each file is read: images of several products may be stored with different offsets.

    Raises:
        UserError: files that differ in number, names or dtype of bands, or in size.
    """
    compared: tuple[tuple[str, Callable[[RasterFacts], object]], ...] = (
        ("bands", lambda facts: facts.count),
        ("pixels", lambda facts: f"{facts.width} x {facts.height}"),
        ("dtype", lambda facts: facts.dtype),
        ("band descriptions", lambda facts: ", ".join(text or "none" for text in facts.descriptions)),
    )
    files: dict[Path, StoredFile] = {}
    seen: dict[StoredFile, StoredFile] = {}  # most are alike: one object stands for all
    for path in paths:
        with opened(path) as dataset:
            facts = RasterFacts.of(dataset)
            for what, value in compared:
                if value(facts) != value(first):
                    raise UserError(
                        f"images differ in {what}: {path} has {value(facts)}, {paths[0]} has {value(first)}; remove "
                        "it, or convert all images to the same form"
                    )
            file = StoredFile(readings_of(path, dataset, positions, declared), facts.may_miss)
        files[path] = seen.setdefault(file, file)
    return files


def _band_positions(example: Path, facts: RasterFacts, positions: Mapping[str, int]) -> dict[str, int]:
    """Return canonical band name -> position in the file, counted from 1."""
    if positions:
        for name, position in positions.items():
            if position > facts.count:
                raise UserError(f"{example} has {facts.count} bands, so {name}={position} is not in it")
        return {band(name).name: position for name, position in positions.items()}
    return {name: position for position, name in enumerate(band_order(example), start=1) if name}


def _read(
    positions: Mapping[str, int], files: Mapping[Path, StoredFile], path: Path, bands: Sequence[str]
) -> np.ndarray:
    readings = {reading.band: reading for reading in files[path].readings}
    return read_positions(path, {name: positions[name] for name in bands}, [readings[name] for name in bands])


def _sample(
    paths: Sequence[Path], positions: Mapping[str, int], files: Mapping[Path, StoredFile]
) -> Iterator[tuple[np.ndarray, tuple[BandReading, ...]]]:
    """Yield values and readings of some images, spread over the set, whose values may contradict how they are read."""
    for path in paths[:: -(-len(paths) // _SAMPLED)]:
        readings = files[path].readings
        if any(map(is_open_to_doubt, readings)):
            try:
                values = read_positions(path, positions, readings)
            except UserError:  # what is wrong with a file is said where its bands are used
                continue
            yield values, readings


def label_table(
    table: Path, *, positions: Mapping[str, int] | None = None, reading: ReadingOptions = AS_FILES_SAY
) -> LabelledImages:
    """Open the images that a table lists; classes are its labels in alphabetical order.

    Args:
        table: the CSV file, UTF-8.
        positions: band name -> its position in every file, counted from 1; default: as the files say.
        reading: what the user says about the stored values.

    Raises:
        UserError: no such table, columns or labels missing, files that are not there (all are named) or named twice,
            labels that can hardly be told apart, one class only, an unknown part, one image with two labels, or files
            that cannot be used together.
    """
    rows = read_table(table, ("path", "label"))
    refuse_missing(table, [row["path"] for row in rows])
    refuse_same_file(table, rows, label="label")
    classes = tuple(sorted({row["label"] for row in rows}))
    refuse_alike(classes, f"{table}, column label")
    if len(classes) == 1:
        raise UserError(f"{table} has one class only, {classes[0]}; list images of at least two classes")
    data = labelled_files(
        [table.parent / row["path"] for row in rows],
        classes=classes,
        labels=np.array([classes.index(row["label"]) for row in rows], dtype=np.int64),
        positions=positions,
        reading=reading,
        official=split_of(table, rows),
    )
    return without_copies(data)
