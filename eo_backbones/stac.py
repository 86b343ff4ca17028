"""The STAC item that describes a model: ``stac_mlm.json`` in its folder.

Source: STAC extension Machine Learning Model (stac-extensions/mlm), ``json-schema/schema.json`` of v1.5.0; STAC 1.1
item specification. A model has no footprint and no acquisition time, so the geometry is null and the time range is
the open one of the extension's own examples.
"""

import re
from collections.abc import Mapping
from typing import Any

from eo_backbones.architectures import Architecture
from eo_backbones.bands import BANDS
from eo_backbones.contract import BandInput, InputSpec

STAC_FILE = "stac_mlm.json"
MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
EO_SCHEMA = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"

_TASKS = ["similarity-search"]  # what the extension's closed list has for features without a classifier
_SHA256_MULTIHASH = "1220"  # multihash prefix of file:checksum: function 0x12 (sha2-256), 0x20 bytes
_UNITS = {"reflectance": "1", "db": "dB"}


def stac_item(
    *,
    name: str,
    license: str,  # noqa: A002  named as the STAC field
    input: InputSpec,  # noqa: A002  named as in config.json
    record: Mapping[str, Any],
    size_bytes: int | None,
    network: Architecture,
) -> dict[str, Any]:
    """Return the item, ready for JSON.

    Args:
        name: of the model, free text.
        license: SPDX identifier, or ``"other"``.
        input: the input contract. Each band becomes one input: the encoder takes any one of them at a time.
        record: content of ``recipe.json`` as :mod:`eo_backbones.cards.facts` describes it.
        size_bytes: of ``model.safetensors``; ``None`` if nobody has made the weights yet.
        network: of the encoder; loaded, each parameter takes four bytes (float32).
    """
    recipe = record["recipe"]
    made = size_bytes is not None
    properties = {
        "title": name,
        "description": f"{network.title} encoder for one band at a time, pretrained with {recipe['method']}"
        + ("" if made else "; declared, its weights are not published yet"),
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "license": license,
        "bands": [_band(entry) for entry in input.bands],
        "mlm:name": _plain(name),
        "mlm:architecture": network.family,
        "mlm:tasks": _TASKS,
        "mlm:framework": "PyTorch",
        "mlm:total_parameters": network.num_params,
        "mlm:memory_size": 4 * network.num_params,
        "mlm:pretrained": made,
        "mlm:pretrained_source": ", ".join(source["name"] for source in record["data"]["sources"]) if made else None,
        "mlm:accelerator": None,
        "mlm:hyperparameters": {
            "recipe": recipe["name"],
            "recipe_digest": record["recipe_digest"],
            "method": recipe["method"],
            "seed": recipe["seed"],
            **({"steps": record["steps"]} if made else {}),
        },
        "mlm:input": [_input(entry, input) for entry in input.bands],
        "mlm:output": [
            {
                "name": "features",
                "description": "globally averaged features of the last stage",
                "tasks": _TASKS,
                "result": {
                    "shape": [-1, network.num_features],
                    "dim_order": ["batch", "embedding"],
                    "data_type": "float32",
                },
            }
        ],
    }
    weights: dict[str, Any] = {
        "href": "./model.safetensors",
        "title": f"Weights of timm's {network.name} with one input channel and no classifier",
        "type": "application/octet-stream; application=safetensors",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": "safetensors.torch.save_file",
    }
    if made:
        properties["mlm:framework_version"] = ".".join(re.findall(r"\d+", record["versions"]["torch"])[:3])
        weights |= {"file:size": size_bytes, "file:checksum": _SHA256_MULTIHASH + record["weights_sha256"]}
    else:
        weights["description"] = "not published yet; the model card says how to make it"
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM_SCHEMA, FILE_SCHEMA, EO_SCHEMA],
        "id": _plain(name),
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {
            "weights": weights,
            "source_code": {
                "href": "https://github.com/huggingface/pytorch-image-models/blob/main/"
                + network.module.replace(".", "/")
                + ".py",
                "title": "Implementation of the network",
                "type": "text/x-python",
                "roles": ["mlm:source_code", "code"],
                "mlm:entrypoint": f"{network.module}:{network.name}",
            },
            "config": {
                "href": "./config.json",
                "title": "Arguments of the network, and the input contract",
                "type": "application/json",
                "roles": ["metadata"],
            },
        },
    }


def _band(entry: BandInput) -> dict[str, Any]:
    row = BANDS[entry.band]
    described: dict[str, Any] = {
        "name": entry.band,
        "description": f"{'Sentinel-2' if row.sensor == 's2' else 'Sentinel-1'} {entry.band}",
        "unit": _UNITS[entry.unit],
        "gsd": row.gsd_m,
    }
    if row.bandwidth_nm is not None:
        described |= {
            "eo:center_wavelength": round(row.wavelength_nm / 1000, 6),
            "eo:full_width_half_max": round(row.bandwidth_nm / 1000, 6),
        }
    return described


def _input(entry: BandInput, contract: InputSpec) -> dict[str, Any]:
    low, high = entry.clip
    # The extension takes one scaling per band: the clipping before it is therefore part of reading the band.
    scaling: dict[str, Any] = (
        {"type": "z-score", "mean": entry.mean, "stddev": entry.std}
        if contract.normalization == "band"
        else {"type": "processing", "format": "gdal-calc", "expression": "(A - mean(A)) / std(A)"}
    )
    return {
        "name": entry.band,
        "description": (
            f"Band {entry.band} alone, in {'dB' if entry.unit == 'db' else entry.unit}; "
            "the inputs listed here are alternatives"
        ),
        "bands": [{"name": entry.band, "format": "gdal-calc", "expression": f"clip(A, {low!r}, {high!r})"}],
        "input": {
            "shape": [-1, 1, -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [scaling],
        "resize_type": None,
        "pre_processing_function": {"format": "python", "expression": "eo_backbones:create_transform"},
    }


def _plain(name: str) -> str:
    """Return the name with what ``mlm:name`` allows, letters, digits, dot, dash and underscore, ends alphanumeric."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-_.")
