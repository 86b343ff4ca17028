"""An exported folder gives the trained features by every loader, says how it was made, and is all or nothing."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import eo_backbones
from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.hub.folder import read_config
from eo_backbones.networks.state import state_digest
from eo_backbones.weights import WEIGHTS
from eo_backbones_train.cli import main
from eo_backbones_train.export import declared_row, encoder_weights, export, read_run, run_name
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.pretraining.run_options import RunOptions
from eo_backbones_train.recipes.published import get_recipe, input_spec, smoke
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import digest, override, to_dict
from eo_backbones_train.store.prepare import prepare
from support.written_run import DFC2020_SOURCES, SOURCES, STEP, STORE_DIGEST, trained_method, write_run

FILES = {
    "model.safetensors", "config.json", "README.md", "golden.safetensors", "training_log.jsonl", "loss.png",
    "recipe.json", "stac_mlm.json",
}  # fmt: skip


def toy(name: str) -> Recipe:
    """A recipe whose heads are tiny; the encoder is always a ResNet50."""
    return smoke(get_recipe(name))


@pytest.fixture(scope="module")
def method() -> nn.Module:
    return trained_method(toy("byol-mini"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, method: nn.Module) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", toy("byol-mini"), method.state_dict())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """The fp32 export that most tests look at."""
    out = tmp_path_factory.mktemp("exports") / "fp32"
    export(run, out)
    return out


@pytest.fixture(scope="module")
def encoder_only(method: nn.Module) -> dict[str, torch.Tensor]:
    """State of a method without heads and target: all that an export reads, and quick to write."""
    return {name: value for name, value in method.state_dict().items() if name.startswith("encoder.")}


def images() -> torch.Tensor:
    return torch.randn(3, 1, 48, 32, generator=torch.Generator().manual_seed(1))


def features(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        made: torch.Tensor = model.eval()(images())
    return made


def record_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    return content


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_file_of_the_contract_is_there(folder: Path) -> None:
    assert files(folder) == FILES
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_three_loaders_and_the_trained_encoder_give_equal_features(folder: Path, method: nn.Module) -> None:
    """Bit for bit: our loader, timm's own, and a plain strict load, against the online encoder in eval mode."""
    expected = features(method.encoder)  # type: ignore[arg-type]
    plain = timm.create_model("resnet50", in_chans=1, num_classes=0)
    plain.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    assert torch.equal(features(eo_backbones.create_model(f"local-dir:{folder}")), expected)
    assert torch.equal(features(timm.create_model(f"local-dir:{folder}", pretrained=True)), expected)
    assert torch.equal(features(plain), expected)


