"""The whole way of published weights: export, evaluate, card, push, and the same figures from the Hub."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, parse_eval_result_entries
from yaml import safe_load

from eo_backbones.cli import main
from eo_backbones.errors import UserError
from eo_backbones.info import info
from eo_backbones.push import push
from eo_backbones.results import read_results
from eo_backbones_train.export import export
from eo_backbones_train.recipes.published import get_recipe, smoke
from eo_backbones_train.recipes.serialise import digest
from support.hub_http import Hub
from support.synthetic_data import eurosat_rgb_folder  # noqa: F401  a fixture
from support.written_run import trained_method, write_run

REPO = "acme/eo_resnet50.toy"


@pytest.fixture
def evaluate(eurosat_rgb_folder: Path, tmp_path: Path) -> Callable[[str, Path], Path]:  # noqa: F811
    """``eo-backbones evaluate`` of one model and a baseline, on 40 synthetic images."""

    def run(model: str, out: Path) -> Path:
        command = (
            *("evaluate", "--dataset", "eurosat-rgb", "--root", str(eurosat_rgb_folder)),
            *("--models", model, "stats", "--bands", "B03", "B04", "--size", "32"),
            *("--out", str(out), "--cache", str(out.parent / f"{out.name}.cache")),
        )
        with pytest.raises(SystemExit) as end:
            main.main(command)
        assert not end.value.code
        return out

    return run


@pytest.mark.slow
def test_push_pull_evaluate(
    hub: Hub, evaluate: Callable[[str, Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    recipe = smoke(get_recipe("byol-mini"))
    run, folder = write_run(tmp_path / "run", recipe, trained_method(recipe).state_dict()), tmp_path / "folder"
    export(run, folder, dtype="fp16", license="cc-by-4.0")
    with pytest.raises(UserError, match="holds no results"):
        push(folder, REPO)

    here = evaluate(f"local-dir:{folder}", tmp_path / "here")
    made = export(run, folder, dtype="fp16", license="cc-by-4.0", results=here, overwrite=True)
    pushed = push(folder, REPO)
    assert pushed.sha256 == made["sha256"], "results do not change the weights"

    name = f"hf-hub:{REPO}@{pushed.tag}"
    there = evaluate(name, tmp_path / "there")
    one, two = read_results(here), read_results(there)
    columns = ("band", "protocol", "f1_weighted", "accuracy", "f1_low", "f1_high", "weights_digest", "data_digest")
    assert [[getattr(row, column) for column in columns] for row in one] == [
        [getattr(row, column) for column in columns] for row in two
    ]
    assert {row.weights_digest for row in two if row.model == name} == {pushed.sha256}

    facts = info(name)
    measured = {row.band: row.f1_weighted for row in one if row.model != "stats"}
    assert {score["band"]: score["f1"] for score in facts["results"]} == pytest.approx(measured, abs=1e-4)
    assert facts["recipe_digest"] == digest(recipe)
    assert facts["license"] == "cc-by-4.0"

    commit = hub.store.repositories[REPO].at(pushed.tag)
    assert commit is not None
    files = {name: hub.store.content(file) for name, file in commit.files.items()}
    (index,) = ModelCard(files["README.md"].decode()).data.to_dict()["model-index"]
    assert [entry["dataset"]["config"] for entry in index["results"]] == ["B03", "B04"]
    entries = parse_eval_result_entries(safe_load(files[".eval_results/eurosat-rgb.yaml"]))
    assert {entry.task_id.split("_")[0]: entry.value for entry in entries} == pytest.approx(measured, abs=1e-4)
    assert {entry.dataset_id for entry in entries} == {"blanchon/EuroSAT_RGB"}
    assert all(str(tmp_path).encode() not in files[name] for name in ("README.md", "results.csv", "recipe.json"))


def test_results_of_other_weights_do_not_get_into_a_card(evaluate: Callable[[str, Path], Path], tmp_path: Path) -> None:
    recipe = smoke(get_recipe("byol-mini"))
    run = write_run(tmp_path / "run", recipe, trained_method(recipe).state_dict())
    export(run, tmp_path / "one", dtype="fp32")
    results = evaluate(f"local-dir:{tmp_path / 'one'}", tmp_path / "results")
    with pytest.raises(UserError, match="holds nothing measured with these weights"):
        export(run, tmp_path / "two", dtype="fp16", results=results)
    assert not (tmp_path / "two").exists()
