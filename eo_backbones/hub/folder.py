"""The weights folder on disk: the format that Hub repositories, ``eo-train export`` and ``local-dir:`` share.

``model.safetensors`` holds the weights; ``config.json`` what plain timm needs to build the model, plus this package's
block under the root key ``"eo_backbones"`` (input contract, classes); ``golden.safetensors`` inputs with the outputs
that the model must give; ``recipe.json`` how the weights were made, and their sha256; ``training_log.jsonl`` what was
logged meanwhile. Nothing here uses the internet.

timm 1.0.31 reads ``config.json`` with ``timm/models/_hub.py``: it ignores unknown keys at the root, but an unknown key
inside ``pretrained_cfg`` makes the repository impossible to load. The block is therefore at the root.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.files import JsonFields, atomic_file, read_json

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
GOLDEN_FILE = "golden.safetensors"
RECIPE_FILE = "recipe.json"
LOG_FILE = "training_log.jsonl"

CONFIG_KEY = "eo_backbones"
"""Root key of this package's block in ``config.json``."""
FORMAT_VERSION = 1
DIGEST_KEY = "weights_sha256"
"""Key of ``recipe.json`` that holds the sha256 of ``model.safetensors``."""

STOCK_ARCHITECTURE = "resnet50"
"""timm's own name: plain timm loads the folders without this package (docs/decisions/0002)."""
DEFAULT_SIZE_PX = 64  # nominal only, the network takes any size; EuroSAT images have it

MULTI_BAND_ARCHITECTURE = "eo_multi_band"
"""Named in ``config.json`` for a network that timm does not have, so that plain timm says that it does not know it."""
SEGMENTATION_ARCHITECTURE = "eo_segmentation"
"""Likewise, for a network that gives every pixel a class."""