def test_timm_needs_nothing_of_ours(folder: Path) -> None:
    """A process that never imports this package loads the folder."""
    code = (
        "import sys, timm, torch\n"
        f"model = timm.create_model('local-dir:{folder}', pretrained=True).eval()\n"
        "assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 2048)\n"
        "assert not any(name.startswith('eo_backbones') for name in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_target_network_is_not_what_is_exported(folder: Path, method: nn.Module) -> None:
    """Its running statistics were made different; exporting it would be the classic mistake."""
    exported = load_file(folder / "model.safetensors")
    state = method.state_dict()
    targets = [name for name in state if name.startswith("target") and name.endswith("bn1.running_mean")]
    assert targets
    assert all(not torch.equal(exported["bn1.running_mean"], state[name]) for name in targets)
    assert torch.equal(exported["bn1.running_mean"], state["encoder.bn1.running_mean"])


def test_exporting_twice_gives_equal_bytes(run: Path, folder: Path, tmp_path: Path) -> None:
    """Also from a run that lies elsewhere: neither time nor path reaches any file."""
    moved = tmp_path / "moved"
    moved.symlink_to(run, target_is_directory=True)
    export(moved, tmp_path / "again")
    for name in FILES - {"loss.png"}:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_metadata_of_the_weights(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"format", "recipe_digest", "eo_backbones"}
    assert metadata["format"] == "pt"
    assert metadata["recipe_digest"] == digest(toy("byol-mini"))
    assert json.loads(metadata["eo_backbones"])["input"] == input_spec(toy("byol-mini")).to_dict()


def test_config_carries_the_contract_of_the_recipe(folder: Path) -> None:
    config = read_config(folder / "config.json")
    assert config.architecture == "resnet50"
    assert (config.in_chans, config.num_classes) == (1, 0)
    assert config.input == input_spec(toy("byol-mini"))


def test_golden_outputs_are_those_of_the_trained_encoder(folder: Path, method: nn.Module) -> None:
    golden = load_file(folder / "golden.safetensors")
    assert golden["input"].shape == (2, 1, 64, 64)
    encoder: Any = method.encoder
    with torch.inference_mode():
        assert torch.equal(encoder.eval()(golden["input"]), golden["output"])


def test_the_record_says_how_the_weights_were_made(folder: Path) -> None:
    record = record_of(folder)
    recipe = toy("byol-mini")
    assert record == {
        "name": "byol-mini+smoke run",
        "recipe": to_dict(recipe),
        "recipe_digest": digest(recipe),
        "weights_sha256": sha256_of(folder / "model.safetensors"),
        "dtype": "fp32",
        "network": "online",
        "seed": recipe.seed,
        "steps": STEP,
        "finished": True,
        "data": {"manifest_digest": STORE_DIGEST, "sources": SOURCES},
        "machine": {"device": "cpu", "device_name": "a CPU", "precision": "fp32", "world_size": 1},
        "versions": {"python": "3.11.7", "torch": "2.15.0", "timm": "1.0.31"},
        "git_commit": "c" * 40,
    }


def test_no_text_file_names_a_path_of_the_machine(folder: Path, run: Path) -> None:
    for name in FILES - {"model.safetensors", "golden.safetensors", "loss.png"}:
        text = (folder / name).read_text()
        assert str(run.parent) not in text, name
        assert "/home/somebody" not in text, name
        assert "/nowhere" not in text, name


def test_the_log_ends_where_the_weights_do(folder: Path) -> None:
    """Records of steps after the checkpoint belong to weights that nobody has."""
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_the_card_is_valid_and_shows_no_result(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "other"
    assert "byol" in card.data.tags
    assert "model-index" not in card.data.to_dict()
    assert sha256_of(folder / "model.safetensors") in card.text


def test_the_stac_item_measures_the_file(folder: Path) -> None:
    item = json.loads((folder / "stac_mlm.json").read_text())
    weights = item["assets"]["weights"]
    assert weights["file:size"] == (folder / "model.safetensors").stat().st_size
    assert weights["file:checksum"].endswith(sha256_of(folder / "model.safetensors"))
    assert item["properties"]["mlm:total_parameters"] == 23_501_760


def test_half_precision_halves_convolutions_and_leaves_batch_norm(
    run: Path, folder: Path, tmp_path: Path, method: nn.Module
) -> None:
    out = tmp_path / "fp16"
    export(run, out, dtype="fp16")
    tensors = load_file(out / "model.safetensors")
    assert tensors["layer1.0.conv1.weight"].dtype == torch.float16
    assert {tensors[f"bn1.{name}"].dtype for name in ("weight", "bias", "running_mean", "running_var")} == {
        torch.float32
    }
    assert (out / "model.safetensors").stat().st_size < 0.52 * (folder / "model.safetensors").stat().st_size
    loaded = eo_backbones.create_model(f"local-dir:{out}")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    expected = features(method.encoder)  # type: ignore[arg-type]
    assert float((features(loaded) - expected).abs().max()) < 0.01 * float(expected.abs().max())
    assert "float16 (BatchNorm in float32)" in (out / "README.md").read_text()


def test_the_rows_name_and_licence_and_the_stores_sources(
    encoder_only: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """An unchanged recipe that was trained on its images to its end is what the declared row stands for."""
    row = WEIGHTS["eo_resnet50.byol_dfc2020"]
    out = tmp_path / "out"
    run = write_run(tmp_path / "run", get_recipe("byol-dfc2020"), encoder_only, sources=DFC2020_SOURCES)
    made = export(run, out)
    assert made["name"] == row.name
    card = ModelCard.load(out / "README.md")
    assert card.data.license == row.license
    assert read_config(out / "config.json").pretrained_cfg["license"] == row.license
    assert record_of(out)["data"]["sources"] == DFC2020_SOURCES
    assert "| DFC2020 | dfc2020 | 6,114 | db, dn |" in card.text
    assert "Trained on 6,114 pairs of Sentinel-1 and Sentinel-2 images" in card.text
    assert "- 6,114 of DFC2020, validation and test part" in card.text


def changed(**values: object) -> list[dict[str, Any]]:
    return [{**DFC2020_SOURCES[0], **values}]


MADE_UP = [{"name": "made_up", "layout": "pairs", "scenes": 12, "units": {"B03": "dn", "VV": "db"}, "subset": None}]


@pytest.mark.parametrize(
    ("recipe", "sources", "name"),
    [
        ("byol-dfc2020", MADE_UP, "byol-dfc2020 run on made_up"),
        ("byol-dfc2020", changed(layout="pairs"), "byol-dfc2020 run on DFC2020"),  # a folder may have any name
        ("byol-dfc2020", changed(scenes=986), "byol-dfc2020 run on DFC2020"),
        ("byol-dfc2020", changed(subset="6114"), "byol-dfc2020 run on DFC2020"),
        ("byol-dfc2020", [*DFC2020_SOURCES, *MADE_UP], "byol-dfc2020 run on DFC2020, made_up"),
        ("simsiam-mini", [{**MADE_UP[0], "name": "ombria"}], "simsiam-mini run on ombria"),
        ("simsiam-sen12ms-90k", DFC2020_SOURCES, "simsiam-sen12ms-90k run on DFC2020"),
    ],
)
def test_other_images_have_neither_the_rows_name_nor_its_licence_nor_its_words(
    recipe: str, sources: list[dict[str, Any]], name: str, encoder_only: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = export(write_run(tmp_path / "run", get_recipe(recipe), encoder_only, sources=sources), out)
    assert (made["name"], record_of(out)["name"]) == (name, name)
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "other"
    assert not (out / "LICENSE").exists()
    total = sum(source["scenes"] for source in sources)
    for source in sources:
        known = source == DFC2020_SOURCES[0]
        assert (f"- {source['scenes']:,} of `{source['name']}`." in card.text) != known
        assert ("- 6,114 of DFC2020, validation and test part" in card.text) == (DFC2020_SOURCES[0] in sources)
    assert f"Trained on {total:,} pairs" in card.text
    claims = ("OMBRIA", "IEEE GRSS", "6,114 unique", "which is very little", "Good for:", "locations of floods")
    text = "".join(path.read_text() for path in (out / "README.md", out / "stac_mlm.json", out / "recipe.json"))
    allowed = {"IEEE GRSS"} if DFC2020_SOURCES[0] in sources else set()
    assert [claim for claim in claims if claim in text and claim not in allowed] == []
    assert read_config(out / "config.json").pretrained_cfg["license"] == "other"


def test_a_modified_recipe_with_a_chosen_licence(
    encoder_only: dict[str, torch.Tensor], folder: Path, tmp_path: Path
) -> None:
    recipe = override(get_recipe("byol-dfc2020"), ["epochs=3"])
    out = tmp_path / "out"
    made = export(write_run(tmp_path / "run", recipe, encoder_only), out, license="cc-by-4.0")
    assert made["name"] == "byol-dfc2020+modified run"
    assert ModelCard.load(out / "README.md").data.license == "cc-by-4.0"
    assert made["sha256"] != sha256_of(folder / "model.safetensors"), "the recipe is part of the file"


def test_weights_depend_on_recipe_and_values_alone(
    encoder_only: dict[str, torch.Tensor], folder: Path, tmp_path: Path
) -> None:
    """An unfinished run, with another licence: the same weights file."""
    other = write_run(tmp_path / "run", toy("byol-mini"), encoder_only, finished=False)
    made = export(other, tmp_path / "out", license="cc-by-4.0")
    assert made["sha256"] == sha256_of(folder / "model.safetensors")
    assert made["finished"] is False
    assert record_of(tmp_path / "out")["finished"] is False
    assert "**Unfinished.**" in (tmp_path / "out" / "README.md").read_text()


def test_only_finished_weights_have_a_declared_name(encoder_only: dict[str, torch.Tensor], tmp_path: Path) -> None:
    recipe = get_recipe("byol-dfc2020")
    finished = read_run(write_run(tmp_path / "finished", recipe, encoder_only, sources=DFC2020_SOURCES))
    unfinished = read_run(
        write_run(tmp_path / "unfinished", recipe, encoder_only, finished=False, sources=DFC2020_SOURCES)
    )
    row = declared_row(finished, "ab" * 32)
    assert row is not None
    assert row.name == "eo_resnet50.byol_dfc2020"
    assert declared_row(unfinished, "ab" * 32) is None


def test_other_weights_than_the_published_ones_do_not_have_their_name(
    encoder_only: dict[str, torch.Tensor], tmp_path: Path, declare: Callable[..., None]
) -> None:
    """Repeating a published recipe gives other bits, which the row's name would not load."""
    row = replace(WEIGHTS["eo_resnet50.byol_dfc2020"], sha256="ab" * 32)
    declare(row)
    run = write_run(tmp_path / "run", get_recipe("byol-dfc2020"), encoder_only, sources=DFC2020_SOURCES)
    trained = read_run(run)
    assert declared_row(trained, "ab" * 32) == row
    assert run_name(trained) == "byol-dfc2020 run", "its images are those that the recipe names"
    assert declared_row(trained, "cd" * 32) is None


def test_simsiams_encoder_is_found_the_same_way(tmp_path: Path) -> None:
    method = trained_method(toy("simsiam-mini"))
    trained = read_run(write_run(tmp_path / "run", toy("simsiam-mini"), method.state_dict()))
    plain = timm.create_model("resnet50", in_chans=1, num_classes=0)
    plain.load_state_dict(encoder_weights(trained, torch.float32), strict=True)
    assert torch.equal(features(plain), features(method.encoder))  # type: ignore[arg-type]


def distilled(folder: Path, *settings: str, seed: int) -> Path:
    """Write a run of ``distill-mini`` with some settings and an encoder of its own."""
    torch.manual_seed(seed)
    encoder = timm.create_model("tf_efficientnet_lite0", in_chans=1, num_classes=0)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    return write_run(folder, override(toy("distill-mini"), [f"seed={seed}", *settings]), state)


def test_the_mean_of_runs_is_the_mean_of_their_weights_and_says_so(tmp_path: Path) -> None:
    runs = [distilled(tmp_path / "a", seed=0), distilled(tmp_path / "b", "views.spread=0.5", seed=1)]
    runs.append(distilled(tmp_path / "c", "optim.base_lr=0.0003", seed=2))
    result = export(runs[0], tmp_path / "out", average=runs[1:], shares=(3, 1, 4))
    singles = [encoder_weights(read_run(run), torch.float32) for run in runs]
    mean = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in mean.items():
        values = np.average([single[name].double().numpy() for single in singles], axis=0, weights=(3, 1, 4))
        np.testing.assert_allclose(tensor.double().numpy(), values, rtol=1e-5, atol=1e-6)
    assert result["golden"] == 0
    record = record_of(tmp_path / "out")
    assert (record["seed"], record["share"]) == (0, 3 / 8)
    assert [other["share"] for other in record["averaged_with"]] == [1 / 8, 1 / 2]
    others = [(other["seed"], other["recipe"]["views"]["spread"], other["steps"]) for other in record["averaged_with"]]
    assert others[0] == (1, 0.5, STEP)
    assert record["averaged_with"][1]["recipe_digest"] == digest(read_run(runs[2]).recipe)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "mean of the weights of 3 runs from this start (0.375 + 0.125 + 0.5)" in card
    assert "`views.spread`: `0.5` instead of `0.0`" in card


def test_a_single_run_has_no_mean_in_its_record(folder: Path) -> None:
    assert "averaged_with" not in record_of(folder)
    assert "mean of the weights" not in (folder / "README.md").read_text()


def test_runs_that_have_no_mean_are_refused(run: Path, tmp_path: Path) -> None:
    first = distilled(tmp_path / "a", seed=0)
    other_start = distilled(tmp_path / "b", "model.init=hf-hub:timm/other", seed=1)
    other_input = distilled(tmp_path / "c", "data.input=unit-range", seed=1)
    unfinished = distilled(tmp_path / "d", seed=1)
    (unfinished / "result.json").unlink()
    distilled_again = distilled(tmp_path / "e", seed=2)
    for others, message in (
        ([other_start], "b and .*a differ in their initial weights; only runs of one network"),
        ([other_input], "c and .*a differ in their input;"),
        ([unfinished], "d is unfinished; finish it with eo-train pretrain --resume"),
        ([first], "a is named twice; name each run once"),
        ([tmp_path / "nowhere"], "nowhere is not a run folder of eo-train"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            export(first, tmp_path / "out", average=others)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="run started at random; only runs that started from the same weights"):
        export(run, tmp_path / "out", average=[first])
    for shares in ((1,), (1, 0), (1, 2, 3), (1, float("nan"))):
        with pytest.raises(UserError, match=r"is for 2 runs; give 2 positive numbers, that of RUN first"):
            export(first, tmp_path / "out", average=[distilled_again], shares=shares)
    assert files(tmp_path) == {"a", "b", "c", "d", "e"}


def no_folder(run: Path, out: Path) -> None:
    shutil.rmtree(run)


def no_checkpoint(run: Path, out: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def damaged_checkpoint(run: Path, out: Path) -> None:
    (path,) = (run / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:1000])


def no_records(run: Path, out: Path) -> None:
    (run / "metrics.jsonl").unlink()


def occupied(run: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("irreplaceable")


def a_file(run: Path, out: Path) -> None:
    out.write_text("irreplaceable")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (no_folder, "is not a run folder of eo-train"),
        (no_checkpoint, "has no checkpoint yet; type the command of the run again, with --resume"),
        (damaged_checkpoint, r"cannot be read as a checkpoint: .*; delete it to go back to the checkpoint before"),
        (no_records, "has no record up to step 6"),
        (occupied, "is not empty and does not hold an export; name a new folder"),
        (a_file, "is a file; name a folder with --out"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(
    break_it: Callable[[Path, Path], None], message: str, encoder_only: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    broken = write_run(tmp_path / "run", toy("byol-mini"), encoder_only)
    out = tmp_path / "out"
    break_it(broken, out)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message) as caught:
        export(broken, out)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_unknown_dtype(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown dtype 'bf16'"):
        export(run, tmp_path / "out", dtype="bf16")


def test_a_licence_the_hub_would_refuse(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"write it like cc-by-4\.0"):
        export(run, tmp_path / "out", license="CC BY 4.0")
    assert files(tmp_path) == set()


def test_an_encoder_that_is_no_resnet50_is_refused(tmp_path: Path) -> None:
    other = write_run(tmp_path / "run", toy("byol-mini"), {"encoder.weight": torch.zeros(3)})
    with pytest.raises(UserError, match="is not a resnet50 with one channel"):
        export(other, tmp_path / "out")
    assert files(tmp_path) == {"run"}


def test_an_earlier_export_is_replaced_only_when_asked(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    (out / "note.txt").write_text("of the earlier one")
    with pytest.raises(UserError, match="already holds an export; add --overwrite"):
        export(run, out)
    assert "note.txt" in files(out)
    export(run, out, overwrite=True)
    assert files(out) == FILES
    assert files(tmp_path) == {"out"}


def test_weights_that_do_not_reproduce_leave_the_earlier_export(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm is made to load other weights than were written."""
    original = timm.create_model

    def wrong(name: str, **options: Any) -> nn.Module:
        model = original(name, **options)
        if name.startswith("local-dir:"):
            with torch.no_grad():
                model.get_parameter("bn1.weight").add_(0.5)
        return model

    out = tmp_path / "out"
    shutil.copytree(folder, out)
    before = (out / "recipe.json").read_bytes()
    monkeypatch.setattr(timm, "create_model", wrong)
    with pytest.raises(UserError, match="does not reproduce"):
        export(run, out, dtype="fp16", overwrite=True)
    assert (out / "recipe.json").read_bytes() == before
    assert files(tmp_path) == {"out"}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """``eo-train export ...`` in this process."""
    monkeypatch.setattr(sys, "argv", ["eo-train", "export", *arguments])
    main.main()


def test_a_mistake_on_the_command_line_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, str(tmp_path / "nothing"), "--out", str(tmp_path / "out"))
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: .*nothing is not a run folder of eo-train .*\n", printed.err)


def test_from_geotiff_pairs_to_an_exported_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three commands' functions, then the command, on synthetic pairs: what is exported is what was trained."""
    write_pairs(tmp_path / "pairs")
    prepare("pairs", tmp_path / "pairs", tmp_path / "store", workers=1)
    options = RunOptions(store=tmp_path / "store", out=tmp_path / "run", device="cpu", tensorboard=False, log_steps=1)
    train(toy("byol-mini"), options)
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--json")
    assert not end.value.code
    summary = json.loads(capsys.readouterr().out)
    assert summary["finished"] is True
    assert summary["sha256"] == sha256_of(tmp_path / "out" / "model.safetensors")
    assert files(tmp_path / "out") == FILES
    (source,) = record_of(tmp_path / "out")["data"]["sources"]
    assert (source["name"], source["layout"], source["scenes"]) == ("pairs", "pairs", 8)
    loaded = eo_backbones.create_model(f"local-dir:{tmp_path / 'out'}")
    assert state_digest(loaded) == json.loads((tmp_path / "run" / "result.json").read_text())["weights_digest"]
