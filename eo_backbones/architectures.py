"""What has to be known about a network of timm to write it into a folder: asked of timm, not copied from it."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from eo_backbones.errors import UserError

_TITLES = {"resnet50": "ResNet50", "tf_efficientnet_lite0": "EfficientNet-Lite0"}
_FAMILIES = {"resnet50": "ResNet", "tf_efficientnet_lite0": "EfficientNet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network with one input channel and no classifier.

    Attributes:
        name: in timm's registry.
        title: as people write it.
        family: of architectures it belongs to.
        num_features: length of the pooled feature vector.
        num_params: number of parameters.
        reduction: input pixels per cell of the last feature map.
        first_conv, classifier: names of the first and the last layer, as timm's ``PretrainedCfg`` has them.
        module: where timm defines it.
        depthwise: whether it has convolutions that see one channel at a time.
    """

    name: str
    title: str
    family: str
    num_features: int
    num_params: int
    reduction: int
    first_conv: str
    classifier: str
    module: str
    depthwise: bool


@cache
def architecture(name: str) -> Architecture:
    """Return what timm says about a network.

    Args:
        name: in timm's registry, without a tag.

    Raises:
        UserError: timm has no such network.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('_')[0]}*")[:3]
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(
            f"model.architecture is {name}, which timm {timm.__version__} does not have{hint}; "
            "timm.list_models() names all"
        )
    with torch.device("meta"):
        network: Any = timm.create_model(name, pretrained=False, in_chans=1, num_classes=0)
    return Architecture(
        name=name,
        title=_TITLES.get(name, name),
        family=_FAMILIES.get(name, name),
        num_features=network.num_features,
        num_params=sum(parameter.numel() for parameter in network.parameters()),
        reduction=network.feature_info[-1]["reduction"],
        first_conv=network.pretrained_cfg["first_conv"],
        classifier=network.pretrained_cfg["classifier"],
        module=type(network).__module__,
        depthwise=any(
            isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1 for part in network.modules()
        ),
    )
