"""Installing an exported folder makes its row a published one, on every route, in a copy of the repository."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from eo_backbones import weights
from eo_backbones.errors import UserError
from eo_backbones.push import check_folder
from eo_backbones.results import csv_text
from eo_backbones.weights import PUBLISHED_FOLDER
from eo_backbones_train.export import export
from eo_backbones_train.recipes.published import get_recipe, input_spec, smoke
from eo_backbones_train.recipes.serialise import override
from publish import install as module
from publish.install import install
from support.result_rows import result
from support.written_run import trained_method, write_run

ROW = "eo_resnet50.byol_s1s2_mini"
SOURCES = [
    {"name": "ombria", "layout": "pairs", "scenes": 1650, "units": {"VV": "uint8"}, "subset": None},
    {"name": "multiband_pairs", "layout": "pairs", "scenes": 68, "units": {"VV": "db"}, "subset": None},
    {"name": "sen12ms_layout", "layout": "sen12ms", "scenes": 5, "units": {"VV": "db"}, "subset": None},
]
COPIED = ("eo_backbones", "training", "model_cards", "benchmarks", "docs", "tests/golden")


@pytest.fixture(scope="module")
def encoder() -> dict[str, torch.Tensor]:
    """A trained network's state, less its heads."""
    state = trained_method(smoke(get_recipe("byol-mini"))).state_dict()
    return {name: value for name, value in state.items() if name.startswith("encoder.")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, encoder: dict[str, torch.Tensor]) -> Path:
    """What `eo-train export --dtype fp16` writes for a finished training of the recipe."""
    folder = tmp_path_factory.mktemp("install")
    export(write_run(folder / "run", get_recipe("byol-mini"), encoder, sources=SOURCES), folder / "out", dtype="fp16")
    return folder / "out"


@pytest.fixture(scope="module")
def measured(exported: Path) -> Path:
    """A results.csv with made-up figures for these weights and two baselines."""
    sha256 = json.loads((exported / "recipe.json").read_text())["weights_sha256"]
    rows = [
        result(model=model, band=band, seed=seed, f1_weighted=f1, f1_low=f1 - 0.01, f1_high=f1 + 0.01,
               weights_digest=digest)
        for model, digest, f1 in ((f"local-dir:{exported}", sha256, 0.7), ("random", "r", 0.5), ("stats", "s", 0.6))
        for band in ("B02", "B04")
        for seed in (0, 1)
    ]  # fmt: skip
    path = exported.parent / "results.csv"
    path.write_text(csv_text(rows))
    return path


