"""What a layout tells about a folder: the files of each scene, and what it had to leave out."""

import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from eo_backbones.bands import LAYOUTS
from eo_backbones.datasets.land_cover import HOLD_OUT_SCENES
from eo_backbones.datasets.raster import gdal_environment
from eo_backbones.errors import UserError, unknown_name

# FOLDED training/eo_backbones_train/store/layouts.py: 'Training tiles need no coordinates, so rasterio need not warn that a file has none.'


@contextmanager
def without_georeference_warnings() -> Iterator[None]:
    """Silence rasterio about files without coordinates. Not for use in several threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterFile:
    """One GeoTIFF of a scene.

    Attributes:
        path: relative to the root, with forward slashes.
        sensor: ``"s1"`` or ``"s2"``.
        band: its only band, where the layout has one file a band.
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
            files say it themselves.
        replicate: files of one scene may differ in size by whole factors; the smaller are enlarged by repeating
            pixels, which invents no value.
        has_hold_out: the data set has official test scenes, which pretraining leaves out unless told otherwise.
    """

    name: str
    scan: Callable[[Path, bool], Scan]
    s2_order: str | None = None
    s1_order: str | None = None
    replicate: bool = False
    has_hold_out: bool = False


# FOLDED training/eo_backbones_train/store/layouts.py: "BigEarthNet with Sentinel-1 (version 2, and version 1 with its label files): one file a band.\n\nSource: torchgeo/datasets/bigearthnet.py. ``BigEarthNet-S2/<product>/<patch>/<patch>_B02.tif``: 12 bands of Level 2A\n(no B10), 120, 60 or 20 pixels a side; ``BigEarthNet-S1/<product>/<name>/<name>_VV.tif``: 120 pixels, dB. Version 1\nlacks the product folders. The coarser bands are enlarged to 120 pixels by repeating pixels.\n\nWhich Sentinel-1 patch belongs to a Sentinel-2 patch stands in version 2's ``metadata.parquet``, which needs another\nlibrary to read, and in version 1's label files (``corresponding_s2_patch``). Without a label file the rule by which the\ndata set was made holds: same tile, row and column, nearest date."

_S2 = re.compile(r"S2[ABC]_MSIL2A_(\d{8})T\d+(?:_N\d{4}_R\d{3}_T(\w{5}))?_(\d+)_(\d+)")
_S1 = re.compile(r"S1[ABC]_IW_GRDH_1SDV_(\d{8})T\d+_(\w{5})_(\d+)_(\d+)")


class _Patch(NamedTuple):
    folder: Path
    day: date
    place: tuple[str | None, int, int]  # tile, row, column


def _patches(root: Path, pattern: re.Pattern[str]) -> list[_Patch]:
    """Patch folders one to three levels below the root, sorted by name."""
    found: list[_Patch] = []
    level = [root]
    for _ in range(3):
        below: list[Path] = []
        for folder in (entry for parent in level for entry in parent.iterdir()):
            if match := pattern.fullmatch(folder.name):
                day, tile, row, column = match.groups()
                place = (tile, int(row), int(column))
                found.append(_Patch(folder, date(int(day[:4]), int(day[4:6]), int(day[6:])), place))
            elif not folder.suffix and folder.is_dir():
                below.append(folder)
        level = below
    return sorted(found, key=lambda patch: patch.folder.name)


def _partners(radar: list[_Patch]) -> tuple[dict[str, _Patch], dict[tuple[str | None, int, int], list[_Patch]]]:
    """Sentinel-1 patches by the Sentinel-2 patch that their label file names, else by place."""
    named: dict[str, _Patch] = {}
    placed: defaultdict[tuple[str | None, int, int], list[_Patch]] = defaultdict(list)
    for patch in radar:
        label = patch.folder / f"{patch.folder.name}_labels_metadata.json"
        if label.is_file():
            named[json.loads(label.read_text())["corresponding_s2_patch"]] = patch
        else:
            placed[patch.place].append(patch)
    return named, placed


def _files(root: Path, patch: _Patch, sensor: str) -> tuple[RasterFile, ...]:
    bands = LAYOUTS[f"bigearthnet-{sensor}"]
    paths = {name: patch.folder / f"{patch.folder.name}_{name}.tif" for name in bands}
    return tuple(
        RasterFile(path=path.relative_to(root).as_posix(), sensor=sensor, band=name) for name, path in paths.items()
    )


def _scan_bigearthnet(root: Path, include_hold_out: bool) -> Scan:
    optical, radar = _patches(root, _S2), _patches(root, _S1)
    if not optical:
        raise UserError(
            f"no Sentinel-2 patches found in {root}; --root is the folder that holds BigEarthNet-S2 and -S1"
        )
    named, placed = _partners(radar)
    scenes: list[SceneFiles] = []
    skipped: list[tuple[str, str]] = []
    for patch in optical:
        name = patch.folder.name
        near = sorted(placed[patch.place], key=lambda other: (abs((other.day - patch.day).days), other.folder.name))
        partner = named.get(name) or (near[0] if near else None)
        if partner is None:
            skipped.append((name, "missing partner: no s1 patch of the same place"))
            continue
        files = (*_files(root, patch, "s2"), *_files(root, partner, "s1"))
        scenes.append(SceneFiles(scene=name, roi=name.rsplit("_", 2)[0], files=files))
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped))


BIGEARTHNET = Layout(name="bigearthnet", scan=_scan_bigearthnet, replicate=True)

# FOLDED training/eo_backbones_train/store/layouts.py: "Anybody's own pairs: two folders ``s2`` and ``s1`` whose files have equal names.\n\nBands are found by the files' band descriptions, by ``--bands B03=1 ...``, or, in files of 13, 12 or 2 bands without\ndescriptions, by the orders of SEN12MS and BigEarthNet."

_SUFFIXES = {".tif", ".tiff"}


def _scan_pairs(root: Path, include_hold_out: bool) -> Scan:
    found: dict[str, dict[str, str]] = {}
    for sensor in ("s2", "s1"):
        folder = root / sensor
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; --root holds two folders, s1 and s2, with equal file names")
        for file in folder.iterdir():
            if file.suffix.lower() in _SUFFIXES:
                found.setdefault(file.stem, {})[sensor] = f"{sensor}/{file.name}"
    if not found:
        raise UserError(f"no .tif files in {root / 's2'} and {root / 's1'}; --root holds GeoTIFF pairs of equal names")
    scenes: list[SceneFiles] = []
    skipped: list[tuple[str, str]] = []
    for stem in sorted(found):
        missing = {"s1", "s2"} - found[stem].keys()
        if missing:
            skipped.append((stem, f"missing partner: no {missing.pop()} file"))
            continue
        files = tuple(RasterFile(path=found[stem][sensor], sensor=sensor) for sensor in ("s2", "s1"))
        scenes.append(SceneFiles(scene=stem, roi="", files=files))
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped))


PAIRS = Layout(name="pairs", scan=_scan_pairs)

# FOLDED training/eo_backbones_train/store/layouts.py: 'SEN12MS and SEN12MS-CR: ``ROIs1158_spring/s2_63/ROIs1158_spring_s2_63_p100.tif`` beside ``s1_63``.\n\nSource: schmitt-muc/SEN12MS README.md and ``splits/``. Sentinel-2: 13 bands, digital numbers of Level 1C; Sentinel-1: VV\nand VH in dB; 256 x 256 pixels of 10 m. SEN12MS-CR has the same regions; its ``s2_cloudy`` folders are not read. Its\narchives unpack into ``ROIs1158_spring_s1`` and ``ROIs1158_spring_s2``, which is understood too.'

_COLLECTIONS = re.compile(r"(ROIs(?:1158_spring|1868_summer|1970_fall|2017_winter))(?:_s[12])?")
_FOLDERS = re.compile(r"s([12])_(\d+)")


class Patch(NamedTuple):
    """One patch number of one region: its files by sensor, relative to the root."""

    collection: str
    region: str
    number: int
    files: dict[str, str]


def patches(root: Path, collections: re.Pattern[str], folders: re.Pattern[str]) -> list[Patch]:
    """List the patches below ``root/<collection>/<sensor folder>/``.

    Args:
        root: folder that holds the collections.
        collections: names of collection folders; group 1 is the collection.
        folders: names of sensor folders; group 1 is the digit of the sensor, group 2 the region.

    Returns:
        Sorted by collection, region and patch number.
    """
    found: dict[tuple[str, str, int], dict[str, str]] = {}
    for collection, sensor, region, path in _sensor_folders(root, collections, folders):
        name = re.compile(rf"{collection}_{sensor}_\w+_p(\d+)\.tif")
        for file in path.iterdir():
            if match := name.fullmatch(file.name):
                key = (collection, region, int(match[1]))
                found.setdefault(key, {})[sensor] = file.relative_to(root).as_posix()
    if not found:
        raise UserError(
            f"no patches found in {root}; --root is the folder that holds {_example(collections)}/s2_.../..._p1.tif"
        )

    def order(key: tuple[str, str, int]) -> tuple[str, int, str, int]:
        collection, region, number = key
        return (collection, int(region) if region.isdigit() else 0, region, number)

    return [Patch(*key, found[key]) for key in sorted(found, key=order)]


def _sensor_folders(
    root: Path, collections: re.Pattern[str], folders: re.Pattern[str]
) -> Iterator[tuple[str, str, str, Path]]:
    for collection in sorted(root.iterdir()):
        if (outer := collections.fullmatch(collection.name)) and collection.is_dir():
            for folder in sorted(collection.iterdir()):
                if (inner := folders.fullmatch(folder.name)) and folder.is_dir():
                    yield outer[1], f"s{inner[1]}", inner[2], folder


def _example(collections: re.Pattern[str]) -> str:
    return "ROIs0000_test" if "0000" in collections.pattern else "ROIs1158_spring"


def pair_up(found: list[Patch]) -> tuple[list[SceneFiles], list[tuple[str, str]]]:
    """Split patches into complete pairs and ``(scene, reason)`` of those that lack a sensor."""
    scenes: list[SceneFiles] = []
    skipped: list[tuple[str, str]] = []
    for patch in found:
        roi = f"{patch.collection}_{patch.region}"
        name = f"{roi}_p{patch.number}"
        missing = {"s1", "s2"} - patch.files.keys()
        if missing:
            skipped.append((name, f"missing partner: no {missing.pop()} file"))
        else:
            files = tuple(RasterFile(path=patch.files[sensor], sensor=sensor) for sensor in ("s2", "s1"))
            scenes.append(SceneFiles(scene=name, roi=roi, files=files))
    return scenes, skipped


def _scan_sen12ms(root: Path, include_hold_out: bool) -> Scan:
    found = patches(root, _COLLECTIONS, _FOLDERS)
    kept = [p for p in found if include_hold_out or f"{p.collection}_{p.region}" not in HOLD_OUT_SCENES]
    scenes, skipped = pair_up(kept)
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped), held_out=len(found) - len(kept))


SEN12MS = Layout(name="sen12ms", scan=_scan_sen12ms, s2_order="sen12ms-s2", s1_order="sen12ms-s1", has_hold_out=True)
SEN12MSCR = Layout(
    name="sen12mscr", scan=_scan_sen12ms, s2_order="sen12ms-s2", s1_order="sen12ms-s1", has_hold_out=True
)

# FOLDED training/eo_backbones_train/store/layouts.py: "DFC2020: the contest's folders (validation, test), its seasonal folders, or both.\n\nSource: lukasliebel/dfc2020_baseline ``code/datasets.py``. ``ROIs0000_validation/s2_validation`` holds 986 patches,\n``ROIs0000_test/s2_0`` 5,128. The seasonal folders ``ROIs0000_{spring,summer,autumn,winter}`` hold the same 6,114\npatches under other numbers, so that counting files gives 11,242 or more. Where both are present, a patch is recognised\nby its pixels and the contest's name is kept."

_CONTEST = ("ROIs0000_validation", "ROIs0000_test")
_DFC2020_COLLECTIONS = re.compile(r"(ROIs0000_(?:validation|test|spring|summer|autumn|winter))")
_DFC2020_FOLDERS = re.compile(r"s([12])_(\w+)")


def _scan_dfc2020(root: Path, include_hold_out: bool) -> Scan:
    scenes, skipped = pair_up(patches(root, _DFC2020_COLLECTIONS, _DFC2020_FOLDERS))
    contest = [scene for scene in scenes if scene.roi.startswith(_CONTEST)]
    seasonal = [scene for scene in scenes if not scene.roi.startswith(_CONTEST)]
    if contest and seasonal:
        known = dict(zip(_pixel_digests(root, contest), (scene.scene for scene in contest), strict=True))
        digests = _pixel_digests(root, seasonal)
        skipped += [
            (scene.scene, f"duplicate: the same patch as {known[digest]}")
            for scene, digest in zip(seasonal, digests, strict=True)
            if digest in known
        ]
        seasonal = [scene for scene, digest in zip(seasonal, digests, strict=True) if digest not in known]
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


DFC2020 = Layout(name="dfc2020", scan=_scan_dfc2020, s2_order="dfc2020-s2", s1_order="dfc2020-s1")

# FOLDED training/eo_backbones_train/store/layouts.py: 'The folder layouts that ``eo-train prepare`` reads: where the pairs are, and which band lies where.'

SCENE_LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.name: layout for layout in (SEN12MS, DFC2020, SEN12MSCR, BIGEARTHNET, PAIRS)}
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
