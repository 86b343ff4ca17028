"""EuroSAT, the data set that the encoders are compared on: 27,000 patches of 64 x 64 pixels in ten classes.

Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover Classification",
JSTARS 2019; MIT licence. Two forms: 13-band GeoTIFFs in digital numbers (Level 1C), whose B8A comes **last**, and
JPEGs of B04, B03, B02 stretched for display. Both are read from the unpacked folder or from the archive as it was
downloaded; the class folders may lie at any depth.
"""

import logging
import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from eo_backbones.bands import LAYOUTS
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import read_bands

logger = logging.getLogger(__name__)

EUROSAT_CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
EUROSAT_SIZE_PX = 64

_MS_SUFFIXES = (".tif", ".tiff")
_RGB_SUFFIXES = (".jpg", ".jpeg")


def eurosat_ms(root: Path) -> LabelledImages:
    """Open the multispectral EuroSAT: uint16 digital numbers (reflectance x 10000), 13 bands, B8A last.

    Args:
        root: folder with the class folders at any depth, or the archive ``EuroSATallBands.zip``.

    Raises:
        UserError: nothing there, no class folder, or only one class.
    """
    return _open("eurosat-ms", Path(root), _MS_SUFFIXES)


def eurosat_rgb(root: Path) -> LabelledImages:
    """Open the RGB EuroSAT: 8-bit display values of B04, B03, B02 (0...255 stand for 0...2750 digital numbers).

    Args:
        root: folder with the class folders at any depth, or the archive ``EuroSAT.zip``.

    Raises:
        UserError: nothing there, no class folder, or only one class.
    """
    return _open("eurosat-rgb", Path(root), _RGB_SUFFIXES)


def _open(kind: str, root: Path, suffixes: tuple[str, ...]) -> LabelledImages:
    found, load_bytes = _list_files(root, suffixes)
    classes = _class_folders(kind, root, found, suffixes)
    paths = [path for name in classes for path in sorted(found[classes[name]])]
    sizes = [len(found[folder]) for folder in classes.values()]
    multispectral = kind == "eurosat-ms"
    return LabelledImages(
        name=kind,
        classes=tuple(classes),
        paths=tuple(root / path for path in paths),
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), sizes),
        bands=LAYOUTS[kind],
        units=("dn" if multispectral else "uint8",) * len(LAYOUTS[kind]),
        reader=partial(_read_ms if multispectral else _read_rgb, load_bytes),
        load_bytes=load_bytes,
    )


def _list_files(
    root: Path, suffixes: tuple[str, ...]
) -> tuple[dict[PurePosixPath, list[PurePosixPath]], Callable[[Path], bytes]]:
    """Return the image files below a folder or in an archive by their folder, relative to it, and how to read one."""
    if root.is_dir():
        files = [PurePosixPath(path.relative_to(root).as_posix()) for path in root.rglob("*")]
        load_bytes: Callable[[Path], bytes] = _read_file
    elif root.is_file() and root.suffix.lower() == ".zip":
        files = [PurePosixPath(name) for name in _archive(root, os.getpid()).namelist()]
        load_bytes = partial(_read_member, root)
    else:
        seen = "is neither a folder nor a .zip archive" if root.exists() else "does not exist"
        raise UserError(f"{root} {seen}; pass the folder that holds the EuroSAT class folders, or the .zip")
    by_folder: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for path in files:
        # Archives made on a Mac hold a "._name" twin of every file.
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            by_folder[path.parent].append(path)
    return by_folder, load_bytes


def _class_folders(
    kind: str, root: Path, found: dict[PurePosixPath, list[PurePosixPath]], suffixes: tuple[str, ...]
) -> dict[str, PurePosixPath]:
    """Return class name -> folder, in alphabetical order."""
    classes: dict[str, PurePosixPath] = {}
    for folder in sorted(found):
        name = folder.name or root.name
        if name not in EUROSAT_CLASSES:
            logger.warning("%s: images in %s are left out: no EuroSAT class has that name", root, folder)
        elif name in classes:
            raise UserError(
                f"{root} holds class {name} twice, in {classes[name]} and in {folder}; pass the folder of one of them"
            )
        else:
            classes[name] = folder
    if not classes:
        raise UserError(
            f"{root} holds no EuroSAT class folder with {suffixes[0]} files; {kind} needs folders like "
            f"{EUROSAT_CLASSES[0]}/{EUROSAT_CLASSES[0]}_1{suffixes[0]}"
        )
    if len(classes) == 1:
        raise UserError(
            f"{root} holds one class only, {next(iter(classes))}; pass the folder above it, with all class folders"
        )
    return dict(sorted(classes.items()))


def _read_ms(load_bytes: Callable[[Path], bytes], path: Path, bands: Sequence[str]) -> np.ndarray:
    values = read_bands(path, bands, layout="eurosat-ms", content=load_bytes(path))
    _check_size(path, values.shape[2], values.shape[1])
    return values


def _read_rgb(load_bytes: Callable[[Path], bytes], path: Path, bands: Sequence[str]) -> np.ndarray:
    try:
        with Image.open(BytesIO(load_bytes(path))) as image:
            _check_size(path, *image.size)
            if image.mode != "RGB":
                raise UserError(f"{path} is an image of mode {image.mode}; EuroSAT RGB files have the channels R, G, B")
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # Pillow's three ways to say "damaged"
        raise UserError(f"cannot read {path}: truncated or not a JPEG ({error}); copy or download it again") from error
    order = LAYOUTS["eurosat-rgb"]
    return np.ascontiguousarray(pixels[:, :, [order.index(name) for name in bands]].transpose(2, 0, 1))


def _check_size(path: Path, width: int, height: int) -> None:
    if (width, height) != (EUROSAT_SIZE_PX, EUROSAT_SIZE_PX):
        raise UserError(
            f"{path} has {width} x {height} pixels; EuroSAT images have {EUROSAT_SIZE_PX} x {EUROSAT_SIZE_PX}: "
            "remove the file, or restore it from the original archive"
        )


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no file {path}; it was there when the folder was listed: start again") from error


def _read_member(archive: Path, path: Path) -> bytes:
    member = path.relative_to(archive).as_posix()
    try:
        return _archive(archive, os.getpid()).read(member)
    except zipfile.BadZipFile as error:
        raise UserError(f"cannot read {member} in {archive}: damaged ({error}); download the archive again") from error


@lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """Open an archive once for each process: a forked worker would share, and move, its parent's file position."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a readable .zip archive ({error}); download it again") from error
