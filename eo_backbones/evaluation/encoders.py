"""From a name of ``--models`` to encoders of single bands: baselines, ImageNet, declared weights, Hub ids, folders.

What an encoder has to beat: image statistics, raw pixels, an untrained network, and ImageNet weights.

``random`` is timm's ``resnet50`` as it is initialised by default, one input channel, in eval mode. In that state
BatchNorm passes activations through unscaled and every residual branch ends in a zero (timm's ``zero_init_last``).
``random-bn`` is the same network after BatchNorm has seen the training images: the fairer untrained baseline.
``random-averaging`` starts as the recipes ``byol-mini`` and ``simsiam-mini`` do, and is otherwise like ``random-bn``:
what their weights gain over it comes from training; what it gains over ``random`` does not.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from eo_backbones import weights as rows
from eo_backbones.contract import InputSpec, standardized, unit_range
from eo_backbones.device import seeded
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.models import create_model
from eo_backbones.networks.initialisation import average_when_downsampling

PERCENTILES = (5, 25, 50, 75, 95)
STATISTICS = ("mean", "deviation", "minimum", "maximum", *(f"percentile {p}" for p in PERCENTILES))
"""The nine features of ``stats``, in order."""
_MINI_TRAINED_STAGES = 2  # by the mini recipes; the stages after them start as smoothing filters
RAW_SIZE_PX = 64
"""``raw`` gets images of at most this height and width: 4,096 features keep the probe's memory bounded."""

IMAGENET = "imagenet"
IMAGENET_SOURCE = "hf-hub:timm/resnet50.tv_in1k"
"""torchvision's ImageNet weights, as timm publishes them: the comparison that the paper makes."""

Scaling = Literal["contract", "div10000", "standardised"]
SCALINGS: dict[Scaling, str] = {
    "contract": "as the model's input contract says; baselines: reflectance clipped to 0...1, -25...0 dB to 0...1",
    "div10000": "reflectance 0...1 (digital numbers / 10000), -25...0 dB to 0...1, copied to three channels",
    "standardised": "each band by its own mean and deviation (DFC2020), copied to three channels",
}

WITHOUT_MAPS = ("stats", "raw")
"""Baselines that are not networks, so they have no feature maps."""
BASELINES = ("random", "random-bn", "random-averaging", "stats", "raw", IMAGENET)
DESCRIPTIONS = {
    "random": "timm's default initialisation of resnet50, one channel, eval mode, a new one for each seed",
    "random-bn": "the same with BatchNorm statistics estimated on the training images",
    "random-averaging": "random-bn, except that stages 3 and 4 start as smoothing filters, as the mini recipes start",
    "stats": ", ".join(STATISTICS) + " of the image",
    "raw": f"the pixels, at most {RAW_SIZE_PX} x {RAW_SIZE_PX}",
    IMAGENET: f"{IMAGENET_SOURCE}; the band copied to three channels, folded into one exactly",
}


class NotMeasuredHereError(UserError):
    """A baseline's weights cannot be fetched on this machine; the others can still be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a model gets: image size in pixels, the name of the scaling, and the contract behind it."""

    size: int
    scaling: Scaling
    spec: InputSpec


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Encoder:
    """A frozen map from model input ``(B, 1, H, W)`` to features ``(B, d)``.

    Attributes:
        embed: the map; a network in eval mode, or a function.
        digest: sha256 of the weights, or the version of a definition without weights.
        stored_as: dtype that keeps its features; ``None`` for networks: the one they are computed in.
    """

    embed: Callable[[Tensor], Tensor]
    digest: str
    stored_as: torch.dtype | None = None

    @property
    def network(self) -> nn.Module:
        """The encoder as a network."""
        assert isinstance(self.embed, nn.Module), "this encoder is a function"
        return self.embed


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class EvaluatedModel:
    """One name of ``--models``.

    Attributes:
        name: as typed.
        settings: one row of the results each.
        seeded: whether every seed has a network of its own.
        adapted: whether BatchNorm statistics are estimated on the training images of each band and seed.
        build: seed -> encoder, on the CPU.
    """

    name: str
    settings: tuple[Setting, ...]
    build: Callable[[int], Encoder]
    seeded: bool = False
    adapted: bool = False


