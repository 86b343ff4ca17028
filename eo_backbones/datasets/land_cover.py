"""SEN12MS and DFC2020 as labelled scenes: the class of most pixels of the land-cover map, and the map itself.

Both have 256 x 256 pixels at 10 m, Sentinel-2 Level 1C in digital numbers (13 bands) and Sentinel-1 in dB. Files:
``ROIs1158_spring/s2_63/ROIs1158_spring_s2_63_p100.tif``, its twins with ``s1`` and a map with ``lc`` (SEN12MS, IGBP
classes in its first band) or ``dfc`` (DFC2020).

Classes are those of the IEEE GRSS Data Fusion Contest 2020, called the simplified IGBP scheme: Yokoya et al.,
"2020 Data Fusion Contest", IEEE GRSM 8 (2020); mapping from IGBP: lukasliebel/dfc2020_baseline ``code/datasets.py``
(``DFC2020_CLASSES``). The single label of a scene is the simplified class with the largest share, as in Schmitt & Wu,
"Remote Sensing Image Classification with the SEN12MS Dataset" (ISPRS Annals 2021), schmitt-muc/SEN12MS
``classification/dataset.py``. Their pickled label files hold the same shares; the maps are read here instead, because
a pickle may run anything.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS, S2_BANDS
from eo_backbones.datasets.labelled import (
    IGNORED,
    SMALLEST_GROUP,
    UNLABELLED,
    ClassMaps,
    LabelledImages,
    OfficialSplit,
    heads,
)
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import read_bands, read_stored

logger = logging.getLogger(__name__)

LAND_COVER_CLASSES = (
    "Forest",
    "Shrubland",
    "Savanna",
    "Grassland",
    "Wetlands",
    "Croplands",
    "Urban/Built-up",
    "Snow/Ice",
    "Barren",
    "Water",
)
"""The ten classes, codes 1 to 10 in ``dfc`` maps; DFC2020 itself has no Savanna and no Snow/Ice."""

# IGBP code (position) -> class code; 0 is unused in both (lukasliebel/dfc2020_baseline).
_IGBP = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10)

# schmitt-muc/SEN12MS splits/SEN12MS_holdOutScenes.txt: 26 scenes, 18,106 patches.
HOLD_OUT_SCENES = frozenset(
    f"{collection}_{scene}"
    for collection, scenes in {
        "ROIs1158_spring": (63, 146, 97, 124, 15, 17),
        "ROIs1868_summer": (43, 131, 19, 104, 72, 15, 79),
        "ROIs1970_fall": (120, 39, 144, 35, 61, 47, 30, 141),
        "ROIs2017_winter": (64, 146, 32, 107, 135),
    }.items()
    for scene in scenes
)
"""SEN12MS regions of the official test set, as ``ROIs1158_spring_63``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    name: str
    collections: Mapping[str, str]  # collection folder -> official part of all its images, "" where scenes decide
    map_folder: str
    codes: tuple[int, ...]  # value in the map -> class code, 0 without class
    source: str


_DFC2020 = _Kind(
    name="dfc2020",
    collections={"ROIs0000_validation": "train", "ROIs0000_test": "test"},
    map_folder="dfc",
    codes=tuple(range(len(LAND_COVER_CLASSES) + 1)),
    source="test: the contest's test images; train + validation: its validation images, a fifth of each class "
    "validates (ours; the contest had no training images of its own)",
)
_SEN12MS = _Kind(
    name="sen12ms",
    collections=dict.fromkeys(("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter"), ""),
    map_folder="lc",
    codes=_IGBP,
    source="test: the official hold-out scenes; of the rest a fifth of each class validates (ours)",
)


def dfc2020(root: Path) -> LabelledImages:
    """Open DFC2020's validation and test images (986 and 5,128): the seasonal folders repeat the same patches.

    Args:
        root: folder that holds ``ROIs0000_validation`` and ``ROIs0000_test``, or one of the two.

    Raises:
        UserError: no images, no class maps, or fewer than two classes.
    """
    return _open(_DFC2020, Path(root))


def sen12ms(root: Path) -> LabelledImages:
    """Open SEN12MS; every map is read once for its label.

    Args:
        root: folder that holds ``ROIs1158_spring`` and so on.

    Raises:
        UserError: no images, no class maps, or fewer than two classes.
    """
    return _open(_SEN12MS, Path(root))


def without_labels(name: str, root: Path) -> LabelledImages:
    """Open the images of both sensors of ``dfc2020`` or ``sen12ms`` for what needs no labels; maps are not looked for.

    Raises:
        UserError: no images.
    """
    kind = next(kind for kind in (_DFC2020, _SEN12MS) if kind.name == name)
    paths = tuple(_list_images(kind, Path(root)))
    return _images(kind, paths, classes=(UNLABELLED,), labels=np.zeros(len(paths), dtype=np.int64), parts=("s2", "s1"))


