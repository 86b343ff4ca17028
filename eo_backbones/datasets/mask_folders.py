"""A user's own images with masks: ``images/`` and ``masks/`` side by side, or a table with ``path,mask[,split]``.

Image and mask have the same name except for the suffix, also in subfolders. A mask has one band of whole numbers, the
class of every pixel of its image; a pixel has no class where the mask holds 255, its own nodata value, or NaN. Classes
are the values that occur in the masks, in ascending order; ``classes.csv`` (``value,name``) beside the two folders, or
beside the table, names them. What :mod:`eo_backbones.datasets.class_folders` says about images holds here too.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eo_backbones.datasets.class_folders import IMAGE_SUFFIXES, labelled_files, read_table, refuse_missing, split_of
from eo_backbones.datasets.labelled import IGNORED, ClassMaps, LabelledImages, OfficialSplit
from eo_backbones.errors import UserError
from eo_backbones.rasters.options import AS_FILES_SAY, ReadingOptions
from eo_backbones.rasters.reader import facts_of, read_stored

logger = logging.getLogger(__name__)

MASK_SUFFIXES = (".tif", ".tiff", ".png")
CLASSES_FILE = "classes.csv"
FOLDERS = _IMAGES, _MASKS = "images", "masks"
"""What a folder of images with masks holds."""
_MAX_CLASSES = IGNORED  # a class's index must be below it
LARGEST_VALUE = 65_534
"""Of a class in a mask: 65,535 is nodata in the 16-bit masks that are predicted."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class MaskedImages:
    """Images with a class for every pixel.

    Attributes:
        data: the images; ``labels`` says which classes occur in each, ``maps`` where.
        values: value of each class in the masks, ascending.
    """

    data: LabelledImages
    values: tuple[int, ...]


def mask_folders(
    root: Path, *, positions: Mapping[str, int] | None = None, reading: ReadingOptions = AS_FILES_SAY
) -> MaskedImages:
    """Open ``root/images`` and ``root/masks``.

    Args:
        root: holds both folders, and ``classes.csv`` if there is one.
        positions: band name -> its position in every file, counted from 1; default: as the files say.
        reading: what the user says about the stored values.

    Raises:
        UserError: a folder is missing or empty; images without a mask or masks without an image (all are named); masks
            that cannot be used, or hold one class only; images that differ; or a wrong ``classes.csv``.
    """
    for name in FOLDERS:
        if not (root / name).is_dir():
            raise UserError(
                f"{root} holds no folder {name}; segmentation takes the images from {root / _IMAGES} and a mask of the "
                f"same name for each from {root / _MASKS}, or a CSV file with path,mask"
            )
    images = _by_name(root / _IMAGES, IMAGE_SUFFIXES)
    masks = _by_name(root / _MASKS, MASK_SUFFIXES)
    without_mask = [str(path) for name, path in images.items() if name not in masks]
    without_image = [str(path) for name, path in masks.items() if name not in images]
    problems = [f"{len(without_mask)} images have no mask: {', '.join(without_mask)}"] if without_mask else []
    problems += [f"{len(without_image)} masks have no image: {', '.join(without_image)}"] if without_image else []
    if problems:
        raise UserError(f"{'; '.join(problems)}. An image and its mask have the same name; complete or remove them")
    return _opened(
        list(images.values()),
        [masks[name] for name in images],
        root,
        positions=positions,
        reading=reading,
        official=None,
    )


def mask_table(
    table: Path, *, positions: Mapping[str, int] | None = None, reading: ReadingOptions = AS_FILES_SAY
) -> MaskedImages:
    """Open the images and masks that a table lists; paths are relative to its folder.

    Args:
        table: CSV file with the columns ``path``, ``mask`` and, if wanted, ``split`` (``train``, ``val``, ``test``;
            empty: left out).
        positions: as in :func:`mask_folders`.
        reading: likewise.

    Raises:
        UserError: as :func:`mask_folders`; or no such table or columns, files that are missing (all are named).
    """
    rows = read_table(table, ("path", "mask"))
    refuse_missing(table, [row[column] for row in rows for column in ("path", "mask")])
    images, masks = ([table.parent / row[column] for row in rows] for column in ("path", "mask"))
    return _opened(images, masks, table.parent, positions=positions, reading=reading, official=split_of(table, rows))


def _by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder by their path in it without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{found[name]} and {path} have the same name; keep one of them")
        found[name] = path
    if not found:
        raise UserError(f"{folder} holds no file of the kinds {', '.join(suffixes)}")
    return found


