"""Pairs a second and bytes a pair: our loader beside rasterio, both on one core and from the page cache.

Default rasterio reading opens both files of a scene and reads all their bands, as a data set class written without
thought of speed does; tuned reading is rasterio's best: one band of each, with the GDAL settings that ``prepare`` uses.
The references hand out one pair after the other; the loader hands out batches with everything a step needs.

Scenes are made up in the layout, size and format of SEN12MS. Few are synthesised and the rest are copies: other files,
other pages of the page cache, same values. Nothing of them is compressed, so values do not matter for speed.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np
import rasterio
import torch

from eo_backbones.bands import S1_BANDS, S2_BANDS
from eo_backbones.datasets.synthetic_files import write_sen12ms
from eo_backbones.errors import UserError
from eo_backbones.progress import Progress
from eo_backbones.rasters.reader import gdal_environment
from eo_backbones_train.bench.timing import Stopwatch, in_turn, seconds, times_faster
from eo_backbones_train.data.loader import PREFETCH, Loader
from eo_backbones_train.data.plan import Plan
from eo_backbones_train.data.tiles import MappedTiles, codes_dtype, max_tile_px
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.codings import Array
from eo_backbones_train.store.layouts import SceneFiles, get_layout
from eo_backbones_train.store.prepare import prepare
from eo_backbones_train.store.store import Store

_SCENE = "ROIs1158_spring/1"  # not among the hold-out scenes
_BYTES_PER_SCENE = 4 * 2**20  # 2.2 MB of GeoTIFF, and 0.8 MB for each of the two stores there are at a time
_ENOUGH_PAIRS = 2000
_COUNTERS = Path("/proc/self/io")
_CPU = torch.device("cpu")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingMetrics:
    """What was measured; None where there was nothing to compare with.

    Attributes:
        loader_batch: pairs in a batch.
        loader_pairs_per_s: of our loader.
        rasterio_pairs_per_s, rasterio_tuned_pairs_per_s: of the two references.
        loader_ratio, loader_ratio_tuned: our speed over theirs.
        kib_per_pair: KiB that the loader copies from the store for a pair.
        kib_per_pair_from_disk: KiB that the kernel reads for a pair with nothing of the store in the page cache.
        rasterio_kib_per_pair: KiB of the two files of a pair: default reading reads them whole.
    """

    loader_batch: int
    loader_pairs_per_s: float
    rasterio_pairs_per_s: float | None
    rasterio_tuned_pairs_per_s: float | None
    loader_ratio: float | None
    loader_ratio_tuned: float | None
    kib_per_pair: float
    kib_per_pair_from_disk: float | None
    rasterio_kib_per_pair: float | None


def measure_loading(
    folder: Path, files: MadeUpScenes | None, *, batch: int, batches: int, reads: int, rounds: int
) -> LoadingMetrics:
    """Measure the loader on a store, and rasterio on the files that the store was made from.

    Args:
        folder: the store.
        files: its files; None for a store whose files are not at hand.
        batch: pairs in a batch.
        batches: batches of a round.
        reads: pairs that each reference reads in a round.
        rounds: results are medians over these.

    Raises:
        UserError: the store is damaged, or has fewer usable scenes than a batch.
    """
    recipe = replace(get_recipe("byol-full"), global_batch=batch)
    from_disk = disk_kib_per_pair(Store.open(folder), recipe)  # first: later its pages are mapped
    store = Store.open(folder)
    loader = Loader(store, recipe, device=_CPU)
    try:
        stopwatches = {"loader": loader_stopwatch(loader, batches)}
        if files is not None:
            stopwatches |= _reference_stopwatches(files, reads)
        times = in_turn(stopwatches, rounds=rounds)
    finally:
        loader.close()
    ours, default, tuned = (
        [time / pairs for time in times.get(name, ())]
        for name, pairs in (("loader", batches * batch), ("default", reads), ("tuned", reads))
    )
    return LoadingMetrics(
        loader_batch=batch,
        loader_pairs_per_s=1 / median(ours),
        rasterio_pairs_per_s=1 / median(default) if default else None,
        rasterio_tuned_pairs_per_s=1 / median(tuned) if tuned else None,
        loader_ratio=times_faster(default, ours) if default else None,
        loader_ratio_tuned=times_faster(tuned, ours) if tuned else None,
        kib_per_pair=copied_kib_per_pair(store, recipe),
        kib_per_pair_from_disk=from_disk,
        rasterio_kib_per_pair=_file_kib_per_pair(files) if files is not None else None,
    )


def loader_stopwatch(loader: Loader, batches: int, *, stopwatch: Stopwatch = seconds) -> Callable[[], float]:
    """Return a stopwatch over the next ``batches`` batches; those that are ready already are not among them."""
    next_step = 0

    def take(count: int) -> None:
        nonlocal next_step
        for step in range(next_step, next_step + count):
            loader.batch(step)
        next_step += count

    def timed() -> float:
        take(PREFETCH + 1)
        return stopwatch(lambda: take(batches), _CPU)

    return timed


def _reference_stopwatches(files: MadeUpScenes, reads: int) -> dict[str, Callable[[], float]]:
    paths = [tuple(files.root / file.path for file in pair.files) for pair in files.pairs]
    draw = random.Random(0)

    def read(read_one: Callable[[Path, int], Array]) -> None:
        for s2, s1 in draw.choices(paths, k=reads):
            read_one(s2, draw.randrange(len(S2_BANDS)))
            read_one(s1, draw.randrange(len(S1_BANDS)))

    def read_tuned() -> None:
        with gdal_environment():
            read(_read_one_band)

    return {"default": lambda: seconds(lambda: read(_read_all), _CPU), "tuned": lambda: seconds(read_tuned, _CPU)}


def _read_all(path: Path, band: int) -> Array:
    with rasterio.open(path) as source:
        image: Array = source.read()[band]
    return image


def _read_one_band(path: Path, band: int) -> Array:
    with rasterio.open(path) as source:
        image: Array = source.read(band + 1)
    return image


def _file_kib_per_pair(files: MadeUpScenes) -> float:
    return mean(sum((files.root / file.path).stat().st_size for file in pair.files) for pair in files.pairs) / 1024


# Scenes and stores


@contextmanager
def made_up_scenes(count: int, *, rounds: int, progress: Progress, synthesised: int = 32) -> Iterator[MadeUpScenes]:
    """Write scenes to a temporary folder, prepare them, and remove everything at the end.

    Args:
        count: number of scenes.
        rounds: how often the conversion is timed.
        progress: where a line says what is being measured.
        synthesised: how many of them differ; the rest are copies.

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
        progress.note(f"writing {count} made-up scenes")
        root = _write(folder / "made-up", count, synthesised)
        speeds = []
        for attempt in range(rounds):
            progress.note(f"preparing them, round {attempt + 1} of {rounds}")
            shutil.rmtree(folder / f"store-{attempt - 2}", ignore_errors=True)
            summary = prepare("sen12ms", root, folder / f"store-{attempt}", workers=1)
            speeds.append(summary.stored / summary.seconds)
        pairs = get_layout("sen12ms").scan(root, False).scenes
        yield MadeUpScenes(root, pairs, folder / f"store-{rounds - 1}", median(speeds))


