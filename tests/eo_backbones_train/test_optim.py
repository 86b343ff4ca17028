"""Schedules, parameter groups, rates and flags of the optimiser follow the recipe."""

from dataclasses import replace

import pytest
import torch
from lightly.utils.lars import LARS
from torch import Tensor, nn

from eo_backbones.errors import UserError
from eo_backbones_train.methods.build import build_method
from eo_backbones_train.optim import (
    build_optimizer,
    learning_rate,
    learning_rates,
    parameter_groups,
    peak_learning_rate,
    target_decay,
)
from eo_backbones_train.recipes.published import get_recipe, smoke
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import override
from support.tiny_networks import TinyResidual


def recipe(name: str = "simsiam-full", *settings: str) -> Recipe:
    return override(smoke(get_recipe(name)), settings)


def test_weight_decay_acts_on_weights_only_where_the_recipe_says_so() -> None:
    module = build_method(recipe("byol-full"), TinyResidual())
    decays = {
        id(parameter): group["weight_decay"]
        for group in parameter_groups(module, recipe("byol-full"))
        for parameter in group["params"]
    }
    for name, parameter in module.named_parameters():
        if name.startswith("target_"):
            assert id(parameter) not in decays, f"{name} is a moving average and must not be optimised"
        else:
            is_weight = name.endswith("weight") and parameter.ndim > 1  # BatchNorm's "weight" is a vector
            assert decays[id(parameter)] == (0.01 if is_weight else 0.0), name


def test_one_group_holds_everything_when_nothing_sets_parameters_apart() -> None:
    plain = recipe("byol-dfc2020")
    module = build_method(plain, TinyResidual())
    (group,) = parameter_groups(module, plain)
    assert len(group["params"]) == sum(parameter.requires_grad for parameter in module.parameters())


def test_only_the_predictor_keeps_its_peak_rate() -> None:
    fixed = recipe("simsiam-full", "epochs=10", "optim.decay_norm_and_bias=true")
    module = build_method(fixed, TinyResidual())
    optimizer = build_optimizer(module, fixed, fused=False, capturable=False)
    rates = learning_rates(fixed, optimizer.param_groups, 50, steps_per_epoch=10)  # half way
    by_parameter = {
        id(parameter): rate
        for group, rate in zip(optimizer.param_groups, rates, strict=True)
        for parameter in group["params"]
    }
    peak = 0.05 * 8 / 256  # base rate, batch of the smoke recipe, reference batch
    for name, parameter in module.named_parameters():
        assert by_parameter[id(parameter)] == pytest.approx(peak if name.startswith("predictor.") else peak / 2), name