# Baselines without weights from elsewhere


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
        averaging: stages 3 and 4 start as smoothing filters (:mod:`eo_backbones.networks.initialisation`).
    """
    with seeded(seed):
        network: nn.Module = timm.create_model("resnet50", pretrained=False, in_chans=1, num_classes=0)
        if averaging:
            average_when_downsampling(network, after=_MINI_TRAINED_STAGES)
    return network.eval()


def baseline_digest(network: nn.Module) -> str:
    """Return the sha256 that stands for a random network in ``results.csv`` and in the cache.

    Not :func:`eo_backbones.networks.state.state_digest`, which training records: rows and features that were measured
    before are recognised by it.
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fold_input_channels(network: nn.Module) -> nn.Module:
    """Make a network for several channels take one, as if that one were copied to all of them. Exact.

    A convolution of equal channels is the convolution of one of them with the summed kernel, zero padding included,
    as long as all copies are normalised alike: normalise the band by its own mean and deviation, not by ImageNet's
    three.

    Raises:
        UserError: the network does not begin with an ordinary convolution.
    """
    name = network.pretrained_cfg.get("first_conv")  # type: ignore[union-attr, operator]  # timm's plain data
    stem = network.get_submodule(name) if isinstance(name, str) else None
    if not isinstance(stem, nn.Conv2d) or stem.groups != 1:
        raise UserError(
            "this network does not begin with a plain convolution, so its channels cannot be folded into one"
        )
    stem.weight = nn.Parameter(stem.weight.detach().sum(dim=1, keepdim=True))
    stem.in_channels = 1
    return network


# From a name to an encoder

# The digest stands in for one of weights: changed whenever the definition of the features changes.
_STATS = Encoder(embed=image_statistics, digest="stats-1", stored_as=torch.float32)
_RAW = Encoder(embed=raw_pixels, digest="raw-1", stored_as=torch.float16)  # finer than 8-bit pixels


def open_model(name: str, sizes: Sequence[int]) -> EvaluatedModel:
    """Return the model of a typed name; weights are fetched and checked here.

    Args:
        name: one of :data:`BASELINES`, ``imagenet=SOURCE``, a declared row, ``hf-hub:...`` or ``local-dir:...``.
        sizes: height and width in pixels of the images that networks get.

    Raises:
        NotMeasuredHereError: ``imagenet`` without a source of its own, and its weights cannot be fetched.
        UserError: unknown name, or weights that cannot be loaded.
    """
    plain = tuple(Setting(size=size, scaling="contract", spec=unit_range()) for size in sizes)
    if name in {"random", "random-bn", "random-averaging"}:
        build = partial(_random_encoder, averaging=name == "random-averaging")
        return EvaluatedModel(name=name, settings=plain, build=build, seeded=True, adapted=name != "random")
    if name in {"stats", "raw"}:
        smaller = dict.fromkeys(min(size, RAW_SIZE_PX) for size in sizes)
        settings = tuple(Setting(size=size, scaling="contract", spec=unit_range()) for size in smaller)
        encoder = _STATS if name == "stats" else _RAW
        return EvaluatedModel(name=name, settings=settings, build=lambda _: encoder)
    if name == IMAGENET:
        try:
            return _foreign(name, _load(IMAGENET_SOURCE), sizes)
        except UserError as error:
            raise NotMeasuredHereError(f"{name} is not measured here: {error}") from error
    if name.startswith(f"{IMAGENET}="):
        return _foreign(name, _load(name.removeprefix(f"{IMAGENET}=")), sizes)
    if ":" not in name and "/" not in name and name not in (*rows.families(), *rows.WEIGHTS):
        raise unknown_name("model", name, (*BASELINES, *rows.WEIGHTS, "hf-hub:ORG/NAME", "local-dir:PATH"))
    network = _load(name)
    spec = network.eo_input
    if not isinstance(spec, InputSpec):
        return _foreign(name, network, sizes)
    return _one_encoder(name, network, tuple(Setting(size=size, scaling="contract", spec=spec) for size in sizes))


def _load(source: str) -> nn.Module:
    return create_model(source, num_classes=0).eval()


def _random_encoder(seed: int, *, averaging: bool) -> Encoder:
    network = random_resnet50(seed, averaging=averaging)
    return Encoder(embed=network, digest=baseline_digest(network))


def _foreign(name: str, network: nn.Module, sizes: Sequence[int]) -> EvaluatedModel:
    """A network without a contract of ours: three channels, and both scalings that are in use."""
    if _channels(network) == 3:
        network = fold_input_channels(network)
    scalings: tuple[tuple[Scaling, InputSpec], ...] = (("div10000", unit_range()), ("standardised", standardized()))
    settings = tuple(Setting(size=size, scaling=scaling, spec=spec) for size in sizes for scaling, spec in scalings)
    return _one_encoder(name, network, settings)


def _one_encoder(name: str, network: nn.Module, settings: tuple[Setting, ...]) -> EvaluatedModel:
    channels = _channels(network)
    if channels != 1:
        raise UserError(
            f"{name} takes {channels} bands at once; evaluate compares band by band: pass a model for one band, or for "
            "three display channels without an input contract"
        )
    digest = network.eo_digest
    assert isinstance(digest, str), "pretrained weights have a digest"
    encoder = Encoder(embed=network, digest=digest)
    return EvaluatedModel(name=name, settings=settings, build=lambda _: encoder)


def _channels(network: nn.Module) -> int:
    """Return the input channels of a network: those of its first convolution."""
    convolution = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is None:
        raise UserError("this network has no convolution to read bands with")
    return convolution.in_channels
