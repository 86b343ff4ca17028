"""The entry points of torch.hub. That they work from a bare checkout is tested in ``tests/test_packaging.py``."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import eo_backbones
from eo_backbones.errors import UserError
from eo_backbones.weights import WEIGHTS, Weights

METHODS = ("byol", "simsiam")


@pytest.fixture(scope="module")
def hubconf(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hubconf", repository / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_methods_and_families_are_entry_points(hubconf: ModuleType) -> None:
    """torch.hub.list shows every public callable."""
    public = [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")]
    assert public == sorted({row.hub_entry[0] for row in WEIGHTS.values()})


def test_dependencies_are_import_names_of_declared_dependencies(hubconf: ModuleType, repository: Path) -> None:
    """torch.hub looks for them with find_spec: a distribution's name there would make loading impossible."""
    declared = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    distributions = {re.split(r"[<>=~! \[]", line)[0].replace("-", "_") for line in declared}
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)
    assert set(hubconf.dependencies) <= distributions
    assert not {"rasterio", "matplotlib", "typer", "rich", "pillow"} & set(hubconf.dependencies)


@pytest.mark.parametrize("row", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_every_row_has_an_entry(hubconf: ModuleType, row: Weights) -> None:
    """Weights that are published load; for the others the error names the recipe that makes them."""
    name, weights = row.hub_entry
    entry = getattr(hubconf, name)
    if row.published and row.embedded:
        assert entry(weights=weights).eo_digest == row.sha256
    elif not row.published:
        with pytest.raises(UserError, match=f"eo-train pretrain {row.recipe}"):
            entry(weights=weights)
    assert f'"{weights}"' in entry.__doc__


@pytest.mark.parametrize("method", METHODS)
def test_the_default_is_the_small_one_with_weights(hubconf: ModuleType, method: str) -> None:
    row = WEIGHTS[f"eo_resnet50.{method}_s1s2_mini"]
    entry = getattr(hubconf, f"{method}_resnet50")
    if row.published:
        assert entry().eo_digest == row.sha256
    else:
        with pytest.raises(UserError, match=f"eo-train pretrain {row.recipe}"):
            entry()


def test_options_are_passed_on(hubconf: ModuleType) -> None:
    model = hubconf.byol_resnet50(pretrained=False, in_chans=3, num_classes=4)
    assert (model.conv1.in_channels, model.fc.out_features) == (3, 4)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_weights_show_the_nearest(hubconf: ModuleType, method: str) -> None:
    with pytest.raises(UserError, match=rf"unknown {method}_resnet50 weights 'sen12ms'; did you mean sen12ms_90k"):
        getattr(hubconf, f"{method}_resnet50")(weights="sen12ms")


def test_torch_hub_builds_a_model_from_the_checkout(repository: Path) -> None:
    model = torch.hub.load(
        str(repository), "simsiam_resnet50", source="local", weights="dfc2020", pretrained=False, num_classes=4
    )
    assert isinstance(model, nn.Module)
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    assert model.eo_input == eo_backbones.get_weights("eo_resnet50.simsiam_dfc2020").input


def test_hub_help_explains_arguments_and_result(repository: Path, tmp_path: Path) -> None:
    """torch.hub.help takes no local folder, so the checkout is put where a download would be."""
    old = torch.hub.get_dir()
    checkout = tmp_path / "owner_repository_main"
    checkout.mkdir()
    (checkout / "hubconf.py").write_bytes((repository / "hubconf.py").read_bytes())
    torch.hub.set_dir(tmp_path)
    try:
        text = torch.hub.help("owner/repository:main", "byol_resnet50", skip_validation=True, trust_repo=True)
        names = torch.hub.list("owner/repository:main", skip_validation=True, trust_repo=True)
    finally:
        torch.hub.set_dir(old)
    assert {"byol_resnet50", "simsiam_resnet50"} <= set(names)
    for word in ("weights (str)", "pretrained (bool)", "Returns:", "eo_input"):
        assert word in text
