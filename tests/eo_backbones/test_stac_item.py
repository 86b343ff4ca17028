"""``stac_mlm.json`` read by the libraries of STAC: pystac with its own schemas, and the models of stac-model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eo_backbones.cards.folder_texts import STAC_FILE, stac_item
from eo_backbones.contract import InputSpec, standardized
from eo_backbones.hub.folder import describe_architecture
from eo_backbones.weights import WEIGHTS, get_weights

pystac = pytest.importorskip("pystac", reason="pystac is not installed: uv sync installs it")
pytest.importorskip("jsonschema", reason="pystac validates with jsonschema: uv sync installs it")
CORE = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
SENSORS = standardized(["B04", "VV"])


def item(spec: InputSpec = SENSORS, *, made: bool = True) -> dict[str, Any]:
    record = {
        "recipe": {"name": "byol-toy", "method": "byol", "seed": 0},
        "recipe_digest": "aaaabbbb",
        "data": {"sources": [{"name": "toy"}]},
        "steps": 10,
        "versions": {"torch": "2.15.0+cu132"},
        "weights_sha256": "ab" * 32,
    }
    return stac_item(
        name="byol-toy run", license="other", input=spec, record=record, size_bytes=94_000_000 if made else None,
        network=describe_architecture("resnet50"),
    )  # fmt: skip


def checked(data: dict[str, Any]) -> Any:
    """Return the item after pystac compared it with the core schemas, which it brings; others it would fetch."""
    read = pystac.Item.from_dict(data)
    core = read.clone()
    core.stac_extensions = []
    assert core.validate() == [CORE]
    return read


@pytest.mark.parametrize("name", WEIGHTS)
def test_pystac_accepts_what_is_beside_every_declared_weight(repository: Path, name: str) -> None:
    data = json.loads((repository / "model_cards" / name / STAC_FILE).read_text())
    read = checked(data)
    assert read.to_dict(include_self_link=False) == data
    bands = [band["name"] for band in read.assets["weights"].to_dict()["bands"]]
    assert bands == list(get_weights(name).input.band_names)


@pytest.mark.parametrize("name", WEIGHTS)
def test_stac_model_reads_what_is_beside_every_declared_weight(repository: Path, name: str) -> None:
    schema = pytest.importorskip("stac_model.schema", reason="stac-model is not installed: uv sync installs it")
    data = json.loads((repository / "model_cards" / name / STAC_FILE).read_text())
    assert schema.SCHEMA_URI in data["stac_extensions"]
    row = get_weights(name)
    read = schema.MLModelProperties(**data["properties"])
    assert (read.total_parameters, read.pretrained) == (row.num_params, row.published)
    assert [entry.name for entry in read.input] == list(row.input.band_names)
    assert [entry.bands[0].name for entry in read.input] == list(row.input.band_names)
    (scaling,) = read.input[0].value_scaling
    assert (scaling.mean, scaling.stddev) == (row.input.bands[0].mean, row.input.bands[0].std)
    assert read.output[0].result.shape == [-1, row.num_features]


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        (SENSORS, True),
        (SENSORS, False),
        (replace(SENSORS, normalization="image"), True),
        (SENSORS.narrowed(["VV"]), True),
    ],
)
def test_items_of_all_kinds_are_accepted(spec: InputSpec, made: bool) -> None:
    schema = pytest.importorskip("stac_model.schema", reason="stac-model is not installed: uv sync installs it")
    data = json.loads(json.dumps(item(spec, made=made)))
    checked(data)
    assert schema.MLModelProperties(**data["properties"]).pretrained is made
    assert [band["name"] for band in data["properties"]["bands"]] == list(spec.band_names)


def test_the_eo_extension_is_named_where_a_band_has_its_fields() -> None:
    """Its schema requires one of them in the properties or an asset (stac-extensions/eo v2.0.0, ``anyOf`` of items)."""

    def named(spec: InputSpec) -> list[str]:
        return [uri.split("/")[3] for uri in item(spec)["stac_extensions"]]

    assert named(SENSORS) == ["mlm", "file", "eo"]
    assert named(SENSORS.narrowed(["VV"])) == ["mlm", "file"]
