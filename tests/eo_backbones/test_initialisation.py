"""The averaging start: every position of a map counts alike in what a strided block passes on."""

import pytest
import timm
import torch
from torch import Tensor, nn

from eo_backbones.networks.initialisation import average_when_downsampling

STRIDED = ("layer2.0", "layer3.0", "layer4.0")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("resnet50", in_chans=1, num_classes=0)
    average_when_downsampling(network, after=1)
    return network.eval()


@pytest.mark.parametrize("block", STRIDED)
def test_what_a_position_adds_to_the_mean_does_not_depend_on_the_position(network: nn.Module, block: str) -> None:
    """The 1 x 1 shortcut of stride 2, by contrast, never sees three of four positions."""
    channels = network.get_parameter(f"{block}.conv2.weight").shape[1]
    value = torch.randn(channels, generator=torch.Generator().manual_seed(1))
    places = [(2, 2), (2, 3), (3, 2), (3, 3), (4, 5)]  # away from the border, all four parities
    images = torch.zeros(len(places), channels, 8, 8)
    for image, (row, column) in zip(images, places, strict=True):
        image[:, row, column] = value
    sums = network.get_submodule(f"{block}.conv2")(images).sum(dim=(2, 3))
    torch.testing.assert_close(sums, sums[:1].expand_as(sums))
    torch.testing.assert_close(sums[0].norm(), value.norm() / 4)  # a rotation of it; a quarter of the positions is left


@pytest.mark.parametrize("block", STRIDED)
def test_the_shortcut_is_off_and_the_main_branch_on(network: nn.Module, block: str) -> None:
    module = network.get_submodule(block)
    side = 8
    images = torch.randn(1, module.conv1.in_channels, side, side)  # type: ignore[arg-type, union-attr]
    captured: list[Tensor] = []
    hook = module.downsample.register_forward_hook(  # type: ignore[operator, union-attr]
        lambda *call: captured.append(call[2])
    )
    with torch.no_grad():
        out = module(images)
    hook.remove()
    assert captured[0].abs().max() == 0
    assert out.std() > 0


def test_features_move_less_when_the_image_moves_by_a_pixel(network: nn.Module) -> None:
    """Of a random texture that is shifted: the default start takes other samples, this one averages the same."""
    torch.manual_seed(0)
    default = timm.create_model("resnet50", in_chans=1, num_classes=0).eval()
    texture = torch.randn(8, 1, 72, 72, generator=torch.Generator().manual_seed(2))
    before, after = texture[..., 4:68, 4:68], texture[..., 8:72, 4:68]  # four pixels: one position of the stem's map

    def moved(model: nn.Module) -> float:
        with torch.no_grad():
            first, second = model(before), model(after)
        spread = first.std(dim=0)
        shown = spread > 0
        return float(((first - second).pow(2).mean(dim=0)[shown] / first.var(dim=0)[shown]).mean())

    assert moved(network) < 0.7 * moved(default)


@pytest.mark.parametrize(("after", "changed"), [(2, {"layer3.0", "layer4.0"}), (3, {"layer4.0"}), (4, set())])
def test_stages_before_stay_as_they_were(after: int, changed: set[str]) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet50", in_chans=1, num_classes=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average_when_downsampling(network, after=after)
    differing = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {".".join(name.split(".")[:2]) for name in differing} == changed
