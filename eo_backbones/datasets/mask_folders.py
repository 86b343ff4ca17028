"""A user's own images with masks: ``images/`` and ``masks/`` side by side, or a table with ``path,mask[,split]``.

Image and mask have the same name except for the suffix, also in subfolders. A mask has one band of whole numbers, the
class of every pixel of its image; a pixel has no class where the mask holds 255, its own nodata value, or NaN, or is
masked itself. Classes are the values that occur in the masks, in ascending order; ``classes.csv`` (``value,name``)
beside the two folders, or beside the table, names them. What :mod:`eo_backbones.datasets.class_folders` says about
images holds here too.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eo_backbones.datasets.class_folders import labelled_files
from eo_backbones.datasets.copies import without_copies
from eo_backbones.datasets.image_files import IMAGE_SUFFIXES, files_below
from eo_backbones.datasets.labelled import IGNORED, ClassMaps, LabelledImages, OfficialSplit
from eo_backbones.datasets.labelled_folders import FOLDERS, official_parts, part_folders, refuse_alike
from eo_backbones.datasets.tables import read_table, refuse_missing, refuse_same_file, split_of
from eo_backbones.errors import UserError
from eo_backbones.rasters.alignment import misalignment
from eo_backbones.rasters.options import AS_FILES_SAY, ReadingOptions
from eo_backbones.rasters.reader import facts_of, read_codes

logger = logging.getLogger(__name__)

MASK_SUFFIXES = (".tif", ".tiff", ".png")
CLASSES_FILE = "classes.csv"
_IMAGES, _MASKS = FOLDERS
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
        root: holds both folders, and ``classes.csv`` if there is one. Folders ``train``, ``val`` and ``test`` (see
            :data:`eo_backbones.datasets.labelled_folders.PART_FOLDERS`) that hold both, or that both hold, are the
            official split.
        positions: band name -> its position in every file, counted from 1; default: as the files say.
        reading: what the user says about the stored values.

    Raises:
        UserError: a folder is missing or empty; images without a mask or masks without an image (all are named); masks
            that cannot be used, or hold one class only; one image with two masks; images outside the parts of a split;
            images that differ; or a wrong ``classes.csv``.
    """
    images, masks, parts = _paired(root)
    official = official_parts(root, parts)
    return _opened(images, masks, root, positions=positions, reading=reading, official=official)


def _paired(root: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Return each image, its mask, and its part of the split (empty if there is none)."""
    above = part_folders(
        [folder.name for folder in sorted(root.iterdir()) if all((folder / name).is_dir() for name in FOLDERS)]
    )
    if not above:
        by_name = _pairs_in(root)
        below = part_folders([Path(name).parts[0] for name in by_name if "/" in name])
        outside = [str(image) for name, (image, _) in by_name.items() if Path(name).parts[0] not in below]
        if below and outside:
            raise UserError(
                f"{outside[0]} lies outside the folders {', '.join(sorted(below))} that divide the images of {root}; "
                "move it into one, and its mask likewise"
            )
        parts = [below.get(Path(name).parts[0], "") for name in by_name]
        return [image for image, _ in by_name.values()], [mask for _, mask in by_name.values()], parts
    found = [(pair, part) for name, part in above.items() for pair in _pairs_in(root / name).values()]
    return [image for (image, _), _ in found], [mask for (_, mask), _ in found], [part for _, part in found]


def _pairs_in(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return the images and masks of two folders by their path without suffix."""
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
    return {name: (image, masks[name]) for name, image in images.items()}


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
    refuse_same_file(table, rows)
    images, masks = ([table.parent / row[column] for row in rows] for column in ("path", "mask"))
    return _opened(images, masks, table.parent, positions=positions, reading=reading, official=split_of(table, rows))


def _by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder by their path in it without suffix."""
    found: dict[str, Path] = {}
    for path in files_below(folder, suffixes):
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
    nodata = {mask.nodata for mask in opened if mask.nodata is not None}
    names = _class_names(folder / CLASSES_FILE, values, nodata)
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
    return MaskedImages(data=without_copies(data), values=tuple(values.tolist()))


def _class_names(table: Path, values: np.ndarray, nodata: Collection[float]) -> tuple[str, ...]:
    """Return the name of each value: from the table, if there is one, else its number.

    Args:
        table: the file, which need not exist.
        values: all that the masks hold, ascending.
        nodata: what masks declare as "no value".
    """
    if not table.is_file():
        return tuple(map(str, values.tolist()))
    named: dict[int, str] = {}
    for row in read_table(table, ("value", "name"), what="class"):
        if not row["value"].isdecimal():
            raise UserError(
                f"{table}, line {row.line}: {row['value']!r} is not a value of a mask; write a whole number"
            )
        value = int(row["value"])
        if value in named:
            raise UserError(f"{table}, line {row.line}: the value {value} is named twice; keep one line")
        if row["name"] in named.values():
            raise UserError(f"{table}, line {row.line}: the name {row['name']} is given twice; give each class its own")
        if value == IGNORED:
            raise UserError(
                f"{table}, line {row.line}: {IGNORED} stands for pixels without a class; remove the line, or give the "
                "class another value in the masks"
            )
        named[value] = row["name"]
    refuse_alike(list(named.values()), str(table))
    without_class = [value for value in sorted(named) if value in nodata]
    if without_class:
        logger.warning(
            "%s names %s, but masks declare it as nodata: its pixels have no class (gdal_edit.py -unsetnodata MASK "
            "makes it one)",
            table,
            ", ".join(f"{value} {named[value]}" for value in without_class),
        )
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
        stored, known = read_codes(self.path)
        return stored, known & (stored != IGNORED)

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
            size or place than their image: all are named.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked_at = list(pool.map(_open_mask, images, masks))
    problems = [f"{mask} {problem}" for mask, (problem, _, _) in zip(masks, looked_at, strict=True) if problem]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(masks)} masks cannot be used: {'; '.join(problems)}. A mask has the size of its "
            f"image and one band with the number of each pixel's class, 0 to {LARGEST_VALUE} (255: no class), and lies "
            "on it pixel by pixel"
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
    if elsewhere := misalignment(image_facts, facts):
        return elsewhere, mask, values
    stored, known = mask.read()
    present = np.unique(stored[known])
    wrong = present[(present != np.rint(present)) | (present < 0) | (present > LARGEST_VALUE)]
    if len(wrong):
        return f"holds {wrong[0]:g}", mask, values
    return None, mask, present.astype(np.int64)
