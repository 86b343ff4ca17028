"""Encoder and decoder: equal to segmentation-models-pytorch's own U-Net, for any size of image and number of bands."""

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eo_backbones.contract import unit_range
from eo_backbones.errors import UserError
from eo_backbones.export import export_network
from eo_backbones.networks.segmentation import DECODER_CHANNELS, MapFuse, SegmentationNetwork

BANDS = ["B04", "B03"]


def encoder(channels: int = 1) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = timm.create_model("test_resnet", in_chans=channels, num_classes=0).eval()
    made.eo_input = unit_range(["B02", "B03", "B04"])
    return made


def network(fuse: MapFuse = "concat", bands: list[str] = BANDS) -> SegmentationNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        made = SegmentationNetwork(encoder(len(bands) if fuse == "early" else 1), bands, fuse, num_classes=3)
        for module in made.decoder.modules():  # statistics as after training
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
                nn.init.normal_(module.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
    return made.eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_it_is_the_librarys_own_u_net_with_the_same_weights() -> None:
    own = network("early")
    theirs = smp.Unet(
        "tu-test_resnet", encoder_weights=None, in_channels=2, classes=3, decoder_channels=DECODER_CHANNELS
    ).eval()
    theirs.decoder.load_state_dict(own.decoder.state_dict())
    theirs.segmentation_head.load_state_dict(own.head.state_dict())
    expected = {f"model.{name}": tensor for name, tensor in own.encoder.state_dict().items()}
    theirs.encoder.load_state_dict({name: expected[name] for name in theirs.encoder.state_dict()})
    batch = images(2, 2, 64, 96)
    torch.testing.assert_close(own(batch), theirs(batch))


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(50, 70), (33, 32), (1, 5)])
def test_any_size_is_continued_by_its_last_row_and_column(height: int, width: int) -> None:
    own = network()
    batch = images(2, 2, height, width)
    padded = F.pad(batch, (0, -width % 32, 0, -height % 32), mode="replicate")
    found = own(batch)
    assert found.shape == (2, 3, height, width)
    torch.testing.assert_close(found, own(padded)[..., :height, :width])


@torch.no_grad()
def test_late_fusion_joins_the_maps_of_each_band() -> None:
    batch = images(2, 2, 64, 64)
    for fuse in ("concat", "mean"):
        own = network(fuse)  # type: ignore[arg-type]
        alone = [own.encoder.forward_intermediates(batch[:, [i]], intermediates_only=True) for i in range(2)]
        for joined, first, second in zip(own.feature_maps(batch), *alone, strict=True):
            expected = torch.cat([first, second], dim=1) if fuse == "concat" else (first + second) / 2
            torch.testing.assert_close(joined, expected)
    assert own.eo_input is not None
    assert own.eo_input.band_names == ("B04", "B03")


def test_what_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = timm.create_model("test_convnext", in_chans=1, num_classes=0)
    with pytest.raises(UserError, match="strides 4, 8, 16, 32; segmentation takes an encoder with 2, 4, 8, 16, 32"):
        SegmentationNetwork(plain, ["B04"], "early", 2)
    with pytest.raises(UserError, match="no input statistics for band B08"):
        SegmentationNetwork(encoder(), ["B08"], "early", 2)
    with pytest.raises(UserError, match=r"shape \(1, 3, 32, 32\) for 2 band"):
        network()(images(1, 3, 32, 32))
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r"type: pip install 'eo-backbones\[segmentation\]'"):
        network()


@pytest.mark.slow
def test_it_can_be_exported_for_any_size(tmp_path: Path) -> None:
    made = export_network(network("mean"), tmp_path / "a.pt2", format="torch", in_chans=2, metadata={})
    assert made.difference < 1e-5


def test_the_library_alone_does_not_import_the_decoder(repository: Path) -> None:
    for path in (repository / "eo_backbones").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "segmentation_models_pytorch" not in ast.unparse(node), path
