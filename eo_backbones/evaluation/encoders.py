"""From a name of ``--models`` to encoders of single bands: baselines, ImageNet, declared weights, Hub ids, folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from eo_backbones import weights as rows
from eo_backbones.contract import InputSpec, standardized, unit_range
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.evaluation import baselines
from eo_backbones.models import create_model

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
"""Baselines that are no network, so that they have no feature maps."""
BASELINES = ("random", "random-bn", "random-averaging", "stats", "raw", IMAGENET)
DESCRIPTIONS = {
    "random": "timm's default initialisation of resnet50, one channel, eval mode, a new one for each seed",
    "random-bn": "the same with BatchNorm statistics estimated on the training images",
    "random-averaging": "random-bn, except that stages 3 and 4 start as smoothing filters, as the mini recipes start",
    "stats": ", ".join(baselines.STATISTICS) + " of the image",
    "raw": f"the pixels, at most {baselines.RAW_SIDE_PX} x {baselines.RAW_SIDE_PX}",
    IMAGENET: f"{IMAGENET_SOURCE}; the band copied to three channels, folded into one exactly",
}


class NotMeasuredHereError(UserError):
    """A baseline's weights are out of reach on this machine; the others can still be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How images are brought to a model: side in pixels, the name of the scaling, and the contract behind it."""

    size: int
    scaling: Scaling
    spec: InputSpec


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Encoder:
    """A frozen map from model input ``(B, 1, H, W)`` to features ``(B, d)``.

    Attributes:
        embed: the map; a network in eval mode, or a function.
        digest: sha256 of the weights, or the version of a definition without weights.
        stored_as: number format that keeps its features; ``None`` for networks: the one they are computed in.
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


# The digest stands in for one of weights: changed whenever the definition of the features changes.
_STATS = Encoder(embed=baselines.image_statistics, digest="stats-1", stored_as=torch.float32)
_RAW = Encoder(embed=baselines.raw_pixels, digest="raw-1", stored_as=torch.float16)  # finer than 8-bit pixels


def open_model(name: str, sizes: Sequence[int]) -> EvaluatedModel:
    """Return the model of a typed name; weights are fetched and checked here.

    Args:
        name: one of :data:`BASELINES`, ``imagenet=SOURCE``, a declared row, ``hf-hub:...`` or ``local-dir:...``.
        sizes: sides in pixels that networks get images of.

    Raises:
        NotMeasuredHereError: ``imagenet`` without a source of its own, and its weights are out of reach.
        UserError: unknown name, or weights that cannot be loaded.
    """
    plain = tuple(Setting(size=size, scaling="contract", spec=unit_range()) for size in sizes)
    if name in {"random", "random-bn", "random-averaging"}:
        build = partial(_random_encoder, averaging=name == "random-averaging")
        return EvaluatedModel(name=name, settings=plain, build=build, seeded=True, adapted=name != "random")
    if name in {"stats", "raw"}:
        sides = dict.fromkeys(min(size, baselines.RAW_SIDE_PX) for size in sizes)
        settings = tuple(Setting(size=side, scaling="contract", spec=unit_range()) for side in sides)
        encoder = _STATS if name == "stats" else _RAW
        return EvaluatedModel(name=name, settings=settings, build=lambda _: encoder)
    if name == IMAGENET:
        try:
            return _foreign(name, _load(IMAGENET_SOURCE), sizes)
        except UserError as error:
            raise NotMeasuredHereError(f"{name} is not measured here: {error}") from error
    if name.startswith(f"{IMAGENET}="):
        return _foreign(name, _load(name.removeprefix(f"{IMAGENET}=")), sizes)
    if ":" not in name and "/" not in name and name not in (rows.ARCHITECTURE, *rows.WEIGHTS):
        raise unknown_name("model", name, (*BASELINES, *rows.WEIGHTS, "hf-hub:ORG/NAME", "local-dir:PATH"))
    network = _load(name)
    spec = network.eo_input
    if not isinstance(spec, InputSpec):
        return _foreign(name, network, sizes)
    return _one_encoder(name, network, tuple(Setting(size=size, scaling="contract", spec=spec) for size in sizes))


def _load(source: str) -> nn.Module:
    return create_model(source, num_classes=0).eval()


def _random_encoder(seed: int, *, averaging: bool) -> Encoder:
    network = baselines.random_resnet50(seed, averaging=averaging)
    return Encoder(embed=network, digest=baselines.state_digest(network))


def _foreign(name: str, network: nn.Module, sizes: Sequence[int]) -> EvaluatedModel:
    """A network without a contract of ours: three channels, and both scalings that are in use."""
    if _channels(network) == 3:
        network = baselines.fold_input_channels(network)
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
