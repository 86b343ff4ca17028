"""A saved :class:`~eo_backbones.segmentation_network.SegmentationNetwork`, from its folder back to a network.

timm has no such network, so it is built here, from timm's encoder and the decoder of segmentation-models-pytorch (the
extra ``segmentation``). ``config.json`` names the encoder, the fusion, the value of each class in a mask and, in the
input contract, the bands in order; the tensors are ``encoder.*``, ``decoder.*`` and ``head.*``.
"""

from typing import Any, cast, get_args

import timm
from torch import nn

from eo_backbones.errors import UserError
from eo_backbones.hub import Resolved
from eo_backbones.multi_band_folder import load_strictly
from eo_backbones.segmentation_network import MapFuse, SegmentationNetwork


def build_segmentation(
    resolved: Resolved, *, in_chans: int | None, num_classes: int | None, features_only: bool, **timm_kwargs: Any
) -> nn.Module:
    """Build the network and load the resolved file into it; arguments as in ``create_model``.

    Raises:
        UserError: the extra is missing; another number of channels or classes than was saved; feature maps; or a file
            that does not fit.
    """
    config = resolved.config
    if (
        config.input is None
        or config.fuse not in get_args(MapFuse)
        or len(config.input.bands) != config.in_chans
        or len(config.mask_values) != config.num_classes
    ):
        raise UserError(f"{resolved.name}: the segmentation part of config.json is damaged; write the folder again")
    bands = config.input.band_names
    if in_chans not in (None, len(bands)):
        raise UserError(f"{resolved.name} takes its {len(bands)} bands ({', '.join(bands)}); leave in_chans out")
    if features_only or num_classes not in (None, config.num_classes):
        raise UserError(
            f"{resolved.name} gives each pixel one of {config.num_classes} classes, it is no encoder of images; take "
            "the encoder it was made from"
        )
    channels = len(bands) if config.fuse == "early" else 1
    arguments = {**config.model_args, **timm_kwargs, "in_chans": channels, "num_classes": 0}
    encoder: Any = timm.create_model(config.architecture, pretrained=False, **arguments)
    encoder.eo_input = config.input
    model: Any = SegmentationNetwork(encoder, bands, cast("MapFuse", config.fuse), config.num_classes)
    if resolved.weights_path is not None:
        load_strictly(model, resolved.weights_path)
    model.eo_digest = resolved.sha256
    return cast("nn.Module", model)