@pytest.mark.parametrize(("name", "peak"), [("byol-dfc2020", 3e-4), ("simsiam-full", 0.2), ("byol-full", 6e-4)])
def test_peak_rate_scales_with_the_batch_only_where_the_recipe_says_so(name: str, peak: float) -> None:
    assert peak_learning_rate(get_recipe(name)) == pytest.approx(peak)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_the_optimiser_steps_as_torch_builds_it_from_the_same_numbers(name: str, kind: type, fused: bool) -> None:
    chosen = recipe(
        "byol-mini", f"optim.name={name}", "optim.base_lr=5e-4", "optim.momentum=0.8", "optim.decay_norm_and_bias=true"
    )
    numbers = {"lr": 5e-4, "weight_decay": 0.01} | ({"momentum": 0.8} if name == "sgd" else {"betas": (0.8, 0.999)})
    results = []
    for build in (
        lambda m: build_optimizer(m, chosen, fused=fused, capturable=False),
        lambda m: kind(m.parameters(), **numbers),
    ):
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 3)
        optimizer = build(module)
        for _ in range(3):
            optimizer.zero_grad()
            module(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        results.append(module.weight.detach().clone())
    torch.testing.assert_close(*results)


def test_lars_steps_as_that_of_lightly() -> None:
    """Weights have adapted rates, biases and BatchNorm those of SGD, as in BYOL."""
    chosen = recipe("byol-full", "optim.name=lars", "optim.base_lr=0.45", "optim.weight_decay=0.001")

    def build_with_lightly(module: nn.Module) -> torch.optim.Optimizer:
        return LARS(parameter_groups(module, chosen), lr=peak_learning_rate(chosen), momentum=0.9)

    def build(module: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(module, chosen, fused=True, capturable=False)

    results = []
    for make in (build, build_with_lightly):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        optimizer = make(module)
        for _ in range(5):
            optimizer.zero_grad()
            module(torch.arange(8.0).reshape(2, 4)).square().sum().backward()
            optimizer.step()
        results.append(dict(module.state_dict()))
    torch.testing.assert_close(*results)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = nn.Linear(4, 5).weight
    assert not torch.allclose(results[0]["0.weight"], start)


def test_lars_is_refused_where_it_would_have_no_effect_or_was_not_tried() -> None:
    with pytest.raises(UserError, match=r"what has weight decay; set optim\.weight_decay above 0"):
        recipe("byol-full", "optim.name=lars", "optim.weight_decay=0")
    chosen = recipe("byol-full", "optim.name=lars")
    with pytest.raises(UserError, match="--no-graph"):
        build_optimizer(nn.Linear(2, 2), chosen, fused=True, capturable=True)


def test_a_capturable_optimiser_has_one_rate_tensor_a_group() -> None:
    chosen = replace(recipe("simsiam-full"), optim=get_recipe("simsiam-mini").optim)
    groups = build_optimizer(build_method(chosen, TinyResidual()), chosen, fused=False, capturable=True).param_groups
    rates = [group["lr"] for group in groups]
    assert all(isinstance(rate, Tensor) for rate in rates)
    assert len({rate.data_ptr() for rate in rates}) == len(groups) == 4
    assert all(group["capturable"] for group in groups)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),  # warm-up: 1/4, 2/4, 3/4, 4/4 of the peak
        (1, 0.2),
        (3, 0.4),
        (4, 0.4),  # cosine: cos(0) = 1
        (6, 0.4 * (1 + 0.7071067811865476) / 2),  # a quarter of the way: cos(45 degrees)
        (8, 0.2),  # half way
        (11, 0.4 * (1 - 0.9238795325112867) / 2),  # last step: cos(157.5 degrees)
    ],
)
def test_warm_up_then_half_a_cosine(step: int, rate: float) -> None:
    value = learning_rate(step, peak=0.4, schedule="cosine", total_steps=12, warmup_steps=4)
    assert value == pytest.approx(rate, rel=1e-12)


def test_a_constant_rate_stays_at_its_peak_after_the_warm_up() -> None:
    rates = [learning_rate(step, peak=0.3, schedule="constant", total_steps=5, warmup_steps=2) for step in range(5)]
    assert rates == [0.15, 0.3, 0.3, 0.3, 0.3]


def test_training_shorter_than_its_warm_up_only_rises() -> None:
    rates = [learning_rate(step, peak=1.0, schedule="cosine", total_steps=3, warmup_steps=10) for step in range(3)]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("step", "decay"),
    [(0, 0.96), (250, 1 - 0.04 * (1 + 0.7071067811865476) / 2), (500, 0.98), (1000, 1.0)],
)
def test_cosine_decay_starts_at_its_base_and_ends_at_one(step: int, decay: float) -> None:
    """BYOL, section 3.2: 1 - (1 - base) (cos(pi k / K) + 1) / 2."""
    assert target_decay(step, base=0.96, schedule="cosine", total_steps=1000) == pytest.approx(decay, rel=1e-12)


def test_a_constant_decay_is_its_base_at_every_step() -> None:
    assert {target_decay(step, base=0.99, schedule="constant", total_steps=10) for step in range(11)} == {0.99}
