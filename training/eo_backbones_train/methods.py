"""From a recipe to the module that is trained."""

from torch import nn

from eo_backbones.initialisation import STAGES, average_when_downsampling
from eo_backbones_train.byol import BYOL
from eo_backbones_train.distillation import Distillation
from eo_backbones_train.initial_weights import InitialWeights, keep_batch_norm_statistics, one_channel_network
from eo_backbones_train.recipe import ModelPart, Recipe
from eo_backbones_train.simsiam import SimSiam


def build_method(
    recipe: Recipe, encoder: nn.Module | None = None, *, initial: InitialWeights | None = None
) -> BYOL | SimSiam | Distillation:
    """Return the method with fresh weights, drawn from torch's global generator, or with those it starts from.

    Args:
        recipe: the values.
        encoder: instead of the recipe's, for tests: [N, 1, H, W] -> [N, ``encoder.num_features``].
        initial: the weights that the recipe starts from, where it does not start at random.
    """
    if encoder is None:
        encoder = fresh_encoder(recipe.model) if initial is None else initial.encoder()
    if recipe.model.batch_norm_statistics == "kept":
        keep_batch_norm_statistics(encoder)
    if recipe.teacher is not None:
        assert initial is not None, "a recipe with a teacher starts from its weights"
        return Distillation(
            encoder,
            initial.network,
            part=recipe.teacher,
            passes=recipe.model.batch_norm,
            encoder_sizes_px=recipe.views.encoder_sizes_px,
        )
    assert recipe.loss != "to-teacher", "a recipe without a teacher has another loss"
    if recipe.target is None:
        return SimSiam(encoder, model=recipe.model, loss=recipe.loss)
    return BYOL(encoder, model=recipe.model, target=recipe.target, loss=recipe.loss)


def fresh_encoder(model: ModelPart) -> nn.Module:
    """Return the encoder as a recipe starts it at random; what the recipe does not train asks for no gradient.

    Raises:
        UserError: timm has no such architecture, or it has no convolution to read one band with.
    """
    # timm starts the last BatchNorm of each block at zero (zero_init_last), as SimSiam's reference code does.
    encoder = one_channel_network(model.architecture)
    if model.trained_stages == STAGES:
        return encoder
    average_when_downsampling(encoder, after=model.trained_stages)
    for number in range(model.trained_stages + 1, STAGES + 1):
        encoder.get_submodule(f"layer{number}").requires_grad_(False)
    return encoder
