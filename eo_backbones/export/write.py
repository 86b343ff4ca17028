"""A model as one file that runs without this package: ONNX, or a ``torch.export`` program.

The network is traced once, by ``torch.export`` with dynamic batch size, height and width; ONNX is made from that trace
with PyTorch's own exporter. A file is loaded again and compared with PyTorch before it appears under its name, and it
carries its own description (:data:`METADATA_KEY`). It holds the network only, whose input is what the contract inside
says and :func:`eo_backbones.create_transform` makes; or the preprocessing as well, and takes raw pixels.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from eo_backbones.bands import BANDS
from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.export.raw_input import DEEPNESS_SCALE, DeepnessSegmenter, RawInputNetwork, raw_example
from eo_backbones.export.trace import trace
from eo_backbones.files import atomic_file, refuse_unwritable, sha256_of, write_problem
from eo_backbones.info import info
from eo_backbones.inputs import InputTransform
from eo_backbones.models import create_model
from eo_backbones.networks.multi_band import Fuse, MultiBand
from eo_backbones.rasters.options import ReadingOptions

logger = logging.getLogger(__name__)

Format = Literal["onnx", "torch"]
"""ONNX, or a program of ``torch.export``."""
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
_BATCH = {0: "batch"}
_SMALLEST_TILE = 32  # what an encoder of five halvings divides
_TILES_OVERLAP = 15  # per cent: the plugin's own default
_INPUT, _OUTPUT, _POSSIBLE = "images", "outputs", "possible_in_unit"


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
        outputs: their names, in order.
    """

    path: Path
    format: Format
    size_bytes: int
    sha256: str
    opset: int | None
    difference: float
    compared: tuple[tuple[int, ...], ...]
    metadata: Mapping[str, Any]
    outputs: tuple[str, ...] = (_OUTPUT,)

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
    raw: ReadingOptions | None = None,
    deepness_px: int | None = None,
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
        raw: put the input contract into the graph, for pixels whose unit, scale, offset and nodata are these: the file
            takes float32 values as stored, and has a second output ``possible_in_unit``, bool ``(B, C)``, which is
            false where the values of an image and band cannot be in the unit.
        deepness_px: write a segmentation model for the QGIS plugin Deepness, with tiles of so many pixels: it takes
            8-bit layers as the plugin passes them, gives probabilities, and carries the plugin's metadata.
        overwrite: replace ``out`` if it is there.
        cache_dir: as for ``create_model``.
        local_files_only: likewise.

    Raises:
        UserError: no such model, no weights, a missing package, a file that is there or cannot be written, a network
            that does not take images of any size, or one that the file does not reproduce; raw pixels without band or
            unit.
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
    if deepness_px is not None:
        _check_deepness(name, facts, format, deepness_px, raw)
        raw = ReadingOptions.of(["uint8"], scale=DEEPNESS_SCALE)
    network = create_model(name, **where)
    metadata = {"model": facts["name"], "weights_sha256": network.eo_digest, "classes": facts["classes"]}
    if "mask_values" in facts:
        metadata["mask_values"] = facts["mask_values"]
    in_chans = facts["in_chans"]
    if bands:
        network = MultiBand(network, bands, fuse)
        in_chans = len(network.bands)
        metadata |= {"bands": list(network.bands), "fuse": fuse}
    if raw is None:
        return export_network(network, out, format=format, in_chans=in_chans, metadata=metadata, overwrite=overwrite)
    spec = getattr(network, "eo_input", None)
    names = tuple(metadata.get("bands", spec.band_names if isinstance(spec, InputSpec) else ()))
    if not isinstance(spec, InputSpec) or len(names) != in_chans:
        raise UserError(f"{name} takes any band; say which one the raw pixels are of: --bands B04")
    transform = _transform(spec, names, raw)
    metadata |= {"bands": list(names), "raw": _described(transform)}
    draw = partial(raw_example, transform)
    if deepness_px is None:
        behind = RawInputNetwork(network.cpu().eval(), transform)
        return _write(behind, out, format, spec, metadata, _Examples(draw), outputs=(_OUTPUT, _POSSIBLE))
    side = (deepness_px, deepness_px)
    return _write(
        DeepnessSegmenter(network.cpu().eval(), transform),
        out,
        format,
        spec,
        metadata,
        _Examples(draw, _BATCH, ((1, *side), (3, *side))),
        properties=_deepness_properties(facts["classes"], names, deepness_px),
    )


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

    def draw(shape: tuple[int, int, int], random: torch.Generator) -> Tensor:
        batch, height, width = shape
        return torch.randn(batch, in_chans, height, width, generator=random)

    contract = getattr(network, "eo_input", None)
    spec = contract if isinstance(contract, InputSpec) else None
    return _write(network.cpu().eval(), out, format, spec, {**metadata, "in_chans": in_chans}, _Examples(draw))


