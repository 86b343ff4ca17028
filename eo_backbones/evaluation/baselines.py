"""What an encoder has to beat: plain statistics, raw pixels, an untrained network, and ImageNet weights.

``random`` is timm's ``resnet50`` as it is initialised by default, one input channel, in eval mode. In that state
BatchNorm passes activations through unscaled and every residual branch ends in a zero (timm's ``zero_init_last``).
``random-bn`` is the same network after BatchNorm has seen the training images: the fairer untrained baseline.
``random-averaging`` starts as the recipes ``byol-mini`` and ``simsiam-mini`` do, and is otherwise like ``random-bn``:
what their weights have on it came from training, what it has on ``random`` did not.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
from torch import Tensor, nn

from eo_backbones.errors import UserError
from eo_backbones.initialisation import average_when_downsampling

PERCENTILES = (5, 25, 50, 75, 95)
STATISTICS = ("mean", "deviation", "minimum", "maximum", *(f"percentile {p}" for p in PERCENTILES))
"""The nine features of ``stats``, in order."""
_MINI_TRAINED = 2  # stages that the mini recipes train; the averaging start is for those after
RAW_SIDE_PX = 64
"""``raw`` never sees more pixels a side: 4,096 features keep the probe's memory bounded."""


def image_statistics(images: Tensor) -> Tensor:
    """Return :data:`STATISTICS` of single-band images ``(B, 1, H, W)`` as ``(B, 9)``; percentiles as in numpy."""
    values = images.flatten(1).sort(dim=1).values
    last = values.shape[1] - 1
    position = torch.tensor(PERCENTILES, dtype=torch.float64, device=values.device) / 100 * last
    below = position.floor().long()
    share = (position - below).to(values.dtype)
    percentiles = values[:, below].lerp(values[:, (below + 1).clamp_max(last)], share)
    moments = [values.mean(dim=1), values.std(dim=1, correction=0), values[:, 0], values[:, -1]]
    return torch.cat([torch.stack(moments, dim=1), percentiles], dim=1)


def raw_pixels(images: Tensor) -> Tensor:
    """Return single-band images ``(B, 1, H, W)`` flattened to ``(B, H * W)``."""
    return images.flatten(1)


def random_resnet50(seed: int, *, averaging: bool = False) -> nn.Module:
    """Return timm's ``resnet50`` with one input channel and random weights that depend on the seed only.

    Args:
        seed: of the weights.
        averaging: stages 3 and 4 start as smoothing filters (:mod:`eo_backbones.initialisation`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = timm.create_model("resnet50", pretrained=False, in_chans=1, num_classes=0)
        if averaging:
            average_when_downsampling(network, after=_MINI_TRAINED)
    return network.eval()


def state_digest(network: nn.Module) -> str:
    """Return the sha256 of a network's parameters and buffers, names and values."""
    total = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


@contextmanager
def estimating_batch_norm(network: nn.Module) -> Iterator[None]:
    """Within the block, every batch that passes the network counts equally in BatchNorm's running statistics.

    Statistics from before are forgotten. Afterwards the network is in eval mode.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's spelling of a plain average over all batches
        layer.train()
    yield
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value
    network.eval()


def fold_input_channels(network: nn.Module) -> nn.Module:
    """Make a network for several channels take one, as if that one were copied to all of them. Exact.

    A convolution of equal channels is the convolution of one of them with the summed kernel, zero padding included,
    as long as all copies are normalised alike: normalise the band by its own figures, not by ImageNet's three.

    Raises:
        UserError: the network does not begin with an ordinary convolution.
    """
    place = network.pretrained_cfg.get("first_conv")  # type: ignore[union-attr, operator]  # timm's plain data
    stem = network.get_submodule(place) if isinstance(place, str) else None
    if not isinstance(stem, nn.Conv2d) or stem.groups != 1:
        raise UserError(
            "this network does not begin with a plain convolution, so its channels cannot be folded into one"
        )
    stem.weight = nn.Parameter(stem.weight.detach().sum(dim=1, keepdim=True))
    stem.in_channels = 1
    return network
