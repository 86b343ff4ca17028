"""One transform for a model, however the model is named; its values are tested in ``test_inputs.py``."""

from pathlib import Path

import pytest
import timm
import torch

import eo_backbones
from eo_backbones import InputSpec, UserError, create_model, create_transform, get_weights
from eo_backbones.contract import unit_range
from eo_backbones.inputs import UnitError
from support.hub_fixtures import files_of
from support.hub_http import Hub


def test_every_way_to_name_a_model_gives_its_contract(weights_folder: Path, hub: Hub, tmp_path: Path) -> None:
    """The folder is standardised: red of 810.86 digital numbers is 0, one deviation of 476.77 more is 1."""
    hub.store.publish("acme/encoder", files_of(weights_folder))
    model = create_model(f"local-dir:{weights_folder}", pretrained=False, features_only=True)
    assert isinstance(model.eo_input, InputSpec)
    red = torch.tensor([[810.86, 810.86 + 476.77]])
    for source in (f"local-dir:{weights_folder}", "hf-hub:acme/encoder", model, model.eo_input):
        prepared = create_transform(source, band="red", unit="dn", cache_dir=tmp_path)(red)
        torch.testing.assert_close(prepared, torch.tensor([[[0.0, 1.0]]]), rtol=0, atol=1e-5)
    assert hub.requested("GET", "model.safetensors") == [], "the contract alone is asked for"


def test_unpublished_rows_have_a_contract() -> None:
    row = get_weights("eo_resnet50.byol_sen12ms_90k")
    for source in (row, row.name):
        prepared = create_transform(source, band="B04", unit="dn")(torch.tensor([[5000.0]]))
        assert prepared.tolist() == [[[0.5]]]


def test_options_reach_the_transform() -> None:
    spec = unit_range()
    assert create_transform(spec, band="B02", unit="dn", offset=-1000)(
        torch.tensor([[3000.0]])
    ).item() == pytest.approx(0.2)
    assert create_transform(spec, band="B02", unit="uint8", display=(0, 0.5))(
        torch.tensor([[255]], dtype=torch.uint8)
    ).item() == pytest.approx(0.5)
    fractions = torch.tensor([[0.1, 0.2]])
    with pytest.raises(UnitError, match="pass unit='reflectance'"):
        create_transform(spec, band="B02", unit="dn")(fractions)
    create_transform(spec, band="B02", unit="dn", check="off")(fractions)


def test_prepared_values_are_what_the_model_takes(weights_folder: Path) -> None:
    model = create_model(f"local-dir:{weights_folder}", in_chans=2).eval()
    to_input = eo_backbones.create_transform(model, band=["B04", "VV"], unit=["dn", "linear"])
    raw = torch.stack([torch.full((32, 32), 900.0), torch.full((32, 32), 0.05)])
    with torch.inference_mode():
        assert model(to_input(raw)[None]).shape == (1, 2048)


def test_models_without_a_contract_say_what_to_pass(tiny_folder: Path) -> None:
    for source in (f"local-dir:{tiny_folder}", timm.create_model("test_resnet")):
        with pytest.raises(UserError, match=r"declares no input contract; pass one, such as .*unit_range"):
            create_transform(source, band="B04", unit="dn")
