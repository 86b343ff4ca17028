"""Cards and the README's tables are what rows, recipes and results say: regenerating them changes nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from eo_backbones.hub.folder import read_config
from eo_backbones.weights import WEIGHTS, Weights
from eo_backbones_train.recipes.published import get_recipe, input_spec
from eo_backbones_train.recipes.serialise import digest, to_dict
from publish import generated as module
from publish.__main__ import main
from publish.generated import cost, differences, pairs_seen, write

every_row = pytest.mark.parametrize("row", WEIGHTS.values(), ids=WEIGHTS.keys())
unpublished_row = pytest.mark.parametrize(
    "row", [row for row in WEIGHTS.values() if not row.published], ids=lambda row: row.name
)

# stac-extensions/mlm v1.6.0, json-schema/schema.json: mlmItemFields and ModelInput, ModelOutput, ResultStructure;
# AssetModelRoleMinimumOneDefinition, AssetModelRequiredProperties. STAC 1.1 item specification.
STAC_ITEM = {"type", "stac_version", "id", "geometry", "properties", "links", "assets"}
MLM_ITEM = {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"}
MLM_INPUT = {"name", "bands", "input"}
MLM_OUTPUT = {"name", "tasks", "result"}
MLM_STRUCTURE = {"shape", "dim_order", "data_type"}


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """What generating reads and writes, to be changed."""
    for name in ("model_cards", "benchmarks"):
        shutil.copytree(repository / name, tmp_path / name)
    for folder in ("eo_backbones", "docs"):
        (tmp_path / folder).mkdir()
    for name in ("README.md", "docs/results.md"):
        shutil.copyfile(repository / name, tmp_path / name)
    shutil.copyfile(repository / "eo_backbones" / "weights.py", tmp_path / "eo_backbones" / "weights.py")
    return tmp_path


def card_of(repository: Path, row: Weights) -> str:
    return (repository / "model_cards" / row.name / "README.md").read_text(encoding="utf-8")


def test_regenerating_changes_nothing(repository: Path) -> None:
    """If this fails: python -m publish cards."""
    assert differences(repository) == []


def test_a_changed_and_a_forgotten_and_a_stray_file_are_found(copy: Path) -> None:
    row = "model_cards/eo_resnet50.byol_dfc2020"
    (copy / row / "README.md").write_text("written by hand")
    (copy / row / "config.json").unlink()
    (copy / row / "notes.txt").write_text("stray")
    readme = (copy / "README.md").read_text()
    (copy / "README.md").write_text(readme.replace("| not published |", "| published |"))
    assert differences(copy) == [
        f"differs: {row}/README.md",
        f"is missing: {row}/config.json",
        *(["differs: README.md"] if "| not published |" in readme else []),
        f"is left over: {row}/notes.txt",
    ]
    write(copy)
    assert differences(copy) == []
    assert (copy / "README.md").read_text() == readme
    assert not (copy / row / "notes.txt").exists()


def test_the_command(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["publish", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    assert run("cards", "--check", "--checkout", copy) == 0
    (copy / "model_cards" / "eo_resnet50.byol_dfc2020" / "recipe.json").write_text("{}")
    assert run("cards", "--check", "--checkout", copy) == 1
    assert "differs: model_cards/eo_resnet50.byol_dfc2020/recipe.json" in capsys.readouterr().out
    assert run("cards", "--checkout", copy) == 0
    assert run("cards", "--check", "--checkout", copy) == 0
    assert run("cards", "--checkout", copy / "benchmarks") == 2
    assert re.search(r"^error: .* is not a checkout of eo_backbones; change to its root", capsys.readouterr().err)


def test_a_readme_without_markers_is_an_error(copy: Path) -> None:
    (copy / "README.md").write_text("# another\n")
    with pytest.raises(module.UserError, match="lacks the lines <!-- weights: generated"):
        differences(copy)


@every_row
def test_front_matter_is_valid_for_the_hub(repository: Path, row: Weights) -> None:
    data = ModelCard(card_of(repository, row)).data
    assert data.license == row.license
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-feature-extraction")
    assert row.method in data.tags
    if row.license == "other":
        assert data.license_name
        assert (repository / "model_cards" / row.name / data.license_link).is_file()
    entries = data.to_dict().get("model-index", [{"results": []}])[0]["results"]
    bands = [(entry["dataset"]["name"], entry["dataset"]["config"]) for entry in entries]
    assert len(bands) == len(set(bands)), "one entry per band"
    assert bool(entries) == row.published


@every_row
def test_config_and_recipe_are_those_of_the_row(repository: Path, row: Weights) -> None:
    folder = repository / "model_cards" / row.name
    config = read_config(folder / "config.json")
    record = json.loads((folder / "recipe.json").read_text())
    recipe = get_recipe(row.recipe)
    assert config.input == row.input == input_spec(recipe), "also when the recipe takes another contract"
    assert config.pretrained_cfg["license"] == row.license
    assert (record["name"], record["recipe_digest"]) == (row.name, digest(recipe))
    if not row.published:
        assert record["recipe"] == json.loads(json.dumps(to_dict(recipe)))


@every_row
def test_stac_item_has_the_required_fields(repository: Path, row: Weights) -> None:
    item = json.loads((repository / "model_cards" / row.name / "stac_mlm.json").read_text())
    assert item.keys() >= STAC_ITEM
    assert "https://stac-extensions.github.io/mlm/v1.6.0/schema.json" in item["stac_extensions"]
    properties = item["properties"]
    assert properties.keys() >= MLM_ITEM
    assert not {"mlm:artifact_type", "mlm:compile_method", "mlm:entrypoint"} & properties.keys()
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", properties["mlm:name"])
    assert [entry["name"] for entry in properties["mlm:input"]] == list(row.input.band_names)
    for entry in properties["mlm:input"]:
        assert entry.keys() >= MLM_INPUT
        assert entry["input"].keys() >= MLM_STRUCTURE
    for entry in properties["mlm:output"]:
        assert entry.keys() >= MLM_OUTPUT
        assert entry["result"].keys() >= MLM_STRUCTURE
    models = [asset for asset in item["assets"].values() if "mlm:model" in asset["roles"]]
    assert models
    assert all("mlm:artifact_type" in asset for asset in models)
    assert properties["mlm:pretrained"] is row.published
    assert ("file:checksum" in models[0]) is row.published


@unpublished_row
def test_cards_without_weights_say_so_and_how_to_make_them(repository: Path, row: Weights) -> None:
    card = card_of(repository, row)
    assert "**No weights are published yet.**" in card
    assert f"eo-train pretrain {row.recipe} --store STORE" in card
    assert f"digest `{digest(get_recipe(row.recipe))}`" in card
    assert "Not measured yet" in card
    assert "model-index" not in card
    cost_lines = card.split("Expected cost (none of this has been run):")[1].split("## How to load")[0]
    assert "benchmarks/2026-11-22-cpu.md" in cost_lines
    assert "not measured" in cost_lines or "On the GPU" in cost_lines


def test_the_cost_is_computed_from_measured_steps(tmp_path: Path) -> None:
    """16 pairs in 800 ms at 64 px: 20 pairs/s, at 112 px 6.53; 2,822 steps of 32 pairs, 400 times: 5,530,909 s."""
    (tmp_path / "benchmarks").mkdir()
    figures = {
        "step_batch": 16, "step_size_px": 64, "step_ms_one_directional": 800.0, "threads": 2, "device_name": "Toy",
    }  # fmt: skip
    report = tmp_path / "benchmarks" / "2026-01-01-cpu.md"
    report.write_text(f"# report\n\n```json\n{json.dumps(figures)}\n```\n")
    recipe = get_recipe("byol-sen12ms-90k")
    assert pairs_seen(recipe, 90_331) == 2822 * 32 * 400 == 36_121_600
    lines, basis = cost(recipe, 90_331, tmp_path)
    assert ("on 2 CPU threads (Toy)", "about 64 days") in lines
    assert ("on a GPU", "not measured yet: `eo-train bench --device cuda`") in lines
    assert "20.0 pairs/s of a step of BYOL, one-directional" in basis
    assert "scaled by the number of pixels to 112 px: 6.5 pairs/s" in basis
    gpu = {"gpu_graph_ms_paper": 4.0, "device_name": "Toy GPU"}
    (tmp_path / "benchmarks" / "2026-01-01-cuda.md").write_text(f"```json\n{json.dumps(gpu)}\n```\n")
    lines, basis = cost(recipe, 90_331, tmp_path)
    assert ("on one Toy GPU", "about 1.3 hours") in lines
    assert "8,000 pairs/s of the paper's BYOL step" in basis


def test_the_minis_card_says_in_plain_words_what_it_is(repository: Path) -> None:
    row = WEIGHTS["eo_resnet50.byol_s1s2_mini"]
    card = card_of(repository, row)
    for text in ("OMBRIA", "8-bit display values", "which is very little", "Good for:", "Not good for:",
                 "its repository states no licence", "CC-BY-4.0", "CDLA-Permissive-1.0", "IBM/terramind",
                 "Contains modified Copernicus Sentinel data"):  # fmt: skip
        assert text in card
    licence = (repository / "model_cards" / row.name / "LICENSE").read_text()
    for text in ("OMBRIA", "states no licence", "CC-BY-4.0", "CDLA-Permissive-1.0", "IBM/terramind", "Copernicus"):
        assert text in licence


def test_the_readme_lists_every_row(repository: Path) -> None:
    table = (repository / "README.md").read_text().split("<!-- weights:")[1].split("<!-- /weights -->")[0]
    for row in WEIGHTS.values():
        (line,) = [line for line in table.splitlines() if f"[`{row.name}`]" in line]
        assert f"`{row.recipe}`" in line
        assert ("not published" in line) is not row.published
        assert (repository / f"model_cards/{row.name}/README.md").is_file()
