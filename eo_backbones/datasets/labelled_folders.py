"""Which image in a folder has which label, and whether folders divide the images into training, validation and test.

Folders are classes. Where folders of the parts (``train``, ``val``, ``test``, or what they are also called) stand above
the classes (``train/Forest``) or below them (``Forest/train``), they are the split.
"""

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from eo_backbones.datasets.image_files import IMAGE_SUFFIXES, files_below, hidden
from eo_backbones.datasets.labelled import OfficialSplit
from eo_backbones.datasets.splits import PARTS
from eo_backbones.errors import UserError

logger = logging.getLogger(__name__)

PART_FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "dev": "val",
        "test": "test",
        "testing": "test",
    }
)
"""What folders of parts are called, in lower case -> the part."""

FOLDERS = ("images", "masks")
"""What a folder of images with a class for every pixel holds."""

_UNWRITABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, bytes of a file name that are no UTF-8, separators of lines."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image, its label, and its part of the split (empty if there is none)."""

    path: Path
    label: str
    part: str = ""


def find_images(root: Path) -> list[FoundImage]:
    """Return the images below class folders, by class and path.

    Raises:
        UserError: no class folders or one only, folders of a split that do not fit together, or classes that cannot be
            told apart by their names.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; pass the folder that holds one folder of images for each class")
    files = _images_by_folder(root)
    if not files:
        raise UserError(
            f"{root} holds no class folders with images ({', '.join(IMAGE_SUFFIXES)}): labels are missing; put the "
            "images of each class into a folder of its own"
        )
    found = _split_above(root, files) or _split_below(root, files)
    if found is None:
        found = [FoundImage(path, folder) for folder, paths in files.items() for path in paths]
    classes = sorted({image.label for image in found})
    if set(classes) == set(FOLDERS) or all((root / name).is_dir() for name in FOLDERS):
        raise UserError(
            f"{root} holds the folders {' and '.join(FOLDERS)}, no classes; add --task segmentation to "
            "eo-train finetune, or pass a folder of class folders"
        )
    if len(classes) == 1:
        raise UserError(_one_class(root, classes[0], files))
    refuse_alike(classes, str(root))
    return sorted(found, key=lambda image: (image.label, image.path))


def official_parts(root: Path, parts: Sequence[str]) -> OfficialSplit | None:
    """Return the split that folders are, and say so; ``None`` if the images have no part.

    Args:
        root: the folder.
        parts: of each image, as :class:`FoundImage` has it.
    """
    if not any(parts):
        return None
    named = [part for part in PARTS if part in parts]
    logger.warning(
        "%s: its folders are the split (%s)", root, ", ".join(f"{parts.count(part):,} {part}" for part in named)
    )
    return OfficialSplit(parts=np.array(parts), source=f"folders {', '.join(named)} in {root}", movable=True)


def part_folders(names: Sequence[str]) -> dict[str, str]:
    """Return folder name -> part, for those of these folders that divide images; empty unless they name two parts.

    One such name alone may be a class: a train, or valid fields beside invalid ones.
    """
    parts = {name: PART_FOLDERS[name.casefold()] for name in names if name.casefold() in PART_FOLDERS}
    return parts if len(set(parts.values())) > 1 else {}


def refuse_alike(classes: Sequence[str], where: str) -> None:
    """Check that class names can be told apart, and written down.

    Raises:
        UserError: two differ in upper and lower case, blanks or the form of their accents only; or one holds a control
            character, or bytes that are no text.
    """
    seen: dict[str, str] = {}
    for name in classes:
        if any(unicodedata.category(character) in _UNWRITABLE for character in name):
            raise UserError(f"{where}: the class name {name!a} holds a character that cannot be written; rename it")
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        first = seen.setdefault(plain, name)
        if first != name:
            raise UserError(
                f"{where}: the classes {first!r} and {name!r} differ in upper and lower case, blanks or accents only; "
                "give both the same name, or names that differ"
            )


def _images_by_folder(root: Path) -> dict[str, list[Path]]:
    """Return folder -> images at any depth of it; folders without one are left out."""
    files: dict[str, list[Path]] = {}
    beside = [path for path in root.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if beside:
        logger.warning("%s: images beside the class folders are left out: %d, such as %s", root, len(beside), beside[0])
    for folder in sorted(root.iterdir()):
        if hidden(folder.relative_to(root)) or not folder.is_dir():
            continue
        if images := files_below(folder):
            files[folder.name] = images
        else:
            logger.warning("%s: folder %s holds no image and is left out", root, folder.name)
    return files


def _split_above(root: Path, files: Mapping[str, Sequence[Path]]) -> list[FoundImage] | None:
    """Return the images of ``train/Forest/...``, or ``None`` if the folders are no parts."""
    parts = part_folders(list(files))
    if not parts:
        _refuse_single_part(root, files)
        return None
    others = [name for name in files if name not in parts]
    if others:
        raise UserError(
            f"{root} holds the folders {', '.join(parts)}, which are a split, and beside them {', '.join(others)}; "
            "move those images into the parts, or away"
        )
    if len(set(parts.values())) < len(parts):
        raise UserError(f"of the folders {', '.join(parts)} in {root} two are the same part; keep one of them")
    found = []
    for name, part in parts.items():
        for path in files[name]:
            inside = path.relative_to(root / name)
            if len(inside.parts) == 1:
                raise UserError(
                    f"{path} lies in no class folder: labels are missing; put the images of each class into a folder "
                    f"of its own inside {root / name}"
                )
            found.append(FoundImage(path, inside.parts[0], part))
    _refuse_other_classes(root, found)
    return found


def _split_below(root: Path, files: Mapping[str, Sequence[Path]]) -> list[FoundImage] | None:
    """Return the images of ``Forest/train/...``, or ``None`` if there are no such folders."""
    inside = [(name, path, path.relative_to(root / name).parts[0]) for name, paths in files.items() for path in paths]
    parts = part_folders([folder for _, path, folder in inside if path.name != folder])
    if not parts:
        return None
    for name, path, folder in inside:
        if folder not in parts:
            raise UserError(
                f"{path} lies outside the folders {', '.join(sorted(parts))} that divide the images of the classes in "
                f"{root}; move it into one, or put all images of {name} beside it"
            )
    found = [FoundImage(path, name, parts[folder]) for name, path, folder in inside]
    _refuse_other_classes(root, found)
    return found


def _refuse_single_part(root: Path, files: Mapping[str, Sequence[Path]]) -> None:
    """Check that no folder of one part only stands among the classes: ``Forest, Water, test/Forest, test/Water``.

    Raises:
        UserError: there is one.
    """
    for name, paths in files.items():
        part = PART_FOLDERS.get(name.casefold())
        repeated = {path.relative_to(root / name).parts[0] for path in paths} & (files.keys() - {name})
        if part and repeated:
            other = "test" if part == "train" else "train"
            raise UserError(
                f"{root / name} holds {', '.join(sorted(repeated))}, as {root} does: is it the {part} part? Then move "
                f"the folders beside it into {root / other}; if not, move it away"
            )


def _refuse_other_classes(root: Path, found: Sequence[FoundImage]) -> None:
    """Check that all parts hold the same classes.

    Raises:
        UserError: one lacks a class.
    """
    classes = {part: {image.label for image in found if image.part == part} for part in PARTS}
    every = set().union(*classes.values())
    lacking = [
        f"{part} has no image of {', '.join(sorted(every - own))}"
        for part, own in classes.items()
        if own and own != every
    ]
    if lacking:
        raise UserError(
            f"the parts that the folders in {root} are hold different classes: {'; '.join(lacking)}; give all of them "
            "the same class folders, with images"
        )


def _one_class(root: Path, name: str, files: Mapping[str, Sequence[Path]]) -> str:
    """Return the message for a folder with one class only."""
    paths = [path.relative_to(root) for of_folder in files.values() for path in of_folder]
    below = sorted({path.parts[1] for path in paths if len(path.parts) > 2})
    deeper = f", or {root / name} if {', '.join(below)} are the classes" if len(files) == 1 and len(below) > 1 else ""
    return f"{root} holds one class only, {name}; pass the folder above it, with all classes{deeper}"
