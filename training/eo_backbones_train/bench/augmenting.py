"""Views: all of a batch at once, beside torchvision's operations image by image. Both on one thread, in float32.

One thread, because image by image work is spread over processes, one per core, and ours over threads. The reference
gets tiles that are decoded already; ours decodes them. Its Gaussian reaches as far as ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2 as torchvision_v2

from eo_backbones_train.bench.timing import in_turn, seconds, times_faster
from eo_backbones_train.data.loader import Batch, Loader
from eo_backbones_train.data.views import draw_view_params, make_views
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.recipe import ViewPart
from eo_backbones_train.store.store import Store

v2: Any = torchvision_v2  # it does not mark what it exports, which strict typing asks for

_CPU = torch.device("cpu")
_BLUR_REACH = 2.75  # in deviations, as in eo_backbones_train.data.views
_RECIPE, _PAPER_RECIPE = "byol-full", "byol-sen12ms-90k"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewMetrics:
    """What was measured.

    Attributes:
        views_size_px: side of the views.
        views_us: microseconds for one of our views, its random numbers included, with the views of ``byol-full``.
        views_torchvision_us: the same of the reference: flips, rotation, blur, crop and resize, in the paper's order.
        views_ratio: their time over ours.
        views_ratio_paper: the same with the views of the paper's recipes, which blur less often and less strongly.
        views_ratio_crop_first: against a reference that crops first. It has less to compute, and is something else: its
            rotated views have empty corners, and it blurs pixels of the view.
    """

    views_size_px: int
    views_us: float
    views_torchvision_us: float
    views_ratio: float
    views_ratio_paper: float
    views_ratio_crop_first: float


def measure_views(folder: Path, *, pairs: int, rounds: int) -> ViewMetrics:
    """Measure both on tiles of a store.

    Args:
        folder: the store.
        pairs: pairs in a batch.
        rounds: results are medians over these.
    """
    ours, paper = get_recipe(_RECIPE), get_recipe(_PAPER_RECIPE)
    loader = Loader(Store.open(folder), replace(ours, global_batch=pairs), device=_CPU)
    try:
        batch = loader.batch(0)
        tiles = torch.rand(2 * pairs, 1, *batch.codes.shape[-2:])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            times = in_turn(
                {
                    "ours": _batched(batch, ours.views),
                    "torchvision": _one_by_one(tiles, ours.views, crop_first=False),
                    "crop first": _one_by_one(tiles, ours.views, crop_first=True),
                    "ours, paper": _batched(batch, paper.views),
                    "torchvision, paper": _one_by_one(tiles, paper.views, crop_first=False),
                },
                rounds=rounds,
            )
        finally:
            torch.set_num_threads(threads)
    finally:
        loader.close()
    return ViewMetrics(
        views_size_px=ours.views.size_px,
        views_us=median(times["ours"]) / (2 * pairs) * 1e6,
        views_torchvision_us=median(times["torchvision"]) / (2 * pairs) * 1e6,
        views_ratio=times_faster(times["torchvision"], times["ours"]),
        views_ratio_paper=times_faster(times["torchvision, paper"], times["ours, paper"]),
        views_ratio_crop_first=times_faster(times["crop first"], times["ours"]),
    )


def torchvision_views(views: ViewPart, *, crop_first: bool) -> Callable[[Tensor], Tensor]:
    """Return torchvision's operations with the ranges and probabilities of a recipe, for one image [1, H, W]."""
    crop = v2.RandomResizedCrop(views.size_px, views.crop_scale, ratio=(1, 1), antialias=True)
    rotation = v2.RandomRotation(views.rotation_degrees, interpolation=v2.InterpolationMode.BILINEAR)
    kernel_px = 2 * round(_BLUR_REACH * views.blur_sigma[1]) + 1
    rest = [
        v2.RandomVerticalFlip(views.flip_p),
        v2.RandomHorizontalFlip(views.flip_p),
        v2.RandomApply([rotation], views.rotation_p),
        v2.RandomApply([v2.GaussianBlur(kernel_px, views.blur_sigma)], views.blur_p),
    ]
    transform: Callable[[Tensor], Tensor] = v2.Compose([crop, *rest] if crop_first else [*rest, crop])
    return transform


def _batched(batch: Batch, views: ViewPart) -> Callable[[], float]:
    step = 0

    def work() -> None:
        nonlocal step
        params = draw_view_params(views, seed=0, step=step, global_batch=batch.codes.shape[1])
        make_views(batch.codes, batch.extent, batch.decode, params, views.size_px)
        step += 1

    return lambda: seconds(work, _CPU)


def _one_by_one(tiles: Tensor, views: ViewPart, *, crop_first: bool) -> Callable[[], float]:
    transform = torchvision_views(views, crop_first=crop_first)
    return lambda: seconds(lambda: torch.stack([transform(tile) for tile in tiles]), _CPU)
