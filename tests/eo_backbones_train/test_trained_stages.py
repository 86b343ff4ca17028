"""The part of the encoder that the loss sees, against torchvision's network with the same weights."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from eo_backbones.evaluation.encoders import random_resnet50
from eo_backbones.networks.state import state_digest
from eo_backbones_train.methods.build import fresh_encoder
from eo_backbones_train.methods.modules import embed, feature_width
from eo_backbones_train.recipes.published import get_recipe


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("resnet50", in_chans=1, num_classes=0, zero_init_last=False)
    return network


def torchvision_maps(encoder: nn.Module, images: Tensor) -> tuple[nn.Module, dict[int, Tensor]]:
    """Return torchvision's network after a training pass, and the output of each of its stages."""
    reference = torchvision.models.resnet50()
    reference.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    reference.fc = nn.Identity()
    reference.load_state_dict(encoder.state_dict())
    maps: dict[int, Tensor] = {}
    for number in (1, 2, 3, 4):
        stage = reference.get_submodule(f"layer{number}")
        stage.register_forward_hook(lambda *call, number=number: maps.update({number: call[2]}))
    reference.train()(images)
    return reference, maps


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_mean_over_the_map_of_the_last_trained_stage(encoder: nn.Module, stages: int) -> None:
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    _, maps = torchvision_maps(encoder, images)
    found = embed(encoder.train(), stages, images)
    assert found.shape == (4, feature_width(encoder, stages))
    torch.testing.assert_close(found, maps[stages].mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("update_late_bn", [True, False])
def test_statistics_of_later_stages_follow_where_they_are_told_to(encoder: nn.Module, update_late_bn: bool) -> None:
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = torchvision_maps(encoder, images)[0].state_dict()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    embed(encoder.train(), 2, images, update_late_bn=update_late_bn).sum().backward()
    for name, tensor in encoder.state_dict().items():
        late = name.startswith(("layer3", "layer4"))
        torch.testing.assert_close(
            tensor, expected[name] if update_late_bn or not late else before[name], rtol=1e-4, atol=1e-5
        )
    graded = {name.split(".")[0] for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert graded == {"conv1", "bn1", "layer1", "layer2"}


@pytest.mark.parametrize("recipe", ["byol-mini", "simsiam-mini"])
def test_the_baseline_random_averaging_is_what_training_begins_with(recipe: str) -> None:
    torch.manual_seed(3)
    begun = fresh_encoder(get_recipe(recipe).model)
    assert state_digest(begun) == state_digest(random_resnet50(3, averaging=True))