def _open(kind: _Kind, root: Path) -> LabelledImages:
    paths = _list_images(kind, root)
    mapped = [path for path in paths if _twin(path, kind.map_folder).is_file()]
    example = _twin(paths[0], kind.map_folder)
    if not mapped:
        raise UserError(
            f"labels are missing: {len(paths):,} images in {root}, but no map like {example.relative_to(root)}"
        )
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        majority = np.array(list(pool.map(partial(_majority, kind), mapped)), dtype=np.int64)
    counts = np.bincount(majority, minlength=IGNORED + 1)
    kept = np.flatnonzero((counts[majority] >= SMALLEST_GROUP) & (majority != IGNORED))
    _say_what_is_left_out(root, len(paths) - len(mapped), counts)
    present = np.unique(majority[kept])
    if len(present) < 2:
        raise UserError(
            f"{root}: {len(present)} class has {SMALLEST_GROUP} images or more, at least two classes are needed; "
            "get more of the data set"
        )
    kept_paths = tuple(mapped[row] for row in kept)
    images = _images(
        kind,
        kept_paths,
        classes=tuple(LAND_COVER_CLASSES[number] for number in present),
        labels=np.searchsorted(present, majority[kept]),
        parts=("s2", "s1", kind.map_folder),
    )
    return replace(
        images,
        official=OfficialSplit(parts=np.array([_part(kind, path) for path in kept_paths]), source=kind.source),
        # SEN12MS's maps were enlarged from 500 m pixels: good enough for the label of a scene, not for that of a pixel.
        maps=ClassMaps(classes=LAND_COVER_CLASSES, reader=partial(_read_map, kind)) if kind is _DFC2020 else None,
    )


def _images(
    kind: _Kind, paths: tuple[Path, ...], *, classes: tuple[str, ...], labels: np.ndarray, parts: Sequence[str]
) -> LabelledImages:
    """Return the images; ``parts`` names the files of each that its digest covers."""
    bands = (*LAYOUTS["sen12ms-s2"], *LAYOUTS["sen12ms-s1"])
    return LabelledImages(
        name=kind.name,
        classes=classes,
        paths=paths,
        labels=labels,
        bands=bands,
        units=tuple(BANDS[name].unit for name in bands),
        reader=_read,
        load_bytes=lambda path: heads(_twin(path, part) for part in parts),
    )


def _list_images(kind: _Kind, root: Path) -> list[Path]:
    """Return the Sentinel-2 files that have a Sentinel-1 twin, in a fixed order."""
    collections = [
        folder
        for name in kind.collections
        for folder in sorted((*root.glob(name), *root.glob(f"*/{name}")))
        if folder.is_dir()
    ]
    name = re.compile(rf"({'|'.join(kind.collections)})_s2_\w+_p\d+\.tif")
    found = sorted(path for folder in collections for path in folder.glob("s2_*/*.tif") if name.fullmatch(path.name))
    if not found:
        first = next(iter(kind.collections))
        raise UserError(
            f"no {kind.name} images in {root}; pass the folder that holds {first}/s2_.../{first}_s2_..._p1.tif"
        )
    paired = [path for path in found if _twin(path, "s1").is_file()]
    if not paired:
        raise UserError(
            f"no Sentinel-1 files beside the {len(found):,} Sentinel-2 files in {root}, e.g. {_twin(found[0], 's1')}"
        )
    if len(paired) < len(found):
        logger.warning(
            "%s: %d of %d images without a Sentinel-1 file are left out", root, len(found) - len(paired), len(found)
        )
    return paired


def _twin(path: Path, sensor: str) -> Path:
    """Return the file of another sensor, or the map, beside a Sentinel-2 file."""
    folder = path.parent.parent / path.parent.name.replace("s2_", f"{sensor}_", 1)
    return folder / path.name.replace("_s2_", f"_{sensor}_", 1)


def _part(kind: _Kind, path: Path) -> str:
    collection = path.parent.parent.name
    if part := kind.collections[collection]:
        return part
    return "test" if f"{collection}_{path.parent.name.removeprefix('s2_')}" in HOLD_OUT_SCENES else "train"


def _say_what_is_left_out(root: Path, unmapped: int, counts: np.ndarray) -> None:
    if unmapped:
        logger.warning("%s: %d images without a class map are left out", root, unmapped)
    if counts[IGNORED]:
        logger.warning("%s: %d images whose map holds no class are left out", root, counts[IGNORED])
    for number, name in enumerate(LAND_COVER_CLASSES):
        if 0 < counts[number] < SMALLEST_GROUP:
            logger.warning("%s: the only %d images of class %s are left out", root, counts[number], name)


def _majority(kind: _Kind, path: Path) -> int:
    shares = np.bincount(_read_map(kind, path).ravel(), minlength=IGNORED + 1)[: len(LAND_COVER_CLASSES)]
    return int(shares.argmax()) if shares.any() else IGNORED


def _read_map(kind: _Kind, path: Path) -> np.ndarray:
    file = _twin(path, kind.map_folder)
    codes = read_stored(file, [1])[0]
    if codes.min() < 0 or (codes[codes != IGNORED] >= len(kind.codes)).any():
        raise UserError(f"{file} holds the value {codes.max()}; a {kind.name} class map ends at {len(kind.codes) - 1}")
    classes = np.full(IGNORED + 1, IGNORED, dtype=np.int64)
    classes[: len(kind.codes)] = [code - 1 if code else IGNORED for code in kind.codes]
    found: np.ndarray = classes[codes]
    return found


def _read(path: Path, bands: Sequence[str]) -> np.ndarray:
    """Return bands of both sensors, in the given order; each file is opened once."""
    planes: dict[str, np.ndarray] = {}
    for sensor, sensor_bands in (("s2", S2_BANDS), ("s1", S1_BANDS)):
        requested = [band for band in bands if band in sensor_bands]
        if requested:
            values = read_bands(_twin(path, sensor), requested, layout=f"sen12ms-{sensor}")
            planes |= dict(zip(requested, values, strict=True))
    shapes = {values.shape for values in planes.values()}
    if len(shapes) > 1:
        raise UserError(f"{path} and its Sentinel-1 twin differ in size; restore both from the archive")
    return np.stack([planes[band] for band in bands])
