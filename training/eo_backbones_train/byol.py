"""BYOL (Grill et al., arXiv 2006.07733) between two sensors, as in Jain et al., IGARSS 2021.

In the papers' symbols: the online network is encoder f, projector g and predictor q; the target network f', g' is a
moving average of f, g and gets no gradient. x1 is the Sentinel-2 view, x2 the Sentinel-1 view.

* ``one-directional``, equation 1 of IGARSS 2021: q(g(f(x1))) points at g'(f'(x2)).
* ``symmetric``, BYOL's: both directions, their losses summed.

With ``separate`` passes, one direction needs one pass of each network, and the online network never sees radar. With
``joint`` every pass holds both sensors, so the halves that the loss leaves out still shape the batch statistics.
"""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from eo_backbones_train.forward_passes import StepOutput, per_sensor
from eo_backbones_train.heads import predictor, projector
from eo_backbones_train.losses import squared_distance
from eo_backbones_train.recipe import ModelPart, TargetPart
from eo_backbones_train.trained_stages import embed, width


class BYOL(nn.Module):
    """Online and target network; ``forward`` holds all passes of a step, and ``encoder`` is what a run is for."""

    def __init__(
        self,
        encoder: nn.Module,
        *,
        model: ModelPart,
        target: TargetPart,
        loss: Literal["symmetric", "one-directional"],
    ) -> None:
        """Build the heads and copy the target.

        Args:
            encoder: maps [N, 1, H, W] to [N, ``encoder.num_features``].
            model: sizes of the heads, how batches are normalised, and the stages that are trained.
            target: says what happens to the target's BatchNorm buffers; its decay comes with every step.
            loss: the directions that are learnt.
        """
        super().__init__()
        self.encoder = encoder
        features = width(encoder, model.trained_stages)
        assert model.projector_layers, "a recipe of this method has heads"
        self.projector = projector(features, model.projector_hidden, model.projector_out, layers=model.projector_layers)
        self.predictor = predictor(model.projector_out, model.predictor_hidden, model.projector_out)
        self.target_encoder = deepcopy(self.encoder).requires_grad_(False)
        self.target_projector = deepcopy(self.projector).requires_grad_(False)
        self._passes, self._symmetric, self._buffer_policy = model.batch_norm, loss == "symmetric", target.buffers
        self._stages = model.trained_stages

    def forward(self, views: Tensor) -> StepOutput:
        """Compute the loss of a step from the views [2, B, 1, H, W] (Sentinel-2, Sentinel-1)."""
        one_sensor_each = not self._symmetric and self._passes == "separate"
        x1, x2 = (views[:1], views[1:]) if one_sensor_each else (views, views)
        y = per_sensor(lambda images: embed(self.encoder, self._stages, images, follow=True), x1, self._passes)
        p = per_sensor(self.predictor, per_sensor(self.projector, y, self._passes), self._passes)
        with torch.no_grad():
            target_y = per_sensor(lambda images: embed(self.target_encoder, self._stages, images), x2, self._passes)
            target_z = per_sensor(self.target_projector, target_y, self._passes)
        # 2: a sum over the directions, not their mean.
        loss = 2 * squared_distance(p, target_z.flip(0)) if self._symmetric else squared_distance(p[0], target_z[-1])
        return StepOutput(loss, (torch.cat([y, target_y]) if one_sensor_each else y).detach())

    @torch.no_grad()
    def update_target(self, decay: Tensor) -> None:
        """Move the target towards the online network: ``target = decay * target + (1 - decay) * online``.

        Args:
            decay: scalar tensor on the module's device (a number would be frozen into a CUDA graph).
        """
        online = nn.ModuleList([self.encoder, self.projector])
        target = nn.ModuleList([self.target_encoder, self.target_projector])
        moving = [
            (own, average)
            for own, average in zip(online.parameters(), target.parameters(), strict=True)
            if own.requires_grad  # stages that are not trained are the same in both
        ]
        sources: list[Tensor] = [own for own, _ in moving]
        averages: list[Tensor] = [average for _, average in moving]
        if self._buffer_policy == "average":
            sources += [buffer for buffer in online.buffers() if buffer.is_floating_point()]
            averages += [buffer for buffer in target.buffers() if buffer.is_floating_point()]
        elif self._buffer_policy == "copy":
            torch._foreach_copy_([*target.buffers()], [*online.buffers()])
        weight = (1 - decay).to(averages[0].dtype)
        torch._foreach_lerp_(averages, sources, [weight] * len(averages))
