"""Any model by name becomes a folder that timm and segmentation_models_pytorch read without this package."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch
import timm
import torch
from safetensors.torch import load_file, save_file

import eo_backbones
from eo_backbones import info, save, weights
from eo_backbones.files import sha256_of
from eo_backbones.push import check_folder
from support.hub_fixtures import RunPython, files_of
from support.hub_http import Hub
from support.tiny_encoders import write_tiny_encoder
from support.typed_command import Ended

EMBEDDED = eo_backbones.list_models(published=True)


@pytest.mark.parametrize("name", EMBEDDED)
def test_timm_alone_gives_our_features(name: str, tmp_path: Path, run_python: RunPython) -> None:
    """In a process that never imports this package, beside what `create_model` gives in this one."""
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(3))
    save_file({"images": images}, tmp_path / "images.safetensors")
    with torch.inference_mode():
        ours = eo_backbones.create_model(name).eval()(images)
    result = save.save(name, tmp_path / "encoder")
    code = """
import sys, timm, torch
from safetensors.torch import load_file, save_file
model = timm.create_model("local-dir:encoder", pretrained=True).eval()
with torch.inference_mode():
    save_file({"features": model(load_file("images.safetensors")["images"])}, "features.safetensors")
assert not [name for name in sys.modules if name.startswith("eo_backbones")]
"""
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(tmp_path / "features.safetensors")["features"], ours)
    assert result["sha256"] == weights.get_weights(name).sha256 == sha256_of(tmp_path / "encoder" / "model.safetensors")
    assert not result["needs_eo_backbones"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_folder_is_what_is_on_the_hub(name: str, tmp_path: Path, repository: Path) -> None:
    """Card, licence, config, record, results: every file of `model_cards/<name>`, ready to be pushed."""
    saved = save.save(name, tmp_path / "encoder")
    card = repository / "model_cards" / name
    on_the_hub = {path.relative_to(card).as_posix() for path in card.rglob("*") if path.is_file()}
    assert set(saved["files"]) == on_the_hub | {"model.safetensors"}
    assert not [file for file in on_the_hub if (tmp_path / "encoder" / file).read_bytes() != (card / file).read_bytes()]
    assert {f".eval_results/{file.name}" for file in (card / ".eval_results").iterdir()} <= set(saved["files"])
    assert check_folder(tmp_path / "encoder").golden <= 1e-4


def test_segmentation_models_pytorch_reads_it(tmp_path: Path) -> None:
    """Its encoder's last feature map, pooled, is our embedding."""
    name = "eo_resnet50.byol_s1s2_mini"
    save.save(name, tmp_path / "encoder")
    network = segmentation_models_pytorch.Unet(f"tu-local-dir:{tmp_path / 'encoder'}", in_channels=1, classes=2).eval()
    images = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        pooled = network.encoder(images)[-1].mean((2, 3))
        torch.testing.assert_close(pooled, eo_backbones.create_model(name).eval()(images), atol=1e-5, rtol=1e-5)


