"""Pairs a second and bytes a pair: our loader beside rasterio, both on one core and from the page cache.

Default rasterio reading opens both files of a scene and reads all their bands, as a data set class written without
thought of speed does; tuned reading is rasterio's best: one band of each, with the GDAL settings that ``prepare`` uses.
The references hand out one pair after the other; the loader hands out batches with everything a step needs.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import rasterio
import torch

from eo_backbones.bands import S1_BANDS, S2_BANDS
from eo_backbones.datasets.raster import gdal_environment
from eo_backbones_train.bench.bytes_read import copied_kib_per_pair, disk_kib_per_pair
from eo_backbones_train.bench.scenes import MadeUpScenes
from eo_backbones_train.bench.timing import in_turn, seconds, times_faster
from eo_backbones_train.codings import Array
from eo_backbones_train.loader import PREFETCH, Loader
from eo_backbones_train.recipes import get_recipe
from eo_backbones_train.store import Store

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingFigures:
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
) -> LoadingFigures:
    """Measure the loader on a store, and rasterio on the files that the store was made from.

    Args:
        folder: the store.
        files: its files; None for a store whose files are not at hand.
        batch: pairs in a batch.
        batches: batches of a round.
        reads: pairs that each reference reads in a round.
        rounds: the figures are medians over these.

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
    return LoadingFigures(
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


def loader_stopwatch(loader: Loader, batches: int) -> Callable[[], float]:
    """Return a stopwatch over the next ``batches`` batches; those that are ready already are not among them."""
    next_step = 0

    def take(count: int) -> None:
        nonlocal next_step
        for step in range(next_step, next_step + count):
            loader.batch(step)
        next_step += count

    def stopwatch() -> float:
        take(PREFETCH + 1)
        return seconds(lambda: take(batches), _CPU)

    return stopwatch


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