@dataclass(frozen=True, slots=True)
class _Examples:
    """Inputs that a network is traced and compared with.

    Attributes:
        draw: (batch, height, width) and a generator -> a random input.
        axes: of the input that may have any length, with their names.
        compared: (batch, height, width) of those that are compared.
    """

    draw: Callable[[tuple[int, int, int], torch.Generator], Tensor]
    axes: Mapping[int, str] = field(default_factory=lambda: _AXES)
    compared: tuple[tuple[int, int, int], ...] = _COMPARED

    def traced(self) -> Tensor:
        """Return the input that the network is traced with."""
        shape = _TRACED if self.axes == _AXES else (_TRACED[0], *self.compared[0][1:])
        return self.draw(shape, torch.Generator().manual_seed(1))

    def all(self) -> list[Tensor]:
        """Return the inputs to compare."""
        random = torch.Generator().manual_seed(0)
        return [self.draw(shape, random) for shape in self.compared]


def _write(
    network: nn.Module,
    out: Path,
    format: Format,  # noqa: A002
    spec: InputSpec | None,
    facts: Mapping[str, Any],
    examples: _Examples,
    *,
    outputs: tuple[str, ...] = (_OUTPUT,),
    properties: Mapping[str, str] | None = None,
) -> Exported:
    """Trace, write, load and compare; ``properties``: further entries of ONNX's ``metadata_props``."""
    images = examples.all()
    metadata = {
        **facts,
        "in_chans": images[0].shape[1],
        "input": None if spec is None else spec.to_dict(),
        "made_with": {"torch": str(torch.__version__)},
    }
    expected = _take_sizes(network, network, images)
    logger.info("tracing the network")
    program = trace(network, examples.traced(), examples.axes)
    _take_sizes(network, program.module(), images)  # its guards raise if a length became a constant
    opset = None
    with atomic_file(out, shared=True) as unfinished:
        if format == "onnx":
            logger.info("converting it to ONNX")
            described = {METADATA_KEY: json.dumps(metadata), **(properties or {})}
            opset = _save_onnx(program, unfinished, described, examples.axes, outputs)
            run = _onnx_runner(unfinished, outputs)
        else:
            try:
                torch.export.save(program, unfinished, extra_files={METADATA_KEY: json.dumps(metadata)})
            except (OSError, RuntimeError) as error:  # torch's writer has its own for a full disk
                raise UserError(f"cannot write {out}: {write_problem(error)}; make room, or pass another --out") from (
                    error
                )
            run = torch.export.load(unfinished).module()
        logger.info("comparing the file with PyTorch")
        difference = _largest_difference(zip(images, expected, strict=True), run)
    return Exported(
        path=out,
        format=format,
        size_bytes=out.stat().st_size,
        sha256=sha256_of(out),
        opset=opset,
        difference=difference,
        compared=tuple(tuple(image.shape) for image in images),
        metadata=metadata,
        outputs=outputs,
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


def _transform(spec: InputSpec, bands: Sequence[str], raw: ReadingOptions) -> InputTransform:
    """Return the transform of raw pixels of the bands, or refuse bands whose unit is not said."""
    declared = raw.for_bands(bands)
    open_bands = [name for name in bands if name not in declared.units]
    if open_bands:
        raise UserError(
            f"nothing says in which unit the raw pixels of {', '.join(open_bands)} are; pass --unit dn, reflectance, "
            "db, linear or uint8"
        )
    return InputTransform(
        spec,
        band=bands,
        unit=[declared.units[name] for name in bands],
        scale=[declared.scales.get(name, 1.0) for name in bands],
        offset=[declared.offsets.get(name, 0.0) for name in bands],
        nodata=[declared.nodata.get(name) for name in bands],
        check="off",  # the graph has its own
    )


def _described(transform: InputTransform) -> dict[str, Any]:
    """Return what raw pixels the transform takes, as JSON types, a value a band."""
    return {
        "units": list(transform.units),
        "scale": list(transform.scales),
        "offset": list(transform.offsets),
        "nodata": list(transform.nodata),
    }


def _check_deepness(
    name: str,
    facts: Mapping[str, Any],
    format: Format,  # noqa: A002
    px: int,
    raw: ReadingOptions | None,
) -> None:
    """Refuse what QGIS Deepness cannot run."""
    if "mask_values" not in facts:
        raise UserError(
            f"{name} gives no class to each pixel, and QGIS Deepness runs models that do; pass a folder of eo-train "
            "finetune --task segmentation"
        )
    if format != "onnx":
        raise UserError("QGIS Deepness reads ONNX only; pass --format onnx")
    if raw is not None:
        raise UserError(
            "--deepness has preprocessing of its own, for 8-bit layers; leave --with-preprocessing out, or --deepness"
        )
    if px < _SMALLEST_TILE or px % _SMALLEST_TILE:
        raise UserError(f"--deepness {px}: tiles are squares whose side is a multiple of {_SMALLEST_TILE}; pass 512")


def _deepness_properties(classes: Sequence[str], bands: Sequence[str], px: int) -> dict[str, str]:
    """Return ONNX metadata as the plugin reads it: deepness/processing/models/model_base.py, JSON values."""
    return {
        "model_type": json.dumps("Segmentor"),
        "class_names": json.dumps(dict(enumerate(classes))),
        "resolution": json.dumps(100.0 * min(BANDS[name].gsd_m for name in bands)),  # centimetres a pixel
        "tile_size": json.dumps(px),
        "tiles_overlap": json.dumps(_TILES_OVERLAP),
        "seg_thresh": json.dumps(0.0),  # every pixel gets its most probable class
    }


def _save_onnx(
    program: ExportedProgram, path: Path, properties: Mapping[str, str], axes: Mapping[int, str], outputs: Sequence[str]
) -> int:
    """Write the graph as ONNX, weights inside; return the operator set (the exporter's recommended one)."""
    converted = torch.onnx.export(
        program,
        dynamic_shapes=(dict(axes),),
        input_names=[_INPUT],
        output_names=list(outputs),
        dynamo=True,
        verbose=False,
    )
    assert converted is not None
    converted.model.metadata_props.update(properties)
    converted.save(path, external_data=False)
    return int(converted.model.opset_imports[""])


def _onnx_runner(path: Path, outputs: Sequence[str]) -> Callable[[Tensor], Any]:
    import onnxruntime  # noqa: PLC0415  an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(one) for one in session.run(list(outputs), {_INPUT: images.numpy()}))

    return run


def _take_sizes(network: nn.Module, run: Callable[[Tensor], Any], images: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Return the outputs for images of several sizes, or refuse a network that does not take them."""
    made = []
    for one in images:
        try:
            with torch.no_grad():
                made.append(_outputs(run(one)))
        except (AssertionError, RuntimeError) as error:  # what timm and torch raise
            height, width = one.shape[-2:]
            raise UserError(
                f"this {type(network).__name__} does not take images of any size ({height} x {width}: "
                f"{str(error).splitlines()[0]}); export is for networks that do, such as a ResNet"
            ) from error
    return made


def _outputs(given: Any) -> tuple[Tensor, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def _largest_difference(expected: Iterable[tuple[Tensor, tuple[Tensor, ...]]], run: Callable[[Tensor], Any]) -> float:
    """Return how far the file's outputs are from the network's, or refuse the file."""
    largest = 0.0
    for images, targets in expected:
        with torch.no_grad():
            found = _outputs(run(images))
        for target, output in zip(targets, found, strict=True):
            same_shape = output.shape == target.shape
            difference = float((output.float() - target.float()).abs().max()) if same_shape else float("inf")
            if not difference <= TOLERANCE:
                raise UserError(
                    f"the file's outputs differ from PyTorch's by {difference:.2g}, allowed is {TOLERANCE:g}; none was "
                    "written; try the other format, or another version of torch"
                )
            largest = max(largest, difference)
    return largest
