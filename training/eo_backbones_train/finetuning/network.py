"""The network to fine-tune: encoder and linear layer, or encoder and decoder; which parts train, and at which rates."""

from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.models import create_model
from eo_backbones.networks.multi_band import MultiBandClassifier
from eo_backbones.networks.segmentation import SegmentationNetwork
from eo_backbones_train.finetuning.settings import Settings


def build_network(settings: Settings, *, bands: tuple[str, ...], num_classes: int) -> nn.Module:
    """Return the network as it will be saved.

    A linear layer starts at zero, all classes equally likely; a decoder as its library has it. ``eo_input`` is the
    encoder's contract for these bands, ``eo_digest`` the sha256 of the weights it starts from.

    Raises:
        UserError: unknown or unpublished model, one without an input contract or for other bands; for segmentation
            also a missing extra, or an encoder without the feature maps.
    """
    torch.manual_seed(settings.seed)
    network: Any
    one_pass = settings.fuse == "early" or len(bands) == 1
    if one_pass and settings.task == "classification":
        network = create_model(settings.model, settings.pretrained, in_chans=len(bands), num_classes=num_classes)
        if isinstance(network, SegmentationNetwork):
            raise UserError(f"{settings.model} gives every pixel a class; pass the encoder that it was made from")
    else:
        channels = len(bands) if settings.fuse == "early" else 1
        encoder: Any = create_model(settings.model, settings.pretrained, in_chans=channels, num_classes=0)
        if settings.task == "segmentation":
            network = SegmentationNetwork(encoder, bands, settings.fuse, num_classes)
        else:
            assert settings.fuse != "early", "it needs one pass, as a network without fusion"
            network = MultiBandClassifier(encoder, bands, settings.fuse, num_classes)
        network.eo_digest = encoder.eo_digest
    spec = network.eo_input
    if not isinstance(spec, InputSpec):
        raise UserError(
            f"{settings.model} declares no input contract, so it is unknown which values it takes; pass another encoder"
        )
    network.eo_input = spec.narrowed(bands)
    if settings.task == "classification":
        layer = classifier_of(network)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return network  # type: ignore[no-any-return]


def classifier_of(network: nn.Module) -> nn.Linear:
    """Return the linear layer at the end."""
    layer = network.get_classifier()  # type: ignore[operator]  # as every network of timm has it
    if not isinstance(layer, nn.Linear):
        raise UserError(f"this model ends in a {type(layer).__name__}, not in one linear layer; take another one")
    return layer


def pooled_features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the inputs of the linear layer, ``(B, features)``."""
    features: Tensor = network.forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return features


def freeze(network: nn.Module, settings: Settings) -> None:
    """Freeze what the mode does not train.

    Raises:
        UserError: more stages than the encoder has.
    """
    if settings.mode == "full":
        return
    network.requires_grad_(False)
    new = _new_parameters(network)
    for parameter in new:
        parameter.requires_grad_(True)
    if settings.mode == "linear":
        return
    encoder = _encoder(network)
    stages = group_parameters(encoder, encoder.group_matcher(coarse=True))
    ids_of_new = {id(parameter) for parameter in new}
    by_name = dict(encoder.named_parameters())
    pretrained = [names for _, names in sorted(stages.items()) if id(by_name[names[0]]) not in ids_of_new]
    if settings.stages > len(pretrained):
        raise UserError(
            f"--stages is {settings.stages}, but the encoder has {len(pretrained)}; use --mode full to train all"
        )
    for names in pretrained[-settings.stages :]:
        for name in names:
            by_name[name].requires_grad_(True)


def train_mode(network: nn.Module) -> None:
    """Put what trains into training mode; frozen BatchNorm stays in eval mode and keeps its statistics."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters(recurse=False))
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def parameter_groups(network: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Return groups for AdamW, each with ``lr_scale``: 1 for what is new, times ``layer_decay`` for each block before.

    Blocks as timm counts them (``group_matcher``): a ResNet50 has its stem, 16 residual blocks and the layer.
    """
    decay = settings.layer_decay if settings.mode == "full" else 1.0
    encoder = _encoder(network)
    groups = list(param_groups_layer_decay(encoder, settings.weight_decay, layer_decay=decay))
    if encoder is network:
        return groups
    for group in groups:  # counted without what is new, so the encoder's last block came out with 1
        group["lr_scale"] *= decay
    new = _new_parameters(network)
    weights, rest = ([p for p in new if (p.ndim > 1) == is_weight] for is_weight in (True, False))
    return [
        *groups,
        {"params": weights, "lr_scale": 1.0, "weight_decay": settings.weight_decay},
        {"params": rest, "lr_scale": 1.0, "weight_decay": 0.0},
    ]


def _encoder(network: nn.Module) -> Any:
    return network.encoder if isinstance(network, MultiBandClassifier | SegmentationNetwork) else network


def _new_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return what is trained from scratch in every mode: the linear layer, or decoder and head."""
    if isinstance(network, SegmentationNetwork):
        return [*network.decoder.parameters(), *network.head.parameters()]
    return list(classifier_of(network).parameters())
