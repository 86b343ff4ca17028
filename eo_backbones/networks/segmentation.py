"""An encoder and a light decoder that give every pixel a class: ``(B, C, H, W)`` -> ``(B, classes, H, W)``.

The decoder is the U-Net's of segmentation-models-pytorch (Ronneberger et al. 2015, with nearest-neighbour enlargement
and batch normalisation), narrower than its default. Of that library's light decoders it is the only one whose
prediction for a pixel depends on a neighbourhood alone: the others take means over the whole image or enlarge by its
size (FPN: group normalisation and aligned corners; DeepLab, PAN, PSP: pooling), so a scene that is predicted in windows
would show their seams.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from eo_backbones.bands import band_names
from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.hub.download import Resolved
from eo_backbones.inputs import refuse_other_channels
from eo_backbones.networks.multi_band import load_strictly

MapFuse = Literal["concat", "mean", "early"]

STRIDES = (2, 4, 8, 16, 32)
"""Input pixels per cell of the encoder's feature maps, finest first, as a ResNet has them."""
DECODER_CHANNELS = (128, 64, 48, 32, 16)
"""Width of the decoder from stride 16 to stride 1: half of the library's default, for few labels (ours)."""

_HEAD_KERNEL = 3  # as the library's own U-Net


def require_decoder() -> None:
    """Check that the package of the decoder is installed, before any work.

    Raises:
        UserError: it is missing.
    """
    if find_spec("segmentation_models_pytorch") is None:
        raise UserError(
            "segmentation needs segmentation-models-pytorch; type: pip install 'eo-backbones[segmentation]'"
        )


class SegmentationNetwork(nn.Module):
    """Encoder, decoder and head; tensors are ``encoder.*``, ``decoder.*`` and ``head.*``.

    Images may have any height and width: they are padded to multiples of 32 by repeating their last row and column,
    and the output is cut to their size. ``eo-train finetune --task segmentation`` makes it, ``create_model`` loads it
    back.

    Args:
        encoder: a network of timm without classifier whose feature maps have :data:`STRIDES`.
        bands: names or aliases of the channels, in order; each must be in the encoder's input contract, if it has one.
        fuse: ``"early"`` gives the encoder all bands at once (it then has one input channel a band); ``"concat"`` and
            ``"mean"`` give it each band separately and fuse the feature maps.
        num_classes: channels of the output.

    Attributes:
        bands: canonical names of the channels, in order.
        eo_input: the encoder's input contract for these bands; ``None`` for an encoder without one.

    Raises:
        UserError: the extra is missing, an unknown ``fuse``, a band that the encoder does not take, or an encoder with
            other feature maps.
    """

    def __init__(self, encoder: nn.Module, bands: Sequence[str], fuse: MapFuse, num_classes: int) -> None:
        super().__init__()
        require_decoder()
        # an extra, and a second to import
        from segmentation_models_pytorch.base import SegmentationHead  # noqa: PLC0415
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head  # noqa: PLC0415
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder  # noqa: PLC0415

        if fuse not in get_args(MapFuse):
            raise UserError(f"fuse={fuse!r} is unknown; pass one of {', '.join(get_args(MapFuse))}")
        self.bands = band_names(bands)
        self.fuse: MapFuse = fuse
        self.num_classes = num_classes
        spec = getattr(encoder, "eo_input", None)
        self.eo_input: InputSpec | None = None
        if isinstance(spec, InputSpec):
            self.eo_input = spec.narrowed(self.bands)
        widths = _widths(encoder)
        if fuse == "concat":
            widths = [width * len(self.bands) for width in widths]
        self.encoder = encoder
        self.decoder = UnetDecoder([0, *widths], DECODER_CHANNELS)
        self.head = SegmentationHead(DECODER_CHANNELS[-1], num_classes, kernel_size=_HEAD_KERNEL)
        initialize_decoder(self.decoder)
        initialize_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes, H, W)`` for model inputs ``(B, C, H, W)``, one channel a band.

        Raises:
            UserError: the number of channels differs from the number of bands.
        """
        refuse_other_channels(images, self.bands)
        height, width = images.shape[-2:]
        right, below = -width % STRIDES[-1], -height % STRIDES[-1]
        padded = F.pad(images, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.head(self.decoder([padded, *self.feature_maps(padded)]))
        return F.pad(logits, (0, -right, 0, -below))  # cuts; a slice of the whole size could not be exported

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the fused maps of the encoder, finest first, for images whose sides are multiples of 32."""
        encoder: Any = self.encoder
        if self.fuse == "early":
            maps: list[Tensor] = encoder.forward_intermediates(images, intermediates_only=True)
            return maps
        folded = images.flatten(0, 1).unsqueeze(1)
        alone = [
            stage.unflatten(0, (-1, len(self.bands)))
            for stage in encoder.forward_intermediates(folded, intermediates_only=True)
        ]
        return [stage.mean(dim=1) if self.fuse == "mean" else stage.flatten(1, 2) for stage in alone]

    def extra_repr(self) -> str:
        """Show bands and fusion when the module is printed."""
        return f"{', '.join(self.bands)}, fuse={self.fuse}, num_classes={self.num_classes}"


def _widths(encoder: nn.Module) -> list[int]:
    """Return the channels of an encoder's feature maps, finest first, or refuse it."""
    described = getattr(encoder, "feature_info", None)
    stages = described if isinstance(described, list) else []
    strides = tuple(stage["reduction"] for stage in stages)
    if strides != STRIDES:
        found = ", ".join(map(str, strides)) or "none"
        raise UserError(
            f"this {type(encoder).__name__} has feature maps of strides {found}; segmentation takes an encoder with "
            f"{', '.join(map(str, STRIDES))}, such as a ResNet"
        )
    return [int(stage["num_chs"]) for stage in stages]


def build_segmentation(
    resolved: Resolved, *, in_chans: int | None, num_classes: int | None, features_only: bool, **timm_kwargs: Any
) -> nn.Module:
    """Build a saved :class:`SegmentationNetwork` and load its file; arguments as in ``create_model``.

    timm has no such network, so it is put together here: ``config.json`` names timm's encoder, the fusion, the value of
    each class in a mask and, in the input contract, the bands in order.

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
            f"{resolved.name} gives each pixel one of {config.num_classes} classes, it is not an encoder of images; "
            "use the encoder it was made from"
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
