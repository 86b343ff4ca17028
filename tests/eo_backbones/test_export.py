"""Files for other runtimes give what PyTorch gives at any size, say what they are, and are whole or not there."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

import eo_backbones
from eo_backbones.contract import InputSpec, standardized, unit_range
from eo_backbones.datasets.synthetic import scene
from eo_backbones.errors import UserError
from eo_backbones.export import METADATA_KEY, export, export_network
from eo_backbones.files import sha256_of
from eo_backbones.rasters.options import ReadingOptions
from support.tiny_encoders import write_tiny_encoder
from support.tiny_networks import TinyResidual
from support.typed_command import Ended

OTHER_SHAPES = ((5, 65, 130), (1, 40, 33))  # not the ones that the package compares


def run_onnx(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def images(shape: tuple[int, int, int], channels: int) -> Tensor:
    batch, height, width = shape
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    return write_tiny_encoder(tmp_path / "encoder", spec=standardized(["B02", "B03", "B04"]))


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    """As ``eo-train finetune`` leaves it: one channel, named classes."""
    torch.manual_seed(2)
    network = timm.create_model("test_resnet", in_chans=1, num_classes=3)
    block = {"format_version": 1, "input": unit_range(["VV"]).to_dict(), "classes": ["crop", "forest", "town"]}
    timm.models.save_for_hf(
        network, str(tmp_path / "fields"), model_config={"eo_backbones": block}, safe_serialization=True
    )
    return f"local-dir:{tmp_path / 'fields'}"


@pytest.mark.slow
def test_onnx_of_several_bands_gives_what_pytorch_gives(encoder: str, tmp_path: Path) -> None:
    out = tmp_path / "bands.onnx"
    exported = export(encoder, out, format="onnx", bands=["B03", "red"], fuse="concat")
    reference = eo_backbones.MultiBand(eo_backbones.create_model(encoder), ["B03", "B04"]).eval()
    for shape in OTHER_SHAPES:
        with torch.no_grad():
            expected = reference(images(shape, 2))
        torch.testing.assert_close(run_onnx(out, images(shape, 2)), expected, atol=1e-5, rtol=0)
    assert 0 <= exported.difference <= 1e-4
    assert exported.compared == ((1, 2, 64, 64), (3, 2, 80, 112))
    assert (exported.size_bytes, exported.sha256) == (out.stat().st_size, sha256_of(out))
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert [entry.shape for entry in session.get_inputs()] == [["batch", 2, "height", "width"]]
    said = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert said == exported.metadata
    assert (said["bands"], said["fuse"], said["in_chans"]) == (["B03", "B04"], "concat", 2)
    assert said["weights_sha256"] == sha256_of(tmp_path / "encoder" / "model.safetensors")
    assert InputSpec.from_dict(said["input"]) == standardized(["B03", "B04"])


@pytest.mark.slow
def test_a_torch_program_of_a_fine_tuned_folder_keeps_its_classes(classifier: str, tmp_path: Path) -> None:
    out = tmp_path / "fields.pt2"
    exported = export(classifier, out, format="torch")
    extra = {METADATA_KEY: ""}
    program = torch.export.load(out, extra_files=extra).module()
    reference = eo_backbones.create_model(classifier).eval()
    for shape in OTHER_SHAPES:
        torch.testing.assert_close(program(images(shape, 1)), reference(images(shape, 1)), atol=1e-5, rtol=0)
    said = json.loads(extra[METADATA_KEY])
    assert said["classes"] == ["crop", "forest", "town"]
    assert said["model"] == classifier
    assert InputSpec.from_dict(said["input"]) == unit_range(["VV"])
    assert exported.opset is None


@pytest.mark.slow
def test_a_trained_attention_is_exported_from_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = eo_backbones.MultiBand(TinyResidual(), ["B04", "VV", "B08"], fuse="attention")
    nn.init.normal_(network.attention.query)
    nn.init.normal_(network.attention.preference)
    export_network(network, tmp_path / "a.onnx", format="onnx", in_chans=3, metadata={"model": "mine"})
    with torch.no_grad():
        expected = network(images((4, 50, 70), 3))
    torch.testing.assert_close(run_onnx(tmp_path / "a.onnx", images((4, 50, 70), 3)), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_real_architecture_as_onnx(weights_folder: Path, tmp_path: Path) -> None:
    name = f"local-dir:{weights_folder}"
    assert export(name, tmp_path / "encoder.onnx", format="onnx").difference <= 1e-4
    with torch.no_grad():
        expected = eo_backbones.create_model(name).eval()(images((2, 120, 72), 1))
    found = run_onnx(tmp_path / "encoder.onnx", images((2, 120, 72), 1))
    assert found.shape == (2, 2048)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


class Random(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) + torch.rand(1)


class OneSize(nn.Module):
    """Has a constant in its graph that follows from the size of the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * (2 if images.shape[2] == 64 else 3)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64 * 64, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Random(), r"outputs differ from PyTorch's by .*, allowed is 0.0001; none was written"),
        (OneSize(), r"this OneSize does not take images of any size \(80 x 112: Guard failed"),
        (Flat(), r"this Flat does not take images of any size \(80 x 112"),
    ],
)
def test_what_a_file_cannot_reproduce_is_not_written(network: nn.Module, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_text("an older file")
    with pytest.raises(UserError, match=message):
        export_network(network, tmp_path / "a.pt2", format="torch", in_chans=1, metadata={}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]
    assert (tmp_path / "a.pt2").read_text() == "an older file"


@pytest.mark.slow
def test_the_command_says_what_it_wrote(command: Callable[..., Ended], encoder: str, tmp_path: Path) -> None:
    arguments = (encoder, "--format", "torch", "--bands", "B02", "B04", "--fuse", "mean")
    done = command("export", *arguments, "--out", tmp_path / "a.pt2", "--json")
    assert done.status == 0
    said = json.loads(done.out)
    assert said["path"] == str(tmp_path / "a.pt2")
    assert said["metadata"]["bands"] == ["B02", "B04"]
    again = command("export", *arguments, "--out", tmp_path / "a.pt2")
    assert (again.status, again.out) == (2, "")
    assert "is there already; pass --overwrite" in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--out", "a.pt2"), "does not end in .onnx"),
        (("--format", "onxx", "--out", "a.onnx"), "unknown format 'onxx'; did you mean onnx"),
        (("--format", "torch", "--out", "nowhere/a.pt2"), "there is no folder nowhere"),
        (
            ("--format", "torch", "--out", "a.pt2", "--bands", "B04", "B08", "--fuse", "attention"),
            "the mean until it is trained",
        ),
        (("--format", "torch", "--out", "a.pt2", "--bands", "VV"), "is a classifier and has its bands already"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: tuple[str, ...],
    message: str,
    command: Callable[..., Ended],
    classifier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("export", classifier, *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert message in done.err


def test_onnx_without_its_extra_says_what_to_type(
    command: Callable[..., Ended], encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as where it is not installed
    done = command("export", encoder, "--format", "onnx", "--out", tmp_path / "a.onnx")
    assert done.status == 2
    assert done.err == "error: writing ONNX needs onnxscript; type: pip install 'eo-backbones[export]'\n"


def test_random_weights_are_not_exported_for_missing_ones(command: Callable[..., Ended], tmp_path: Path) -> None:
    done = command("export", "eo_resnet50.byol_sen12ms_90k", "--format", "torch", "--out", tmp_path / "a.pt2")
    assert done.status == 2
    assert "byol-sen12ms-90k" in done.err
    assert not (tmp_path / "a.pt2").exists()


def raw_pixels(band: str, shape: tuple[int, int, int]) -> Tensor:
    """Digital numbers, or dB, of synthetic scenes, float32 ``(B, 1, H, W)``."""
    count, height, width = shape
    side = max(height, width)
    made = [scene(1, ("Forest", "Residential")[i % 2], side, index=i, bands=(band,)) for i in range(count)]
    values = [np.asarray((one.s1 if band == "VV" else one.s2)[band], np.float32) for one in made]
    return torch.from_numpy(np.stack(values)[:, None, :height, :width].copy())


@pytest.mark.slow
def test_raw_pixels_in_give_what_transform_and_network_give(encoder: str, tmp_path: Path) -> None:
    out = tmp_path / "raw.onnx"
    raw = ReadingOptions.of(["dn"], offset=-1000, nodata=0)
    made = export(encoder, out, format="onnx", bands=["B04"], raw=raw)
    assert made.outputs == ("outputs", "possible_in_unit")
    assert made.metadata["raw"] == {"units": ["dn"], "scale": [1.0], "offset": [-1000.0], "nodata": [0.0]}
    transform = eo_backbones.create_transform(encoder, band="B04", unit="dn", offset=-1000.0, nodata=0)
    network = eo_backbones.create_model(encoder).eval()
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    for shape in OTHER_SHAPES:
        stored = raw_pixels("B04", shape) + 1000
        stored[:, :, :3] = 0
        stored[0, 0, 5, 5] = torch.nan
        with torch.no_grad():
            expected = network(transform(stored))
        found, possible = session.run(None, {"images": stored.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
        assert possible.tolist() == [[True]] * shape[0]
    _, possible = session.run(None, {"images": (raw_pixels("B04", (2, 64, 64)) / 10_000 + 1000).numpy()})
    assert possible.tolist() == [[False]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--with-preprocessing", "--unit", "dn"), "takes any band; say which one the raw pixels are of: --bands B04"),
        (
            ("--with-preprocessing", "--band", "B04"),
            "nothing says in which unit the raw pixels of B04 are; pass --unit",
        ),
        (("--with-preprocessing", "--band", "B04", "--unit", "db"), "db"),
        (("--band", "B04", "--unit", "dn"), "--unit has no effect here: it describes raw pixels; pass --with-prep"),
        (("--deepness", "512"), "gives no class to each pixel"),
    ],
)
def test_raw_pixels_that_nothing_describes_are_refused(
    arguments: tuple[str, ...], message: str, command: Callable[..., Ended], encoder: str, tmp_path: Path
) -> None:
    done = command("export", encoder, "--format", "onnx", "--out", tmp_path / "a.onnx", *arguments)
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert (done.status, done.out, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert not (tmp_path / "a.onnx").exists()
