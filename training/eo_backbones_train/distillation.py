"""Distillation of a frozen network into one that reads a single band (Hinton et al., arXiv 1503.02531, on features).

Teacher and encoder start from the same weights, those that photographs taught. The teacher keeps them, and sees an
optical picture of the scene. The encoder sees one optical band and another band, or radar, of an overlapping crop, and
learns to give the teacher's features for both. So it stays what it was where that is good, and other bands are drawn
to it: BYOL (Grill et al., arXiv 2006.07733) with a target that never moves, and without heads, because the features
themselves are to agree.

Features of a network differ in scale by orders of magnitude. Standardised by the teacher's mean and deviation, which
are estimated while training, each counts alike.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eo_backbones.errors import UserError
from eo_backbones_train.forward_passes import Passes, StepOutput, per_sensor
from eo_backbones_train.losses import negative_cosine
from eo_backbones_train.recipe import TeacherPart

_SLOWEST = 1e-3  # share of a batch in the running mean and deviation, once a thousand batches have been seen
_SMALLEST_DEVIATION = 1e-6  # of a feature that never differs; it then counts as nothing


class Distillation(nn.Module):
    """Frozen teacher and trained encoder; ``forward`` holds all passes of a step, ``encoder`` is what a run is for."""

    def __init__(
        self,
        encoder: nn.Module,
        teacher: nn.Module,
        *,
        part: TeacherPart,
        passes: Passes,
        encoder_sizes_px: Sequence[int] = (),
    ) -> None:
        """Freeze the teacher.

        Args:
            encoder: maps [N, 1, H, W] to [N, D].
            teacher: maps [N, C, H, W], C = 1 or 3, to [N, D].
            part: what the teacher sees.
            passes: whether both views of the encoder are in one pass.
            encoder_sizes_px: sides of what the encoder gets, as in :class:`eo_backbones_train.recipe.ViewPart`.

        Raises:
            UserError: the teacher is to see colours and has one channel.
        """
        super().__init__()
        self.encoder = encoder
        self.teacher = teacher.requires_grad_(False).eval()
        self._channels = next(module for module in teacher.modules() if isinstance(module, nn.Conv2d)).in_channels
        if part.sees == "colour" and self._channels == 1:
            raise UserError("teacher.sees is colour, but model.init takes one band; set teacher.sees=view")
        self._sizes, self._standardize, self._passes = part.sizes_px, part.standardize, passes
        self._encoder_sizes = encoder_sizes_px
        width = int(encoder.num_features)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.mean: Tensor
        self.variance: Tensor
        self.batches: Tensor

    def train(self, mode: bool = True) -> "Distillation":
        """Set the mode of the encoder; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, views: Tensor) -> StepOutput:
        """Compute the loss of a step, 1 - cos, in [0, 2].

        Args:
            views: [V, B, 1, H, W]: Sentinel-2, the other view, and where the teacher sees colours, its red, green and
                blue, which lie where the first view does.
        """
        features = self._features(views[:2])
        with torch.no_grad():
            target = self._target(views[2:] if len(views) > 2 else views[:1])
            if self._standardize:
                self._follow(target)
                target = self._standardized(target)
        learnt = self._standardized(features) if self._standardize else features
        return StepOutput(1 + negative_cosine(learnt, target.expand_as(learnt)), features.detach().float())

    def _features(self, views: Tensor) -> Tensor:
        """Return the encoder's features [2, B, D] of views [2, B, 1, H, W], each share of the pairs at its size."""
        shares = views.chunk(max(len(self._encoder_sizes), 1), dim=1)
        sizes = self._encoder_sizes or (views.shape[-1],)
        parts: list[Tensor] = []
        for size in dict.fromkeys(sizes):  # one pass for each size
            own = [share for share, wanted in zip(shares, sizes, strict=True) if wanted == size]
            shown = _resized(torch.cat(own, dim=1).flatten(0, 1), size)
            parts += per_sensor(self.encoder, shown.view(2, -1, *shown.shape[1:]), self._passes).chunk(len(own), dim=1)
        order = [place for size in dict.fromkeys(sizes) for place, wanted in enumerate(sizes) if wanted == size]
        return torch.cat([parts[order.index(place)] for place in range(len(sizes))], dim=1)

    def _target(self, channels: Tensor) -> Tensor:
        """Return the teacher's features [B, D] of pictures [1 or 3, B, 1, H, W]."""
        pictures = channels.squeeze(2).transpose(0, 1).expand(-1, self._channels, -1, -1)
        total = torch.zeros_like(self.mean)
        for size in self._sizes:
            total = total + self.teacher(_resized(pictures, size)).to(total.dtype)
        return total / len(self._sizes)

    def _follow(self, target: Tensor) -> None:
        """Take a batch into the running mean and variance: a plain average at first, a moving one later."""
        self.batches += 1
        weight = (1 / self.batches).clamp_min(_SLOWEST).to(self.mean.dtype)
        self.mean.lerp_(target.mean(dim=0), weight)
        self.variance.lerp_((target - self.mean).square().mean(dim=0), weight)

    def _standardized(self, features: Tensor) -> Tensor:
        return (features.to(self.mean.dtype) - self.mean) / self.variance.sqrt().clamp_min(_SMALLEST_DEVIATION)


def _resized(images: Tensor, size: int) -> Tensor:
    """Return images [N, C, H, W] at another side, channels last."""
    if size != images.shape[-1]:
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)
