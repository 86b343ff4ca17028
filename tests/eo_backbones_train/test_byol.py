"""BYOL does what its papers' equations say, compared with a transcription that shares no code with it."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from eo_backbones_train.methods.build import build_method
from eo_backbones_train.methods.byol import BYOL
from eo_backbones_train.optim import build_optimizer
from eo_backbones_train.recipes.published import get_recipe, smoke
from eo_backbones_train.recipes.recipe import Recipe
from support.launched_operations import LaunchedOperations
from support.tiny_networks import TinyResidual, tiny_views


def tiny_recipe(loss: str, batch_norm: str, buffers: str = "own") -> Recipe:
    recipe = smoke(get_recipe("byol-dfc2020"))
    return replace(
        recipe,
        loss=loss,  # type: ignore[arg-type]
        model=replace(recipe.model, batch_norm=batch_norm, projector_hidden=10, projector_out=6, predictor_hidden=9),  # type: ignore[arg-type]
        target=replace(recipe.target, buffers=buffers),  # type: ignore[type-var]
    )


def tiny_byol(loss: str = "symmetric", batch_norm: str = "separate", buffers: str = "own") -> BYOL:
    torch.manual_seed(0)
    module = build_method(tiny_recipe(loss, batch_norm, buffers), TinyResidual()).double()
    assert isinstance(module, BYOL)
    return module


class Transcription:
    """Grill et al., equations 1 and 2, and Jain et al., equation 1; Adam as in its paper; plain loops."""

    def __init__(self, start: BYOL) -> None:
        self.f, self.g, self.q = (deepcopy(part) for part in (start.encoder, start.projector, start.predictor))
        self.f_target, self.g_target = deepcopy(start.encoder), deepcopy(start.projector)
        self.online = [*self.f.parameters(), *self.g.parameters(), *self.q.parameters()]
        self.first = [torch.zeros_like(weight) for weight in self.online]
        self.second = [torch.zeros_like(weight) for weight in self.online]

    def both_sensors(self, network: nn.Module, x1: Tensor, x2: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
        if joint:
            together = network(torch.cat([x1, x2]))
            return together[: len(x1)], together[len(x1) :]
        return network(x1), network(x2)

    def distance(self, q: Tensor, z: Tensor) -> Tensor:
        total = torch.zeros((), dtype=q.dtype)
        for i in range(len(q)):
            total = total + ((q[i] / q[i].norm() - z[i] / z[i].norm()) ** 2).sum()
        return total / len(q)

    def loss(self, x1: Tensor, x2: Tensor, *, symmetric: bool, joint: bool) -> Tensor:
        online = nn.Sequential(self.f, self.g, self.q)
        target = nn.Sequential(self.f_target, self.g_target)
        if not symmetric and not joint:
            q1, z2 = online(x1), target(x2).detach()
            return self.distance(q1, z2)
        q1, q2 = self.both_sensors(online, x1, x2, joint)
        z1, z2 = (z.detach() for z in self.both_sensors(target, x1, x2, joint))
        return self.distance(q1, z2) + (self.distance(q2, z1) if symmetric else 0)

    def step(self, number: int, loss: Tensor, *, rate: float, decay: float) -> None:
        gradients = torch.autograd.grad(loss, self.online)
        with torch.no_grad():
            for i, gradient in enumerate(gradients):
                self.first[i] = 0.9 * self.first[i] + 0.1 * gradient
                self.second[i] = 0.999 * self.second[i] + 0.001 * gradient**2
                m = self.first[i] / (1 - 0.9**number)
                v = self.second[i] / (1 - 0.999**number)
                self.online[i] -= rate * m / (v.sqrt() + 1e-8)
            for network, average in ((self.f, self.f_target), (self.g, self.g_target)):
                for weight, old in zip(network.parameters(), average.parameters(), strict=True):
                    old.copy_(decay * old + (1 - decay) * weight)


@pytest.mark.parametrize("batch_norm", ["joint", "separate"])
@pytest.mark.parametrize("loss", ["symmetric", "one-directional"])
def test_two_steps_equal_the_papers_equations(loss: str, batch_norm: str) -> None:
    module = tiny_byol(loss, batch_norm)
    expected = Transcription(module)
    optimizer = build_optimizer(module, tiny_recipe(loss, batch_norm), fused=False, capturable=False)
    for number in (1, 2):
        views = tiny_views(pairs=5, seed=number)
        output = module(views)
        reference = expected.loss(*views, symmetric=loss == "symmetric", joint=batch_norm == "joint")
        assert output.loss.item() == pytest.approx(reference.item(), rel=1e-10)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        module.update_target(torch.tensor(0.9, dtype=torch.float64))
        expected.step(number, reference, rate=3e-4, decay=0.9)
    pairs = (
        (module.encoder, expected.f),
        (module.projector, expected.g),
        (module.predictor, expected.q),
        (module.target_encoder, expected.f_target),
        (module.target_projector, expected.g_target),
    )
    for mine, other in pairs:
        # State dicts: also the running statistics, which tell how many passes each network has made.
        torch.testing.assert_close(dict(mine.state_dict()), dict(other.state_dict()), rtol=1e-9, atol=1e-11)


def test_the_target_is_a_copy_that_gets_no_gradient() -> None:
    module = tiny_byol()
    online = {id(parameter) for parameter in module.encoder.parameters()}
    assert not online & {id(parameter) for parameter in module.target_encoder.parameters()}
    module(tiny_views(pairs=4)).loss.backward()
    for name, parameter in module.named_parameters():
        if name.startswith("target_"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("decay", "follows"), [(0.0, "online"), (1.0, "itself")])
def test_decay_end_points_are_exact(decay: float, follows: str) -> None:
    module = tiny_byol()
    before = [parameter.clone() for parameter in module.target_encoder.parameters()]
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.add_(0.1)
    module.update_target(torch.tensor(decay))
    expected = before if follows == "itself" else [*module.encoder.parameters()]
    for average, goal in zip(module.target_encoder.parameters(), expected, strict=True):
        assert torch.equal(average, goal)


@pytest.mark.parametrize("buffers", ["average", "copy", "own"])
def test_the_targets_running_statistics_follow_their_policy(buffers: str) -> None:
    module = tiny_byol(buffers=buffers)
    module(tiny_views(pairs=6))
    online, target = module.encoder.stem[1], module.target_encoder.stem[1]
    with torch.no_grad():
        online.running_mean += 1.0
    own, other = target.running_mean.clone(), online.running_mean.clone()
    module.update_target(torch.tensor(0.75))
    expected = {"average": 0.75 * own + 0.25 * other, "copy": other, "own": own}[buffers]
    torch.testing.assert_close(target.running_mean, expected)
    assert int(target.num_batches_tracked) == 2


def test_separate_passes_of_one_direction_show_each_network_one_sensor() -> None:
    module = tiny_byol("one-directional", "separate")
    s2, s1 = tiny_views(pairs=6)
    radar_changed = torch.stack([s2, s1 + 1])
    output, other = module(torch.stack([s2, s1])), module(radar_changed)
    torch.testing.assert_close(output.embeddings[0], other.embeddings[0])
    assert not torch.allclose(output.embeddings[1], other.embeddings[1])
    assert int(module.encoder.stem[1].num_batches_tracked) == 2  # one pass a step


def test_embeddings_are_the_detached_features_of_both_sensors() -> None:
    module = tiny_byol("symmetric", "separate")
    views = tiny_views(pairs=4)
    output = module(views)
    assert output.embeddings.shape == (2, 4, 12)
    assert not output.embeddings.requires_grad
    torch.testing.assert_close(output.embeddings, torch.stack([module.encoder(view) for view in views]).detach())


def test_training_does_not_collapse_and_lowers_the_loss() -> None:
    """Views of one scene agree up to noise; after some steps their predictions agree better than at the start."""
    module = tiny_byol("symmetric", "joint").float()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(40):
        scene = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        views = scene + 0.1 * torch.randn(2, 16, 1, 8, 8, generator=torch.Generator().manual_seed(1000 + step))
        output = module(views)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        module.update_target(torch.tensor(0.9))
        losses.append(output.loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    normalised = torch.nn.functional.normalize(output.embeddings[0], dim=-1)
    assert normalised.std(0).mean() * math.sqrt(12) > 0.2


@pytest.mark.parametrize(
    ("loss", "batch_norm"), [("symmetric", "joint"), ("one-directional", "joint"), ("one-directional", "separate")]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_resnet50_launches_at_most_900_operations(loss: str, batch_norm: str, precision: str) -> None:
    """Forward, backward, fused AdamW and the moving average (docs/decisions/0012)."""
    base = smoke(get_recipe("byol-mini"))
    recipe = replace(base, loss=loss, model=replace(base.model, batch_norm=batch_norm))  # type: ignore[arg-type]
    module = build_method(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(module, recipe, fused=True, capturable=False)
    views = tiny_views(pairs=2, size_px=32, dtype=torch.float32)
    decay = torch.tensor(0.99)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = module(views)
        output.loss.backward()
        optimizer.step()
        module.update_target(decay)

    step()  # the first step also makes the optimiser's state
    with LaunchedOperations() as launched:
        step()
    assert 400 < launched.count <= 900


def test_stages_that_are_not_trained_keep_their_weights_while_their_statistics_follow() -> None:
    torch.manual_seed(0)
    module = build_method(get_recipe("byol-mini"))
    before = {name: tensor.clone() for name, tensor in module.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module(torch.rand(2, 2, 1, 32, 32)).loss.backward()
    optimizer.step()
    module.update_target(torch.tensor(0.9))
    changed = {name for name, tensor in module.encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    late = {name for name in before if name.startswith(("layer3.", "layer4."))}
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert changed & late == late & statistics
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "layer2.3.bn3.weight"} <= changed  # others: behind a zero
    for name, tensor in module.target_encoder.state_dict().items():
        if name in late - statistics:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
