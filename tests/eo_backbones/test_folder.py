"""The weights folder: what is written is what timm and we read back, and damage is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from torch import nn

from eo_backbones.contract import standardized, unit_range
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.hub import folder
from eo_backbones.hub.folder import FolderConfig


def written(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_config_has_only_fields_that_timm_knows_and_none_of_imagenet() -> None:
    """An unknown key inside pretrained_cfg would make the repository unloadable for everybody."""
    data = folder.config_json(input=unit_range(), license="cc-by-4.0", size_px=96)
    cfg = PretrainedCfg(**data["pretrained_cfg"])
    assert data["architecture"] == "resnet50"
    assert (cfg.input_size, cfg.test_input_size, cfg.pool_size) == ([1, 96, 96], [1, 96, 96], [3, 3])
    assert (cfg.mean, cfg.std) == ([0.0], [pytest.approx(1 / 0.275, abs=1e-6)])  # of B04, 8 bits over 0 to 0.275
    assert (cfg.crop_pct, cfg.test_crop_pct) == (1.0, 1.0)
    assert (cfg.interpolation, cfg.license, cfg.num_classes) == ("bilinear", "cc-by-4.0", 0)
    assert (cfg.paper_ids, cfg.paper_name, cfg.origin_url) == (None, None, None)
    assert (cfg.first_conv, cfg.classifier) == ("conv1", "fc")


def test_config_reads_back_with_contract_and_classes(tmp_path: Path) -> None:
    spec = standardized(["B04", "VH"])
    data = folder.config_json(input=spec, num_classes=2, in_chans=3, classes=("Water", "Land"))
    config = folder.read_config(written(tmp_path / "config.json", data))
    assert config.input == spec
    assert config.classes == ("Water", "Land")
    assert (config.architecture, config.num_classes, config.in_chans) == ("resnet50", 2, 3)
    assert config.model_args == {"in_chans": 3}


def test_class_names_must_match_the_outputs() -> None:
    with pytest.raises(UserError, match="1 class names were given for 2 outputs"):
        folder.config_json(input=unit_range(), num_classes=2, classes=("Water",))


def test_a_folder_that_timm_saved_reads_as_foreign(tiny_folder: Path) -> None:
    config = folder.read_config(tiny_folder / "config.json")
    assert config.input is None
    assert (config.architecture, config.num_classes, config.in_chans) == ("test_resnet", 5, 3)
    PretrainedCfg(**config.pretrained_cfg)


def test_timms_older_single_level_config_reads(tmp_path: Path) -> None:
    data = {"architecture": "resnet18", "num_features": 512, "input_size": [1, 32, 32], "num_classes": 4}
    config = folder.read_config(written(tmp_path / "config.json", data))
    assert config == FolderConfig(
        architecture="resnet18",
        num_classes=4,
        in_chans=1,
        input=None,
        pretrained_cfg={"input_size": [1, 32, 32], "num_classes": 4},
    )


def test_what_a_config_leaves_out_is_timms_default(tmp_path: Path) -> None:
    config = folder.read_config(written(tmp_path / "config.json", {"architecture": "resnet18", "pretrained_cfg": {}}))
    assert (config.num_classes, config.in_chans) == (PretrainedCfg().num_classes, PretrainedCfg().input_size[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no config.json"),
        ("{", "could not be read as JSON"),
        ("[]", "holds a JSON list"),
        ("{}", "has no 'architecture'"),
        ('{"architecture": "resnet50", "eo_backbones": {"format_version": 2}}', "format version 2.*upgrade"),
        (
            '{"architecture": "resnet50", "eo_backbones": {"format_version": 1}}',
            "eo_backbones is damaged: input is missing",
        ),
    ],
)
def test_a_damaged_config_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        folder.read_config(path)


def test_equal_weights_and_metadata_give_equal_bytes(tmp_path: Path) -> None:
    """safetensors itself writes metadata in random order: of 20 files with 6 keys hardly two would agree."""
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2]), "c": torch.ones(3, dtype=torch.float16)}
    keys = ["recipe", "digest", "seed", "method", "data"]
    digests = set()
    for turn in range(20):
        order = keys[turn % 5 :] + keys[: turn % 5]
        folder.save_weights(tensors, tmp_path / "w.safetensors", {key: key.upper() for key in order})
        digests.add(sha256_of(tmp_path / "w.safetensors"))
    assert len(digests) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "w.safetensors"]


def test_saved_weights_read_back_with_the_reference_reader(tmp_path: Path) -> None:
    weight = torch.randn(4, 5)
    tensors = {"t.view": weight.t(), "shared": weight, "also.shared": weight, "grad": nn.Parameter(weight[1])}
    path = tmp_path / "w.safetensors"
    folder.save_weights(tensors, path, {"note": "größer"})
    back = load_file(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "größer"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    assert folder.tensor_shapes(path) == {"t.view": (5, 4), "shared": (4, 5), "also.shared": (4, 5), "grad": (5,)}


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    folder.save_weights({"a": torch.zeros(1)}, path, {})
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save_weights({"a": torch.ones(1)}, path, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 100, b"\xff" * 7])
def test_a_broken_weights_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is not a readable safetensors file"):
        folder.tensor_shapes(path)


def test_the_recorded_digest_is_that_of_the_recipe(tmp_path: Path) -> None:
    assert folder.recorded_digest(tmp_path) is None
    written(tmp_path / "recipe.json", {"name": "byol-mini"})
    assert folder.recorded_digest(tmp_path) is None
    written(tmp_path / "recipe.json", {"weights_sha256": "ab" * 32})
    assert folder.recorded_digest(tmp_path) == "ab" * 32


class TestGolden:
    """Recorded outputs tell the same weights from others."""

    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def test_the_same_model_reproduces_and_keeps_its_mode(self, model: nn.Module, tmp_path: Path) -> None:
        folder.save_golden(tmp_path, model.train(), torch.randn(2, 1, 8, 8))
        assert folder.check_golden(tmp_path, model) == 0.0
        assert model.training

    def test_the_difference_is_measured(self, model: nn.Module, tmp_path: Path) -> None:
        folder.save_golden(tmp_path, model, torch.randn(2, 1, 8, 8))
        with torch.no_grad():
            model[1].bias[2] += 3e-5
        assert folder.check_golden(tmp_path, model) == pytest.approx(3e-5, rel=0.05)
        with pytest.raises(UserError, match="differ by 3e-05, allowed is 1e-05"):
            folder.check_golden(tmp_path, model, atol=1e-5)

    def test_not_a_number_does_not_pass(self, model: nn.Module, tmp_path: Path) -> None:
        folder.save_golden(tmp_path, model, torch.randn(2, 1, 8, 8))
        model[1].bias.data[0] = torch.nan
        with pytest.raises(UserError, match="does not reproduce"):
            folder.check_golden(tmp_path, model)

    def test_another_shape_does_not_pass(self, model: nn.Module, tmp_path: Path) -> None:
        folder.save_golden(tmp_path, model, torch.randn(2, 1, 8, 8))
        with pytest.raises(UserError, match=r"gives \(2, 2\).* holds \(2, 3\)"):
            folder.check_golden(tmp_path, nn.Sequential(model, nn.Linear(3, 2)))

    def test_other_tensors_do_not_pass(self, model: nn.Module, tmp_path: Path) -> None:
        folder.save_weights({"x": torch.zeros(1)}, tmp_path / "golden.safetensors", {})
        with pytest.raises(UserError, match="holds x instead of input, output"):
            folder.check_golden(tmp_path, model)
