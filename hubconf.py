"""Entry points of ``torch.hub``: ``torch.hub.load("OWNER/REPOSITORY", "byol_resnet50", trust_repo=True)``."""

from typing import Any as _Any

from torch.nn import Module as _Module

# import names, which torch.hub looks for before it calls an entry point
dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "numpy"]


def byol_resnet50(weights: str = "s1s2_mini", pretrained: bool = True, **kwargs: _Any) -> _Module:
    """ResNet-50 encoder for one band of any sensor, pretrained with BYOL on Sentinel-1/2 pairs.

    Example:
        model = torch.hub.load("OWNER/REPOSITORY", "byol_resnet50", trust_repo=True).eval()
        features = model(torch.rand(8, 1, 64, 64))  # (8, 2048)

    Args:
        weights (str): "s1s2_mini" (small, ships with the code, needs no download), "sen12ms_90k" or "dfc2020".
        pretrained (bool): load the weights; False initialises at random.
        **kwargs: see eo_backbones.create_model: in_chans, num_classes, features_only, out_indices, cache_dir, ...

    Returns:
        torch.nn.Module in training mode, from (B, 1, H, W) to (B, 2048). model.eo_input says which values of which
        band it takes; eo_backbones.create_transform makes them from raw pixels.

    Raises:
        eo_backbones.UserError: unknown or unpublished weights, or a failure of the download.
    """
    return _create("byol_resnet50", weights, pretrained, kwargs)


def distill_efficientnet_lite0(weights: str = "s1s2_mini", pretrained: bool = True, **kwargs: _Any) -> _Module:
    """EfficientNet-Lite0 encoder for one band of any sensor, distilled from ImageNet weights on Sentinel-1/2 pairs.

    Example:
        model = torch.hub.load("OWNER/REPOSITORY", "distill_efficientnet_lite0", trust_repo=True).eval()
        features = model(torch.rand(8, 1, 64, 64))  # (8, 1280)

    Args:
        weights (str): "s1s2_mini" (ships with the code, needs no download).
        pretrained (bool): load the weights; False initialises at random.
        **kwargs: see eo_backbones.create_model: in_chans, num_classes, features_only, out_indices, cache_dir, ...

    Returns:
        torch.nn.Module in training mode, from (B, 1, H, W) to (B, 1280). model.eo_input says which values of which
        band it takes; eo_backbones.create_transform makes them from raw pixels.

    Raises:
        eo_backbones.UserError: unknown weights, or a damaged file.
    """
    return _create("distill_efficientnet_lite0", weights, pretrained, kwargs)


def simsiam_resnet50(weights: str = "s1s2_mini", pretrained: bool = True, **kwargs: _Any) -> _Module:
    """ResNet-50 encoder for one band of any sensor, pretrained with SimSiam on Sentinel-1/2 pairs.

    Example:
        model = torch.hub.load("OWNER/REPOSITORY", "simsiam_resnet50", pretrained=False, trust_repo=True)

    Args:
        weights (str): "s1s2_mini", "sen12ms_90k" or "dfc2020".
        pretrained (bool): load the weights; False initialises at random.
        **kwargs: see eo_backbones.create_model: in_chans, num_classes, features_only, out_indices, cache_dir, ...

    Returns:
        torch.nn.Module in training mode, from (B, 1, H, W) to (B, 2048). model.eo_input says which values of which
        band it takes; eo_backbones.create_transform makes them from raw pixels.

    Raises:
        eo_backbones.UserError: unknown or unpublished weights, or a failure of the download.
    """
    return _create("simsiam_resnet50", weights, pretrained, kwargs)


def _create(entry: str, weights: str, pretrained: bool, kwargs: dict[str, _Any]) -> _Module:
    # imported here, so that torch.hub can name a missing dependency before this import fails on it
    from eo_backbones import create_model  # noqa: PLC0415
    from eo_backbones.errors import unknown_name  # noqa: PLC0415
    from eo_backbones.weights import WEIGHTS  # noqa: PLC0415

    names = {row.hub_entry[1]: row.name for row in WEIGHTS.values() if row.hub_entry[0] == entry}
    if weights not in names:
        raise unknown_name(f"{entry} weights", weights, names)
    return create_model(names[weights], pretrained, **kwargs)
