"""A BYOL step from lightly's parts, put together as its example ``examples/pytorch/byol.py`` does, to compare with.

float32, images in NCHW order, one pass for each view, torch's Adam with default settings (the paper's optimiser; the
example has SGD). The encoder is ours: timm's ResNet50 with one channel.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Literal, cast

import timm
import torch
from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from eo_backbones_train.recipe import Recipe

_MOMENTUM = 0.99


class LightlyBYOL(nn.Module):
    """The module of the example."""

    def __init__(self, recipe: Recipe) -> None:
        """Build it with the recipe's head sizes."""
        super().__init__()
        model = recipe.model
        encoder = timm.create_model("resnet50", pretrained=False, in_chans=1, num_classes=0)
        self.backbone, features = encoder, cast("int", encoder.num_features)
        self.projection_head = BYOLProjectionHead(features, model.projector_hidden, model.projector_out)
        self.prediction_head = BYOLPredictionHead(model.projector_out, model.predictor_hidden, model.projector_out)
        self.backbone_momentum = deepcopy(self.backbone)
        self.projection_head_momentum = deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the prediction."""
        y = self.backbone(x).flatten(start_dim=1)
        prediction: Tensor = self.prediction_head(self.projection_head(y))
        return prediction

    def forward_momentum(self, x: Tensor) -> Tensor:
        """Return what is to be predicted."""
        y = self.backbone_momentum(x).flatten(start_dim=1)
        projection: Tensor = self.projection_head_momentum(y)
        return projection.detach()


def lightly_step(
    recipe: Recipe, loss: Literal["symmetric", "one-directional"], device: torch.device
) -> Callable[[Tensor], None]:
    """Return a function that trains on the views [2, B, 1, H, W].

    Args:
        recipe: sizes of the heads.
        loss: the example's, or only its first half.
        device: where the views are.
    """
    model = LightlyBYOL(recipe).to(device)
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.Adam(model.parameters())

    def step(views: Tensor) -> None:
        x0, x1 = views
        update_momentum(model.backbone, model.backbone_momentum, m=_MOMENTUM)
        update_momentum(model.projection_head, model.projection_head_momentum, m=_MOMENTUM)
        value = criterion(model(x0), model.forward_momentum(x1))
        if loss == "symmetric":
            value = 0.5 * (value + criterion(model(x1), model.forward_momentum(x0)))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
