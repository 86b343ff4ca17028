"""SimSiam (Chen & He, arXiv 2011.10566) between two sensors, as in Jain et al., IGARSS 2021.

In the papers' symbols: encoder and projector together are f (here y = encoder features, z = projections), the predictor
is h; z gets no gradient where it is the goal. x1 is the Sentinel-2 view, x2 the Sentinel-1 view.

* ``one-directional``, equation 1 of IGARSS 2021: p1 = h(z1) points at z2. Its 2 - 2 cos is 2 + 2 times the loss here.
* ``symmetric``, SimSiam's equation 2: half of each direction.

``joint`` and ``separate`` passes differ in BatchNorm's batch statistics; the one network sees both sensors either way.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from eo_backbones_train.forward_passes import StepOutput, per_sensor
from eo_backbones_train.heads import predictor, projector
from eo_backbones_train.losses import negative_cosine
from eo_backbones_train.recipe import ModelPart
from eo_backbones_train.trained_stages import embed, width


class SimSiam(nn.Module):
    """One network for both sides; ``forward`` holds all passes of a step, and ``encoder`` is what a run is for."""

    def __init__(self, encoder: nn.Module, *, model: ModelPart, loss: Literal["symmetric", "one-directional"]) -> None:
        """Build the heads.

        Args:
            encoder: maps [N, 1, H, W] to [N, ``encoder.num_features``].
            model: sizes of the heads, how batches are normalised, and the stages that are trained.
            loss: the directions that are learnt.
        """
        super().__init__()
        self.encoder = encoder
        features = width(encoder, model.trained_stages)
        assert model.projector_layers, "a recipe of this method has heads"
        self.projector = projector(features, model.projector_hidden, model.projector_out, layers=model.projector_layers)
        self.predictor = predictor(model.projector_out, model.predictor_hidden, model.projector_out)
        self._passes, self._symmetric = model.batch_norm, loss == "symmetric"
        self._stages = model.trained_stages

    def forward(self, views: Tensor) -> StepOutput:
        """Compute the loss of a step from the views [2, B, 1, H, W] (Sentinel-2, Sentinel-1)."""
        if not self._symmetric and self._passes == "separate":
            return self._one_pass_without_gradient(views)
        y = per_sensor(self._embed, views, self._passes)
        z = per_sensor(self.projector, y, self._passes)
        p = per_sensor(self.predictor, z, self._passes)
        # The mean over [2, B] is SimSiam's half of each direction.
        loss = negative_cosine(p, z.flip(0)) if self._symmetric else negative_cosine(p[0], z[1])
        return StepOutput(loss, y.detach())

    def _one_pass_without_gradient(self, views: Tensor) -> StepOutput:
        x1, x2 = views
        y1 = self._embed(x1)
        p1 = self.predictor(self.projector(y1))
        with torch.no_grad():
            y2 = self._embed(x2)
            z2 = self.projector(y2)
        return StepOutput(negative_cosine(p1, z2), torch.stack([y1.detach(), y2]))

    def _embed(self, images: Tensor) -> Tensor:
        return embed(self.encoder, self._stages, images, follow=True)
