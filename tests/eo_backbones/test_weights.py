"""Declared facts are true: what a row says is compared with the model, the file and the recipe it names."""

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

from eo_backbones import weights
from eo_backbones.bands import BANDS
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.models import create_model
from eo_backbones.weights import WEIGHTS, Weights, get_weights, list_models

every_row = pytest.mark.parametrize("row", WEIGHTS.values(), ids=WEIGHTS.keys())


@every_row
def test_the_model_is_as_declared(row: Weights) -> None:
    with torch.device("meta"):
        model = create_model(row.name, pretrained=False)
        features = model(torch.empty(1, 1, 64, 64))
    assert sum(parameter.numel() for parameter in model.parameters()) == row.num_params
    assert (model.num_features, features.shape) == (row.num_features, (1, row.num_features))


@every_row
def test_the_row_is_complete(row: Weights) -> None:
    assert row.name == f"{row.family}.{row.tag}"
    assert {other.architecture for other in WEIGHTS.values() if other.family == row.family} == {row.architecture}
    assert re.fullmatch(rf"{row.method}_[a-z0-9]+(_[a-z0-9]+)*", row.tag)
    assert row.input.bands
    assert len(set(row.input.band_names)) == len(row.input.bands)
    assert set(row.input.band_names) <= BANDS.keys()
    assert all(entry.clip[0] < entry.clip[1] and entry.std > 0 for entry in row.input.bands)
    for license_name in (row.license, row.data_license):
        assert re.fullmatch(r"[a-z0-9.-]+", license_name)


@every_row
def test_published_weights_can_be_found_and_verified(row: Weights) -> None:
    if not row.published:
        assert (row.revision, row.sha256, row.size_bytes) == (None, None, None)
        return
    assert re.fullmatch(r"[0-9a-f]{64}", str(row.sha256))
    if row.embedded_path is None:
        assert re.fullmatch(r"[0-9a-f]{40}", str(row.revision))
        assert row.size_bytes
    else:
        assert sha256_of(row.embedded_path) == row.sha256
        assert row.embedded_path.stat().st_size == row.size_bytes


@every_row
def test_the_recipe_exists_and_makes_such_weights(row: Weights) -> None:
    from eo_backbones_train.recipes.published import RECIPES, input_spec

    recipe = RECIPES[row.recipe]
    assert recipe.method == row.method
    assert input_spec(recipe) == row.input


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        weights.DEFAULT.sha256 = "0" * 64  # type: ignore[misc]
    with pytest.raises(TypeError):
        WEIGHTS["new"] = weights.DEFAULT  # type: ignore[index]


def test_names_are_unique_and_the_default_is_declared() -> None:
    assert len({row.name for row in weights._ROWS}) == len(weights._ROWS) == len(WEIGHTS)
    assert WEIGHTS[weights.DEFAULT.name] is weights.DEFAULT


def test_the_declared_models() -> None:
    """These names are fixed: checks outside the project use them."""
    assert sorted(WEIGHTS) == sorted(
        [
            "eo_efficientnet_lite0.distill_s1s2_mini",
            *(
                f"eo_resnet50.{method}_{data}"
                for method in ("byol", "simsiam")
                for data in ("sen12ms_90k", "dfc2020", "s1s2_mini")
            ),
        ]
    )
    assert weights.DEFAULT.name == "eo_efficientnet_lite0.distill_s1s2_mini"
    assert weights.default_of_family("eo_resnet50").name == "eo_resnet50.byol_s1s2_mini"


def test_listing_by_pattern_and_state(declare: Callable[..., None]) -> None:
    published = replace(get_weights("eo_resnet50.byol_s1s2_mini"), sha256="0" * 64)
    other = replace(get_weights("eo_resnet50.simsiam_dfc2020"), sha256=None)
    declare(published, other)
    assert list_models() == [published.name, other.name]
    assert list_models("*simsiam*") == [other.name]
    assert list_models(published=True) == [published.name]
    assert list_models(published=False) == [other.name]
    assert list_models("resnet*") == []


def test_an_unknown_name_shows_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown model 'eo_resnet50.byol_dfc'; did you mean eo_resnet50.byol_dfc2020"):
        get_weights("eo_resnet50.byol_dfc")


def test_the_namespace_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_weights("eo_resnet50.byol_s1s2_mini").repo_id == "eo-backbones/eo_resnet50.byol_s1s2_mini"
    monkeypatch.setenv("EO_BACKBONES_NAMESPACE", "my-lab")
    assert get_weights("eo_resnet50.byol_s1s2_mini").repo_id == "my-lab/eo_resnet50.byol_s1s2_mini"
    monkeypatch.setenv("EO_BACKBONES_NAMESPACE", "")
    assert get_weights("eo_resnet50.byol_s1s2_mini").repo_id == "eo-backbones/eo_resnet50.byol_s1s2_mini"


def test_the_embedded_file_lies_inside_the_package() -> None:
    row = get_weights("eo_resnet50.byol_s1s2_mini")
    assert row.embedded_path == Path(weights.__file__).parent / "embedded" / "byol_s1s2_mini.safetensors"
    assert get_weights("eo_resnet50.byol_dfc2020").embedded_path is None


def test_no_two_embedded_files_share_a_folder() -> None:
    """Each has its own ``golden.safetensors`` beside it."""
    folders = [row.embedded_path.parent for row in WEIGHTS.values() if row.embedded_path]
    assert len(set(folders)) == len(folders)
