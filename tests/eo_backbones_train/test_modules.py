"""Heads and losses against lightly's and closed forms; what the loss sees of the encoder against torchvision's."""

import pytest
import timm
import torch
import torchvision
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
)
from torch import Tensor, nn

from eo_backbones.evaluation.encoders import random_resnet50
from eo_backbones.networks.state import state_digest
from eo_backbones_train.methods.build import fresh_encoder
from eo_backbones_train.methods.modules import (
    embed,
    feature_width,
    negative_cosine,
    predictor,
    projector,
    squared_distance,
)
from eo_backbones_train.recipes.published import get_recipe


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(projector(10, 8, 6, layers=2), BYOLProjectionHead(10, 8, 6), id="byol-projector"),
        pytest.param(predictor(6, 8, 6), BYOLPredictionHead(6, 8, 6), id="byol-predictor"),
        pytest.param(projector(10, 8, 6, layers=3), SimSiamProjectionHead(10, 8, 6), id="simsiam-projector"),
        pytest.param(predictor(6, 4, 6), SimSiamPredictionHead(6, 4, 6), id="simsiam-predictor"),
    ],
)
def test_equal_weights_give_the_outputs_and_gradients_of_lightly(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict({name.removeprefix("layers."): value for name, value in theirs.state_dict().items()})
    inputs = torch.randn(5, next(ours.parameters()).shape[1], generator=torch.Generator().manual_seed(0))
    results = [head(inputs) for head in (ours, theirs)]
    torch.testing.assert_close(*results)
    for result in results:
        result.square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_only_the_three_layer_projector_ends_in_a_batch_norm_without_scale() -> None:
    assert isinstance(projector(4, 4, 4, layers=2)[-1], nn.Linear)
    last = projector(4, 4, 4, layers=3)[-1]
    assert isinstance(last, nn.BatchNorm1d)
    assert not last.affine


@pytest.mark.parametrize(
    ("z", "cosine"), [((3.0, 0.0), 1.0), ((0.0, 2.0), 0.0), ((-5.0, 0.0), -1.0), ((1.0, 1.0), 0.5**0.5)]
)
def test_both_losses_equal_their_closed_forms(z: tuple[float, float], cosine: float) -> None:
    p, goal = torch.tensor([[2.0, 0.0]]), torch.tensor([z])
    assert negative_cosine(p, goal).item() == pytest.approx(-cosine, abs=1e-6)
    assert squared_distance(p, goal).item() == pytest.approx(2 - 2 * cosine, abs=1e-6)


def test_squared_distance_is_that_of_the_normalised_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    p, z = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    expected = sum(float(((a / a.norm() - b / b.norm()) ** 2).sum()) for a, b in zip(p, z, strict=True)) / 7
    assert squared_distance(p, z).item() == pytest.approx(expected, rel=1e-12)


def test_negative_cosine_equals_that_of_lightly() -> None:
    p, z = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(negative_cosine(p, z), NegativeCosineSimilarity()(p, z))


def test_no_gradient_flows_into_the_goal() -> None:
    p, z = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    squared_distance(p, z).backward()
    assert z.grad is None
    assert p.grad is not None
    assert p.grad.abs().sum() > 0


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
