"""A model as one file that runs without this package: ONNX, or a ``torch.export`` program.

The network is traced once, by ``torch.export`` with dynamic batch size, height and width; ONNX is made from that trace
with PyTorch's own exporter. A file is loaded again and compared with PyTorch before it appears under its name, and it
carries its own description (:data:`METADATA_KEY`). It holds the network only: convert raw pixels to its input as the
contract inside says, or with :func:`eo_backbones.create_transform`.
"""

import copy
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.files import atomic_file, refuse_unwritable, sha256_of, write_problem
from eo_backbones.info import info
from eo_backbones.models import create_model
from eo_backbones.networks.multi_band import Fuse, MultiBand

logger = logging.getLogger(__name__)

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""``torch.export.load`` warns about files that do not end in ``.pt2``."""

METADATA_KEY = "eo_backbones"
"""Where a file describes itself: this entry of ONNX's ``metadata_props``, or this one of ``extra_files``; JSON."""

TOLERANCE = 1e-4
"""Largest absolute difference of an output from PyTorch's."""

_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRACED = (2, 64, 96)  # batch, height, width: torch.export treats a length of 1 as a constant
_COMPARED = ((1, 64, 64), (3, 80, 112))
_AXES = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        format: ``"onnx"`` or ``"torch"``.
        size_bytes: its size.
        sha256: its content.
        opset: of ONNX; ``None`` for a ``torch.export`` program.
        difference: largest absolute difference from PyTorch, over all images of ``compared``.
        compared: shapes (B, C, H, W) of the inputs that were compared.
        metadata: what the file says about itself.
    """

    path: Path
    format: Format
    size_bytes: int
    sha256: str
    opset: int | None
    difference: float
    compared: tuple[tuple[int, ...], ...]
    metadata: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"path": str(self.path)}


def export(
    name: str,
    out: Path,
    *,
    format: Format,  # noqa: A002  named as the option
    bands: Sequence[str] = (),
    fuse: Fuse = "concat",
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Exported:
    """Write a declared model, a Hub repository or a folder as one file.

    Args:
        name: as for :func:`eo_backbones.create_model`; a fine-tuned folder keeps its classes.
        out: file to write, ``.onnx`` or ``.pt2``; its folder must exist.
        format: ``"onnx"`` (needs the extra ``export``) or ``"torch"``.
        bands: use a single-band encoder on these bands (:class:`eo_backbones.MultiBand`); none: the model as it is.
        fuse: how their features are joined, ``"concat"`` or ``"mean"``.
        overwrite: replace ``out`` if it is there.
        cache_dir: as for ``create_model``.
        local_files_only: likewise.

    Raises:
        UserError: no such model, no weights, a missing package, a file that is there or cannot be written, a network
            that does not take images of any size, or one that the file does not reproduce.
    """
    _check_request(out, format, overwrite=overwrite)
    if fuse == "attention":
        raise UserError(
            "fuse 'attention' is the mean until it is trained; pass mean, or a fine-tuned folder that has one"
        )
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    facts = info(name, **where)
    if bands and facts["num_classes"]:
        raise UserError(f"{name} is a classifier and has its bands already; leave --bands out")
    network = create_model(name, **where)
    metadata = {"model": facts["name"], "weights_sha256": network.eo_digest, "classes": facts["classes"]}
    if "mask_values" in facts:
        metadata["mask_values"] = facts["mask_values"]
    in_chans = facts["in_chans"]
    if bands:
        network = MultiBand(network, bands, fuse)
        in_chans = len(network.bands)
        metadata |= {"bands": list(network.bands), "fuse": fuse}
    return export_network(network, out, format=format, in_chans=in_chans, metadata=metadata, overwrite=overwrite)


def export_network(
    network: nn.Module,
    out: Path,
    *,
    format: Format,  # noqa: A002
    in_chans: int,
    metadata: Mapping[str, Any],
    overwrite: bool = False,
) -> Exported:
    """Write a network that is in memory, such as a ``MultiBand`` with a trained attention.

    Args:
        network: from (B, in_chans, H, W) to one tensor with a row an image; its ``eo_input``, if it has one, goes into
            the file. It is put on the CPU and into eval mode.
        out: as for :func:`export`.
        format: likewise.
        in_chans: channels of the input.
        metadata: JSON values that go into the file beside the input contract.
        overwrite: as for :func:`export`.

    Raises:
        UserError: as for :func:`export`.
    """
    _check_request(out, format, overwrite=overwrite)
    network = network.cpu().eval()
    contract = getattr(network, "eo_input", None)
    metadata = {
        **metadata,
        "in_chans": in_chans,
        "input": contract.to_dict() if isinstance(contract, InputSpec) else None,
        "made_with": {"torch": str(torch.__version__)},
    }
    expected = _take_any_size(network, network, in_chans)
    logger.info("tracing the network")
    program = _trace(_traceable(network), in_chans)
    opset = None
    with atomic_file(out, shared=True) as unfinished:
        if format == "onnx":
            logger.info("converting it to ONNX")
            opset = _save_onnx(program, unfinished, metadata)
            run = _onnx_runner(unfinished)
        else:
            try:
                torch.export.save(program, unfinished, extra_files={METADATA_KEY: json.dumps(metadata)})
            except (OSError, RuntimeError) as error:  # torch's writer has its own for a full disk
                raise UserError(f"cannot write {out}: {write_problem(error)}; make room, or pass another --out") from (
                    error
                )
            run = torch.export.load(unfinished).module()
        logger.info("comparing the file with PyTorch")
        difference = _largest_difference(expected, run)
    return Exported(
        path=out,
        format=format,
        size_bytes=out.stat().st_size,
        sha256=sha256_of(out),
        opset=opset,
        difference=difference,
        compared=tuple((batch, in_chans, *size) for batch, *size in _COMPARED),
        metadata=metadata,
    )


def _check_request(out: Path, format: str, *, overwrite: bool) -> None:  # noqa: A002
    """Refuse before any work what would fail after it."""
    if format not in get_args(Format):
        raise unknown_name("format", format, get_args(Format))
    suffix = SUFFIXES[cast("Format", format)]
    if out.suffix != suffix:
        raise UserError(
            f"{out} does not end in {suffix}, as files of format {format} do; pass --out {out.stem}{suffix}"
        )
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent}; make it first")
    refuse_unwritable(out)
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already; pass --overwrite to replace it")
    missing = [package for package in _ONNX_PACKAGES if find_spec(package) is None]
    if format == "onnx" and missing:
        raise UserError(f"writing ONNX needs {', '.join(missing)}; type: pip install 'eo-backbones[export]'")


class _MirroredConvolution(nn.Module):
    """A convolution of stride 2 with TensorFlow's SAME padding, without arithmetic on the size of the image.

    SAME pads the far edges by an amount that depends on the size: for the five such layers of an EfficientNet the
    tracer needs more than ten minutes to simplify the sizes. In the mirrored image, under the mirrored kernel, it is
    ordinary padding, the same on all sides: with an even size the last column is one that no step reaches.
    """

    def __init__(self, convolution: Conv2dSame) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flip((2, 3)))
        self.bias = convolution.bias
        self.padding = tuple((side - 1) // 2 for side in convolution.kernel_size)
        self.groups = convolution.groups

    def forward(self, images: Tensor) -> Tensor:
        """Return what the convolution gives."""
        mirrored = F.conv2d(images.flip((2, 3)), self.weight, self.bias, 2, self.padding, groups=self.groups)
        return mirrored.flip((2, 3))


def _is_mirrored_exactly(convolution: Conv2dSame) -> bool:
    odd = all(side % 2 for side in convolution.kernel_size)
    return odd and (convolution.stride, convolution.dilation) == ((2, 2), (1, 1))


def _traceable(network: nn.Module) -> nn.Module:
    """Return a network with the same outputs whose sizes the tracer can follow; the given one stays as it is."""
    if not any(isinstance(module, Conv2dSame) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, Conv2dSame) and _is_mirrored_exactly(module):
            network.set_submodule(name, _MirroredConvolution(module))
    return network


def _trace(network: nn.Module, in_chans: int) -> ExportedProgram:
    """Return the network as a graph for any batch size, height and width, or refuse one that has none."""
    batch, height, width = _TRACED
    example = torch.zeros(batch, in_chans, height, width)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(dict.fromkeys(_AXES, Dim.AUTO),))
    _take_any_size(network, program.module(), in_chans)  # its guards raise if a length became a constant
    return program


def _save_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> int:
    """Write the graph as ONNX, weights inside; return the operator set (the exporter's recommended one)."""
    converted = torch.onnx.export(
        program,
        dynamic_shapes=(_AXES,),
        input_names=["images"],
        output_names=["outputs"],
        dynamo=True,
        verbose=False,
    )
    assert converted is not None
    converted.model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    converted.save(path, external_data=False)
    return int(converted.model.opset_imports[""])


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime  # noqa: PLC0415  an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["outputs"], {"images": images.numpy()})[0])

    return run


def _take_any_size(network: nn.Module, run: Callable[[Tensor], Tensor], in_chans: int) -> list[tuple[Tensor, Tensor]]:
    """Return what is compared, random images with their outputs, or refuse a network that does not take these sizes."""
    random = torch.Generator().manual_seed(0)
    pairs = []
    for batch, height, width in _COMPARED:
        images = torch.randn(batch, in_chans, height, width, generator=random)
        try:
            with torch.no_grad():
                pairs.append((images, run(images)))
        except (AssertionError, RuntimeError) as error:  # what timm and torch raise
            raise UserError(
                f"this {type(network).__name__} does not take images of any size ({height} x {width}: "
                f"{str(error).splitlines()[0]}); export is for networks that do, such as a ResNet"
            ) from error
    return pairs


def _largest_difference(expected: Sequence[tuple[Tensor, Tensor]], run: Callable[[Tensor], Tensor]) -> float:
    """Return how far the file's outputs are from the network's, or refuse the file."""
    largest = 0.0
    for images, targets in expected:
        with torch.no_grad():
            outputs = run(images)
        difference = float((outputs - targets).abs().max()) if outputs.shape == targets.shape else float("inf")
        if not difference <= TOLERANCE:
            raise UserError(
                f"the file's outputs differ from PyTorch's by {difference:.2g}, allowed is {TOLERANCE:g}; none was "
                "written; try the other format, or another version of torch"
            )
        largest = max(largest, difference)
    return largest
