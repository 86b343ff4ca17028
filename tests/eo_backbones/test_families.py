"""A row of another family than ``eo_resnet50`` works on every route: EfficientNet-Lite0 with made-up weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import eo_backbones
from eo_backbones import demo, weights
from eo_backbones.contract import standardized
from eo_backbones.export import export_network
from eo_backbones.files import sha256_of
from eo_backbones.hub import folder
from eo_backbones.info import info, verify
from eo_backbones.networks.segmentation import SegmentationNetwork
from eo_backbones.weights import Weights
from support.hub_fixtures import files_of
from support.hub_http import Hub

STOCK = "tf_efficientnet_lite0"
NAME = "eo_efficientnet_lite0.distill_toy"
FEATURES = 1280


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with running statistics that are not those of a fresh network."""
    path = tmp_path_factory.mktemp("embedded") / NAME
    path.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model(STOCK, in_chans=1, num_classes=0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        inputs = torch.randn(2, 1, 64, 64)
    state = {name: value.half() if value.ndim > 1 else value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    folder.save_weights(state, path / folder.WEIGHTS_FILE, {})
    folder.save_golden(path, model, inputs)
    config = folder.config_json(input=standardized(["B04", "VV"]), license="other", architecture=STOCK)
    (path / folder.CONFIG_FILE).write_text(json.dumps(config))
    record = {folder.DIGEST_KEY: sha256_of(path / folder.WEIGHTS_FILE)}
    (path / folder.RECIPE_FILE).write_text(json.dumps(record))
    return path


@pytest.fixture
def row(saved: Path, declare: Callable[..., None]) -> Weights:
    """The row of that folder: embedded, published and the default, declared before the package's own rows."""
    file = saved / folder.WEIGHTS_FILE
    row = Weights(
        name=NAME,
        method="distill",
        data="made-up images",
        recipe="distill-mini",
        input=standardized(["B04", "VV"]),
        license="other",
        data_license="other",
        architecture=STOCK,
        num_features=FEATURES,
        num_params=3_370_432,
        init="ImageNet EfficientNet-Lite0 (Google, Apache-2.0)",
        embedded=str(file),
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
    )
    declare(row, *weights.WEIGHTS.values())
    return row


def outputs(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        features: torch.Tensor = model.eval()(images)
    return features


def test_every_route_gives_the_recorded_features(row: Weights, saved: Path, hub: Hub, tmp_path: Path) -> None:
    golden = load_file(saved / folder.GOLDEN_FILE)
    hub.store.publish(f"acme/{NAME}", files_of(saved))
    made = {
        "create_model": eo_backbones.create_model(NAME),
        "the family alone": eo_backbones.create_model("eo_efficientnet_lite0"),
        "timm": timm.create_model(NAME, pretrained=True),
        "timm, the family alone": timm.create_model("eo_efficientnet_lite0", pretrained=True),
        "folder": eo_backbones.create_model(f"local-dir:{saved}"),
        "folder, plain timm": timm.create_model(f"local-dir:{saved}", pretrained=True),
        "Hub": eo_backbones.create_model(f"hf-hub:acme/{NAME}", cache_dir=tmp_path),
        "Hub, plain timm": timm.create_model(f"hf-hub:acme/{NAME}", pretrained=True, cache_dir=tmp_path),
    }
    for route, model in made.items():
        features = outputs(model, golden["input"])
        assert features.shape == (2, FEATURES), route
        torch.testing.assert_close(features, golden["output"], atol=1e-4, rtol=0, msg=route)
    assert made["timm"].eo_digest == row.sha256
    facts = verify(NAME)
    assert (facts["route"], facts["pinned"], facts["golden"] <= 1e-4) == ("embedded", True, True)


def test_the_row_declares_what_the_network_has(row: Weights) -> None:
    model = eo_backbones.create_model(NAME, pretrained=False)
    assert (model.num_features, sum(p.numel() for p in model.parameters())) == (row.num_features, row.num_params)
    facts = info(NAME)
    assert (facts["architecture"], facts["num_features"], facts["init"]) == (STOCK, FEATURES, row.init)


def test_nothing_of_imagenet_is_left_in_what_timm_is_told(row: Weights, saved: Path) -> None:
    for model in (timm.create_model(NAME, pretrained=True), timm.create_model(f"local-dir:{saved}", pretrained=True)):
        told = {key: tuple(value) if isinstance(value, list) else value for key, value in model.pretrained_cfg.items()}
        assert (told["mean"], told["std"], told["num_classes"]) == ((0.294858,), (0.173371,), 0)
        assert (told["input_size"], told["crop_pct"], told["interpolation"]) == ((1, 64, 64), 1.0, "bilinear")
        assert (told["first_conv"], told["classifier"], told["pool_size"]) == ("conv_stem", "classifier", (2, 2))


def test_two_families_are_registered_each_with_its_default(row: Weights) -> None:
    assert timm.list_models("eo_*") == ["eo_efficientnet_lite0", "eo_resnet50"]
    assert NAME in timm.list_models("eo_*", pretrained=True)
    assert eo_backbones.create_model("eo_resnet50", pretrained=False).num_features == 2048
    assert weights.default_of_family("eo_resnet50").name == "eo_resnet50.byol_s1s2_mini"
    assert weights.default_of_family("eo_efficientnet_lite0") is row


def test_channels_classes_and_maps_are_as_in_timm(row: Weights) -> None:
    images = torch.randn(2, 1, 64, 96)
    alone = outputs(eo_backbones.create_model(NAME), images)
    three = outputs(timm.create_model(NAME, pretrained=True, in_chans=3), images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(three, alone, atol=2e-2, rtol=1e-2)  # the kernels are divided in the file's float16
    assert outputs(eo_backbones.create_model(NAME, num_classes=4), images).shape == (2, 4)
    maps = eo_backbones.create_model(NAME, features_only=True).eval()(images)
    assert [tuple(stage.shape[1:]) for stage in maps] == [
        (16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3),
    ]  # fmt: skip


def test_several_bands_and_maps_of_classes(row: Weights) -> None:
    encoder = eo_backbones.create_model(NAME)
    several = eo_backbones.MultiBand(encoder, ["B04", "VV"])
    assert outputs(several, torch.randn(2, 2, 64, 64)).shape == (2, several.num_features) == (2, 2 * FEATURES)
    pytest.importorskip("segmentation_models_pytorch")
    for fuse, channels in (("early", 2), ("concat", 1)):
        encoder = eo_backbones.create_model(NAME, in_chans=channels)
        network = SegmentationNetwork(encoder, ["B04", "VV"], fuse, 3)  # type: ignore[arg-type]
        assert outputs(network, torch.randn(1, 2, 50, 70)).shape == (1, 3, 50, 70)


def test_the_demo_shows_the_default_row_of_any_family(row: Weights) -> None:
    encoder = demo.load_encoder()
    assert (encoder.line, encoder.network.num_features) == (NAME, FEATURES)


def test_padding_that_depends_on_the_size_is_exported(row: Weights, tmp_path: Path) -> None:
    """The network pads as TensorFlow does; a file for any size must do so too, for odd sizes as well."""
    network = eo_backbones.create_model(NAME).eval()
    before: dict[str, Any] = {key: value.clone() for key, value in network.state_dict().items()}
    written = export_network(network, tmp_path / "encoder.pt2", format="torch", in_chans=1, metadata={})
    assert written.difference <= 1e-4
    loaded = torch.export.load(written.path).module()
    for size in ((64, 64), (65, 98)):
        images = torch.randn(2, 1, *size)
        torch.testing.assert_close(loaded(images), outputs(network, images), atol=1e-4, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), "left as it was"
