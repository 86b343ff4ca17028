"""Level 1C or 2A, from files or the layout into store, exported and fine-tuned folder; a warning for the other one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from eo_backbones.contract import unit_range
from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.datasets.synthetic_files import write_pairs, write_sen12ms
from eo_backbones.models import create_model
from eo_backbones.scenes import EmbedRequest, embed_scene
from eo_backbones_train.export import export
from eo_backbones_train.store.format import described_sources, read_manifest
from eo_backbones_train.store.prepare import prepare
from support.own_images import finetuned, write_fields
from support.sentinel2_product import write_safe
from support.synthetic_layouts import write_bigearthnet, write_dfc2020, write_sen12mscr
from support.tiny_encoders import write_tiny_encoder
from support.tiny_run import tiny_recipe
from support.written_run import trained_method, write_run


def renamed(root: Path, name: str) -> Path:
    """Pairs whose files are named after a product."""
    for path in sorted(root.glob("s?/*.tif")):
        path.rename(path.with_name(f"{name}_{path.name}"))
    return root


def levels_of(store: Path) -> object:
    manifest = read_manifest(store)
    assert manifest["sources"][0].get("levels") == described_sources(manifest)[0].get("levels")
    return manifest["sources"][0].get("levels")


@pytest.mark.parametrize(
    ("layout", "write", "levels"),
    [
        ("sen12ms", lambda root: write_sen12ms(root, patches=2, size=32), ["L1C"]),
        ("sen12mscr", lambda root: write_sen12mscr(root, patches=2, size=32), ["L1C"]),
        ("dfc2020", lambda root: write_dfc2020(root, validation=1, test=1, size=32), ["L1C"]),
        ("bigearthnet", write_bigearthnet, ["L2A"]),
        ("pairs", lambda root: write_pairs(root, count=2), None),
        ("pairs", lambda root: renamed(write_pairs(root, count=2), "S2A_MSIL2A_20170613T101031"), ["L2A"]),
    ],
)
def test_a_store_records_the_levels_of_its_sources(
    tmp_path: Path, layout: str, write: Callable[[Path], Path], levels: list[str] | None
) -> None:
    root = write(tmp_path / "root") or tmp_path / "root"
    prepare(layout, tmp_path / "root", tmp_path / "store", workers=1)
    assert root.exists()
    assert levels_of(tmp_path / "store") == levels


def test_no_level_is_recorded_unless_all_are_known(tmp_path: Path) -> None:
    write_pairs(tmp_path / "root", count=3)
    for sensor in ("s1", "s2"):
        first = min((tmp_path / "root" / sensor).glob("*.tif"))
        first.rename(first.with_name(f"S2A_MSIL1C_20170613T101031_{first.name}"))
    prepare("pairs", tmp_path / "root", tmp_path / "store", workers=1)
    assert levels_of(tmp_path / "store") is None


@pytest.mark.parametrize(
    ("sources", "levels"),
    [
        ([("dfc2020", None)], ["L1C"]),  # recorded by an earlier version
        ([("pairs", None), ("bigearthnet", ["L2A"]), ("sen12mscr", ["L1C"])], ["L1C", "L2A"]),
        ([("pairs", None)], None),
    ],
)
def test_exported_contract_names_the_levels_and_the_weights_do_not(
    tmp_path: Path, sources: list[tuple[str, list[str] | None]], levels: list[str] | None
) -> None:
    recipe = tiny_recipe()
    method = trained_method(recipe)
    digests = set()
    for number, kept in enumerate((sources, [("pairs", None)])):
        recorded = [
            {"name": layout, "layout": layout, "scenes": 10, "units": {"B03": "dn", "VV": "db"}, "subset": None}
            | ({"levels": said} if said else {})
            for layout, said in kept
        ]
        run = write_run(tmp_path / f"run-{number}", recipe, method.state_dict(), sources=recorded)
        out = tmp_path / f"out-{number}"
        export(run, out)
        digests.add(json.loads((out / "recipe.json").read_text())["weights_sha256"])
        if number == 0:
            block = json.loads((out / "config.json").read_text())["eo_backbones"]
            assert block["input"].get("processing_levels") == levels
            assert ("level 1C" in (out / "README.md").read_text()) == ("L1C" in (levels or ()))
            assert create_model(f"local-dir:{out}").eo_input.processing_levels == tuple(levels or ())
    assert len(digests) == 1


def test_a_fine_tuned_folder_names_those_of_its_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_fields(tmp_path / "fields")
    for path in sorted(data.glob("*/*.tif")):
        path.rename(path.with_name(f"S2A_MSIL2A_20200813T054639_N0214_R048_T43RCP_{path.name}"))
    assert class_folders(data).levels == ("L2A",)
    encoder = tmp_path / "encoder"
    write_tiny_encoder(encoder, spec=replace(unit_range(("B03",)), processing_levels=("L1C",)))
    finetuned(data, encoder, tmp_path / "out")
    assert "images of level L2A (surface), while the model was trained on level L1C" in caplog.text
    block = json.loads((tmp_path / "out" / "config.json").read_text())["eo_backbones"]
    assert block["input"]["processing_levels"] == ["L2A"]
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as weights:
        assert "processing_levels" not in json.loads(weights.metadata()["eo_backbones"])["input"]


@pytest.mark.parametrize(("trained_on", "warned"), [(("L1C",), True), (("L1C", "L2A"), False), ((), False)])
def test_a_product_of_the_other_level_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trained_on: tuple[str, ...], warned: bool
) -> None:
    safe = write_safe(tmp_path, level="L2A", bands={10: ("B04",)})
    encoder = write_tiny_encoder(tmp_path / "m", spec=replace(unit_range(("B04",)), processing_levels=trained_on))
    request = EmbedRequest(scene=(str(safe),), model=encoder, bands=("B04",), out=tmp_path / "e.tif")
    embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
    assert caplog.text.count("was trained on level L1C") == warned
