"""SEN12MS and SEN12MS-CR: ``ROIs1158_spring/s2_63/ROIs1158_spring_s2_63_p100.tif`` beside ``s1_63``.

Source: schmitt-muc/SEN12MS README.md and ``splits/``. Sentinel-2: 13 bands, digital numbers of Level 1C; Sentinel-1: VV
and VH in dB; 256 x 256 pixels of 10 m. SEN12MS-CR has the same regions; its ``s2_cloudy`` folders are not read. Its
archives unpack into ``ROIs1158_spring_s1`` and ``ROIs1158_spring_s2``, which is understood too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from eo_backbones.datasets.land_cover import HOLD_OUT_SCENES
from eo_backbones.errors import UserError
from eo_backbones_train.preparation.layouts.scene_files import Layout, RasterFile, Scan, SceneFiles

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


def _scan(root: Path, include_hold_out: bool) -> Scan:
    found = patches(root, _COLLECTIONS, _FOLDERS)
    kept = [p for p in found if include_hold_out or f"{p.collection}_{p.region}" not in HOLD_OUT_SCENES]
    scenes, skipped = pair_up(kept)
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped), held_out=len(found) - len(kept))


SEN12MS = Layout(name="sen12ms", scan=_scan, s2_order="sen12ms-s2", s1_order="sen12ms-s1", has_hold_out=True)
SEN12MSCR = Layout(name="sen12mscr", scan=_scan, s2_order="sen12ms-s2", s1_order="sen12ms-s1", has_hold_out=True)
