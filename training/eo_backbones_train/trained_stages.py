"""Which part of the encoder the loss sees: all of it, or the mean over the last map of its first stages.

Where images are few, late stages keep little more than what two sensors agree on (decision 0008). So a recipe can train
the stem and the first stages alone, and end there: what comes later would only stand between them and the loss.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from eo_backbones.initialisation import STAGES


def width(encoder: nn.Module, stages: int) -> int:
    """Return the number of features that :func:`embed` gives.

    Args:
        encoder: with ``num_features``; timm's ``resnet50`` where not all stages are trained.
        stages: how many of the four are trained.
    """
    if stages == STAGES:
        return cast("int", encoder.num_features)
    return cast("Any", encoder).feature_info[stages]["num_chs"]  # type: ignore[no-any-return]  # [0] is the stem


def embed(encoder: nn.Module, stages: int, images: Tensor, *, follow: bool = False) -> Tensor:
    """Return what the loss sees of images.

    Args:
        encoder: as in :func:`width`; in train mode.
        stages: how many of the four are trained.
        images: [N, 1, H, W].
        follow: let the BatchNorm statistics of later stages see the batch; otherwise those stages are not computed.

    Returns:
        [N, :func:`width`].
    """
    if stages == STAGES:
        return cast("Tensor", encoder(images))
    (early,) = cast("Any", encoder).forward_intermediates(
        images, indices=[stages], stop_early=True, intermediates_only=True
    )
    if follow:
        with torch.no_grad():
            late = early
            for number in range(stages + 1, STAGES + 1):
                late = encoder.get_submodule(f"layer{number}")(late)
    return cast("Tensor", early.mean(dim=(2, 3)))
