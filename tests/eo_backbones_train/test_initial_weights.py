"""Weights to start from: recognised by their tensors, folded exactly, refused with one line where they do not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones.hub.folder import describe_architecture
from eo_backbones.models import create_model
from eo_backbones_train.cli import main
from eo_backbones_train.methods.build import build_method
from eo_backbones_train.methods.initial_weights import initial_weights, one_channel_network, read_weights, starting_from
from eo_backbones_train.pretraining.checkpoint import checkpoints, read_checkpoint
from eo_backbones_train.pretraining.run_options import RunOptions, resolve_machine
from eo_backbones_train.recipes.published import digest, get_recipe, smoke
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.prepare import prepare

TINY = ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--no-tensorboard"]


def recipe_for(weights: Path) -> Recipe:
    """The recipe of the distillation, cut down, on the small network of the folder."""
    recipe = smoke(get_recipe("distill-mini"))
    found = read_weights(f"local-dir:{weights}")
    return replace(recipe, model=replace(recipe.model, architecture="test_resnet", init=found.digest))


def changed(folder: Path, out: Path, *, license_id: str | None = "apache-2.0", scale: float = 1.0) -> Path:
    """A copy of a folder with another licence, or all tensors multiplied."""
    shutil.copytree(folder, out)
    tensors = {name: tensor * scale for name, tensor in load_file(out / "model.safetensors").items()}
    save_file(tensors, out / "model.safetensors", {"written": "again"})
    config = json.loads((out / "config.json").read_text())
    config["pretrained_cfg"]["license"] = license_id
    (out / "config.json").write_text(json.dumps(config))
    return out


def test_a_digest_is_of_the_tensors_not_of_the_file(tiny_folder: Path, tmp_path: Path) -> None:
    first = read_weights(f"local-dir:{tiny_folder}")
    same = read_weights(f"local-dir:{changed(tiny_folder, tmp_path / 'same')}")
    other = read_weights(f"local-dir:{changed(tiny_folder, tmp_path / 'other', scale=1.001)}")
    assert first.digest == same.digest != other.digest
    assert first.record() == {
        "source": "local-dir",
        "architecture": "test_resnet",
        "license": "apache-2.0",
        "tensors": first.digest,
    }


def test_the_encoder_gives_for_a_band_what_three_copies_gave(tiny_folder: Path) -> None:
    found = read_weights(f"local-dir:{tiny_folder}")
    band = torch.randn(2, 1, 64, 64)
    plain = timm.create_model(f"local-dir:{tiny_folder}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        torch.testing.assert_close(found.encoder().eval()(band), plain(band.expand(-1, 3, -1, -1)))
        assert found.network.eval()(band.expand(-1, 3, -1, -1)).shape == (2, plain.num_features)


def test_one_band_is_taken_as_it_is(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = changed(tiny_encoder, tmp_path / "licensed")
    found = read_weights(f"local-dir:{folder}")
    band = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(found.encoder().eval()(band), create_model(f"local-dir:{folder}").eval()(band))


def test_a_start_by_another_way_is_the_same_recipe(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_folder)
    copy = changed(tiny_folder, tmp_path / "copy")
    assert digest(starting_from(recipe, f"local-dir:{copy}")) == digest(recipe)
    other = starting_from(recipe, f"local-dir:{changed(tiny_folder, tmp_path / 'other', scale=2)}")
    assert other.name == f"{recipe.name}+modified"
    assert other.model.init.startswith("sha256:")
    assert other.model.init != recipe.model.init


def test_byol_starts_from_weights_too(tiny_folder: Path) -> None:
    byol = smoke(get_recipe("byol-full"))
    found = read_weights(f"local-dir:{tiny_folder}")
    model = replace(byol.model, architecture="test_resnet", init=found.digest, batch_norm_statistics="kept")
    method = build_method(replace(byol, model=model), initial=found).train()
    method(torch.randn(2, 4, 1, 64, 64)).loss.backward()
    norms = [(name, module) for name, module in method.encoder.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for name, norm in norms:
        assert torch.equal(norm.running_mean, found.network.get_submodule(name).running_mean)  # type: ignore[arg-type]
    assert norms


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet51", "model.architecture is resnet51, which timm"),
        ("test_vit", "gives no map for images of any size"),
    ],
)
def test_an_architecture_that_cannot_be_trained_is_refused(architecture: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        one_channel_network(architecture)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_random_network_is_trained_by_its_name() -> None:
    recipe = smoke(get_recipe("byol-full"))
    method = build_method(replace(recipe, model=replace(recipe.model, architecture="test_resnet")))
    expected = timm.create_model("test_resnet", in_chans=1, num_classes=0).state_dict()
    assert {name: tensor.shape for name, tensor in method.encoder.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


def test_weights_without_a_licence_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = changed(tiny_folder, tmp_path / "unknown", license_id=None)
    with pytest.raises(UserError, match="states no licence"):
        read_weights(f"local-dir:{folder}")


def test_other_weights_than_the_recipes_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    model = recipe_for(tiny_folder).model
    with pytest.raises(UserError, match="name them with --init"):
        initial_weights(model)
    other = changed(tiny_folder, tmp_path / "other", scale=2)
    with pytest.raises(UserError, match="the recipe starts from sha256:"):
        initial_weights(model, f"local-dir:{other}")
    with pytest.raises(UserError, match="holds a test_resnet, the recipe trains a resnet50"):
        initial_weights(replace(model, architecture="resnet50"), f"local-dir:{tiny_folder}")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("byol-full", {"batch_norm_statistics": "kept"}, "a random start has no statistics worth keeping"),
        ("byol-full", {"init": "local-dir:here"}, "pass it as --init local-dir:here"),
        ("byol-mini", {"architecture": "resnet18"}, "model.trained_stages is 2, which is for resnet50 only"),
        ("byol-mini", {"init": "hf-hub:a/b"}, "late stages of model.init exist"),
        ("byol-full", {"projector_out": 0}, "model.projector_out is 0; it must be between 1"),
        ("distill-mini", {"init": "random", "batch_norm_statistics": "trained"}, "pass --init SOURCE"),
        ("distill-mini", {"predictor_hidden": 64}, "model.predictor_hidden is 64; it must be between 0 and 0"),
    ],
)
def test_a_start_that_contradicts_the_recipe_is_refused(name: str, changes: dict[str, str], message: str) -> None:
    recipe = get_recipe(name)
    with pytest.raises(UserError) as caught:
        replace(recipe, model=replace(recipe.model, **changes))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_pairs(folder / "pairs", count=16, sizes=(48,), s2_bands=("B03", "B04", "B08"))
    prepare("pairs", folder / "pairs", folder / "store", workers=1)
    return folder / "store"


def pretrain(store: Path, out: Path, source: str, *more: str) -> None:
    arguments = ["pretrain", "distill-mini", "--store", str(store), "--out", str(out), "--smoke", "--init", source]
    done = CliRunner().invoke(main.app, [*arguments, "--set", "model.architecture=test_resnet", *TINY, *more])
    assert done.exit_code == 0, done.output


def test_a_run_goes_on_as_if_it_had_not_ended(tiny_folder: Path, store: Path, tmp_path: Path) -> None:
    """Teacher, and the mean and deviation of its features, come back from the checkpoint before the last."""
    source, out = f"local-dir:{tiny_folder}", tmp_path / "run"
    pretrain(store, out, source, "--checkpoint-every", "1steps")
    whole = json.loads((out / "result.json").read_text())
    before, last = checkpoints(out / "checkpoints")
    (out / "result.json").unlink()
    last.unlink()
    pretrain(store, out, source, "--checkpoint-every", "1steps", "--resume")
    again = json.loads((out / "result.json").read_text())
    assert read_checkpoint(before)["step"] == 1
    assert (again["steps"], again["weights_digest"]) == (2, whole["weights_digest"])


def test_a_run_records_its_start_and_exports(tiny_folder: Path, store: Path, tmp_path: Path) -> None:
    source = f"local-dir:{tiny_folder}"
    pretrain(store, tmp_path / "run", source)
    expected = read_weights(source).record()
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["init"] == expected
    checkpoint = read_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert checkpoint["init"] == expected
    assert checkpoint["recipe"]["model"]["init"] == expected["tensors"]
    out = tmp_path / "folder"
    exported = CliRunner().invoke(main.app, ["export", str(tmp_path / "run"), "--out", str(out)])
    assert exported.exit_code == 0, exported.output
    assert json.loads((out / "recipe.json").read_text())["init"] == expected
    network = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, network.num_features)
    card = (out / "README.md").read_text()
    assert "started from weights of timm's `test_resnet` (licence `apache-2.0`" in card
    assert "Whatever labels those weights were made with" in card
    assert "self-supervised" not in card
    assert str(tiny_folder) not in "".join(path.read_text() for path in (out / "README.md", out / "recipe.json"))


def test_the_command_says_what_to_type_without_a_start(tmp_path: Path) -> None:
    arguments = ["pretrain", "distill-mini", "--store", str(tmp_path), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        main.main(arguments)
    assert end.value.code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("network", "depthwise"), [("tf_efficientnet_lite0", True), ("resnet50", False)])
def test_depthwise_convolutions_are_trained_in_full_precision_on_a_cpu(
    network: str, depthwise: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert describe_architecture(network).depthwise == depthwise
    options = RunOptions(store=tmp_path, out=tmp_path / "run")
    machine = resolve_machine(options, device=torch.device("cpu"), world_size=1, pairs=2, depthwise=depthwise)
    assert machine.precision == ("fp32" if depthwise else "bf16")
