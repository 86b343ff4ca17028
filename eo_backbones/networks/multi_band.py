"""Several bands through an encoder of one band: each band is embedded on its own, then the features are fused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from eo_backbones.bands import band_names
from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.hub.download import Resolved
from eo_backbones.inputs import refuse_other_channels

Fuse = Literal["concat", "mean", "attention"]


class BandAttention(nn.Module):
    """Weighted mean over the bands' features; the weights follow from the features themselves.

    A band's score is the product of its features with one learned vector, shared by all bands, plus one learned number
    a band. Both start at zero: all bands count alike, and the output is the mean until training says otherwise.

    Args:
        bands: number of bands.
        width: length of a feature vector.
    """

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.preference = nn.Parameter(torch.zeros(bands))
        self.scale = width**-0.5

    def weights(self, features: Tensor) -> Tensor:
        """Return how much each band counts, ``(B, bands)`` with sum 1, for features ``(B, bands, width)``."""
        scores: Tensor = features @ self.query * self.scale + self.preference
        return scores.softmax(dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, width)`` for features ``(B, bands, width)``."""
        return (self.weights(features).unsqueeze(-1) * features).sum(dim=1)


class MultiBand(nn.Module):
    """One encoder of a single band, used on several: ``(B, C, H, W)`` -> features.

    The bands are folded into the batch, so the encoder runs once on ``B * C`` images (in training mode BatchNorm thus
    takes its statistics over all bands together). Nothing is copied or changed: gradients reach the encoder, and what
    is trained here is the encoder that was passed in.

    Late fusion like this keeps the pretrained weights exactly as they are, treats every band by its own input contract
    and costs ``C`` passes. The other way is early fusion, ``create_model(name, in_chans=C)``: its first convolution
    starts as the pretrained one, repeated and divided by ``C``, so before any training it sees just the average of its
    bands; it costs one pass and has to be fine-tuned. For frozen features, few labels or bands that may change, take
    ``MultiBand``; to fine-tune everything at the cost of one band, take ``in_chans=C``.

    Example:
        >>> encoder = eo_backbones.create_model("eo_resnet50.byol_s1s2_mini")
        >>> model = eo_backbones.MultiBand(encoder, ["B04", "B03", "VV"]).eval()
        >>> prepare = eo_backbones.create_transform(model, band=model.bands, unit=["dn", "dn", "db"])
        >>> features = model(prepare(pixels))  # pixels: (B, 3, H, W) raw values -> (B, 3 * 2048)

    Args:
        encoder: network from ``(B, 1, H, W)`` to pooled features ``(B, num_features)``, such as
            ``eo_backbones.create_model`` returns.
        bands: names or aliases of the channels, in their order; each must be in the encoder's input contract, if it has
            one.
        fuse: ``"concat"`` lays the bands' features side by side, in the order of ``bands``; ``"mean"`` averages them;
            ``"attention"`` is a learned weighted mean (:class:`BandAttention`) that starts as the mean.

    Attributes:
        bands: canonical names of the channels, in order.
        num_features: length of the output: ``C`` times the encoder's for ``"concat"``, else the encoder's.
        eo_input: the encoder's input contract for these bands, which ``create_transform`` reads; ``None`` for an
            encoder without one.

    Raises:
        UserError: no bands, an unknown band or one the encoder does not take, an encoder that does not give features of
            one band, an unknown ``fuse``.
    """

    def __init__(self, encoder: nn.Module, bands: Sequence[str], fuse: Fuse = "concat") -> None:
        super().__init__()
        if fuse not in get_args(Fuse):
            raise UserError(f"fuse={fuse!r} is unknown; pass one of {', '.join(get_args(Fuse))}")
        self.bands = band_names([bands] if isinstance(bands, str) else bands)
        if not self.bands:
            raise UserError(
                "a multi-band model needs at least one band; pass their names, such as bands=['B04', 'B03']"
            )
        width = _features_of_one_band(encoder)
        spec = getattr(encoder, "eo_input", None)
        self.eo_input: InputSpec | None = None
        if isinstance(spec, InputSpec):
            self.eo_input = spec.narrowed(self.bands)
        self.encoder = encoder
        self.fuse: Fuse = fuse
        self.num_features = width * len(self.bands) if fuse == "concat" else width
        if fuse == "attention":
            self.attention = BandAttention(len(self.bands), width)

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``(B, num_features)`` for model inputs ``(B, C, H, W)``, one channel a band.

        Raises:
            UserError: the number of channels differs from the number of bands.
        """
        refuse_other_channels(images, self.bands)
        features: Tensor = self.encoder(images.flatten(0, 1).unsqueeze(1)).unflatten(0, (-1, len(self.bands)))
        if self.fuse == "concat":
            return features.flatten(1)
        if self.fuse == "mean":
            return features.mean(dim=1)
        fused: Tensor = self.attention(features)
        return fused

    def extra_repr(self) -> str:
        """Show bands and fusion when the module is printed."""
        return f"{', '.join(self.bands)}, fuse={self.fuse}, num_features={self.num_features}"


class MultiBandClassifier(MultiBand):
    """:class:`MultiBand` and a linear layer: ``(B, C, H, W)`` -> ``(B, num_classes)``.

    It has the methods that networks of timm have for their two halves (``forward_features``, ``forward_head``,
    ``get_classifier``). ``eo-train finetune`` makes it, ``create_model`` loads it back.

    Args:
        encoder: as for :class:`MultiBand`.
        bands: likewise.
        fuse: likewise.
        num_classes: outputs; 0 gives the fused features.
    """

    def __init__(self, encoder: nn.Module, bands: Sequence[str], fuse: Fuse, num_classes: int) -> None:
        super().__init__(encoder, bands, fuse)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the linear layer by a new, random one; 0 leaves the fused features."""
        self.num_classes = num_classes
        self.fc: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.fc

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the fused features ``(B, num_features)``."""
        return super().forward(images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the linear layer's outputs, or with ``pre_logits`` what it gets."""
        if pre_logits:
            return features
        outputs: Tensor = self.fc(features)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs ``(B, num_classes)`` for model inputs ``(B, C, H, W)``, one channel a band."""
        return self.forward_head(self.forward_features(images))


def _features_of_one_band(encoder: nn.Module) -> int:
    """Return the length of an encoder's features, or refuse it."""
    width = getattr(encoder, "num_features", None)
    if not isinstance(width, int):
        raise UserError(
            f"this {type(encoder).__name__} does not give pooled features; pass an encoder of "
            "eo_backbones.create_model(name), without features_only"
        )
    if getattr(encoder, "num_classes", 0):
        raise UserError("this encoder ends in a classifier; create it with num_classes=0")
    stem = next((module for module in encoder.modules() if isinstance(module, nn.Conv2d)), None)
    if stem is not None and stem.in_channels != 1:
        raise UserError(f"this encoder takes {stem.in_channels} channels at once; create it with in_chans=1")
    return width


def build_multi_band(
    resolved: Resolved, *, in_chans: int | None, num_classes: int | None, features_only: bool, **timm_kwargs: Any
) -> nn.Module:
    """Build a saved :class:`MultiBandClassifier` and load its file; arguments as in ``create_model``.

    timm has no such network, so it is put together here: ``config.json`` names timm's encoder, the fusion and, in the
    input contract, the bands in order; the tensors are ``encoder.*``, ``fc.*`` and, for attention, ``attention.*``.

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
