"""Our names in timm's registry behave as timm's own, and every weight still comes through ``hub.py``."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from eo_backbones import weights
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.weights import Weights
from support.hub_fixtures import files_of
from support.hub_http import Fault, Hub

RESNET50 = weights.get_weights("eo_resnet50.byol_s1s2_mini")
UNPUBLISHED = weights.get_weights("eo_resnet50.simsiam_dfc2020")


@pytest.fixture
def published(hub: Hub, weights_folder: Path, declare: Callable[..., None]) -> Weights:
    """A row, embedded no more but on the loopback Hub; and one that is not published."""
    row = replace(
        RESNET50,
        embedded=None,
        revision=hub.store.publish(RESNET50.repo_id, files_of(weights_folder)),
        sha256=sha256_of(weights_folder / "model.safetensors"),
    )
    declare(row, UNPUBLISHED)
    return row


def test_every_row_is_registered_and_only_published_ones_are_listed_as_pretrained() -> None:
    assert timm.list_models("eo_*") == sorted(weights.families())
    assert sorted(timm.list_models("eo_*", include_tags=True)) == sorted(weights.WEIGHTS)
    listed = timm.list_models("eo_*", pretrained=True)
    assert sorted(listed) == sorted(row.name for row in weights.WEIGHTS.values() if row.published)


def test_a_published_row_appears_with_its_pinned_revision(published: Weights) -> None:
    assert timm.list_models("eo_*", pretrained=True) == [published.name]
    assert timm.get_pretrained_cfg(published.name).hf_hub_id == f"{published.repo_id}@{published.revision}"


def test_an_embedded_row_appears_with_its_file(declare: Callable[..., None]) -> None:
    row = replace(RESNET50, sha256="0" * 64, embedded="mini.safetensors")
    declare(row)
    assert timm.list_models("eo_*", pretrained=True) == [row.name]
    assert timm.get_pretrained_cfg(row.name).file == str(row.embedded_path)


def test_the_name_without_a_tag_is_the_default_row(published: Weights, tmp_path: Path) -> None:
    model = timm.create_model("eo_resnet50", pretrained=True, cache_dir=tmp_path)
    assert (model.eo_digest, model.eo_input) == (published.sha256, published.input)


def test_a_corrupted_transfer_does_not_reach_timm(published: Weights, hub: Hub, tmp_path: Path) -> None:
    hub.faults["model.safetensors"] = Fault("flip", at_byte=40_000_000)
    with pytest.raises(UserError, match=r"blobs/.* is corrupted"):
        timm.create_model(published.name, pretrained=True, cache_dir=tmp_path)


def test_unpublished_weights_are_an_error() -> None:
    with pytest.raises(UserError, match="declared, but no weights are published yet"):
        timm.create_model(UNPUBLISHED.name, pretrained=True)


def test_an_unknown_tag_is_an_error() -> None:
    with pytest.raises(UserError, match=r"did you mean .*eo_resnet50.byol_dfc2020"):
        timm.create_model("eo_resnet50.byol_dfc", pretrained=True)


def test_timm_arguments_mean_what_they_mean_for_resnet50() -> None:
    """Also in combination: the reference is timm's own network built with the same arguments and seed."""
    for options in (
        {},
        {"in_chans": 4, "num_classes": 3, "drop_rate": 0.2},
        {"drop_path_rate": 0.1, "output_stride": 16, "global_pool": "max"},
        {"features_only": True, "out_indices": (2, 3)},
        {"scriptable": True, "act_layer": "silu"},
    ):
        torch.manual_seed(1)
        ours = timm.create_model(UNPUBLISHED.name, **options)
        torch.manual_seed(1)
        stock = timm.create_model("resnet50", **{"in_chans": 1, "num_classes": 0, **options})
        assert str(ours) == str(stock), options
        left, right = ours.state_dict(), stock.state_dict()
        assert left.keys() == right.keys(), options
        assert all(torch.equal(left[key], right[key]) for key in left), options


def test_scripts_that_resolve_the_description_first_work(published: Weights, tmp_path: Path) -> None:
    """timm's train.py and validate.py pass the whole registered description, not the tag."""
    arguments = timm.models.resolve_model_input_args(published.name)
    model = timm.create_model(**arguments, pretrained=True, cache_dir=tmp_path)
    assert model.eo_digest == published.sha256


@pytest.mark.parametrize(
    "options",
    [{"pretrained_cfg": {"file": "other.pth"}}, {"pretrained_cfg_overlay": {"file": "other.pth"}}],
)
def test_other_weights_cannot_be_loaded_under_our_name(published: Weights, options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="weights other than"):
        timm.create_model("eo_resnet50", pretrained=True, **options)


def test_the_stock_resnet50_is_left_alone() -> None:
    assert timm.models.model_entrypoint("resnet50").__module__ == "timm.models.resnet"
    assert timm.get_pretrained_cfg("resnet50.a1_in1k").hf_hub_id == "timm/resnet50.a1_in1k"
    assert timm.create_model("resnet50").conv1.in_channels == 3
