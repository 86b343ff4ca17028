"""BigEarthNet with Sentinel-1 (version 2, and version 1 with its label files): one file a band.

Source: torchgeo/datasets/bigearthnet.py. ``BigEarthNet-S2/<product>/<patch>/<patch>_B02.tif``: 12 bands of Level 2A
(no B10), 120, 60 or 20 pixels a side; ``BigEarthNet-S1/<product>/<name>/<name>_VV.tif``: 120 pixels, dB. Version 1
lacks the product folders. The coarser bands are enlarged to 120 pixels by repeating pixels.

Which Sentinel-1 patch belongs to a Sentinel-2 patch stands in version 2's ``metadata.parquet``, which needs another
library to read, and in version 1's label files (``corresponding_s2_patch``). Without a label file the rule by which the
data set was made holds: same tile, row and column, nearest date.
"""

import json
import re
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

from eo_backbones.bands import LAYOUTS
from eo_backbones.errors import UserError
from eo_backbones_train.preparation.layouts.scene_files import Layout, RasterFile, Scan, SceneFiles

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


def _scan(root: Path, include_hold_out: bool) -> Scan:
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


BIGEARTHNET = Layout(name="bigearthnet", scan=_scan, replicate=True)
