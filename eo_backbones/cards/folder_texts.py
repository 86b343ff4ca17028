"""All text files of a weights folder: card, config, licence, results for the Hub, and the STAC item of the model.

Results for the Hub, ``.eval_results/<data set>.yaml``: huggingface.co/docs/hub/eval-results, as
``huggingface_hub.eval_result_entries_to_yaml`` writes it. An entry names a data set on the Hub; data sets without a
known repository there get no file.

STAC item, ``stac_mlm.json``: STAC extension Machine Learning Model (stac-extensions/mlm), ``json-schema/schema.json``
of v1.6.0; STAC 1.1 item specification. A model has no footprint and no acquisition time, so the geometry is null and
the time range is the open one of the extension's own examples.
"""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from eo_backbones.bands import BANDS
from eo_backbones.cards.card import CARD_FILE, model_card
from eo_backbones.cards.facts import LICENSE_FILE, CardFacts, licence_text
from eo_backbones.contract import BandInput, InputSpec
from eo_backbones.hub.folder import CONFIG_FILE, Architecture, config_json
from eo_backbones.results import RESULTS_FILE, Result, Score, csv_text, renamed, rows_of, scores


def folder_texts(facts: CardFacts, results: Sequence[Result] = (), *, size_bytes: int | None = None) -> dict[str, str]:
    """Return file name -> content of card, config, STAC item and, if there are any, results and licence.

    Args:
        facts: what is known about the weights, which are an encoder with one input channel.
        results: rows of ``results.csv``, of these weights and of what they were compared with.
        size_bytes: of ``model.safetensors``; ``None`` if there are no weights yet.

    Raises:
        UserError: a row for this model was measured with other weights.
    """
    item = stac_item(
        name=facts.name,
        license=facts.license,
        input=facts.input,
        record=facts.record,
        size_bytes=size_bytes,
        network=facts.network,
    )
    texts = {
        CARD_FILE: model_card(facts, results),
        CONFIG_FILE: _json(config_json(input=facts.input, license=facts.license, architecture=facts.network.name)),
        STAC_FILE: _json(item),
    }
    if facts.has_licence_file:
        texts[LICENSE_FILE] = licence_text(facts)
    if results:
        sha256 = facts.record["weights_sha256"]
        texts |= hub_results(rows_of(results, facts.name, sha256))
        texts[RESULTS_FILE] = csv_text(renamed(results, facts.name, sha256))
    return texts


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


# Results for the Hub

RESULTS_FOLDER = ".eval_results"

DATASET_IDS: Mapping[str, str] = MappingProxyType(
    {
        "eurosat-rgb": "blanchon/EuroSAT_RGB",
        "eurosat-ms": "torchgeo/eurosat",  # where torchgeo downloads it from
    }
)
"""Our data set -> its repository on the Hub."""


def hub_results(rows: Sequence[Result]) -> dict[str, str]:
    """Return file name -> text, one file per data set, for rows of one model."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for score in scores(rows):
        if score.dataset in DATASET_IDS:
            entries.setdefault(score.dataset, []).append(_entry(score))
    texts = {
        dataset: yaml.safe_dump(eval_result_entries_to_yaml(found), sort_keys=False)
        for dataset, found in entries.items()
    }
    return {f"{RESULTS_FOLDER}/{dataset}.yaml": text for dataset, text in texts.items()}


def _entry(score: Score) -> EvalResultEntry:
    return EvalResultEntry(
        dataset_id=DATASET_IDS[score.dataset],
        task_id=f"{score.band}_{score.protocol}_{score.fraction}",
        value=score.f1.value,
        notes=(
            f"weighted F1, 95 % interval {score.f1.low} to {score.f1.high}, of protocol {score.protocol} on frozen "
            f"features of band {score.band} alone; {score.size} px, split {score.split}, {score.n_train} training and "
            f"{score.n_test} test images, mean of {score.seeds} seed{'s' if score.seeds > 1 else ''}"
        ),
    )


# The STAC item


STAC_FILE = "stac_mlm.json"
MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.6.0/schema.json"
FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
EO_SCHEMA = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"

_TASKS = ["similarity-search"]  # what the extension's closed list has for features without a classifier
_SHA256_MULTIHASH = "1220"  # multihash prefix of file:checksum: function 0x12 (sha2-256), 0x20 bytes
_OPTICAL = "eo:center_wavelength"
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
        record: content of ``recipe.json`` as :mod:`eo_backbones.cards.facts` describes it, as far as it is known.
        size_bytes: of ``model.safetensors``; ``None`` if there are no weights yet.
        network: of the encoder; loaded, each parameter takes four bytes (float32).
    """
    recipe = record.get("recipe", {})
    sources = [source["name"] for source in record.get("data", {}).get("sources", ())]
    known = {
        "recipe": recipe.get("name"),
        "recipe_digest": record.get("recipe_digest"),
        "method": recipe.get("method"),
        "seed": recipe.get("seed"),
        "steps": record.get("steps"),
    }
    made = size_bytes is not None
    bands = [_band(entry) for entry in input.bands]
    properties = {
        "title": name,
        "description": f"{network.title} encoder for one band at a time"
        + (f", pretrained with {recipe['method']}" if "method" in recipe else "")
        + ("" if made else "; declared, its weights are not published yet"),
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "license": license,
        "bands": bands,
        "mlm:name": _plain(name),
        "mlm:architecture": network.family,
        "mlm:tasks": _TASKS,
        "mlm:framework": "PyTorch",
        "mlm:total_parameters": network.num_params,
        "mlm:memory_size": 4 * network.num_params,
        "mlm:pretrained": made,
        "mlm:pretrained_source": ", ".join(sources) if made and sources else None,
        "mlm:accelerator": None,
        "mlm:hyperparameters": {
            name: value for name, value in known.items() if value is not None and (made or name != "steps")
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
        "bands": bands,  # STAC 1.1 allows them in the properties only where an asset has them
    }
    if made and "versions" in record:
        properties["mlm:framework_version"] = ".".join(re.findall(r"\d+", record["versions"]["torch"])[:3])
    if made:
        weights |= {"file:size": size_bytes, "file:checksum": _SHA256_MULTIHASH + record["weights_sha256"]}
    else:
        weights["description"] = "not published yet; the model card says how to make it"
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        # that of eo requires one of its fields, which radar does not have
        "stac_extensions": [MLM_SCHEMA, FILE_SCHEMA, *([EO_SCHEMA] if any(_OPTICAL in band for band in bands) else [])],
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
            _OPTICAL: round(row.wavelength_nm / 1000, 6),
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
    """Return the name as ``mlm:name`` allows it: letters, digits, dot, dash and underscore; ends alphanumeric."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-_.")
