"""Libraries that read our weights by themselves: transformers, timm's transforms, segmentation-models-pytorch."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

import eo_backbones
from eo_backbones.contract import standardized, unit_range
from eo_backbones.hub import folder
from eo_backbones.save import save
from eo_backbones.weights import WEIGHTS

SIZE_PX = 64
PUBLISHED = [name for name, row in WEIGHTS.items() if row.embedded and row.published]


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed: uv sync installs it")


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``eo-backbones save`` writes it, with its card."""
    path = tmp_path_factory.mktemp("published") / request.param
    save(request.param, path)
    return path


def picture(size_px: int = SIZE_PX) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (size_px, size_px), dtype=np.uint8))


def ours(path: Path, image: Image.Image, band: str = "B04") -> torch.Tensor:
    model = eo_backbones.create_model(f"local-dir:{path}").eval()
    prepare = eo_backbones.create_transform(model, band=band, unit="uint8")
    with torch.inference_mode():
        features: torch.Tensor = model(prepare(np.asarray(image))[None])
    return features


def changed(path: Path, target: Path, **changes: Any) -> Path:
    """Return a copy of a folder whose ``config.json`` has other fields; ``None`` takes one away."""
    shutil.copytree(path, target)
    config: dict[str, Any] = json.loads((path / folder.CONFIG_FILE).read_text()) | changes
    text = json.dumps({key: value for key, value in config.items() if value is not None})
    (target / folder.CONFIG_FILE).write_text(text)
    return target


def test_transformers_gives_the_recorded_features(transformers: Any, published: Path) -> None:
    golden = load_file(published / folder.GOLDEN_FILE)
    model = transformers.AutoModel.from_pretrained(str(published)).eval()
    with torch.inference_mode():
        features = model(golden["input"]).pooler_output
    torch.testing.assert_close(features, golden["output"], atol=1e-4, rtol=0)


def test_transformers_computes_in_float32_whatever_the_file_holds(
    transformers: Any, weights_folder: Path, tmp_path: Path
) -> None:
    """``dtype`` in ``config.json`` says so; without it transformers takes that of the file's first tensor."""
    golden = load_file(weights_folder / folder.GOLDEN_FILE)
    model = transformers.AutoModel.from_pretrained(str(weights_folder)).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.inference_mode():
        torch.testing.assert_close(model(golden["input"]).pooler_output, golden["output"], atol=1e-4, rtol=0)
    silent = transformers.AutoModel.from_pretrained(str(changed(weights_folder, tmp_path / "silent", dtype=None)))
    assert {parameter.dtype for parameter in silent.parameters()} == {torch.float16}


def test_transformers_adds_a_classifier_to_an_encoder(transformers: Any, weights_folder: Path) -> None:
    golden = load_file(weights_folder / folder.GOLDEN_FILE)
    model = transformers.AutoModelForImageClassification.from_pretrained(str(weights_folder), num_labels=5).eval()
    head = model.timm_model.get_classifier()
    with torch.inference_mode():
        logits = model(golden["input"]).logits
        torch.testing.assert_close(logits, F.linear(golden["output"], head.weight, head.bias), atol=1e-4, rtol=0)
    assert logits.shape == (2, 5)