def _write(root: Path, count: int, synthesised: int) -> Path:
    write_sen12ms(root, scenes=(_SCENE,), patches=min(count, synthesised))
    season, number = _SCENE.split("/")
    for sensor in ("s1", "s2"):
        stem = root / season / f"{sensor}_{number}" / f"{season}_{sensor}_{number}_p"
        for patch in range(synthesised + 1, count + 1):
            shutil.copyfile(f"{stem}{(patch - 1) % synthesised + 1}.tif", f"{stem}{patch}.tif")
    return root


# Bytes of a pair


def copied_kib_per_pair(store: Store, recipe: Recipe) -> float:
    """Return the mean KiB of the two tiles that the loader copies for a pair, over the first epoch."""
    plan = Plan.for_recipe(store, recipe)
    tile_bytes = np.array([group.height * group.width * group.dtype.itemsize for group in store.groups])
    scenes = np.concatenate([plan.step(step).scene for step in range(plan.steps_per_epoch)])
    return float(2 * tile_bytes[store.scene_group[scenes]].mean()) / 1024


def disk_kib_per_pair(store: Store, recipe: Recipe, *, counters: Path = _COUNTERS) -> float | None:
    """Return the KiB that the kernel reads from the disk for a pair when nothing of the store is in the page cache.

    Reads no scene twice. Another process that has the store mapped keeps its pages in the cache, which makes the result
    too small.

    Args:
        store: opened, and not mapped yet.
        recipe: says which pairs are read.
        counters: where the kernel counts the bytes that this process reads.

    Returns:
        None where the kernel does not tell: not Linux, or a file system without a disk.
    """
    if not counters.is_file():
        return None
    plan, tiles = Plan.for_recipe(store, recipe), MappedTiles(store)
    side, wide = max_tile_px(store, plan.usable), codes_dtype(store, plan.usable) != torch.uint8
    out = np.zeros((recipe.global_batch, side, side), np.int32 if wide else np.uint8)
    steps = min(plan.steps_per_epoch, max(1, _ENOUGH_PAIRS // recipe.global_batch))
    _forget_pages(store)
    before = _fetched_bytes(counters)
    for step in range(steps):
        share = plan.step(step)
        bands = (share.first_band, share.second_band)
        for band in bands:
            tiles.announce(share.scene, band)
        for band in bands:
            tiles.gather(share.scene, band, out)
    fetched = _fetched_bytes(counters) - before
    return fetched / (steps * recipe.global_batch) / 1024 or None


def _forget_pages(store: Store) -> None:
    for path in {shard.path for group in store.groups for shard in group.shards}:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not yet on the disk would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _fetched_bytes(counters: Path) -> int:
    counts = dict(line.split(": ") for line in counters.read_text().splitlines())
    return int(counts["read_bytes"])
