"""The folder layouts that ``eo-train prepare`` reads: which files make up a scene, and which band lies where in them.

One section for each data set, the table :data:`SCENE_LAYOUTS` at the end. A layout lists files by their names and
opens none of them, with one exception: DFC2020's duplicates can only be told by their pixels.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import rasterio

from eo_backbones.bands import LAYOUTS
from eo_backbones.datasets.image_files import hidden
from eo_backbones.datasets.land_cover import HOLD_OUT_SCENES
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.rasters.reader import gdal_environment, without_georeference_warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterFile:
    """One GeoTIFF of a scene.

    Attributes:
        path: relative to the root, with forward slashes.
        sensor: ``"s1"`` or ``"s2"``.
        band: its only band, where the layout has one file per band.
    """

    path: str
    sensor: str
    band: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFiles:
    """A co-registered pair of a Sentinel-2 and a Sentinel-1 image.

    Attributes:
        scene: name, unique within the source.
        roi: the region or product it was cut from; subsets are drawn proportionally from these.
        files: Sentinel-2 first.
    """

    scene: str
    roi: str
    files: tuple[RasterFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Contents of a root folder.

    Attributes:
        scenes: in a fixed order that depends on names only.
        skipped: ``(scene, reason)`` of what cannot be used.
        held_out: number of scenes left out because they belong to an official test set.
    """

    scenes: tuple[SceneFiles, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    held_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One folder structure.

    Attributes:
        name: value of ``--layout``.
        scan: ``scan(root, include_hold_out)``.
        s2_order, s1_order: keys of :data:`eo_backbones.bands.LAYOUTS` with the band order of every file; ``None`` where
            the files themselves say it.
        replicate: files of one scene may differ in size by whole factors; the smaller ones are enlarged by repeating
            pixels, which invents no value.
        has_hold_out: the data set has official test scenes, which pretraining leaves out unless told otherwise.
        level: processing level of its Sentinel-2 images; ``None``: as the files say.
        of_the_user: files of any product, which are asked for their scale and offset; those of a data set are known.
    """

    name: str
    scan: Callable[[Path, bool], Scan]
    s2_order: str | None = None
    s1_order: str | None = None
    replicate: bool = False
    has_hold_out: bool = False
    level: str | None = None
    of_the_user: bool = False


def _complete_pairs(
    candidates: Iterable[tuple[str, str, Mapping[str, str]]],
) -> tuple[list[SceneFiles], list[tuple[str, str]]]:
    """Split ``(scene, roi, sensor -> path)`` into complete pairs and ``(scene, reason)`` of those without a sensor."""
    scenes: list[SceneFiles] = []
    skipped: list[tuple[str, str]] = []
    for name, roi, paths in candidates:
        missing = {"s1", "s2"} - paths.keys()
        if missing:
            skipped.append((name, f"missing partner: no {missing.pop()} file"))
        else:
            files = tuple(RasterFile(path=paths[sensor], sensor=sensor) for sensor in ("s2", "s1"))
            scenes.append(SceneFiles(scene=name, roi=roi, files=files))
    return scenes, skipped


# SEN12MS and SEN12MS-CR: ROIs1158_spring/s2_63/ROIs1158_spring_s2_63_p100.tif, the radar image in s1_63 beside it.
#
# Source: schmitt-muc/SEN12MS, README.md and splits/. Sentinel-2: 13 bands, digital numbers of Level 1C; Sentinel-1: VV
# and VH in dB; 256 x 256 pixels of 10 m. SEN12MS-CR has the same regions; its s2_cloudy folders are not read. Its
# archives unpack into ROIs1158_spring_s1 and ROIs1158_spring_s2, which is understood too.

_SEN12MS_COLLECTIONS = re.compile(r"(ROIs(?:1158_spring|1868_summer|1970_fall|2017_winter))(?:_s[12])?")
_SEN12MS_FOLDERS = re.compile(r"s([12])_(\d+)")


class _Patch(NamedTuple):
    """One patch number of one region: its files by sensor, relative to the root."""

    collection: str
    region: str
    number: int
    paths: dict[str, str]

    @property
    def roi(self) -> str:
        return f"{self.collection}_{self.region}"


def _scan_sen12ms(root: Path, include_hold_out: bool) -> Scan:
    patches = _numbered_patches(root, _SEN12MS_COLLECTIONS, _SEN12MS_FOLDERS, example="ROIs1158_spring")
    kept = [patch for patch in patches if include_hold_out or patch.roi not in HOLD_OUT_SCENES]
    scenes, skipped = _pair_patches(kept)
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped), held_out=len(patches) - len(kept))


def _numbered_patches(
    root: Path, collections: re.Pattern[str], folders: re.Pattern[str], *, example: str
) -> list[_Patch]:
    """List the patches below ``root/<collection>/<sensor folder>/``.

    Args:
        root: folder that holds the collections.
        collections: names of collection folders; group 1 is the collection.
        folders: names of sensor folders; group 1 is the digit of the sensor, group 2 the region.
        example: a collection folder, for the message if there are none.

    Returns:
        Sorted by collection, region and patch number.
    """
    paths_of: dict[tuple[str, str, int], dict[str, str]] = {}
    for collection, sensor, region, folder in _sensor_folders(root, collections, folders):
        name = re.compile(rf"{collection}_{sensor}_\w+_p(\d+)\.tif")
        for file in folder.iterdir():
            if match := name.fullmatch(file.name):
                key = (collection, region, int(match[1]))
                paths_of.setdefault(key, {})[sensor] = file.relative_to(root).as_posix()
    if not paths_of:
        raise UserError(f"no patches found in {root}; --root is the folder that holds {example}/s2_.../..._p1.tif")

    def order(key: tuple[str, str, int]) -> tuple[str, int, str, int]:
        collection, region, number = key
        return (collection, int(region) if region.isdigit() else 0, region, number)

    return [_Patch(*key, paths_of[key]) for key in sorted(paths_of, key=order)]


def _sensor_folders(
    root: Path, collections: re.Pattern[str], folders: re.Pattern[str]
) -> Iterator[tuple[str, str, str, Path]]:
    """Yield collection, sensor, region and path of each sensor folder."""
    for collection in sorted(root.iterdir()):
        if (outer := collections.fullmatch(collection.name)) and collection.is_dir():
            for folder in sorted(collection.iterdir()):
                if (inner := folders.fullmatch(folder.name)) and folder.is_dir():
                    yield outer[1], f"s{inner[1]}", inner[2], folder


def _pair_patches(patches: Iterable[_Patch]) -> tuple[list[SceneFiles], list[tuple[str, str]]]:
    return _complete_pairs((f"{patch.roi}_p{patch.number}", patch.roi, patch.paths) for patch in patches)


# DFC2020: the contest's folders (validation, test), the seasonal folders, or both.
#
# Source: lukasliebel/dfc2020_baseline, code/datasets.py. ROIs0000_validation/s2_validation holds 986 patches,
# ROIs0000_test/s2_0 5,128. The seasonal folders ROIs0000_{spring,summer,autumn,winter} hold the same 6,114 patches
# under other numbers, so that counting files gives 11,242 or more. Where both are present, a patch is recognised by its
# pixels and keeps the contest's name.

_CONTEST = ("ROIs0000_validation", "ROIs0000_test")
_DFC2020_COLLECTIONS = re.compile(r"(ROIs0000_(?:validation|test|spring|summer|autumn|winter))")
_DFC2020_FOLDERS = re.compile(r"s([12])_(\w+)")


def _scan_dfc2020(root: Path, include_hold_out: bool) -> Scan:
    patches = _numbered_patches(root, _DFC2020_COLLECTIONS, _DFC2020_FOLDERS, example="ROIs0000_test")
    scenes, skipped = _pair_patches(patches)
    contest = [scene for scene in scenes if scene.roi.startswith(_CONTEST)]
    seasonal = [scene for scene in scenes if not scene.roi.startswith(_CONTEST)]
    if contest and seasonal:
        name_of = dict(zip(_pixel_digests(root, contest), (scene.scene for scene in contest), strict=True))
        digests = _pixel_digests(root, seasonal)
        skipped += [
            (scene.scene, f"duplicate: the same patch as {name_of[digest]}")
            for scene, digest in zip(seasonal, digests, strict=True)
            if digest in name_of
        ]
        seasonal = [scene for scene, digest in zip(seasonal, digests, strict=True) if digest not in name_of]
    return Scan(scenes=(*contest, *seasonal), skipped=tuple(skipped))


def _pixel_digests(root: Path, scenes: list[SceneFiles]) -> list[str]:
    """Digest of each scene's Sentinel-2 pixels; its name where the file cannot be read (conversion lists it)."""

    def digest(scene: SceneFiles) -> str:
        try:
            with gdal_environment(), rasterio.open(root / scene.files[0].path) as source:
                return hashlib.sha256(source.read().tobytes()).hexdigest()
        except rasterio.errors.RasterioError:
            return scene.scene

    with without_georeference_warnings(), ThreadPoolExecutor() as pool:
        return list(pool.map(digest, scenes))


# BigEarthNet with Sentinel-1 (version 2, and version 1 with its label files): one file per band.
#
# Source: torchgeo/datasets/bigearthnet.py. BigEarthNet-S2/<product>/<patch>/<patch>_B02.tif: 12 bands of Level 2A (no
# B10), 120, 60 or 20 pixels wide; BigEarthNet-S1/<product>/<name>/<name>_VV.tif: 120 pixels, dB. Version 1 lacks the
# product folders. The coarser bands are enlarged to 120 pixels by repeating pixels.
#
# Which Sentinel-1 patch belongs to a Sentinel-2 patch is recorded in version 2's metadata.parquet, which takes another
# library to read, and in version 1's label files (corresponding_s2_patch). Without a label file the rule by which the
# data set was made is applied: same tile, row and column, nearest date.

_BIGEARTHNET_S2 = re.compile(r"S2[ABC]_MSIL2A_(\d{8})T\d+(?:_N\d{4}_R\d{3}_T(\w{5}))?_(\d+)_(\d+)")
_BIGEARTHNET_S1 = re.compile(r"S1[ABC]_IW_GRDH_1SDV_(\d{8})T\d+_(\w{5})_(\d+)_(\d+)")

_GridCell = tuple[str | None, int, int]  # tile, row, column


class _PatchFolder(NamedTuple):
    folder: Path
    day: date
    cell: _GridCell


def _scan_bigearthnet(root: Path, include_hold_out: bool) -> Scan:
    optical, radar = _patch_folders(root, _BIGEARTHNET_S2), _patch_folders(root, _BIGEARTHNET_S1)
    if not optical:
        raise UserError(
            f"no Sentinel-2 patches found in {root}; --root is the folder that holds BigEarthNet-S2 and -S1"
        )
    by_label, by_cell = _radar_partners(radar)
    scenes: list[SceneFiles] = []
    skipped: list[tuple[str, str]] = []
    for patch in optical:
        name = patch.folder.name
        near = sorted(by_cell[patch.cell], key=lambda other: (abs((other.day - patch.day).days), other.folder.name))
        partner = by_label.get(name) or (near[0] if near else None)
        if partner is None:
            skipped.append((name, "missing partner: no s1 patch of the same place"))
            continue
        files = (*_band_files(root, patch, "s2"), *_band_files(root, partner, "s1"))
        scenes.append(SceneFiles(scene=name, roi=name.rsplit("_", 2)[0], files=files))
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped))


