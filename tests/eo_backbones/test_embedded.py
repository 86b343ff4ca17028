"""The weights inside the package load on every route without a network.

The real file where it is published; until then made-up weights under the same row.
"""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import eo_backbones
from eo_backbones import demo, weights
from eo_backbones.contract import InputSpec
from eo_backbones.files import sha256_of
from eo_backbones.info import info, verify
from eo_backbones.weights import Weights

LARGEST = 50_000_000


@pytest.fixture
def row(weights_folder: Path, declare: Callable[..., None]) -> Weights:
    """The default row, published."""
    if weights.DEFAULT.published:
        return weights.DEFAULT
    file = weights_folder / "model.safetensors"
    row = replace(
        weights.DEFAULT, sha256=sha256_of(file), size_bytes=file.stat().st_size, embedded=str(file),
        recipe_digest="aaaabbbbcccc",
    )  # fmt: skip
    declare(row)
    return row


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def golden(row: Weights) -> dict[str, torch.Tensor]:
    assert row.embedded_path is not None
    tensors: dict[str, torch.Tensor] = load_file(row.embedded_path.parent / "golden.safetensors")
    return tensors


def test_every_route_gives_the_recorded_features(row: Weights, repository: Path) -> None:
    expected = golden(row)
    entry, tag = row.hub_entry
    made = {
        "create_model": eo_backbones.create_model(row.name),
        "the family alone": eo_backbones.create_model(row.family),
        "timm": timm.create_model(row.name, pretrained=True),
        "torch.hub": torch.hub.load(str(repository), entry, weights=tag, source="local"),
    }
    for route, model in made.items():
        with torch.inference_mode():
            features = model.eval()(expected["input"])
        torch.testing.assert_close(features, expected["output"], atol=1e-4, rtol=0, msg=route)
        assert model.eo_digest == row.sha256, route
        assert model.eo_input == row.input, route


def test_verify_reproduces_the_record(row: Weights) -> None:
    facts = verify(row.name)
    assert (facts["route"], facts["pinned"], facts["sha256"]) == ("embedded", True, row.sha256)
    assert facts["golden"] <= 1e-4


def test_the_demo_names_the_weights_in_its_first_line(row: Weights) -> None:
    encoder = demo.load_encoder()
    assert encoder.note == f"Encoder: {row.name}."
    assert encoder.line == row.name
    assert encoder.models == (row.name,)
    assert encoder.spec == row.input
    assert encoder.network.eo_digest == row.sha256


def test_info_leads_to_recipe_and_results(row: Weights) -> None:
    facts = info(row.name)
    assert facts["published"] is True
    assert facts["recipe_digest"] == row.recipe_digest
    assert [score["f1"] for score in facts["results"]] == [score.f1.value for score in row.results]
    assert json.loads(json.dumps(facts["results"])) == list(facts["results"])


def test_the_row_has_the_contract_of_its_recipe(row: Weights) -> None:
    """Whatever contract the recipe trains with."""
    from eo_backbones_train.recipes.published import RECIPES, input_spec

    assert row.input == input_spec(RECIPES[row.recipe])


@pytest.mark.skipif(not weights.DEFAULT.published, reason="weights.DEFAULT is not published yet")
class TestTheRealFile:
    def test_it_is_small_enough_and_no_pointer(self) -> None:
        path = weights.DEFAULT.embedded_path
        assert path is not None
        assert 1_000_000 < path.stat().st_size == weights.DEFAULT.size_bytes < LARGEST

    def test_convolutions_are_half_and_batch_norm_is_not(self) -> None:
        path = weights.DEFAULT.embedded_path
        assert path is not None
        tensors = load_file(path)
        assert {value.dtype for value in tensors.values() if value.ndim > 1} == {torch.float16}
        assert {value.dtype for name, value in tensors.items() if "running_" in name} == {torch.float32}

    def test_its_metadata_says_recipe_and_contract_of_the_row(self) -> None:
        assert weights.DEFAULT.embedded_path is not None
        with safe_open(weights.DEFAULT.embedded_path, framework="pt") as file:
            metadata = file.metadata()
        assert metadata["recipe_digest"] == weights.DEFAULT.recipe_digest
        assert InputSpec.from_dict(json.loads(metadata["eo_backbones"])["input"]) == weights.DEFAULT.input

    def test_the_record_beside_the_card_is_the_same(self, repository: Path) -> None:
        folder = repository / "model_cards" / weights.DEFAULT.name
        record = json.loads((folder / "recipe.json").read_text())
        assert record["weights_sha256"] == weights.DEFAULT.sha256
        assert record["recipe_digest"] == weights.DEFAULT.recipe_digest
        assert weights.DEFAULT.embedded_path is not None
        beside = weights.DEFAULT.embedded_path.parent / "golden.safetensors"
        assert beside.read_bytes() == (folder / "golden.safetensors").read_bytes()

    def test_its_results_are_those_of_the_card(self, repository: Path) -> None:
        from eo_backbones.results import read_results, rows_of, scores

        rows = read_results(repository / "model_cards" / weights.DEFAULT.name)
        assert (
            tuple(scores(rows_of(rows, weights.DEFAULT.name, str(weights.DEFAULT.sha256)))) == weights.DEFAULT.results
        )

    def test_card_and_weights_together_may_be_pushed(self, repository: Path, tmp_path: Path) -> None:
        from eo_backbones.push import check_folder

        assert weights.DEFAULT.embedded_path is not None
        for path in (repository / "model_cards" / weights.DEFAULT.name).rglob("*"):
            if path.is_file():
                target = tmp_path / path.relative_to(repository / "model_cards" / weights.DEFAULT.name)
                target.parent.mkdir(exist_ok=True)
                os.link(path, target)
        os.link(weights.DEFAULT.embedded_path, tmp_path / "model.safetensors")
        assert check_folder(tmp_path).sha256 == weights.DEFAULT.sha256
