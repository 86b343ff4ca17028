"""The parts that BYOL and SimSiam are made of: passes through the encoder, heads, losses."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eo_backbones.networks.initialisation import STAGES
from eo_backbones_train.recipes.recipe import ModelPart

Passes = Literal["joint", "separate"]


class StepOutput(NamedTuple):
    """What one step's forward pass returns.

    Attributes:
        loss: scalar.
        embeddings: [2, B, D] features of the Sentinel-2 and Sentinel-1 views that the loss sees, detached.
    """

    loss: Tensor
    embeddings: Tensor


def per_sensor(network: Callable[[Tensor], Tensor], views: Tensor, passes: Passes) -> Tensor:
    """Apply a network to the views of one or two sensors, in one pass or in one pass for each.

    The difference is BatchNorm, which normalises by the statistics of what is in the pass. Its running statistics,
    which evaluation uses, see every sensor that the network is given, either way.

    Args:
        network: maps [N, ...] to [N, D].
        views: [V, B, ...], one sensor after the other.
        passes: ``"joint"``: one call with V * B samples; ``"separate"``: V calls with B samples.

    Returns:
        [V, B, D].
    """
    if passes == "joint":
        return network(views.flatten(0, 1)).view(*views.shape[:2], -1)
    return torch.stack([network(view) for view in views])


def embed(encoder: nn.Module, trained_stages: int, images: Tensor, *, update_late_bn: bool = False) -> Tensor:
    """Return the features that the loss sees: the encoder's, or the mean over the last map of its first stages.

    Where images are few, late stages keep little more than what two sensors agree on
    (docs/decisions/0008). So a recipe can train the stem and the first stages alone and end there:
    the stages after them would only stand between them and the loss.

    Args:
        encoder: as in :func:`feature_width`; in train mode.
        trained_stages: how many of the four stages are trained.
        images: [N, 1, H, W].
        update_late_bn: let the BatchNorm statistics of the later stages see the batch; otherwise those stages are not
            computed.

    Returns:
        [N, :func:`feature_width`].
    """
    if trained_stages == STAGES:
        return cast("Tensor", encoder(images))
    (features,) = cast("Any", encoder).forward_intermediates(
        images, indices=[trained_stages], stop_early=True, intermediates_only=True
    )
    if update_late_bn:
        with torch.no_grad():
            late = features
            for number in range(trained_stages + 1, STAGES + 1):
                late = encoder.get_submodule(f"layer{number}")(late)
    return cast("Tensor", features.mean(dim=(2, 3)))


def feature_width(encoder: nn.Module, trained_stages: int) -> int:
    """Return the number of features that :func:`embed` gives.

    Args:
        encoder: with ``num_features``; timm's ``resnet50`` where not all stages are trained.
        trained_stages: how many of the four stages are trained.
    """
    if trained_stages == STAGES:
        return cast("int", encoder.num_features)
    return cast("Any", encoder).feature_info[trained_stages]["num_chs"]  # type: ignore[no-any-return]  # [0] is the stem


def build_heads(encoder: nn.Module, model: ModelPart) -> tuple[nn.Sequential, nn.Sequential]:
    """Return projector and predictor with fresh weights, in this order from torch's global generator."""
    assert model.projector_layers, "a recipe of a method with heads has them"
    features = feature_width(encoder, model.trained_stages)
    return (
        projector(features, model.projector_hidden, model.projector_out, layers=model.projector_layers),
        predictor(model.projector_out, model.predictor_hidden, model.projector_out),
    )


def projector(in_features: int, hidden: int, out: int, *, layers: Literal[2, 3]) -> nn.Sequential:
    """Return a projector from encoder features to the space in which views are compared.

    Two layers: Jain et al. (IGARSS 2021) and BYOL (section 3.3). Three: SimSiam (section 3, "projection MLP"), with a
    BatchNorm after every layer, the last without scale and offset (facebookresearch/simsiam, simsiam/builder.py).

    Here and in :func:`predictor`, a Linear layer before a BatchNorm has no bias, because the BatchNorm would remove it;
    reference codes differ (lightly and SimSiam leave it out, lucidrains/byol-pytorch keeps it).
    """
    if layers == 2:
        return predictor(in_features, hidden, out)
    return nn.Sequential(
        nn.Linear(in_features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out, bias=False),
        nn.BatchNorm1d(out, affine=False),
    )


def predictor(in_features: int, hidden: int, out: int) -> nn.Sequential:
    """Return the head Linear, BatchNorm, ReLU, Linear that the paper, BYOL and SimSiam use as predictor."""
    return nn.Sequential(
        nn.Linear(in_features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
    )


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Return the mean of ``-cos(p, z)`` over all vectors, in [-1, 1]: SimSiam's loss (Chen & He, equation 1).

    No gradient flows into ``z``.

    Args:
        p: predictions [..., D].
        z: what they should point at [..., D].
    """
    # At least float32: on a CPU autocast would leave it in bf16, which cannot tell losses closer than 0.4 % apart.
    dtype = torch.promote_types(p.dtype, torch.float32)
    return -F.cosine_similarity(p.to(dtype), z.detach().to(dtype), dim=-1).mean()


def squared_distance(p: Tensor, z: Tensor) -> Tensor:
    """Return the mean of ``2 - 2 cos(p, z)`` over all vectors, in [0, 4]: BYOL's loss.

    It is the squared distance of the normalised vectors (Grill et al., equation 2; Jain et al., equation 1), and
    differs from :func:`negative_cosine` by a constant and a factor only; Adam does not see the factor. No gradient
    flows into ``z``.
    """
    return 2 + 2 * negative_cosine(p, z)
