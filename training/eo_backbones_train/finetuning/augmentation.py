"""Augmentation of labelled images: the trainer's views with what leaves the meaning of an image alone.

Flips along both axes, rotation by any angle, a square crop of 70 to 100 % of the area: an image from above has no
upright side. No blur, brightness or contrast: absolute values tell land covers apart. All bands of an image, and the
map of its classes, get the same view.
"""

import numpy as np
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
        """Return views ``(B, bands, size, size)`` of model inputs ``(B, bands, H, W)``."""
        return self._view(images, self._decode, step)

    def with_maps(self, images: Tensor, maps: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return views of square pieces of images, and of the same pieces of their maps.

        The pieces are ``size`` pixels a side, drawn anew each time: nothing is shrunk but what the view's own crop is
        enlarged by (up to a fifth).

        Args:
            images: model inputs ``(B, bands, H, W)``, neither side below ``size``.
            maps: class numbers, int64 ``(B, H, W)``, another number where there is none.
            step: counted from 0.
        """
        batch, bands, height, width = images.shape
        size = self._views.size_px
        draw = np.random.default_rng([self._seed, step])
        tops, lefts = (draw.integers(0, side - size + 1, batch) for side in (height, width))
        images, maps = (
            torch.stack([own[..., y : y + size, x : x + size] for own, y, x in zip(tensor, tops, lefts, strict=True)])
            for tensor in (images, maps)
        )
        # a plane for each class and one for "none": the class of a pixel of the view is that of most of its weight
        numbers = torch.unique(maps)
        planes = (maps[:, None] == numbers[:, None, None]).float()
        share = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0, float("nan")]], device=images.device)
        decode = torch.cat([self._decode, share.expand(len(numbers), -1)])
        views = self._view(torch.cat([images, planes], dim=1), decode, step)
        return views[:, :bands], numbers[views[:, bands:].argmax(dim=1)]

    def _view(self, planes: Tensor, decode: Tensor, step: int) -> Tensor:
        """Return the same view of all planes of an image, each decoded in its own way."""
        batch, number, height, width = planes.shape
        params = draw_view_params(self._views, seed=self._seed, step=step, global_batch=batch)[0].to(planes.device)
        views = make_views(
            planes.flatten(0, 1)[None],
            torch.tensor([height, width], device=planes.device).float().expand(1, batch * number, 2),
            decode.repeat(batch, 1)[None],
            params.repeat_interleave(number, dim=0)[None],
            self._views.size_px,
        )
        return views.view(batch, number, self._views.size_px, self._views.size_px)
