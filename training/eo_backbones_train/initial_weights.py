"""What an encoder starts from, where it does not start at random: weights of photographs, of a row, of a folder.

A recipe names them by what they are, not by where they lie: a Hub repository, a row, or the digest of their tensors.
The digest covers names, types, shapes and values of the network without its classifier, so it is the same whatever file
they came in. A stem of three channels is folded into one by summing its kernels, which is exact for a band that is
copied to all three.
"""

import copy
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from eo_backbones import hub
from eo_backbones.architectures import architecture as described
from eo_backbones.errors import UserError
from eo_backbones.evaluation.baselines import fold_input_channels
from eo_backbones.models import create_model
from eo_backbones_train.recipe import RANDOM, ModelPart, Recipe
from eo_backbones_train.recipe_json import override
from eo_backbones_train.run.checkpoint import state_digest

DIGEST_PREFIX = "sha256:"
_UNKNOWN_LICENCES = (None, "", "unknown")
_PROBE_PX = 64


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class InitialWeights:
    """Weights that were read to start from.

    Attributes:
        network: without classifier, with the input channels it was saved with.
        source: the public name they were found under; ``"local-dir"`` for a folder, whose path is nobody's business.
        architecture: timm's name.
        license: as the source states it.
        digest: ``sha256:`` and the digest of the network's tensors.
    """

    network: nn.Module
    source: str
    architecture: str
    license: str
    digest: str

    def encoder(self) -> nn.Module:
        """Return a copy of the network that takes one channel."""
        network = copy.deepcopy(self.network)
        return network if _stem(network).in_channels == 1 else fold_input_channels(network)

    def record(self) -> dict[str, str]:
        """Return what checkpoint, ``recipe.json`` and card say about them."""
        return {
            "source": self.source,
            "architecture": self.architecture,
            "license": self.license,
            "tensors": self.digest,
        }


def initial_weights(model: ModelPart, source: str | None = None) -> InitialWeights | None:
    """Return the weights that a recipe starts from, or None for a random start.

    Args:
        model: names them.
        source: where to read them; None: at the place that ``model.init`` names.

    Raises:
        UserError: they cannot be read, their licence is not stated, or they are not those that the recipe names.
    """
    if model.init == RANDOM:
        return None
    if source is None and model.init.startswith(DIGEST_PREFIX):
        raise UserError(
            f"this recipe starts from weights of {model.architecture} whose tensors have the digest {model.init}; say "
            "where they are with --init local-dir:PATH or --init hf-hub:ORG/NAME"
        )
    found = read_weights(source or model.init)
    if found.architecture != model.architecture:
        raise UserError(
            f"{source or model.init} holds a {found.architecture}, the recipe trains a {model.architecture}; "
            f"pass other weights, or --set model.architecture={found.architecture}"
        )
    if model.init.startswith(DIGEST_PREFIX) and found.digest != model.init:
        raise UserError(
            f"the tensors of {source} have the digest {found.digest}, the recipe starts from {model.init}; pass its "
            "weights with --init"
        )
    return found


def starting_from(recipe: Recipe, source: str) -> Recipe:
    """Return the recipe with another start, its name marked as modified; unchanged if the weights are its own.

    Args:
        recipe: where to begin.
        source: ``random``, ``hf-hub:ORG/NAME``, ``local-dir:PATH`` or a row. A folder is named by its tensors' digest.

    Raises:
        UserError: the source cannot be read, or the recipe cannot start from it.
    """
    if source == RANDOM:
        return override(recipe, [f"model.init={RANDOM}"]) if recipe.model.init != RANDOM else recipe
    found = read_weights(source)
    if recipe.model.init in (source, found.digest):
        return recipe
    public = not source.startswith(hub.LOCAL_PREFIX)
    return override(recipe, [f"model.init={source if public else found.digest}"])


def read_weights(source: str) -> InitialWeights:
    """Read weights by the name of their source.

    Raises:
        UserError: whatever is wrong with the name or the files; a licence that is not stated; no convolutional stem.
    """
    config = hub.resolve(source, with_weights=False).config
    license_id = config.pretrained_cfg.get("license")
    if license_id in _UNKNOWN_LICENCES:
        raise UserError(
            f"{source} states no licence, and what is trained from it would inherit an unknown one; write it as "
            "'license' into pretrained_cfg of its config.json if you know it"
        )
    network = create_model(source, num_classes=0)
    _check_convolutional(network, config.architecture)
    return InitialWeights(
        network=network,
        source=hub.LOCAL_PREFIX.rstrip(":") if source.startswith(hub.LOCAL_PREFIX) else source,
        architecture=config.architecture,
        license=str(license_id),
        digest=DIGEST_PREFIX + state_digest(network),
    )


def one_channel_network(architecture: str) -> nn.Module:
    """Return timm's network of that name with random weights, one input channel and no classifier.

    Raises:
        UserError: timm has no such architecture, or it is no convolutional network.
    """
    described(architecture)  # says so if timm has none
    network: nn.Module = timm.create_model(architecture, pretrained=False, in_chans=1, num_classes=0)
    _check_convolutional(network, architecture)
    return network


def keep_batch_norm_statistics(network: nn.Module) -> None:
    """Let every BatchNorm of a network normalise by its running statistics and never change them, in training too.

    Scale and offset are still trained. A copy of the network does the same.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(_leave_train_mode)


def _leave_train_mode(module: nn.Module, _: Any) -> None:
    module.training = False


def _stem(network: nn.Module) -> nn.Conv2d:
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d))


def _check_convolutional(network: nn.Module, architecture: str) -> None:
    """Refuse what does not turn an image of any size into a map [N, C, H, W] by convolutions."""
    place = network.pretrained_cfg.get("first_conv")  # type: ignore[union-attr, operator]  # timm's plain data
    stem = network.get_submodule(place) if isinstance(place, str) and place else None
    if not isinstance(stem, nn.Conv2d) or _map_of(network, stem.in_channels) is None:
        raise UserError(
            f"model.architecture is {architecture}, which does not begin with a convolution or gives no map for images "
            "of any size; take a convolutional network of timm, such as resnet50 or tf_efficientnet_lite0"
        )


def _map_of(network: nn.Module, channels: int) -> Tensor | None:
    training = network.training
    try:
        with torch.no_grad():
            maps = network.eval().forward_features(torch.zeros(1, channels, _PROBE_PX, _PROBE_PX))  # type: ignore[operator]
    except (AssertionError, RuntimeError):  # how vision transformers refuse a size
        return None
    finally:
        network.train(training)
    return maps if isinstance(maps, Tensor) and maps.ndim == 4 and maps.shape[1] == network.num_features else None
