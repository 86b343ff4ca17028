"""The folder of a fine-tuned network, written beside its place, loaded back, then moved into it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from eo_backbones.contract import InputSpec
from eo_backbones.files import sha256_of, utf8, write_json
from eo_backbones.hub.folder import (
    CONFIG_FILE,
    CONFIG_KEY,
    DIGEST_KEY,
    MULTI_BAND_ARCHITECTURE,
    RECIPE_FILE,
    SEGMENTATION_ARCHITECTURE,
    WEIGHTS_FILE,
    FolderConfig,
    check_golden,
    config_json,
    save_golden,
    save_weights,
)
from eo_backbones.models import create_model
from eo_backbones.networks.multi_band import MultiBandClassifier
from eo_backbones.networks.segmentation import SegmentationNetwork
from eo_backbones.rasters.options import KeptReading
from eo_backbones_train.finetuning.card import finetuned_card

_CARD_FILE = "README.md"
_GOLDEN_PX = 64
_FROM_SOURCE = ("first_conv", "classifier", "pool_size")  # what depends on the architecture in timm's description


def network_config(
    source: FolderConfig,
    network: nn.Module,
    *,
    classes: tuple[str, ...],
    mask_values: tuple[int, ...],
    size_px: int,
    license: str,  # noqa: A002
    reading: KeptReading,
    levels: Sequence[str],
) -> dict[str, Any]:
    """Return ``config.json``: that of the encoder it started from, with its own classes, bands and size.

    A network that reads each band by itself, or gives every pixel a class, names an architecture that timm does not
    have, so that plain timm refuses it instead of loading half of it.

    Args:
        source: of the encoder.
        network: what was trained.
        classes: names of its outputs.
        mask_values: value of each class in a mask; empty for classification.
        size_px: side of the images it was trained on.
        license: of the weights.
        reading: how the images were read, for those to predict.
        levels: processing levels of the images, where they are known.
    """
    spec = network.eo_input
    assert isinstance(spec, InputSpec), "a network to fine-tune has a contract"
    config = config_json(
        input=replace(spec, processing_levels=tuple(levels)),
        num_classes=len(classes),
        in_chans=len(spec.bands),
        classes=classes,
        license=license,
        size_px=size_px,
    )
    encoder: Any = network.encoder if isinstance(network, SegmentationNetwork) else network
    config |= {
        "architecture": source.architecture,
        "num_features": encoder.num_features,
        "label_names": list(classes),
        "model_args": {**source.model_args, **config["model_args"]},
    }
    config["pretrained_cfg"] |= {
        key: source.pretrained_cfg[key] for key in _FROM_SOURCE if key in source.pretrained_cfg
    }
    if isinstance(network, MultiBandClassifier):
        config[CONFIG_KEY]["multi_band"] = {"encoder": source.architecture, "fuse": network.fuse}
        config["architecture"] = MULTI_BAND_ARCHITECTURE
    elif isinstance(network, SegmentationNetwork):
        config[CONFIG_KEY]["segmentation"] = {
            "encoder": source.architecture,
            "fuse": network.fuse,
            "mask_values": list(mask_values),
        }
        config["architecture"] = SEGMENTATION_ARCHITECTURE
    if kept := reading.to_dict():
        config[CONFIG_KEY]["reading"] = kept
    return config


def write_folder(
    folder: Path,
    network: nn.Module,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    license: str,  # noqa: A002
) -> dict[str, Any]:
    """Write weights, config, golden outputs, record and card into an empty folder; load them back and compare.

    Args:
        folder: to write to.
        network: on the CPU.
        config: see :func:`network_config`.
        record: ``recipe.json`` without the digest of the weights.
        license: of the weights.

    Returns:
        The record, with the digest.
    """
    # what is known about the images is no part of the weights
    block = {key: value for key, value in config[CONFIG_KEY].items() if key != "reading"}
    block["input"] = {key: value for key, value in block["input"].items() if key != "processing_levels"}
    save_weights(network.state_dict(), folder / WEIGHTS_FILE, {CONFIG_KEY: json.dumps(block)})
    write_json(folder / CONFIG_FILE, config)
    full = {**record, DIGEST_KEY: sha256_of(folder / WEIGHTS_FILE)}
    write_json(folder / RECIPE_FILE, full)
    channels, *sides = config["pretrained_cfg"]["input_size"]
    if config["architecture"] == SEGMENTATION_ARCHITECTURE:  # its output is as large as its input
        sides = [min(side, _GOLDEN_PX) for side in sides]
    inputs = torch.rand(2, channels, *sides, generator=torch.Generator().manual_seed(0))
    save_golden(folder, network, inputs)
    check_golden(folder, create_model(f"local-dir:{folder}"))
    if config["architecture"] not in (MULTI_BAND_ARCHITECTURE, SEGMENTATION_ARCHITECTURE):
        check_golden(folder, timm.create_model(f"local-dir:{folder}", pretrained=True))
    spec = network.eo_input
    assert isinstance(spec, InputSpec), "a network to fine-tune has a contract"
    (folder / _CARD_FILE).write_bytes(utf8(finetuned_card(full, spec, license=license)))
    return full


def move_into(folder: Path, out: Path) -> None:
    """Move all files of a finished folder into ``out``; the record goes last, so that it marks a whole folder."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RECIPE_FILE):
        path.replace(out / path.name)
    folder.rmdir()