def _opened(
    images: Sequence[Path],
    masks: Sequence[Path],
    folder: Path,
    *,
    positions: Mapping[str, int] | None,
    reading: ReadingOptions,
    official: OfficialSplit | None,
) -> MaskedImages:
    _refuse_repeated(images)
    logger.info("looking through %d masks", len(masks))
    opened, values_by_mask = masks_of(images, masks)
    values = np.unique(np.concatenate(values_by_mask))
    if len(values) < 2:
        only = f"only the value {values[0]}" if len(values) else "no class at all"
        raise UserError(f"the {len(masks)} masks hold {only}; at least two classes are needed (255 means no class)")
    if len(values) > _MAX_CLASSES:
        raise UserError(
            f"the masks hold {len(values):,} values, {values[0]} to {values[-1]}; {_MAX_CLASSES} classes are allowed: "
            "pass masks of class numbers, not of measurements"
        )
    names = _class_names(folder / CLASSES_FILE, values)
    labels = np.stack([np.isin(values, present) for present in values_by_mask])
    kept = np.flatnonzero(labels.any(axis=1))
    if len(kept) < len(images):
        logger.warning("%d images whose mask holds no class are left out", len(images) - len(kept))
    by_image: dict[Path, Mask] = dict(zip(images, opened, strict=True))
    whole = labelled_files(
        images,
        classes=names,
        labels=labels,
        positions=positions,
        reading=reading,
        official=official,
    ).take(kept)
    described = "; ".join(f"{value}: {name}" for value, name in zip(values, names, strict=True))
    data = replace(
        whole,
        load_bytes=lambda path: path.read_bytes() + by_image[path].path.read_bytes(),
        reading=f"{whole.reading}; masks {described}",
        maps=ClassMaps(classes=names, reader=lambda path: by_image[path].classes(values)),
    )
    return MaskedImages(data=data, values=tuple(values.tolist()))


def _refuse_repeated(images: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in images:
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            raise UserError(f"{first} and {path} are one file; list each image once")


def _class_names(table: Path, values: np.ndarray) -> tuple[str, ...]:
    """Return the name of each value: from the table, if there is one, else its number."""
    if not table.is_file():
        return tuple(map(str, values.tolist()))
    named: dict[int, str] = {}
    for number, row in enumerate(read_table(table, ("value", "name"), what="class"), start=2):
        if not row["value"].isdecimal():
            raise UserError(f"{table}, line {number}: {row['value']!r} is not a value of a mask; write a whole number")
        if int(row["value"]) in named:
            raise UserError(f"{table}, line {number}: the value {int(row['value'])} is named twice; keep one line")
        if row["name"] in named.values():
            raise UserError(f"{table}, line {number}: the name {row['name']} is given twice; give each class its own")
        named[int(row["value"])] = row["name"]
    unnamed = [str(value) for value in values.tolist() if value not in named]
    if unnamed:
        raise UserError(f"{table} has no name for {', '.join(unnamed)}, which the masks hold; add a line for each")
    return tuple(named[value] for value in values.tolist())


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask's file, and what it declares as nodata."""

    path: Path
    nodata: float | None

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what the mask holds, and where that is a class, bool; both ``(height, width)``.

        Raises:
            UserError: the file is damaged.
        """
        stored = read_stored(self.path, [1])[0]
        known = np.isfinite(stored) & (stored != IGNORED)
        if self.nodata is not None:
            known &= stored != self.nodata
        return stored, known

    def classes(self, values: np.ndarray) -> np.ndarray:
        """Return the index of each pixel's value in ``values``, int64 ``(height, width)``, or :data:`IGNORED`.

        Args:
            values: of all classes, ascending.

        Raises:
            UserError: the file is damaged, or has changed since the values were collected.
        """
        stored, known = self.read()
        indices = np.searchsorted(values, stored).clip(max=len(values) - 1)
        if (values[indices] != stored)[known].any():
            raise UserError(f"{self.path} has changed while it was used; start again when it is finished")
        return np.where(known, indices, IGNORED)


def masks_of(images: Sequence[Path], masks: Sequence[Path]) -> tuple[list[Mask], list[np.ndarray]]:
    """Return the masks with the values that occur in each, int64 ascending.

    Args:
        images: the images.
        masks: the mask of each.

    Raises:
        UserError: a file is damaged; masks with several bands, fractions, other values than 0 to 65,534, or another
            size than their image: all are named.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked_at = list(pool.map(_open_mask, images, masks))
    problems = [f"{mask} {problem}" for mask, (problem, _, _) in zip(masks, looked_at, strict=True) if problem]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(masks)} masks cannot be used: {'; '.join(problems)}. A mask has the size of its "
            f"image and one band with the number of each pixel's class, 0 to {LARGEST_VALUE} (255: no class)"
        )
    return [mask for _, mask, _ in looked_at], [values for _, _, values in looked_at]


def _open_mask(image: Path, path: Path) -> tuple[str | None, Mask, np.ndarray]:
    """Return what is wrong with a mask, the mask, and its values."""
    image_facts, facts = facts_of(image), facts_of(path)
    mask, values = Mask(path, facts.nodata), np.empty(0, np.int64)
    if facts.count != 1:
        return f"has {facts.count} bands", mask, values
    if (facts.width, facts.height) != (image_facts.width, image_facts.height):
        return (
            f"has {facts.width} x {facts.height} pixels, its image {image_facts.width} x {image_facts.height}",
            mask,
            values,
        )
    stored, known = mask.read()
    present = np.unique(stored[known])
    wrong = present[(present != np.rint(present)) | (present < 0) | (present > LARGEST_VALUE)]
    if len(wrong):
        return f"holds {wrong[0]:g}", mask, values
    return None, mask, present.astype(np.int64)
