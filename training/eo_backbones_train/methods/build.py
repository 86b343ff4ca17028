"""From a recipe to the module that is trained."""

import timm
from torch import nn

from eo_backbones.networks.initialisation import STAGES, average_when_downsampling
from eo_backbones_train.methods.byol import BYOL
from eo_backbones_train.methods.simsiam import SimSiam
from eo_backbones_train.recipes.recipe import ModelPart, Recipe


def build_method(recipe: Recipe, encoder: nn.Module | None = None) -> BYOL | SimSiam:
    """Return BYOL or SimSiam with fresh weights, drawn from torch's global generator.

    Args:
        recipe: the values.
        encoder: instead of the ResNet50, for tests: [N, 1, H, W] -> [N, ``encoder.num_features``].
    """
    if encoder is None:
        encoder = fresh_encoder(recipe.model)
    if recipe.target is None:
        return SimSiam(encoder, model=recipe.model, loss=recipe.loss)
    return BYOL(encoder, model=recipe.model, target=recipe.target, loss=recipe.loss)


def fresh_encoder(model: ModelPart) -> nn.Module:
    """Return the ResNet50 as a recipe starts it; stages that the recipe does not train require no gradient."""
    # timm starts the last BatchNorm of each block at zero (zero_init_last), as SimSiam's reference code does.
    encoder: nn.Module = timm.create_model("resnet50", pretrained=False, in_chans=1, num_classes=0)
    average_when_downsampling(encoder, after=model.trained_stages)
    for number in range(model.trained_stages + 1, STAGES + 1):
        encoder.get_submodule(f"layer{number}").requires_grad_(False)
    return encoder
