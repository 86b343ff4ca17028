"""Models from names: the same bits through every route, shapes adapted as documented, nothing loaded that misfits."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import eo_backbones
from eo_backbones import weights
from eo_backbones.contract import standardized, unit_range
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.hub import folder
from eo_backbones.info import info, verify
from support.hub_fixtures import RunPython, files_of
from support.hub_http import Hub

create_model = eo_backbones.create_model


def images(channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, 40, 40, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def output(model: nn.Module, inputs: Tensor) -> Any:
    return model.eval()(inputs)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def reference(weights_folder: Path) -> nn.Module:
    """The weights in timm's plain network, put there by torch alone."""
    model: nn.Module = timm.create_model("resnet50", in_chans=1, num_classes=0)
    model.load_state_dict(load_file(weights_folder / "model.safetensors"), strict=True)
    return model


@pytest.fixture
def published(weights_folder: Path, hub: Hub, declare: Callable[..., None]) -> weights.Weights:
    """A row whose weights are on the loopback Hub; the default row ships none."""
    plain = weights.get_weights("eo_resnet50.byol_dfc2020")
    row = replace(
        plain,
        revision=hub.store.publish(plain.repo_id, files_of(weights_folder)),
        sha256=sha256_of(weights_folder / "model.safetensors"),
        size_bytes=(weights_folder / "model.safetensors").stat().st_size,
    )
    declare(weights.DEFAULT, row)
    return row


class TestRoutes:
    """One set of weights, many ways to it."""

    def test_all_routes_give_the_same_bits(
        self,
        published: weights.Weights,
        weights_folder: Path,
        reference: nn.Module,
        repository: Path,
        run_python: RunPython,
        tmp_path: Path,
    ) -> None:
        """Row, Hub, folder, timm by name, torch.hub, and plain timm in a process that never sees this package."""
        cache = {"cache_dir": tmp_path / "hub"}
        loaded = {
            "row": create_model(published.name, **cache),
            "hub": create_model(f"hf-hub:{published.repo_id}", **cache),
            "folder": create_model(f"local-dir:{weights_folder}"),
            "timm": timm.create_model(published.name, pretrained=True, **cache),
            "torch.hub": torch.hub.load(str(repository), "byol_resnet50", weights="dfc2020", source="local", **cache),
        }
        expected = output(reference, images())
        for route, model in loaded.items():
            assert same_state(model, reference), route
            assert torch.equal(output(model, images()), expected), route

        torch.save({"images": images(), "expected": expected}, tmp_path / "case.pt")
        code = f"""
import sys, timm, torch
torch.set_num_threads({torch.get_num_threads()})
case = torch.load({str(tmp_path / "case.pt")!r})
model = timm.create_model("hf-hub:{published.repo_id}@{published.revision}", pretrained=True).eval()
with torch.inference_mode():
    assert torch.equal(model(case["images"]), case["expected"])
assert not [name for name in sys.modules if name.startswith("eo_backbones")]
"""
        done = run_python(code, HF_HOME=str(tmp_path), OMP_NUM_THREADS=None)
        assert done.returncode == 0, done.stderr

    def test_models_carry_contract_and_digest(
        self, published: weights.Weights, weights_folder: Path, tmp_path: Path
    ) -> None:
        by_row = create_model(published.name, cache_dir=tmp_path, features_only=True)
        assert (by_row.eo_input, by_row.eo_digest) == (published.input, published.sha256)
        by_path = create_model(f"local-dir:{weights_folder}")
        assert (by_path.eo_input, by_path.eo_digest) == (standardized(["B04", "VV"]), published.sha256)

    def test_contract_and_digest_survive_copies(self, tiny_encoder: Path) -> None:
        model = create_model(f"local-dir:{tiny_encoder}")
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert (other.eo_input, other.eo_digest) == (model.eo_input, model.eo_digest)
            assert same_state(other, model)

    def test_without_pretrained_nothing_is_looked_for(self, hub: Hub) -> None:
        torch.manual_seed(3)
        model = create_model("eo_resnet50.byol_sen12ms_90k", pretrained=False)
        torch.manual_seed(3)
        assert same_state(model, timm.create_model("resnet50", in_chans=1, num_classes=0))
        assert model.eo_digest is None
        assert model.eo_input == weights.get_weights("eo_resnet50.byol_sen12ms_90k").input
        assert hub.requests == []

    def test_unpublished_weights_are_an_error(self) -> None:
        with pytest.raises(UserError, match=r"no weights are published yet.*eo-train pretrain byol-sen12ms-90k"):
            create_model("eo_resnet50.byol_sen12ms_90k")

    def test_the_model_is_in_training_mode_as_timm_leaves_it(self, tiny_encoder: Path) -> None:
        assert create_model(f"local-dir:{tiny_encoder}").training
        assert timm.create_model(f"local-dir:{tiny_encoder}", pretrained=True).training

    def test_half_precision_files_give_float32_models(self, weights_folder: Path, reference: nn.Module) -> None:
        stored = load_file(weights_folder / "model.safetensors")["conv1.weight"]
        weight = create_model(f"local-dir:{weights_folder}").conv1.weight
        assert (stored.dtype, weight.dtype) == (torch.float16, torch.float32)
        assert torch.equal(weight, stored.float())