def code_of_card(path: Path, mark: str) -> str:
    """Return the block of Python of a card that contains ``mark``, with the folder in place of the repository."""
    blocks = re.findall(r"```python\n(.*?)```", (path / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = (block for block in blocks if mark in block)
    return block.replace(f"ORG/{path.name}", str(path))


@pytest.mark.parametrize("mark", ["AutoModel\n", "pipeline("])
def test_the_code_of_the_card_gives_our_features(
    transformers: Any, published: Path, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the reference band in 8 bits, at the nominal size."""
    monkeypatch.chdir(tmp_path)
    picture().save("band.png")
    made: dict[str, Any] = {"picture": picture()}
    exec(code_of_card(published, mark), made)
    features = torch.as_tensor(made["features"]).detach()
    torch.testing.assert_close(features, ours(published, picture()), atol=1e-4, rtol=0)


def test_the_pipeline_alone_takes_no_picture_of_one_band(transformers: Any, weights_folder: Path) -> None:
    """It turns every picture into red, green and blue; the card says what to put before it."""
    extract = transformers.pipeline("image-feature-extraction", model=str(weights_folder))
    with pytest.raises(RuntimeError, match=r"expected input.* to have 1 channels, but got 3"):
        extract(picture())


@pytest.fixture(scope="module")
def three_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of red, green and blue, as fine-tuning writes it."""
    path = tmp_path_factory.mktemp("three-bands")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = timm.create_model("test_resnet", in_chans=3, num_classes=2)
    folder.save_weights(network.state_dict(), path / folder.WEIGHTS_FILE, {})
    spec, names = standardized(["B04", "B03", "B02"]), ("Water", "Land")
    config = folder.config_json(input=spec, num_classes=2, in_chans=3, classes=names, architecture="test_resnet")
    (path / folder.CONFIG_FILE).write_text(json.dumps(config | {"label_names": names}))
    return path


def test_the_pipeline_classifies_pictures_whose_channels_are_the_bands(transformers: Any, three_bands: Path) -> None:
    values = np.random.default_rng(4).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    answers = transformers.pipeline("image-classification", model=str(three_bands))(Image.fromarray(values))
    model = eo_backbones.create_model(f"local-dir:{three_bands}").eval()
    prepare = eo_backbones.create_transform(model, band=["B04", "B03", "B02"], unit=["uint8"] * 3)
    with torch.inference_mode():
        expected = model(prepare(values.transpose(2, 0, 1))[None]).softmax(dim=1)[0]
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        {"Water": float(expected[0]), "Land": float(expected[1])}, abs=1e-4
    )


def test_what_transformers_saves_loads_here_with_its_contract(
    transformers: Any, weights_folder: Path, tmp_path: Path
) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(str(weights_folder), num_labels=3).eval()
    model.save_pretrained(str(tmp_path / "saved"))
    again: Any = eo_backbones.create_model(f"local-dir:{tmp_path / 'saved'}").eval()
    assert again.eo_input == standardized(["B04", "VV"])
    images = load_file(weights_folder / folder.GOLDEN_FILE)["input"]
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model(images).logits)


def test_timms_transform_normalises_as_ours(weights_folder: Path) -> None:
    model = timm.create_model(f"local-dir:{weights_folder}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    expected = eo_backbones.create_transform(f"local-dir:{weights_folder}", band="B04", unit="uint8")
    torch.testing.assert_close(prepare(picture()), expected(np.asarray(picture())), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_segmentation_models_pytorch_normalises_as_ours(name: str) -> None:
    prepare = smp.encoders.get_preprocessing_fn(f"tu-{name}")
    expected = eo_backbones.create_transform(name, band="B04", unit="uint8")
    values = np.asarray(picture())
    prepared = torch.from_numpy(prepare(values[..., None]))[..., 0]
    torch.testing.assert_close(prepared.float(), expected(values)[0], atol=1e-4, rtol=0)


def written_before(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the fields as earlier versions wrote them."""
    told = config["pretrained_cfg"] | {"mean": [0.0], "std": [1.0]}
    return {"model_args": {"in_chans": 1, "num_classes": 0}, "pretrained_cfg": told, "dtype": None, **more}


def test_a_folder_written_before_still_loads(weights_folder: Path, tmp_path: Path) -> None:
    config = json.loads((weights_folder / folder.CONFIG_FILE).read_text())
    old = changed(weights_folder, tmp_path / "old", **written_before(config))
    read = folder.read_config(old / folder.CONFIG_FILE)
    assert (read.num_classes, read.in_chans, dict(read.model_args)) == (0, 1, {"in_chans": 1})
    for model in (
        eo_backbones.create_model(f"local-dir:{old}"),
        timm.create_model(f"local-dir:{old}", pretrained=True),
    ):
        assert folder.check_golden(old, model) <= 1e-4
    assert eo_backbones.create_model(f"local-dir:{old}", num_classes=3).num_classes == 3
    torch.testing.assert_close(ours(old, picture()), ours(weights_folder, picture()), atol=0, rtol=0)


def test_each_channel_that_is_a_band_has_its_own_numbers() -> None:
    """8-bit values stand for 0 to 0.275 reflectance and -25 to 0 dB."""
    spec = standardized(["B02", "B04", "VV"])
    red, radar = spec.for_band("B04"), spec.for_band("VV")
    told = folder.timm_fields(spec, in_chans=3)
    assert told["mean"][1:] == pytest.approx([red.mean / 0.275, (radar.mean + 25) / 25], abs=1e-6)
    assert told["std"][1:] == pytest.approx([red.std / 0.275, radar.std / 25], abs=1e-6)
    alone = folder.timm_fields(spec)
    assert (alone["mean"], alone["std"]) == (told["mean"][1:2], told["std"][1:2])
    no_red = folder.timm_fields(spec.narrowed(["VV", "B02"]))
    assert (no_red["mean"], no_red["std"]) == (told["mean"][2:], told["std"][2:])
    unit = folder.timm_fields(unit_range(["VH"]))
    assert (unit["mean"], unit["std"]) == ([0.0], [1.0])
