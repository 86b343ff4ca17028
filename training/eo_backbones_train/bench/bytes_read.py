"""How many bytes of a store a pair costs: what the loader copies, and what the kernel reads from the disk for it."""

import os
from pathlib import Path

import numpy as np
import torch

from eo_backbones_train.plan import Plan
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.store import Store
from eo_backbones_train.tiles import MappedTiles, codes_dtype, tile_side

_ENOUGH_PAIRS = 2000
_COUNTERS = Path("/proc/self/io")


def copied_kib_per_pair(store: Store, recipe: Recipe) -> float:
    """Return the mean KiB of the two tiles that the loader copies for a pair, over the first epoch."""
    plan = _plan(store, recipe)
    tile_bytes = np.array([group.height * group.width * group.dtype.itemsize for group in store.groups])
    scenes = np.concatenate([plan.step(step).scene for step in range(plan.steps_per_epoch)])
    return float(2 * tile_bytes[store.scene_group[scenes]].mean()) / 1024


def disk_kib_per_pair(store: Store, recipe: Recipe) -> float | None:
    """Return the KiB that the kernel reads from the disk for a pair when nothing of the store is in the page cache.

    Reads no scene twice. Whoever else has the store mapped keeps its pages in the cache, and the figure is too small.

    Returns:
        None where the kernel does not tell: not Linux, or a file system without a disk.
    """
    if not _COUNTERS.is_file():
        return None
    plan, tiles = _plan(store, recipe), MappedTiles(store)
    side, wide = tile_side(store, plan.usable), codes_dtype(store, plan.usable) != torch.uint8
    out = np.zeros((recipe.global_batch, side, side), np.int32 if wide else np.uint8)
    steps = min(plan.steps_per_epoch, max(1, _ENOUGH_PAIRS // recipe.global_batch))
    _forget_pages(store)
    before = _fetched_bytes()
    for step in range(steps):
        share = plan.step(step)
        bands = (share.first_band, share.second_band)
        for band in bands:
            tiles.announce(share.scene, band)
        for band in bands:
            tiles.gather(share.scene, band, out)
    fetched = _fetched_bytes() - before
    return fetched / (steps * recipe.global_batch) / 1024 or None


def _plan(store: Store, recipe: Recipe) -> Plan:
    data = recipe.data
    return Plan(
        store,
        s2_bands=data.s2_bands,
        s1_bands=data.s1_bands,
        seed=recipe.seed,
        global_batch=recipe.global_batch,
        s2_s2_share=data.s2_s2_share,
    )


def _forget_pages(store: Store) -> None:
    for path in {shard.path for group in store.groups for shard in group.shards}:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not yet on the disk would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _fetched_bytes() -> int:
    counters = dict(line.split(": ") for line in _COUNTERS.read_text().splitlines())
    return int(counters["read_bytes"])