@pytest.fixture
def unpublished(tmp_path: Path, repository: Path) -> Path:
    """A copy of the repository in which neither the row nor any other is published: no file of weights is copied."""
    copy = tmp_path / "checkout"
    for name in COPIED:
        shutil.copytree(repository / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("README.md", "hubconf.py"):
        shutil.copyfile(repository / name, copy / name)
    for record in (copy / "eo_backbones" / "published").glob("*.json"):
        record.unlink()
    (copy / "tests" / "golden" / "recipes" / "byol-mini.json").unlink(missing_ok=True)
    return copy


def run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{checkout}:{checkout / 'training'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_one_command_publishes_the_embedded_row(exported: Path, measured: Path, unpublished: Path) -> None:
    done = run(unpublished, "-m", "publish", "install", str(exported), "--results", str(measured))
    assert done.returncode == 0, done.stderr
    assert "everything was up to date" not in done.stdout, "the text was made anew"

    code = f"""
import json, socket
def refuse(*arguments, **named): raise AssertionError("a connection was opened")
socket.socket.connect = socket.getaddrinfo = refuse
import timm, torch, eo_backbones
from eo_backbones import info
assert eo_backbones.__file__.startswith({str(unpublished)!r})
facts = info.verify({ROW!r})
assert facts["golden"] <= 1e-4 and facts["pinned"] and facts["route"] == "embedded"
x = torch.rand(2, 1, 64, 64)
with torch.inference_mode():
    one = eo_backbones.create_model({ROW!r}).eval()(x)
    two = timm.create_model({ROW!r}, pretrained=True).eval()(x)
    three = torch.hub.load({str(unpublished)!r}, "byol_resnet50", source="local").eval()(x)
assert torch.equal(one, two) and torch.equal(one, three)
facts = info.info({ROW!r})
print(json.dumps({{
    "listed": eo_backbones.list_models(published=True),
    "f1": {{score["band"]: score["f1"] for score in facts["results"]}}, "recipe_digest": facts["recipe_digest"],
}}))
"""
    used = run(unpublished, "-c", code)
    assert used.returncode == 0, used.stderr
    seen = json.loads(used.stdout.splitlines()[-1])
    record = json.loads((exported / "recipe.json").read_text())
    assert seen["listed"] == [ROW]
    assert seen["f1"] == {"B02": 0.7, "B04": 0.7}
    assert seen["recipe_digest"] == record["recipe_digest"]

    cards = unpublished / "model_cards" / ROW
    card = (cards / "README.md").read_text()
    assert f"| band | {ROW} | random | stats |" in card
    assert "| B04 | 0.700 [0.690, 0.710] | 0.500 [0.490, 0.510] | 0.600 [0.590, 0.610] |" in card
    assert "No weights are published yet" not in card
    assert str(exported.parent) not in card + (cards / "results.csv").read_text()
    readme = (unpublished / "README.md").read_text()
    assert "in the package, 45 MiB" in readme
    lock = json.loads((unpublished / "tests" / "golden" / "recipes" / "byol-mini.json").read_text())
    assert lock["digest"] == record["recipe_digest"]
    embedded = unpublished / "eo_backbones" / "embedded" / "byol_s1s2_mini.safetensors"
    assert embedded.stat().st_size < module.LARGEST_EMBEDDED
    for name in ("recipe.json", "results.csv", "golden.safetensors", "training_log.jsonl", "loss.png"):
        assert embedded.with_name(name).read_bytes() == (cards / name).read_bytes(), "what `eo-backbones save` writes"

    shutil.copyfile(embedded, cards / "model.safetensors")
    assert check_folder(cards).sha256 == record["weights_sha256"], "card and weights together may be pushed"


def test_a_folder_of_another_recipe_is_refused(
    encoder: dict[str, torch.Tensor], measured: Path, unpublished: Path, tmp_path: Path
) -> None:
    recipe = override(get_recipe("byol-mini"), ["epochs=3"])
    export(write_run(tmp_path / "run", recipe, encoder), tmp_path / "out")
    with pytest.raises(UserError, match=r"recipe byol-mini\+modified, which no row .* names; give the recipe"):
        install(tmp_path / "out", measured, unpublished)


def test_an_unfinished_training_is_refused(
    encoder: dict[str, torch.Tensor], measured: Path, unpublished: Path, tmp_path: Path
) -> None:
    export(write_run(tmp_path / "run", get_recipe("byol-mini"), encoder, finished=False), tmp_path / "out")
    with pytest.raises(UserError, match="holds an unfinished training"):
        install(tmp_path / "out", measured, unpublished)


def test_a_training_on_other_images_is_refused(
    encoder: dict[str, torch.Tensor], measured: Path, unpublished: Path, tmp_path: Path
) -> None:
    export(write_run(tmp_path / "run", get_recipe("byol-mini"), encoder), tmp_path / "out")
    with pytest.raises(
        UserError, match=rf"was trained on 1,650 of floods, {ROW} stands for s1s2-mini \(1,650 of ombria, 68 of mul"
    ):
        install(tmp_path / "out", measured, unpublished)


def test_weights_too_large_for_the_package_are_refused(
    encoder: dict[str, torch.Tensor], measured: Path, unpublished: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", get_recipe("byol-mini"), encoder, sources=SOURCES)
    export(run, tmp_path / "out", dtype="fp32")
    with pytest.raises(UserError, match="too many to embed; export with --dtype fp16"):
        install(tmp_path / "out", measured, unpublished)


def test_unmeasured_weights_are_refused_and_nothing_is_written(
    exported: Path, measured: Path, unpublished: Path, tmp_path: Path
) -> None:
    other = tmp_path / "results.csv"
    text = measured.read_text().splitlines()
    other.write_text("\n".join([text[0], *(line for line in text if line.startswith("random"))]) + "\n")
    before = {path: path.stat().st_mtime_ns for path in unpublished.rglob("*")}
    with pytest.raises(UserError, match="holds nothing measured with these weights"):
        install(exported, other, unpublished)
    assert {path: path.stat().st_mtime_ns for path in unpublished.rglob("*")} == before


def test_a_locked_recipe_is_not_unlocked(exported: Path, measured: Path, unpublished: Path) -> None:
    lock = unpublished / "tests" / "golden" / "recipes" / "byol-mini.json"
    lock.write_text(json.dumps({"digest": "000000000000", "recipe": {}}))
    with pytest.raises(UserError, match=r"byol-mini is locked by .* with another digest: add a recipe with a new name"):
        install(exported, measured, unpublished)


def test_an_embedded_row_has_no_revision(exported: Path, measured: Path, unpublished: Path) -> None:
    with pytest.raises(UserError, match="ships in the package, --revision has no meaning"):
        install(exported, measured, unpublished, revision="a" * 40)


def test_a_row_of_another_family_gets_files_of_its_own(
    unpublished: Path, declare: Callable[..., None], tmp_path: Path
) -> None:
    """The golden outputs of the first embedded row stay where they are."""
    recipe = get_recipe("distill-mini")
    name = "eo_efficientnet_lite0.distill_toy"
    row = weights.Weights(
        name=name, method="distill", data="made-up images", recipe=recipe.name, input=input_spec(recipe),
        license="other", data_license="other", architecture=recipe.model.architecture, num_features=1280,
        num_params=3_370_432, init="ImageNet EfficientNet-Lite0 (Google, Apache-2.0)",
        embedded=f"{name}/model.safetensors",
    )  # fmt: skip
    declare(row, *weights.WEIGHTS.values())
    encoder = timm.create_model(recipe.model.architecture, in_chans=1, num_classes=0)
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    out = tmp_path / "out"
    sources = [
        {**SOURCES[0], "name": name, "scenes": scenes}
        for name, scenes in (("sen12_five_pretrain", 327), ("sen12_rgb_pairs", 189), ("multiband_pretrain", 47))
    ]
    trained = write_run(tmp_path / "run", recipe, state, sources=[SOURCES[0], *sources, SOURCES[2]])
    assert export(trained, out, dtype="fp16")["name"] == name
    config = json.loads((out / "config.json").read_text())
    assert (config["architecture"], config["num_features"]) == (recipe.model.architecture, 1280)
    item = json.loads((out / "stac_mlm.json").read_text())
    entry = item["assets"]["source_code"]["mlm:entrypoint"]
    assert entry == "timm.models.efficientnet:tf_efficientnet_lite0"
    assert item["properties"]["mlm:total_parameters"] == row.num_params
    card = (out / "README.md").read_text()
    assert "An EfficientNet-Lite0 encoder" in card
    assert "1,280 features" in card
    assert f"started from {row.init}" in card

    sha256 = json.loads((out / "recipe.json").read_text())["weights_sha256"]
    rows = [result(model=f"local-dir:{out}", weights_digest=sha256, seed=seed) for seed in (0, 1)]
    (tmp_path / "results.csv").write_text(csv_text(rows))
    package = unpublished / "eo_backbones"
    written = install(out, tmp_path / "results.csv", unpublished)
    files = [package / "embedded" / name / file for file in ("model.safetensors", "golden.safetensors")]
    assert {*files, package / "published" / f"{name}.json"} <= set(written)
    assert not (package / "embedded" / "golden.safetensors").exists(), "the place of the first row"
    assert files[0].read_bytes() == (out / "model.safetensors").read_bytes()


def test_every_published_file_belongs_to_a_row() -> None:
    assert {path.stem for path in PUBLISHED_FOLDER.glob("*.json")} <= weights.WEIGHTS.keys()
