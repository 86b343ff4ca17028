"""Augmentation of labelled images: the trainer's views with what leaves the meaning of an image alone.

Flips along both axes, rotation by any angle, a square crop of 70 to 100 % of the area: an image from above has no
upright side. No blur, brightness or contrast: absolute values tell land covers apart. All bands of an image get the
same view.
"""

import torch
from torch import Tensor

from eo_backbones.contract import InputSpec
from eo_backbones_train.recipe import ViewPart
from eo_backbones_train.views import draw_view_params, make_views

_ANY_VALUE = 1e4  # bound for images that are normalised each by itself, whose values have no fixed range


class Augmentation:
    """Makes one view of each image; it depends on (seed, step, position in the batch) alone."""

    def __init__(self, spec: InputSpec, *, size_px: int, seed: int, device: torch.device) -> None:
        """Prepare for model inputs of the bands of ``spec``, ``size_px`` pixels wide and high."""
        self._views = ViewPart(
            size_px=size_px,
            crop_scale=(0.7, 1.0),
            flip_p=0.5,
            rotation_p=0.5,
            rotation_degrees=180.0,
            blur_p=0.0,
            blur_sigma=(0.0, 0.0),
            brightness=0.0,
            contrast=0.0,
        )
        self._seed = seed
        rows = []
        for entry in spec.bands:
            low, high = ((bound - entry.mean) / entry.std for bound in entry.clip)
            if spec.normalization == "image":
                low, high = -_ANY_VALUE, _ANY_VALUE
            rows.append((0.0, 1.0, 0.0, low, high, float("nan")))  # a value stands for itself, none for "missing"
        self._decode = torch.tensor(rows, device=device)

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """Return views ``(B, bands, size, size)`` of model inputs of the same shape."""
        batch, bands, height, width = images.shape
        params = draw_view_params(self._views, seed=self._seed, step=step, global_batch=batch)[0].to(images.device)
        views = make_views(
            images.flatten(0, 1)[None],
            torch.tensor([height, width], device=images.device).float().expand(1, batch * bands, 2),
            self._decode.repeat(batch, 1)[None],
            params.repeat_interleave(bands, dim=0)[None],
            self._views.size_px,
        )
        return views.view(batch, bands, self._views.size_px, self._views.size_px)
