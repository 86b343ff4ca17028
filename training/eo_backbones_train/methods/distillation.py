"""Distillation of a frozen network into one that reads a single band (Hinton et al., arXiv 1503.02531, on features).

Teacher and encoder start from the same weights, which were trained on photographs. The teacher keeps them, and sees an
optical image of the scene. The encoder sees one optical band and another band, or radar, of an overlapping crop, and
learns to give the teacher's features for both. So it keeps what works for the optical band, and the features of other
bands move towards it: BYOL (Grill et al., arXiv 2006.07733) with a target that never moves, and without heads, because
the features themselves should agree.

The features of a network differ in scale by orders of magnitude. Standardised by the teacher's mean and standard
deviation, which are estimated during training, all of them have the same weight.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eo_backbones.errors import UserError
from eo_backbones_train.methods.modules import Passes, StepOutput, negative_cosine, per_sensor
from eo_backbones_train.recipes.recipe import TeacherPart

_MIN_MOMENTUM = 1e-3  # weight of a batch in the running mean and variance, after the first thousand batches
_MIN_DEVIATION = 1e-6  # for a feature that is constant, which then does not count


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
            encoder_sizes_px: sides of what the encoder gets, as in :class:`eo_backbones_train.recipes.recipe.ViewPart`.

        Raises:
            UserError: ``part.sees`` is ``"colour"``, and the teacher has one channel.
        """
        super().__init__()
        self.encoder = encoder
        self.teacher = teacher.requires_grad_(False).eval()
        self._channels = next(module for module in teacher.modules() if isinstance(module, nn.Conv2d)).in_channels
        if part.sees == "colour" and self._channels == 1:
            raise UserError("teacher.sees is colour, but model.init takes one band; set teacher.sees=view")
        self._sizes, self._standardize, self._passes = part.sizes_px, part.standardize, passes
        self._contrast, self._temperature = part.contrast, part.temperature
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
                self._update_statistics(target)
                target = self._standardized(target)
        learned = self._standardized(features) if self._standardize else features
        loss = 1 + negative_cosine(learned, target.expand_as(learned))
        if self._contrast:
            loss = loss + self._contrast * info_nce(learned, target, temperature=self._temperature)
        return StepOutput(loss, features.detach().float())

    def _features(self, views: Tensor) -> Tensor:
        """Return the encoder's features [2, B, D] of views [2, B, 1, H, W], each share of the pairs at its size."""
        shares = views.chunk(max(len(self._encoder_sizes), 1), dim=1)
        sizes = self._encoder_sizes or (views.shape[-1],)
        parts: list[Tensor] = []
        for size in dict.fromkeys(sizes):  # one pass for each size
            own = [share for share, wanted in zip(shares, sizes, strict=True) if wanted == size]
            own_views = torch.cat(own, dim=1)
            resized = _resized(own_views.flatten(0, 1), size)
            parts += per_sensor(self.encoder, resized.reshape(*own_views.shape[:3], size, size), self._passes).chunk(
                len(own), dim=1
            )
        order = [place for size in dict.fromkeys(sizes) for place, wanted in enumerate(sizes) if wanted == size]
        return torch.cat([parts[order.index(place)] for place in range(len(sizes))], dim=1)

    def _target(self, channels: Tensor) -> Tensor:
        """Return the teacher's features [B, D] of images with the channels [1 or 3, B, 1, H, W]."""
        images = channels.squeeze(2).transpose(0, 1).expand(-1, self._channels, -1, -1)
        total = torch.zeros_like(self.mean)
        for size in self._sizes:
            total = total + self.teacher(_resized(images, size)).to(total.dtype)
        return total / len(self._sizes)

    def _update_statistics(self, target: Tensor) -> None:
        """Add a batch to the running mean and variance: a plain average at first, a moving one later."""
        self.batches += 1
        weight = (1 / self.batches).clamp_min(_MIN_MOMENTUM).to(self.mean.dtype)
        self.mean.lerp_(target.mean(dim=0), weight)
        self.variance.lerp_((target - self.mean).square().mean(dim=0), weight)

    def _standardized(self, features: Tensor) -> Tensor:
        return (features.to(self.mean.dtype) - self.mean) / self.variance.sqrt().clamp_min(_MIN_DEVIATION)


def _resized(images: Tensor, size: int) -> Tensor:
    """Return images [N, C, H, W] resized to ``size`` pixels a side, channels last."""
    if size != images.shape[-1]:
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


def info_nce(features: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Return how badly the features of each view tell their own target from those of the rest of the batch.

    The cross-entropy of choosing among the B targets by cosine (van den Oord et al., arXiv 1807.03748, equation 4).

    Args:
        features: [V, B, D].
        target: [B, D]; no gradient flows into it.
        temperature: cosines are divided by it.

    Returns:
        scalar, 0 at best; log(B) where the features say nothing.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    own = F.normalize(features.to(dtype), dim=-1)
    logits = own @ F.normalize(target.detach().to(dtype), dim=-1).T / temperature
    places = torch.arange(len(target), device=target.device).expand(len(features), -1)
    return F.cross_entropy(logits.flatten(0, 1), places.flatten())
