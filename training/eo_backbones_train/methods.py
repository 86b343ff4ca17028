"""From a recipe to the module that is trained."""

import timm
from torch import nn

from eo_backbones_train.byol import BYOL
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.simsiam import SimSiam


def build_method(recipe: Recipe, encoder: nn.Module | None = None) -> BYOL | SimSiam:
    """Return BYOL or SimSiam with fresh weights, drawn from torch's global generator.

    Args:
        recipe: the values.
        encoder: instead of the ResNet50, for tests: [N, 1, H, W] -> [N, ``encoder.num_features``].
    """
    if encoder is None:
        # timm starts the last BatchNorm of each block at zero (zero_init_last), as SimSiam's reference code does.
        encoder = timm.create_model("resnet50", pretrained=False, in_chans=1, num_classes=0)
    if recipe.target is None:
        return SimSiam(encoder, model=recipe.model, loss=recipe.loss)
    return BYOL(encoder, model=recipe.model, target=recipe.target, loss=recipe.loss)
