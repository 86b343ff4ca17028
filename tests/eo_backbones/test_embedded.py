"""The weights inside the package load on every route without a network: all embedded rows."""

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
from eo_backbones.errors import UserError
from eo_backbones.info import info, verify
from eo_backbones.weights import Weights

LARGEST = 50_000_000
LARGEST_TOGETHER = 95_000_000  # a wheel that a package registry takes

EMBEDDED = [row for row in weights.WEIGHTS.values() if row.published and row.embedded]


@pytest.fixture(params=EMBEDDED, ids=[row.name for row in EMBEDDED])
def row(request: pytest.FixtureRequest) -> Weights:
    """Each row that is in the package."""
    found: Weights = request.param
    return found


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


@pytest.mark.parametrize(("sha256", "said"), [("0" * 64, "others than you expect"), ("0123abc", "is no digest")])
def test_verify_refuses_weights_of_another_digest_than_expected(row: Weights, sha256: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        verify(row.name, sha256=sha256)
    assert row.sha256 is not None
    assert verify(row.name, sha256=row.sha256.upper())["sha256"] == row.sha256


def test_verify_compares_the_size_and_the_contract(row: Weights, declare: Callable[..., None]) -> None:
    declare(replace(row, size_bytes=(row.size_bytes or 0) + 1))
    with pytest.raises(UserError, match=rf"has {row.size_bytes:,} bytes, the row {row.name} says"):
        verify(row.name)
    first, *others = row.input.bands
    declare(replace(row, input=replace(row.input, bands=(replace(first, mean=first.mean + 0.01), *others))))
    with pytest.raises(UserError, match=rf"is not the one that \S+ was trained with \({first.band} differs\)"):
        verify(row.name)


def test_the_demo_names_the_weights_in_its_first_line() -> None:
    row = weights.DEFAULT
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


def test_the_family_alone_is_its_first_row() -> None:
    for family in weights.families():
        row = weights.default_of_family(family)
        assert eo_backbones.create_model(family).eo_digest == row.sha256


def test_all_files_together_fit_into_a_wheel() -> None:
    assert sum(row.size_bytes or 0 for row in EMBEDDED) <= LARGEST_TOGETHER


def test_the_row_has_the_contract_of_its_recipe(row: Weights) -> None:
    """Whatever contract the recipe trains with."""
    from eo_backbones_train.recipes.published import RECIPES, input_spec

    assert row.input == input_spec(RECIPES[row.recipe])


class TestTheRealFile:
    def test_it_is_small_enough_and_no_pointer(self, row: Weights) -> None:
        path = row.embedded_path
        assert path is not None
        assert 1_000_000 < path.stat().st_size == row.size_bytes < LARGEST

    def test_its_numbers_are_of_the_kind_that_the_record_says(self, row: Weights, repository: Path) -> None:
        """``fp16``: convolutions are half, BatchNorm is not."""
        record = json.loads((repository / "model_cards" / row.name / "recipe.json").read_text())
        path = row.embedded_path
        assert path is not None
        tensors = load_file(path)
        assert {value.dtype for value in tensors.values() if value.ndim > 1} == {
            {"fp16": torch.float16, "fp32": torch.float32}[record["dtype"]]
        }
        assert {value.dtype for name, value in tensors.items() if "running_" in name} == {torch.float32}

    def test_its_metadata_says_recipe_and_contract_of_the_row(self, row: Weights) -> None:
        assert row.embedded_path is not None
        with safe_open(row.embedded_path, framework="pt") as file:
            metadata = file.metadata()
        assert metadata["recipe_digest"] == row.recipe_digest
        assert InputSpec.from_dict(json.loads(metadata["eo_backbones"])["input"]) == row.input

    def test_the_record_beside_the_card_is_the_same(self, row: Weights, repository: Path) -> None:
        folder = repository / "model_cards" / row.name
        record = json.loads((folder / "recipe.json").read_text())
        assert record["weights_sha256"] == row.sha256
        assert record["recipe_digest"] == row.recipe_digest
        assert row.embedded_path is not None
        beside = row.embedded_path.parent / "golden.safetensors"
        assert beside.read_bytes() == (folder / "golden.safetensors").read_bytes()

    def test_its_results_are_those_of_the_card(self, row: Weights, repository: Path) -> None:
        from eo_backbones.results import read_results, rows_of, scores

        rows = read_results(repository / "model_cards" / row.name)
        assert tuple(scores(rows_of(rows, row.name, str(row.sha256)))) == row.results

    def test_card_and_weights_together_may_be_pushed(self, row: Weights, repository: Path, tmp_path: Path) -> None:
        from eo_backbones.push import check_folder

        assert row.embedded_path is not None
        for path in (repository / "model_cards" / row.name).rglob("*"):
            if path.is_file():
                target = tmp_path / path.relative_to(repository / "model_cards" / row.name)
                target.parent.mkdir(exist_ok=True)
                os.link(path, target)
        os.link(row.embedded_path, tmp_path / "model.safetensors")
        assert check_folder(tmp_path).sha256 == row.sha256