def test_a_hub_repository_at_a_revision_with_all_its_files(
    hub: Hub, weights_folder: Path, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    files = files_of(weights_folder) | {"README.md": b"card", "LICENSE": b"terms", "other.bin": b"not of the format"}
    commit = hub.store.publish("acme/encoder", files)
    hub.store.publish("acme/encoder", files | {"README.md": b"a later card"})
    done = command("save", f"hf-hub:acme/encoder@{commit}", tmp_path / "encoder", "--json")
    assert (done.status, done.err) == (0, done.err)
    saved = json.loads(done.out)
    expected = {name: content for name, content in files.items() if name != "other.bin"}
    assert files_of(tmp_path / "encoder") == expected
    assert saved["files"] == sorted(expected)
    assert saved["golden"] <= 1e-4


def test_a_foreign_folder_gets_what_it_lacks_to_be_verified(tiny_folder: Path, tmp_path: Path) -> None:
    """Three channels and a classifier of another library: digest and recorded outputs are added."""
    save.save(f"local-dir:{tiny_folder}", tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").read_bytes() == (tiny_folder / "config.json").read_bytes()
    facts = info.verify(f"local-dir:{tmp_path / 'saved'}")
    assert facts["expected"] == facts["sha256"] == sha256_of(tiny_folder / "model.safetensors")
    assert facts["golden"] is not None
    assert facts["golden"] <= 1e-4
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    both = [
        timm.create_model(f"local-dir:{path}", pretrained=True).eval() for path in (tiny_folder, tmp_path / "saved")
    ]
    with torch.inference_mode():
        assert torch.equal(both[0](images), both[1](images))


def test_a_folder_of_an_earlier_version_is_brought_up_to_date(weights_folder: Path, tmp_path: Path) -> None:
    """It had `num_classes` twice, which transformers does not take, no `dtype`, and mean 0 and deviation 1 for timm."""
    now = json.loads((weights_folder / "config.json").read_text())
    before = {key: value for key, value in now.items() if key != "dtype"}
    before["model_args"] = {"in_chans": 1, "num_classes": 0}
    before["pretrained_cfg"] = now["pretrained_cfg"] | {"mean": [0.0], "std": [1.0]}
    old = shutil.copytree(weights_folder, tmp_path / "old")
    (old / "config.json").write_text(json.dumps(before))
    save.save(f"local-dir:{old}", tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == now
    assert json.loads((old / "config.json").read_text()) == before
    kept = {file: content for file, content in files_of(tmp_path / "saved").items() if file != "config.json"}
    assert kept == {file: content for file, content in files_of(weights_folder).items() if file != "config.json"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eo_resnet50.byol_dfc2020", "no weights are published yet"),
        ("eo_resnet50.byol_s1s2", "did you mean"),
        ("local-dir:nowhere", "there is no folder nowhere"),
        ("encoder/", "write hf-hub:ORG/NAME[@REVISION] for a Hub repository"),
    ],
)
def test_a_name_without_weights_is_one_line_and_writes_nothing(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Ended]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("save", name, "encoder")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_stays_as_it_is(tmp_path: Path, command: Callable[..., Ended]) -> None:
    source = write_tiny_encoder(tmp_path / "source")
    for path, said in (("occupied", "is not empty"), ("file", "is a file"), ("file/below", "is a file")):
        (tmp_path / "occupied").mkdir(exist_ok=True)
        (tmp_path / "occupied" / "mine.txt").write_text("mine")
        (tmp_path / "file").write_text("mine")
        done = command("save", source, tmp_path / path)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert said in done.err
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "occupied", "source"]
        assert [entry.name for entry in (tmp_path / "occupied").iterdir()] == ["mine.txt"]


def test_a_damaged_source_leaves_nothing_behind(
    weights_folder: Path, tmp_path: Path, declare: Callable[..., None], command: Callable[..., Ended]
) -> None:
    """The recorded outputs are of other weights; and weights in the package without what belongs to them."""
    source = tmp_path / "source"
    write_tiny_encoder(source, seed=1)
    save.save(f"local-dir:{source}", tmp_path / "first")
    write_tiny_encoder(source, seed=2)
    (source / "golden.safetensors").write_bytes((tmp_path / "first" / "golden.safetensors").read_bytes())
    done = command("save", f"local-dir:{source}", tmp_path / "second")
    assert done.status == 2
    assert "does not reproduce" in done.err
    file = weights_folder / "model.safetensors"
    declare(replace(weights.DEFAULT, architecture="resnet50", sha256=sha256_of(file), embedded=str(file)))
    done = command("save", weights.DEFAULT.name, tmp_path / "second")
    assert done.status == 2
    assert "lacks results.csv, training_log.jsonl, loss.png; install eo-backbones again" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "source"]