_TITLES = {"resnet50": "ResNet50", "tf_efficientnet_lite0": "EfficientNet-Lite0"}
_FAMILIES = {"resnet50": "ResNet", "tf_efficientnet_lite0": "EfficientNet"}
_TIMM_DEFAULT_CLASSES = 1000  # timm.models.PretrainedCfg.num_classes
_TIMM_DEFAULT_SIZE = (3, 224, 224)  # timm.models.PretrainedCfg.input_size
_DECIMALS = 6
_ROOT_ONLY = (
    "architecture",
    "num_features",
    "global_pool",
    "model_args",
    "label_names",
    "label_descriptions",
    CONFIG_KEY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network with one input channel and no classifier.

    Attributes:
        name: in timm's registry.
        title: its usual spelling.
        family: of architectures.
        num_features: length of the pooled feature vector.
        num_params: number of parameters.
        reduction: input pixels per cell of the last feature map.
        first_conv, classifier: names of the first and the last layer, as timm's ``PretrainedCfg`` has them.
        module: where timm defines it.
        depthwise: whether it has convolutions that see one channel at a time.
    """

    name: str
    title: str
    family: str
    num_features: int
    num_params: int
    reduction: int
    first_conv: str
    classifier: str
    module: str
    depthwise: bool


@cache
def describe_architecture(name: str) -> Architecture:
    """Return timm's facts about one of its networks.

    Args:
        name: in timm's registry, without a tag.

    Raises:
        UserError: timm has no such network.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('_')[0]}*")[:3]
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(
            f"model.architecture is {name}, which timm {timm.__version__} does not have{hint}; "
            "timm.list_models() names all"
        )
    with torch.device("meta"):
        network: Any = timm.create_model(name, pretrained=False, in_chans=1, num_classes=0)
    return Architecture(
        name=name,
        title=_TITLES.get(name, name),
        family=_FAMILIES.get(name, name),
        num_features=network.num_features,
        num_params=sum(parameter.numel() for parameter in network.parameters()),
        reduction=network.feature_info[-1]["reduction"],
        first_conv=network.pretrained_cfg["first_conv"],
        classifier=network.pretrained_cfg["classifier"],
        module=type(network).__module__,
        depthwise=any(
            isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1 for part in network.modules()
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderConfig:
    """What ``config.json`` declares about the weights beside it.

    Attributes:
        architecture: name in timm's registry.
        num_classes: outputs of the saved classifier; 0 for an encoder.
        in_chans: input channels of the saved stem.
        input: the input contract; ``None`` for a foreign timm repository.
        pretrained_cfg: fields of timm's ``PretrainedCfg``.
        model_args: constructor arguments that the saved weights need, apart from ``num_classes``.
        classes: names of the classifier's outputs, in order; empty if it has none.
        fuse: how the bands' features are fused, if this is one encoder of a single band used on each band of ``input``
            (:class:`eo_backbones.networks.multi_band.MultiBandClassifier`; ``architecture`` is then the encoder's).
        mask_values: value of each class in a mask, if every pixel gets a class
            (:class:`eo_backbones.networks.segmentation.SegmentationNetwork`; ``architecture`` is then the encoder's,
            ``fuse`` how the bands' feature maps are fused); else empty.
        reading: how the images of a fine-tuning were read, where the user declared it
            (:class:`eo_backbones.rasters.options.KeptReading`); else empty.
    """

    architecture: str
    num_classes: int
    in_chans: int
    input: InputSpec | None
    pretrained_cfg: Mapping[str, Any]
    model_args: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    fuse: str | None = None
    mask_values: tuple[int, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)


def timm_fields(
    input: InputSpec,  # noqa: A002
    *,
    in_chans: int = 1,
    num_classes: int = 0,
    license: str | None = None,  # noqa: A002
    size_px: int = DEFAULT_SIZE_PX,
    architecture: str = STOCK_ARCHITECTURE,
) -> dict[str, Any]:
    """Return timm's description (``PretrainedCfg``) of weights of this package.

    Every field in which timm's own row describes its ImageNet weights is set, so that nothing of that is inherited.

    ``mean`` and ``std`` are for timm's transforms, ``AutoImageProcessor`` of transformers and
    segmentation-models-pytorch, which divide 8-bit values by 255 and know neither units nor bands; this package does
    not use them. They are those of the contract in 8-bit display values: band by band where each channel is one of its
    bands, else those of its reference band. A contract that normalises each image by itself has no such numbers; those
    of the band come nearest.

    Args:
        input: the input contract.
        in_chans: input channels of the saved stem.
        num_classes: outputs of the saved classifier; 0 for an encoder.
        license: SPDX identifier of the weights, lower case, or ``"other"``.
        size_px: nominal height and width of an input image.
        architecture: name in timm's registry.
    """
    network = describe_architecture(architecture)
    channels = input.bands if len(input.bands) == in_chans else (input.reference_band,) * in_chans
    return {
        "input_size": [in_chans, size_px, size_px],
        "test_input_size": [in_chans, size_px, size_px],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [round(entry.display_mean, _DECIMALS) for entry in channels],
        "std": [round(entry.display_std, _DECIMALS) for entry in channels],
        "num_classes": num_classes,
        "pool_size": [ceil(size_px / network.reduction)] * 2,
        "first_conv": network.first_conv,
        "classifier": network.classifier,
        "license": license,
        "origin_url": None,
        "paper_name": None,
        "paper_ids": None,
    }


def config_json(
    *,
    input: InputSpec,  # noqa: A002  the contract is called `input` wherever it is stored
    num_classes: int = 0,
    in_chans: int = 1,
    classes: tuple[str, ...] = (),
    license: str | None = None,  # noqa: A002
    size_px: int = DEFAULT_SIZE_PX,
    architecture: str = STOCK_ARCHITECTURE,
) -> dict[str, Any]:
    """Return the content of ``config.json`` for weights of this package.

    Args:
        input: the input contract the weights were trained with.
        num_classes: outputs of the saved classifier; 0 for an encoder.
        in_chans: input channels of the saved stem.
        classes: names of the outputs; empty or ``num_classes`` of them.
        license: SPDX identifier of the weights, lower case, or ``"other"``.
        size_px: nominal height and width of an input image.
        architecture: name in timm's registry.

    Raises:
        UserError: the number of names is not the number of classes.
    """
    if classes and len(classes) != num_classes:
        raise UserError(f"{len(classes)} class names were given for {num_classes} outputs; give one name per output")
    return {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": describe_architecture(architecture).num_features,
        "global_pool": "avg",
        # without num_classes, which transformers passes to timm itself, from the field above
        "model_args": {"in_chans": in_chans},
        # transformers would otherwise take the type of the file's first tensor, which may be float16
        "dtype": "float32",
        "pretrained_cfg": timm_fields(
            input,
            in_chans=in_chans,
            num_classes=num_classes,
            license=license,
            size_px=size_px,
            architecture=architecture,
        ),
        CONFIG_KEY: {"format_version": FORMAT_VERSION, "input": input.to_dict(), "classes": list(classes)},
    }


def read_config(path: Path) -> FolderConfig:
    """Read a ``config.json``, written by this package or by timm.

    Raises:
        UserError: not a JSON object, no ``architecture``, a field that holds what it cannot mean, or a newer
            ``eo_backbones`` block.
    """
    data = read_json(path)
    if not isinstance(data.get("architecture"), str):
        raise UserError(f"{path} has no 'architecture', so it does not describe a timm model")
    root = JsonFields(data, str(path))
    # timm's older single-level form keeps the fields of pretrained_cfg at the root
    described = root.mapping("pretrained_cfg") if "pretrained_cfg" in root else data
    cfg = {key: value for key, value in described.items() if key not in _ROOT_ONLY}
    args = dict(root.mapping("model_args")) if "model_args" in root else {}
    size = _input_size(path, cfg)
    # as timm's own reader: the root and the constructor arguments overrule pretrained_cfg
    declared = [
        (JsonFields(part, f"{path}: {name}").integer("num_classes", 0))
        for name, part in (("model_args", args), ("num_classes", data), ("pretrained_cfg", cfg))
        if "num_classes" in part
    ]
    num_classes = declared[0] if declared else _TIMM_DEFAULT_CLASSES
    args.pop("num_classes", None)  # folders written by earlier versions have it there too
    in_chans = JsonFields(args, f"{path}: model_args").integer("in_chans", 1) if "in_chans" in args else size[0]
    for key in ("first_conv", "classifier", "license"):
        if cfg.get(key) is not None and not _is_text(cfg[key], several=key != "license"):
            raise root.error(f"{key} is {cfg[key]!r}, not a text")
    block = _Block.read(root, path) if CONFIG_KEY in root else _Block()
    if block.input is not None and len(set(declared)) > 1:
        raise root.error(f"num_classes is {' in one place and '.join(map(str, dict.fromkeys(declared)))} in another")
    if block.classes and len(block.classes) != num_classes:
        raise root.error(f"classes holds {len(block.classes)} names, num_classes is {num_classes}")
    return FolderConfig(
        architecture=block.encoder or data["architecture"],
        num_classes=num_classes,
        in_chans=in_chans,
        input=block.input,
        pretrained_cfg=cfg | {"num_classes": num_classes, "input_size": [in_chans, *size[1:]]},
        model_args=args,
        classes=block.classes,
        fuse=block.fuse,
        mask_values=block.mask_values,
        reading=block.reading,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """This package's part of ``config.json``; fields as those of :class:`FolderConfig`."""

    input: InputSpec | None = None
    classes: tuple[str, ...] = ()
    encoder: str | None = None
    fuse: str | None = None
    mask_values: tuple[int, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, root: JsonFields, path: Path) -> "_Block":
        """Read it from the root of the file."""
        fields = JsonFields(root.value(CONFIG_KEY), f"{path}: {CONFIG_KEY}")
        version = fields.value("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {version!r}, this eo-backbones reads {FORMAT_VERSION}; "
                f"upgrade eo-backbones or export the folder again"
            )
        block = cls(
            input=InputSpec.from_dict(fields.value("input"), f"{path}: the input contract"),
            classes=fields.values("classes", str) if "classes" in fields else (),
            reading=fields.mapping("reading") if "reading" in fields else {},
        )
        kind = next((key for key in ("segmentation", "multi_band") if key in fields), None)
        if kind is None:
            return block
        part = JsonFields(fields.mapping(kind), f"{path}: {kind}")
        values = part.values("mask_values", int) if kind == "segmentation" else ()
        return replace(block, encoder=part.text("encoder"), fuse=part.text("fuse"), mask_values=values)


def _input_size(path: Path, cfg: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return channels, height and width."""
    size = cfg.get("input_size", _TIMM_DEFAULT_SIZE)
    if (
        not isinstance(size, list | tuple)
        or len(size) != len(_TIMM_DEFAULT_SIZE)
        or any(type(side) is not int or side < 1 for side in size)
    ):
        raise UserError(
            f"{path} is damaged: input_size is {size!r}, not channels, height and width; export the folder again"
        )
    return size[0], size[1], size[2]


def _is_text(value: Any, *, several: bool) -> bool:
    parts = value if several and isinstance(value, list | tuple) else [value]
    return all(isinstance(part, str) for part in parts)


def read_record(path: Path) -> dict[str, Any]:
    """Read a ``recipe.json``: how weights were made.

    Raises:
        UserError: not a JSON object, or a name, recipe or digest that is none.
    """
    record = read_json(path)
    fields = JsonFields(record, str(path))
    for key in ("name", "recipe_digest"):
        if record.get(key) is not None:
            fields.text(key)
    if record.get("recipe") is not None:
        recipe = fields.mapping("recipe")
        if recipe.get("name") is not None:
            JsonFields(recipe, f"{path}: recipe").text("name")
    digest = record.get(DIGEST_KEY)
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", str(digest)):
        raise fields.error(f"{DIGEST_KEY} is {digest!r}, not 64 hexadecimal digits")
    return record


def recorded_digest(folder: Path) -> str | None:
    """Return the sha256 of the weights according to ``recipe.json``, or ``None`` if it is not recorded."""
    path = folder / RECIPE_FILE
    digest = read_record(path).get(DIGEST_KEY) if path.is_file() else None
    return str(digest) if digest is not None else None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor in a safetensors file; reads the header only.

    Raises:
        UserError: the file is not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file ({str(error).splitlines()[0]}); delete it and get it again"
        ) from error


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file.

    Raises:
        UserError: as :func:`tensor_shapes`.
    """
    tensor_shapes(path)
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def save_weights(state_dict: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, so that equal tensors and metadata give equal bytes.

    safetensors 0.8.0 writes metadata in the random order of a hash map, so the header is written again in sorted
    order; tensor offsets count from its end and stay valid. The file appears under its name only when it is whole.

    Args:
        state_dict: any tensors; views and tensors on a device are copied.
        path: file to write; its folder must exist.
        metadata: text by key; no times, paths or host names, or the bytes would not be equal.
    """
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state_dict.items()
    }
    plain = save(tensors)
    length = int.from_bytes(plain[:8], "little")
    entries = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items())), **json.loads(plain[8 : 8 + length])}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # safetensors aligns the data to 8 bytes
    with atomic_file(path, shared=True) as unfinished, unfinished.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(plain)[8 + length :])


def save_golden(folder: Path, model: nn.Module, inputs: Tensor) -> None:
    """Write ``golden.safetensors``: inputs (B, C, H, W) and the model's outputs for them in eval mode, float32."""
    save_weights({"input": inputs, "output": _evaluate(model, inputs)}, folder / GOLDEN_FILE, {})


def check_golden(folder: Path, model: nn.Module, atol: float = 1e-4) -> float:
    """Return the largest absolute difference between the model's outputs and the golden ones.

    Args:
        folder: holds ``golden.safetensors``.
        model: on the CPU, with the declared number of channels and classes.
        atol: largest difference that still counts as the same model; other CPUs and library versions sum in a
            different order.

    Raises:
        UserError: the golden outputs cannot be read, or the model's differ from them by more than ``atol``.
    """
    path = folder / GOLDEN_FILE
    tensor_shapes(path)  # a readable message for a missing or broken file
    golden = load_file(path)
    if golden.keys() != {"input", "output"}:
        raise UserError(f"{path} holds {', '.join(sorted(golden))} instead of input, output; export the folder again")
    output = _evaluate(model, golden["input"])
    if output.shape != golden["output"].shape:
        raise UserError(f"the model gives {tuple(output.shape)}, {path} holds {tuple(golden['output'].shape)}")
    difference = float((output - golden["output"]).abs().max())
    if not difference <= atol:
        raise UserError(
            f"the model does not reproduce {path}: outputs differ by {difference:.2g}, allowed is {atol:g}; "
            f"the weights are not the ones the record was made with"
        )
    return difference


def _evaluate(model: nn.Module, inputs: Tensor) -> Tensor:
    training = model.training
    try:
        with torch.inference_mode():
            output: Tensor = model.eval()(inputs)
    finally:
        model.train(training)
    return output.clone()
