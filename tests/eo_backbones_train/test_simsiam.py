"""SimSiam does what its papers' equations say, compared with a transcription that shares no code with it."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from eo_backbones_train.methods.build import build_method
from eo_backbones_train.methods.simsiam import SimSiam
from eo_backbones_train.optim import build_optimizer, learning_rates
from eo_backbones_train.recipes.published import get_recipe, smoke
from eo_backbones_train.recipes.recipe import Recipe
from support.launched_operations import LaunchedOperations
from support.tiny_networks import TinyResidual, tiny_views


def tiny_recipe(loss: str, batch_norm: str, layers: int) -> Recipe:
    recipe = smoke(get_recipe("simsiam-full"))
    return replace(
        recipe,
        loss=loss,  # type: ignore[arg-type]
        model=replace(
            recipe.model,
            batch_norm=batch_norm,  # type: ignore[arg-type]
            projector_layers=layers,  # type: ignore[arg-type]
            projector_hidden=10,
            projector_out=8,
            predictor_hidden=4,
        ),
        optim=replace(recipe.optim, decay_norm_and_bias=True),
        epochs=2,
    )


def tiny_simsiam(loss: str = "symmetric", batch_norm: str = "separate", layers: int = 3) -> SimSiam:
    torch.manual_seed(0)
    module = build_method(tiny_recipe(loss, batch_norm, layers), TinyResidual()).double()
    assert isinstance(module, SimSiam)
    return module


class Transcription:
    """Chen & He, algorithm 1, and Jain et al., equation 1; SGD with momentum and weight decay; plain loops."""

    def __init__(self, start: SimSiam) -> None:
        self.f = nn.Sequential(deepcopy(start.encoder), deepcopy(start.projector))
        self.h = deepcopy(start.predictor)
        self.velocity: dict[Tensor, Tensor] = {}

    def d(self, p: Tensor, z: Tensor) -> Tensor:
        z = z.detach()
        p = p / p.norm(dim=1, keepdim=True)
        z = z / z.norm(dim=1, keepdim=True)
        return -(p * z).sum(dim=1).mean()

    def loss(self, x1: Tensor, x2: Tensor, *, symmetric: bool, joint: bool) -> Tensor:
        z1, z2 = self.f(torch.cat([x1, x2])).chunk(2) if joint else (self.f(x1), self.f(x2))
        if not symmetric and not joint:
            return self.d(self.h(z1), z2)
        p1, p2 = self.h(torch.cat([z1, z2])).chunk(2) if joint else (self.h(z1), self.h(z2))
        return self.d(p1, z2) / 2 + self.d(p2, z1) / 2 if symmetric else self.d(p1, z2)

    def step(self, loss: Tensor, *, rate: float, predictor_rate: float) -> None:
        loss.backward()
        with torch.no_grad():
            for network, own_rate in ((self.f, rate), (self.h, predictor_rate)):
                for weight in network.parameters():
                    gradient = weight.grad + 1e-4 * weight
                    self.velocity[weight] = 0.9 * self.velocity.get(weight, 0) + gradient
                    weight.sub_(own_rate * self.velocity[weight])
                    weight.grad = None


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("batch_norm", ["joint", "separate"])
@pytest.mark.parametrize("loss", ["symmetric", "one-directional"])
def test_two_steps_equal_the_papers_equations(loss: str, batch_norm: str, layers: int) -> None:
    """The second step has half the rate (a cosine at its middle), but not for the predictor."""
    recipe, module = tiny_recipe(loss, batch_norm, layers), tiny_simsiam(loss, batch_norm, layers)
    expected = Transcription(module)
    optimizer = build_optimizer(module, recipe, fused=False, capturable=False)
    peak = 0.05 * 8 / 256
    for number in (0, 1):
        views = tiny_views(pairs=5, seed=number)
        output = module(views)
        reference = expected.loss(*views, symmetric=loss == "symmetric", joint=batch_norm == "joint")
        assert output.loss.item() == pytest.approx(reference.item(), rel=1e-10)
        optimizer.zero_grad()
        output.loss.backward()
        rates = learning_rates(recipe, optimizer.param_groups, number, steps_per_epoch=1)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step()
        expected.step(reference, rate=peak / (number + 1), predictor_rate=peak)
    mine = (module.encoder, module.projector, module.predictor)
    for own, other in zip(mine, (*expected.f, expected.h), strict=True):
        torch.testing.assert_close(dict(own.state_dict()), dict(other.state_dict()), rtol=1e-9, atol=1e-11)


def test_the_loss_is_minus_one_for_equal_views_and_an_identity_predictor() -> None:
    module = tiny_simsiam("symmetric", "separate")
    module.predictor = nn.Identity()  # type: ignore[assignment]
    view = tiny_views(pairs=4)[0]
    assert module(torch.stack([view, view])).loss.item() == pytest.approx(-1.0)


def test_one_direction_gives_radar_no_gradient() -> None:
    module = tiny_simsiam("one-directional", "separate")
    views = tiny_views(pairs=4).requires_grad_()
    module(views).loss.backward()
    assert views.grad is not None
    assert views.grad[0].abs().sum() > 0
    assert views.grad[1].abs().sum() == 0


@pytest.mark.parametrize("loss", ["symmetric", "one-directional"])
@pytest.mark.parametrize("batch_norm", ["joint", "separate"])
def test_embeddings_are_the_detached_features_of_both_sensors(loss: str, batch_norm: str) -> None:
    module, views = tiny_simsiam(loss, batch_norm), tiny_views(pairs=4)
    expected = (
        module.encoder(views.flatten(0, 1)).view(2, 4, 12)
        if batch_norm == "joint"
        else torch.stack([module.encoder(view) for view in views])
    )
    output = module(views)
    assert not output.embeddings.requires_grad
    torch.testing.assert_close(output.embeddings, expected.detach())


def test_joint_and_separate_passes_normalise_differently() -> None:
    """The sensors differ in mean; only joint statistics keep that difference in the features."""
    views = tiny_views(pairs=32)
    gaps = {}
    for batch_norm in ("joint", "separate"):
        features = tiny_simsiam("symmetric", batch_norm)(views).embeddings
        gaps[batch_norm] = (features[0].mean(0) - features[1].mean(0)).norm().item()
    assert gaps["joint"] > 3 * gaps["separate"]


@pytest.mark.parametrize(("loss", "batch_norm"), [("symmetric", "joint"), ("one-directional", "separate")])
def test_a_step_of_resnet50_launches_at_most_900_operations(loss: str, batch_norm: str) -> None:
    base = smoke(get_recipe("simsiam-mini"))
    recipe = replace(base, loss=loss, model=replace(base.model, batch_norm=batch_norm))  # type: ignore[arg-type]
    module = build_method(recipe)
    optimizer = build_optimizer(module, recipe, fused=True, capturable=False)
    views = tiny_views(pairs=2, size_px=32, dtype=torch.float32)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(views).loss.backward()
        optimizer.step()

    step()
    with LaunchedOperations() as launched:
        step()
    assert 300 < launched.count <= 900