def _patch_folders(root: Path, pattern: re.Pattern[str]) -> list[_PatchFolder]:
    """Patch folders one to three levels below the root, sorted by name."""
    patches: list[_PatchFolder] = []
    level = [root]
    for _ in range(3):
        below: list[Path] = []
        for folder in (entry for parent in level for entry in parent.iterdir()):
            if match := pattern.fullmatch(folder.name):
                day, tile, row, column = match.groups()
                cell = (tile, int(row), int(column))
                patches.append(_PatchFolder(folder, date(int(day[:4]), int(day[4:6]), int(day[6:])), cell))
            elif not folder.suffix and folder.is_dir():
                below.append(folder)
        level = below
    return sorted(patches, key=lambda patch: patch.folder.name)


def _radar_partners(radar: list[_PatchFolder]) -> tuple[dict[str, _PatchFolder], dict[_GridCell, list[_PatchFolder]]]:
    """Sentinel-1 patches by the Sentinel-2 patch that their label file names; those without one by grid cell."""
    by_label: dict[str, _PatchFolder] = {}
    by_cell: defaultdict[_GridCell, list[_PatchFolder]] = defaultdict(list)
    for patch in radar:
        label = patch.folder / f"{patch.folder.name}_labels_metadata.json"
        if label.is_file():
            by_label[json.loads(label.read_text())["corresponding_s2_patch"]] = patch
        else:
            by_cell[patch.cell].append(patch)
    return by_label, by_cell