class TestAdaptation:
    """Channels, classes, feature maps."""

    @pytest.mark.parametrize("channels", [2, 3, 13])
    def test_a_replicated_band_gives_the_output_of_one(
        self, weights_folder: Path, reference: nn.Module, channels: int
    ) -> None:
        """The file is float16, and timm divides the kernel in the precision of the file."""
        model = create_model(f"local-dir:{weights_folder}", in_chans=channels)
        kernel = reference.conv1.weight.repeat(1, channels, 1, 1) / channels
        half_rounding = {"rtol": 2**-11, "atol": 2**-25}
        torch.testing.assert_close(model.conv1.weight, kernel, **half_rounding)
        replicated = output(model, images().repeat(1, channels, 1, 1))
        torch.testing.assert_close(replicated, output(reference, images()), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("channels", [2, 3, 13])
    def test_a_float32_kernel_is_repeated_and_divided(self, tiny_encoder: Path, channels: int) -> None:
        one, many = (create_model(f"local-dir:{tiny_encoder}", in_chans=n) for n in (1, channels))
        stem = f"{one.pretrained_cfg['first_conv']}.weight"
        kernel = one.state_dict()[stem].repeat(1, channels, 1, 1) / channels
        torch.testing.assert_close(many.state_dict()[stem], kernel, rtol=1e-6, atol=0)
        replicated = output(many, images().repeat(1, channels, 1, 1))
        torch.testing.assert_close(replicated, output(one, images()), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("first_conv", [None, "fc", "layer1.0.conv2"])
    def test_a_stem_that_timm_would_initialise_at_random_is_refused(
        self, tiny_folder: Path, tmp_path: Path, first_conv: str | None
    ) -> None:
        (tmp_path / "model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes())
        config = json.loads((tiny_folder / "config.json").read_text())
        config["pretrained_cfg"]["first_conv"] = first_conv
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"cannot be adapted from 3 to 4 channels; pass in_chans=3"):
            create_model(f"local-dir:{tmp_path}", in_chans=4)
        assert create_model(f"local-dir:{tmp_path}", num_classes=2).num_classes == 2

    def test_one_channel_is_the_default_and_may_be_said(self, tiny_encoder: Path) -> None:
        name = f"local-dir:{tiny_encoder}"
        assert same_state(create_model(name, in_chans=1, num_classes=0), create_model(name))

    def test_an_encoder_gives_pooled_features(self, weights_folder: Path) -> None:
        model = create_model(f"local-dir:{weights_folder}").eval()
        with torch.inference_mode():
            maps = model.forward_features(images())
        assert output(model, images()).shape == (2, 2048)
        torch.testing.assert_close(output(model, images()), maps.mean((2, 3)))

    def test_a_new_classifier_leaves_the_encoder_as_it_is(self, weights_folder: Path, reference: nn.Module) -> None:
        model = create_model(f"local-dir:{weights_folder}", num_classes=19)
        assert output(model, images()).shape == (2, 19)
        state = model.state_dict()
        assert state.keys() - reference.state_dict().keys() == {"fc.weight", "fc.bias"}
        assert all(torch.equal(state[key], value) for key, value in reference.state_dict().items())

    def test_feature_maps_are_those_of_the_encoder(self, weights_folder: Path, reference: nn.Module) -> None:
        model = create_model(f"local-dir:{weights_folder}", features_only=True, in_chans=3, out_indices=(1, 4))
        maps = output(model, images().repeat(1, 3, 1, 1))
        assert [tuple(level.shape) for level in maps] == [(2, 256, 10, 10), (2, 2048, 2, 2)]
        assert model.feature_info.reduction() == [4, 32]
        with torch.inference_mode():
            expected = reference.eval().forward_features(images())
        torch.testing.assert_close(maps[1], expected, rtol=0, atol=1e-3)

    def test_a_fine_tuned_folder_keeps_its_classes(self, tmp_path: Path) -> None:
        tuned = timm.create_model("resnet50", in_chans=2, num_classes=3)
        folder.save_weights(tuned.state_dict(), tmp_path / "model.safetensors", {})
        config = folder.config_json(
            input=unit_range(["VV", "VH"]), in_chans=2, num_classes=3, classes=("Water", "Soil", "Town")
        )
        (tmp_path / "config.json").write_text(json.dumps(config))
        name = f"local-dir:{tmp_path}"
        assert same_state(create_model(name), tuned)
        assert torch.equal(output(create_model(name), images(2)), output(tuned, images(2)))
        encoder = create_model(name, num_classes=0)
        with torch.inference_mode():
            pooled = tuned.forward_head(tuned.forward_features(images(2)), pre_logits=True)
        assert torch.equal(output(encoder, images(2)), pooled)
        assert torch.equal(create_model(name, num_classes=5).layer4[2].conv3.weight, tuned.layer4[2].conv3.weight)
        assert len(output(create_model(name, features_only=True), images(2))) == 5

    def test_a_foreign_repository_loads_as_in_timm(self, tiny_folder: Path, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("timm/stock", files_of(tiny_folder))
        for options in ({}, {"num_classes": 0}, {"in_chans": 1}):
            model = create_model("hf-hub:timm/stock", cache_dir=tmp_path, **options)  # type: ignore[arg-type]
            torch.manual_seed(0)
            assert same_state(model, timm.create_model(f"local-dir:{tiny_folder}", pretrained=True, **options))
            assert model.eo_input is None

    def test_other_arguments_reach_timm(self, tiny_encoder: Path) -> None:
        model = create_model(f"local-dir:{tiny_encoder}", drop_rate=0.25, global_pool="max")
        assert (model.drop_rate, model.global_pool.pool_type) == (0.25, "max")

    @pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
    def test_models_can_be_scripted(self, tiny_encoder: Path) -> None:
        model = create_model(f"local-dir:{tiny_encoder}", scriptable=True).eval()
        torch.testing.assert_close(output(torch.jit.script(model), images()), output(model, images()))

    @pytest.mark.parametrize(
        ("options", "message"), [({"in_chans": 0}, "in_chans is 0"), ({"num_classes": -1}, "num_classes is -1")]
    )
    def test_impossible_shapes_are_refused(self, tiny_encoder: Path, options: dict[str, int], message: str) -> None:
        with pytest.raises(UserError, match=message):
            create_model(f"local-dir:{tiny_encoder}", **options)  # type: ignore[arg-type]


class TestFacts:
    """``info`` and ``verify`` return plain data."""

    def test_info_of_a_declared_row_needs_no_network(self, hub: Hub) -> None:
        facts = json.loads(json.dumps(info("eo_resnet50.simsiam_dfc2020")))
        assert (facts["published"], facts["recipe"], facts["num_params"]) == (False, "simsiam-dfc2020", 23_501_760)
        assert facts["repo_id"] == "eo-backbones/eo_resnet50.simsiam_dfc2020"
        assert "eo-train pretrain simsiam-dfc2020" in facts["how_to_make"]
        assert [band["band"] for band in facts["input"]["bands"]][:2] == ["B02", "B03"]
        assert hub.requests == []

    def test_info_of_a_folder(self, weights_folder: Path) -> None:
        facts = info(f"local-dir:{weights_folder}")
        assert (facts["route"], facts["architecture"], facts["license"]) == ("local", "resnet50", "cc-by-4.0")
        assert facts["input"] == standardized(["B04", "VV"]).to_dict()

    def test_verify_compares_content_and_outputs(
        self, published: weights.Weights, weights_folder: Path, tmp_path: Path
    ) -> None:
        by_row = verify(published.name, cache_dir=tmp_path)
        assert (by_row["sha256"], by_row["expected"], by_row["pinned"]) == (published.sha256, published.sha256, True)
        assert 0 <= by_row["golden"] <= 1e-4
        by_path = verify(f"local-dir:{weights_folder}")
        assert (by_path["file"], by_path["pinned"]) == (str(weights_folder / "model.safetensors"), False)
        assert by_path["golden"] == by_row["golden"]

    def test_verify_refuses_weights_that_do_not_reproduce(self, weights_folder: Path, tmp_path: Path) -> None:
        for name, content in files_of(weights_folder).items():
            if name != "recipe.json":
                (tmp_path / name).write_bytes(content)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["layer4.2.bn3.bias"] += 0.01
        folder.save_weights(tensors, tmp_path / "model.safetensors", {})
        with pytest.raises(UserError, match="does not reproduce"):
            verify(f"local-dir:{tmp_path}")

    def test_verify_refuses_another_contract_or_other_classes_than_trained(
        self, weights_folder: Path, tmp_path: Path
    ) -> None:
        for name, content in files_of(weights_folder).items():
            if name != "recipe.json":
                (tmp_path / name).write_bytes(content)
        config = json.loads((tmp_path / "config.json").read_text())
        header = {folder.CONFIG_KEY: json.dumps(config[folder.CONFIG_KEY])}
        folder.save_weights(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors", header)
        sha256 = verify(f"local-dir:{tmp_path}")["sha256"]
        with pytest.raises(UserError, match="are others than you expect: their sha256 is"):
            verify(f"local-dir:{tmp_path}", sha256="0" * 64)
        assert verify(f"local-dir:{tmp_path}", sha256=sha256)["sha256"] == sha256
        changed = json.loads(json.dumps(config))
        changed[folder.CONFIG_KEY]["input"]["bands"][1]["clip"] = [-30, 5]
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"is not the one that model\.safetensors was trained with \(VV differs\)"):
            verify(f"local-dir:{tmp_path}")

    def test_verify_without_a_record_says_so(self, tiny_encoder: Path, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/tiny", files_of(tiny_encoder))
        assert verify("hf-hub:acme/tiny", cache_dir=tmp_path)["golden"] is None
        assert verify(f"local-dir:{tiny_encoder}")["golden"] is None
