"""Made-up scenes in the layout, size and format of SEN12MS, and a store prepared from them.

Few scenes are synthesised and the rest are copies: other files, other pages of the page cache, same values. Nothing
here is compressed, so values do not matter for speed.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from eo_backbones.datasets.synthetic_files import write_sen12ms
from eo_backbones.errors import UserError
from eo_backbones_train.preparation.layouts import get_layout
from eo_backbones_train.preparation.layouts.scene_files import SceneFiles
from eo_backbones_train.preparation.prepare import prepare

_PLACE = "ROIs1158_spring/1"  # not among the hold-out scenes
_SYNTHESISED = 32
_BYTES_PER_SCENE = 4 * 2**20  # 2.2 MB of GeoTIFF, and 0.8 MB for each of the two stores there are at a time


class MadeUpScenes(NamedTuple):
    """GeoTIFFs and the store made from them.

    Attributes:
        root: folder of the GeoTIFFs.
        pairs: the two files of each scene, relative to ``root``.
        store: folder of the store.
        prepare_scenes_per_s: conversion speed of one process that reads from the page cache.
    """

    root: Path
    pairs: tuple[SceneFiles, ...]
    store: Path
    prepare_scenes_per_s: float


@contextmanager
def made_up_scenes(count: int, *, rounds: int, say: Callable[[str], None]) -> Iterator[MadeUpScenes]:
    """Write scenes to a temporary folder, prepare them, and remove everything at the end.

    Args:
        count: number of scenes.
        rounds: how often the conversion is timed.
        say: told what is being done.

    Raises:
        UserError: the temporary folder has too little room.
    """
    with tempfile.TemporaryDirectory(prefix="eo-train-bench-") as name:
        folder, needed = Path(name), count * _BYTES_PER_SCENE
        if shutil.disk_usage(folder).free < needed:
            raise UserError(
                f"{folder.parent} has less than the {needed / 2**30:.1f} GiB that bench needs for a while; "
                "set TMPDIR to a folder on another disk, or pass --quick"
            )
        say(f"writing {count} made-up scenes")
        root = _write(folder / "made-up", count)
        speeds = []
        for attempt in range(rounds):
            say(f"preparing them, round {attempt + 1} of {rounds}")
            shutil.rmtree(folder / f"store-{attempt - 2}", ignore_errors=True)
            summary = prepare("sen12ms", root, folder / f"store-{attempt}", workers=1)
            speeds.append(summary.stored / summary.seconds)
        pairs = get_layout("sen12ms").scan(root, False).scenes
        yield MadeUpScenes(root, pairs, folder / f"store-{rounds - 1}", median(speeds))


def _write(root: Path, count: int) -> Path:
    write_sen12ms(root, scenes=(_PLACE,), patches=min(count, _SYNTHESISED))
    season, place = _PLACE.split("/")
    for sensor in ("s1", "s2"):
        stem = root / season / f"{sensor}_{place}" / f"{season}_{sensor}_{place}_p"
        for number in range(_SYNTHESISED + 1, count + 1):
            shutil.copyfile(f"{stem}{(number - 1) % _SYNTHESISED + 1}.tif", f"{stem}{number}.tif")
    return root