def _band_files(root: Path, patch: _PatchFolder, sensor: str) -> tuple[RasterFile, ...]:
    bands = LAYOUTS[f"bigearthnet-{sensor}"]
    paths = {name: patch.folder / f"{patch.folder.name}_{name}.tif" for name in bands}
    return tuple(
        RasterFile(path=path.relative_to(root).as_posix(), sensor=sensor, band=name) for name, path in paths.items()
    )


# The user's own pairs: two folders s2 and s1 whose files have the same names.
#
# Bands are found by the files' band descriptions, by --bands B03=1 ..., or, in files of 13, 12 or 2 bands without
# descriptions, by the band orders of SEN12MS and BigEarthNet.

_SUFFIXES = {".tif", ".tiff", ".jpg", ".jpeg", ".png"}


def _scan_pairs(root: Path, include_hold_out: bool) -> Scan:
    paths_of: dict[str, dict[str, str]] = {}
    for sensor in ("s2", "s1"):
        folder = root / sensor
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; --root holds two folders, s1 and s2, with the same file names")
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in _SUFFIXES or hidden(file.relative_to(folder)):
                continue
            other = paths_of.setdefault(file.stem, {}).setdefault(sensor, f"{sensor}/{file.name}")
            if other != f"{sensor}/{file.name}":
                raise UserError(f"{root / other} and {file} have the same name but for the suffix; keep one of them")
    if not paths_of:
        raise UserError(
            f"no GeoTIFF, JPEG or PNG files in {root / 's2'} and {root / 's1'}; --root holds pairs of files "
            "with the same name"
        )
    scenes, skipped = _complete_pairs((stem, "", paths_of[stem]) for stem in sorted(paths_of))
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped))


SCENE_LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            # Level 1C: schmitt-muc/SEN12MS README, which DFC2020 and SEN12MS-CR follow; BigEarthNet is level 2A.
            Layout(
                name="sen12ms",
                scan=_scan_sen12ms,
                s2_order="sen12ms-s2",
                s1_order="sen12ms-s1",
                has_hold_out=True,
                level="L1C",
            ),
            Layout(name="dfc2020", scan=_scan_dfc2020, s2_order="dfc2020-s2", s1_order="dfc2020-s1", level="L1C"),
            Layout(
                name="sen12mscr",
                scan=_scan_sen12ms,
                s2_order="sen12ms-s2",
                s1_order="sen12ms-s1",
                has_hold_out=True,
                level="L1C",
            ),
            Layout(name="bigearthnet", scan=_scan_bigearthnet, replicate=True, level="L2A"),
            Layout(name="pairs", scan=_scan_pairs, of_the_user=True),
        )
    }
)
"""Value of ``--layout`` -> layout."""


def get_layout(name: str) -> Layout:
    """Return the layout of a name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in SCENE_LAYOUTS:
        raise unknown_name("layout", name, SCENE_LAYOUTS)
    return SCENE_LAYOUTS[name]
