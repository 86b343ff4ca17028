"""Models from names: ``create_model``, and ``create_transform`` for its input.

timm builds the network and adapts stem and classifier; this module only hands it files that were verified: their
content by :mod:`eo_backbones.hub.download`, names and shapes of all tensors here. timm itself loads non-strictly as
soon as the number of classes differs, so a file that does not fit must never reach it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from eo_backbones.contract import InputSpec, Unit
from eo_backbones.errors import UserError
from eo_backbones.hub import download
from eo_backbones.hub.download import Resolved
from eo_backbones.hub.folder import tensor_shapes
from eo_backbones.inputs import Check, Display, InputTransform, PerBand
from eo_backbones.networks.multi_band import build_multi_band
from eo_backbones.networks.segmentation import build_segmentation
from eo_backbones.weights import Weights

TIMM_MINIMUM = (1, 0, 31)
"""First version that spreads a one-channel stem over several channels; before, it was silently re-initialised
(timm#2780; docs/decisions/0003)."""

Shapes = Mapping[str, tuple[int, ...]]

_OTHER_WEIGHTS = ("checkpoint_path", "pretrained_cfg")  # arguments of timm.create_model
_OTHER_SOURCES = ("file", "url", "state_dict", "hf_hub_id", "hf_hub_filename", "source")  # fields of PretrainedCfg
_FEATURE_ARGUMENTS = ("out_indices", "feature_cls")  # consumed by timm's feature wrapper, not by the network
_NAMED_IN_MESSAGE = 4


def require_timm(version: str) -> None:
    """Raise ``ImportError`` for a timm that would load a one-channel stem wrongly."""
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < TIMM_MINIMUM:
        minimum = ".".join(map(str, TIMM_MINIMUM))
        raise ImportError(
            f"eo_backbones needs timm >= {minimum}, found {version}, which would replace the stem of one-channel "
            f"weights by random values; run: pip install -U 'timm>={minimum}'"
        )


require_timm(timm.__version__)


def create_model(
    name: str,
    pretrained: bool = True,
    *,
    in_chans: int | None = None,
    num_classes: int | None = None,
    features_only: bool = False,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **timm_kwargs: Any,
) -> nn.Module:
    """Create an encoder from a declared name, a Hub repository or a local folder.

    Like ``timm.create_model``, it returns the model in training mode: call ``.eval()`` before extracting features.
    The model carries ``eo_input`` (the input contract, :class:`eo_backbones.InputSpec`; ``None`` for a foreign timm
    repository) and ``eo_digest`` (sha256 of the loaded file; ``None`` without pretrained weights). Parameters are
    float32 even if the file holds float16.

    Args:
        name: a row (``eo_backbones.list_models()``), ``hf-hub:ORG/NAME[@REVISION]`` or ``local-dir:PATH``.
        pretrained: load the weights; ``False`` initialises at random, without looking for any.
        in_chans: input channels. ``None``: as declared (encoders: 1). From 1 to N the stem's kernel is repeated and
            divided by N (in the precision of the file), so that N equal channels give the output of one.
        num_classes: outputs of a linear classifier; 0 gives pooled features (B, num_features). ``None``: as declared
            (encoders: 0; a fine-tuned folder keeps its classes). Another number gets a new, random classifier.
        features_only: return the feature maps of the stages, strides 2 to 32, instead (see timm).
        cache_dir: cache of huggingface_hub; its default is below ``HF_HOME``.
        local_files_only: take files from the cache only.
        **timm_kwargs: anything else that ``timm.create_model`` takes (``out_indices``, ``drop_path_rate``, ...), but
            no other source of weights.

    Returns:
        A module from (B, in_chans, H, W), float32, values as the input contract says.

    Raises:
        UserError: unknown name; weights not published; a failure of the Hub; content, tensor names or shapes other
            than declared.
    """
    _refuse_other_weights(timm_kwargs)
    resolved = download.resolve(name, cache_dir=cache_dir, local_files_only=local_files_only, with_weights=pretrained)
    return build_model(resolved, in_chans=in_chans, num_classes=num_classes, features_only=features_only, **timm_kwargs)


def create_transform(
    source: str | Weights | InputSpec | nn.Module,
    *,
    band: str | Sequence[str],
    unit: Unit | Sequence[Unit],
    offset: PerBand | None = None,
    scale: PerBand = 1.0,
    nodata: float | Sequence[float | None] | None = None,
    display: Display | None = None,
    check: Check = "error",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> InputTransform:
    """Return the module that turns raw pixels into the input of a model.

    Args:
        source: a model of :func:`create_model`, a name it takes, a row, or an input contract.
        band: name of the band ("B04", "red", "VV"), or one name per channel.
        unit: unit of the raw values: "dn", "reflectance", "db", "linear" or "uint8"; one, or one per channel.
        offset: added to the scaled values; -1000 for Sentinel-2 baseline 04.00 and later. One number for all bands, or
            one per band, as ``scale`` and ``nodata``. ``None``: 0, unless many images look as if they carried +1000.
        scale: factor from the stored values to their unit.
        nodata: stored value that means "missing".
        display: native values that the 8-bit values 0 and 255 stand for; a pair for each band in 8 bits.
        check: "error", "warn" or "off" for values that cannot be in the declared unit.
        cache_dir: for names of Hub repositories, as in :func:`create_model`.
        local_files_only: likewise.

    Returns:
        A module from (H, W), (C, H, W) or (B, C, H, W) of any type to float32 (C, H, W) or (B, C, H, W).

    Raises:
        UserError: unknown name, band or unit; a unit the band cannot have; a model without an input contract.
    """
    if isinstance(source, str):
        resolved = download.resolve(source, cache_dir=cache_dir, local_files_only=local_files_only, with_weights=False)
        spec = resolved.config.input
    elif isinstance(source, Weights):
        spec = source.input
    else:
        spec = getattr(source, "eo_input", None) if isinstance(source, nn.Module) else source
    if not isinstance(spec, InputSpec):
        described = repr(source) if isinstance(source, str) else f"this {type(source).__name__}"
        raise UserError(
            f"{described} declares no input contract; pass one, such as eo_backbones.contract.unit_range(), to say "
            f"which values it takes"
        )
    return InputTransform(
        spec, band=band, unit=unit, offset=offset, scale=scale, nodata=nodata, display=display, check=check
    )


def build_model(
    resolved: Resolved,
    *,
    in_chans: int | None = None,
    num_classes: int | None = None,
    features_only: bool = False,
    **timm_kwargs: Any,
) -> nn.Module:
    """Build the network and load the verified file into it; arguments as for :func:`create_model`."""
    config = resolved.config
    _check_shape_arguments(in_chans, num_classes)
    _check_description(resolved)
    if config.fuse is not None:
        build = build_segmentation if config.mask_values else build_multi_band
        return build(resolved, in_chans=in_chans, num_classes=num_classes, features_only=features_only, **timm_kwargs)
    arguments = {**config.model_args, **timm_kwargs}
    arguments["in_chans"] = config.in_chans if in_chans is None else in_chans
    arguments["num_classes"] = config.num_classes if num_classes is None else num_classes
    description = {**config.pretrained_cfg, "architecture": config.architecture}
    if resolved.weights_path is not None:
        shapes = tensor_shapes(resolved.weights_path)
        _check_tensors(resolved, shapes, arguments)
        _check_stem(resolved, shapes, arguments["in_chans"])
        description["file"] = str(resolved.weights_path)
    if features_only:
        arguments["features_only"] = True
    with _telling_what_timm_says(resolved):
        model: nn.Module = timm.create_model(
            config.architecture, pretrained=resolved.weights_path is not None, pretrained_cfg=description, **arguments
        )
    model.eo_input = config.input  # type: ignore[assignment]  # plain data on a module, as timm's pretrained_cfg is
    model.eo_digest = resolved.sha256  # type: ignore[assignment]
    return model


@contextmanager
def _telling_what_timm_says(resolved: Resolved) -> Iterator[None]:
    """Turn what timm raises about wrong arguments, whatever it is, into one line."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{resolved.name}: timm cannot build {resolved.config.architecture} with what config.json says of it, or "
            f"with the arguments passed ({reason})"
        ) from error


def _check_tensors(resolved: Resolved, shapes: Shapes, arguments: Mapping[str, Any]) -> None:
    """Compare the file's tensors with those of the network as it was saved, apart from the caller's ``timm_kwargs``.

    Raises:
        UserError: missing or unexpected tensors, or wrong shapes.
    """
    config = resolved.config
    as_saved = {key: value for key, value in arguments.items() if key not in (*_FEATURE_ARGUMENTS, "device", "dtype")}
    as_saved |= {"in_chans": config.in_chans, "num_classes": config.num_classes}
    with torch.device("meta"), _telling_what_timm_says(resolved):
        reference = timm.create_model(config.architecture, pretrained=False, **as_saved)
    expected = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    problems = {
        "missing": sorted(expected.keys() - shapes.keys()),
        "unexpected": sorted(shapes.keys() - expected.keys()),
        "of the wrong shape": [
            f"{key} {shapes[key]} instead of {expected[key]}"
            for key in sorted(expected.keys() & shapes.keys())
            if expected[key] != shapes[key]
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise UserError(
            f"{resolved.weights_path} does not hold a {config.architecture} with {config.in_chans} input channels and "
            f"{config.num_classes} classes as declared; tensors {text}"
        )


def _check_stem(resolved: Resolved, shapes: Shapes, in_chans: int) -> None:
    """Refuse what timm's ``adapt_input_conv`` cannot do: it would leave the stem random, with a warning only."""
    declared = resolved.config.in_chans
    if in_chans == declared:
        return
    stems = resolved.config.pretrained_cfg.get("first_conv") or ()
    kernels = [shapes.get(f"{name}.weight", ()) for name in ([stems] if isinstance(stems, str) else stems)]
    if not kernels or any(len(kernel) != 4 or (in_chans != 1 and kernel[1] != declared) for kernel in kernels):
        raise UserError(
            f"the stem of {resolved.name} cannot be adapted from {declared} to {in_chans} channels; "
            f"pass in_chans={declared}"
        )


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_IN_MESSAGE
    return ", ".join(names[:_NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def _check_description(resolved: Resolved) -> None:
    config = resolved.config
    if not timm.is_model(config.architecture):
        raise UserError(
            f"{resolved.name}: config.json names architecture {config.architecture!r}, which timm "
            f"{timm.__version__} does not have; try a newer timm"
        )
    unknown = sorted(config.pretrained_cfg.keys() - {field.name for field in fields(PretrainedCfg)})
    if unknown:
        raise UserError(
            f"{resolved.name}: config.json has fields inside 'pretrained_cfg' that timm does not know: "
            f"{', '.join(unknown)}; plain timm cannot load it either, move them to the root"
        )


def _check_shape_arguments(in_chans: int | None, num_classes: int | None) -> None:
    if in_chans is not None and in_chans < 1:
        raise UserError(f"in_chans is {in_chans}; an image has at least 1 channel")
    if num_classes is not None and num_classes < 0:
        raise UserError(f"num_classes is {num_classes}; pass 0 for features or the number of classes")


def _refuse_other_weights(timm_kwargs: Mapping[str, Any]) -> None:
    """Refuse a second source of weights: the name says which are loaded, and only their digest is checked."""
    overlay = timm_kwargs.get("pretrained_cfg_overlay") or {}
    refused = [key for key in _OTHER_WEIGHTS if timm_kwargs.get(key)]
    refused += [f"pretrained_cfg_overlay[{key!r}]" for key in _OTHER_SOURCES if overlay.get(key)]
    if refused:
        raise UserError(
            f"{', '.join(refused)} would load weights other than those that the name refers to; load them "
            f"with local-dir:PATH or hf-hub:ORG/NAME instead"
        )
