"""A file that does not fit the declared network is refused, also where timm would load it without a word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from eo_backbones import models
from eo_backbones.errors import UserError
from eo_backbones.hub import folder
from eo_backbones.models import create_model


class TestStrictness:
    """A file that does not fit is refused, also where timm would load it without a word."""

    def changed(self, source: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> str:
        tensors = load_file(source / "model.safetensors")
        change(tensors)
        folder.save_weights(tensors, target / "model.safetensors", {})
        (target / "config.json").write_bytes((source / "config.json").read_bytes())
        return f"local-dir:{target}"

    @pytest.mark.parametrize("options", [{}, {"num_classes": 4}, {"features_only": True}, {"in_chans": 3}])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("layer1.0.conv1.weight"), "tensors missing: layer1.0.conv1.weight$"),
            (lambda t: t.update({"extra.bias": torch.zeros(1)}), "tensors unexpected: extra.bias$"),
            (
                lambda t: t.update({"layer1.0.bn1.bias": torch.zeros(3)}),
                r"tensors of the wrong shape: layer1.0.bn1.bias \(3,\) instead of \(\d+,\)$",
            ),
            (
                lambda t: t.update({f"module.{k}": t.pop(k) for k in list(t)}),
                r"missing: .* and \d+ more; unexpected: module",
            ),
            (
                lambda t: t.update({"fc.weight": torch.zeros(4, 96), "fc.bias": torch.zeros(4)}),
                "unexpected: fc.bias, fc.w",
            ),
        ],
    )
    def test_tensors_that_do_not_fit_are_named(
        self,
        tiny_encoder: Path,
        tmp_path: Path,
        change: Callable[[dict[str, Tensor]], None],
        message: str,
        options: dict[str, Any],
    ) -> None:
        name = self.changed(tiny_encoder, tmp_path, change)
        with pytest.raises(UserError, match=message) as caught:
            create_model(name, **options)
        assert f"{tmp_path}/model.safetensors does not hold a test_resnet" in str(caught.value)

    @pytest.mark.parametrize("options", [{}, {"num_classes": 4}])
    def test_arguments_that_change_the_network_are_refused(self, weights_folder: Path, options: dict[str, int]) -> None:
        with pytest.raises(UserError, match=r"missing: conv1.0.weight.* unexpected: conv1.weight"):
            create_model(f"local-dir:{weights_folder}", stem_type="deep", **options)  # type: ignore[arg-type]

    def test_a_file_that_is_none_is_refused(self, tiny_encoder: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes((tiny_encoder / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes((tiny_encoder / "model.safetensors").read_bytes()[:-100])
        with pytest.raises(UserError, match="is not a readable safetensors file"):
            create_model(f"local-dir:{tmp_path}")

    @pytest.mark.parametrize(
        "options",
        [
            {"checkpoint_path": "other.pth"},
            {"pretrained_cfg": "a1_in1k"},
            {"pretrained_cfg_overlay": {"file": "other.pth"}},
            {"pretrained_cfg_overlay": {"hf_hub_id": "timm/resnet50.a1_in1k"}},
        ],
    )
    def test_a_second_source_of_weights_is_refused(self, tiny_encoder: Path, options: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="would load weights other than those that the name refers to"):
            create_model(f"local-dir:{tiny_encoder}", **options)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"architecture": "resnet51"}, "architecture 'resnet51', which timm"),
            ({"architecture": "resnet50", "pretrained_cfg": {"unit": "dn"}}, "timm does not know: unit; .* the root"),
        ],
    )
    def test_a_description_that_timm_cannot_use_is_named(
        self, tmp_path: Path, config: dict[str, object], message: str
    ) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            create_model(f"local-dir:{tmp_path}", pretrained=False)

    @pytest.mark.parametrize("version", ["1.0.30", "1.0.15", "0.9.16", "1.0.31", "1.0.31.dev0", "1.1", "2.0.0"])
    def test_an_older_timm_is_refused(self, version: str) -> None:
        if version in ("1.0.30", "1.0.15", "0.9.16"):
            with pytest.raises(ImportError, match=rf"needs timm >= 1.0.31, found {version}.*pip install"):
                models.require_timm(version)
        else:
            models.require_timm(version)
