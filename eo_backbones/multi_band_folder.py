"""A saved :class:`~eo_backbones.multi_band.MultiBandClassifier`, from its folder back to a network.

timm has no such network, so it is built here, from timm's encoder and our two joints. ``config.json`` names the
encoder, the fusion and, in the input contract, the bands in order; the tensors are ``encoder.*`` and ``fc.*``.
"""

from pathlib import Path
from typing import Any, cast, get_args

import timm
from safetensors.torch import load_file
from torch import nn

from eo_backbones.errors import UserError
from eo_backbones.hub import Resolved
from eo_backbones.multi_band import Fuse, MultiBandClassifier


def build_multi_band(
    resolved: Resolved, *, in_chans: int | None, num_classes: int | None, features_only: bool, **timm_kwargs: Any
) -> nn.Module:
    """Build the network and load the resolved file into it; arguments as in ``create_model``.

    Raises:
        UserError: another number of channels than the model has bands, feature maps, or a file that does not fit.
    """
    config = resolved.config
    if config.input is None or config.fuse not in get_args(Fuse) or len(config.input.bands) != config.in_chans:
        raise UserError(f"{resolved.name}: the multi-band part of config.json is damaged; write the folder again")
    bands = config.input.band_names
    if in_chans not in (None, len(bands)):
        raise UserError(f"{resolved.name} takes its {len(bands)} bands ({', '.join(bands)}); leave in_chans out")
    if features_only:
        raise UserError(f"{resolved.name} joins pooled features of {len(bands)} bands; it has no feature maps")
    arguments = {**config.model_args, **timm_kwargs, "in_chans": 1, "num_classes": 0}
    encoder: Any = timm.create_model(config.architecture, pretrained=False, **arguments)
    encoder.eo_input = config.input
    model: Any = MultiBandClassifier(encoder, bands, cast("Fuse", config.fuse), config.num_classes)
    if resolved.weights_path is not None:
        load_strictly(model, resolved.weights_path)
    if num_classes is not None and num_classes != config.num_classes:
        model.reset_classifier(num_classes)
    model.eo_digest = resolved.sha256
    return cast("nn.Module", model)


def load_strictly(model: nn.Module, path: Path) -> None:
    """Load all tensors of a weights file into a network, as float32.

    Raises:
        UserError: the file has other tensors than the network.
    """
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not hold the network that is declared: {reason}") from error
