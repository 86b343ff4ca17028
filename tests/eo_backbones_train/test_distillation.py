"""The distillation's loss is what its description says, compared with numpy; the teacher never moves."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eo_backbones.errors import UserError
from eo_backbones_train.methods.distillation import Distillation
from eo_backbones_train.methods.initial_weights import keep_batch_norm_statistics
from eo_backbones_train.optim import build_optimizer
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.recipe import TeacherPart
from support.tiny_networks import TinyResidual, tiny_views

PAIRS = 6


class TinyColour(nn.Module):
    """Three channels into the 12 features of the tiny encoder."""

    def __init__(self, encoder: TinyResidual) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 1, 1, bias=False)
        self.body = copy.deepcopy(encoder)

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.body(self.stem(pictures))
        return features


def tiny_distillation(**changes: object) -> Distillation:
    torch.manual_seed(0)
    encoder = TinyResidual()
    part = replace(TeacherPart(sees="view", sizes_px=(8,)), **changes)  # type: ignore[arg-type]
    return Distillation(encoder, TinyColour(encoder), part=part, passes="joint").double().train()


def colour_views(seed: int = 0) -> Tensor:
    pairs, colours = tiny_views(pairs=PAIRS, seed=seed), tiny_views(pairs=PAIRS, seed=seed + 100)
    return torch.cat([pairs, colours, colours[:1] * 0.5])


def expected_loss(method: Distillation, views: Tensor, *, standardize: bool) -> float:
    """1 - cos, image by image, of features standardised by the batch's own mean and deviation."""
    with torch.no_grad():
        pictures = views[2:, :, 0].permute(1, 0, 2, 3) if len(views) > 2 else views[0].repeat(1, 3, 1, 1)
        target = method.teacher(pictures).numpy()
        # both views in one batch, as BatchNorm sees them
        learnt = method.encoder(torch.cat([views[0], views[1]])).numpy().reshape(2, PAIRS, -1)
    if standardize:
        mean, deviation = target.mean(axis=0), target.std(axis=0)
        target, learnt = (target - mean) / deviation, (learnt - mean) / deviation
    cosines = [
        np.dot(learnt[view, i], target[i]) / np.linalg.norm(learnt[view, i]) / np.linalg.norm(target[i])
        for view in range(2)
        for i in range(PAIRS)
    ]
    return float(1 - np.mean(cosines))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("sees", ["view", "colour"])
def test_the_loss_is_the_mean_distance_to_the_teacher(sees: str, standardize: bool) -> None:
    method = tiny_distillation(sees=sees, standardize=standardize)
    views = colour_views() if sees == "colour" else tiny_views(pairs=PAIRS)
    expected = expected_loss(method, views, standardize=standardize)
    output = method(views)
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-9)
    assert output.embeddings.shape == (2, PAIRS, 12)


def test_mean_and_deviation_are_those_of_all_batches_so_far() -> None:
    method = tiny_distillation()
    seen = []
    for seed in range(3):
        views = tiny_views(pairs=PAIRS, seed=seed)
        method(views)
        with torch.no_grad():
            seen.append(method.teacher(views[0].repeat(1, 3, 1, 1)).numpy())
    assert int(method.batches) == 3
    np.testing.assert_allclose(method.mean.numpy(), np.concatenate(seen).mean(axis=0), rtol=1e-6)
    # Each batch is compared with the mean as it was known then.
    means = [np.concatenate(seen[: n + 1]).mean(axis=0) for n in range(3)]
    expected = np.mean([((batch - mean) ** 2).mean(axis=0) for batch, mean in zip(seen, means, strict=True)], axis=0)
    np.testing.assert_allclose(method.variance.numpy(), expected, rtol=1e-6)


def test_several_sizes_give_the_mean_of_their_features() -> None:
    views = tiny_views(pairs=PAIRS)
    means = []
    for sizes in ((8,), (16,), (8, 16)):
        method = tiny_distillation(sizes_px=sizes)
        method(views)
        means.append(method.mean.numpy())
    np.testing.assert_allclose(means[2], (means[0] + means[1]) / 2, rtol=1e-6)


def test_each_share_of_the_pairs_is_seen_at_its_own_size() -> None:
    """Six pairs in three shares, the first and the last at 8 pixels: as if each had been computed alone."""
    torch.manual_seed(0)
    encoder = TinyResidual()
    part = TeacherPart(sees="view", sizes_px=(8,))
    shared = Distillation(encoder, TinyColour(encoder), part=part, passes="joint", encoder_sizes_px=(8, 16, 8))
    views = tiny_views(pairs=PAIRS, dtype=torch.float32)
    encoder.eval()  # so that the other images of a pass do not matter
    found = shared.eval()(views).embeddings
    enlarged = torch.nn.functional.interpolate(views.flatten(0, 1), (16, 16), mode="bilinear").unflatten(0, (2, -1))
    with torch.no_grad():
        for pair in range(PAIRS):
            seen = enlarged if pair in (2, 3) else views
            torch.testing.assert_close(found[:, pair], encoder(seen[:, pair]), rtol=1e-4, atol=1e-5)


def test_an_encoder_that_is_its_teacher_has_nothing_to_learn() -> None:
    method = tiny_distillation()
    with torch.no_grad():
        method.teacher.stem.weight.fill_(1 / 3)  # type: ignore[union-attr]  # three equal channels give one
    method.encoder.eval()  # batch statistics would differ from those that the teacher has
    view = tiny_views(pairs=PAIRS)[:1]
    assert float(method(view.repeat(2, 1, 1, 1, 1)).loss.detach()) == pytest.approx(0, abs=1e-6)


def test_contrast_adds_the_cross_entropy_of_choosing_the_own_scene() -> None:
    """InfoNCE in plain numpy: of the cosines with all targets of the batch, divided by the temperature."""
    method = tiny_distillation(standardize=False, contrast=0.5, temperature=0.2)
    views = tiny_views(pairs=PAIRS)
    with torch.no_grad():
        target = method.teacher(views[0].repeat(1, 3, 1, 1)).numpy()
        learnt = method.encoder(torch.cat([views[0], views[1]])).numpy()
    cosines = learnt @ target.T / np.linalg.norm(learnt, axis=1)[:, None] / np.linalg.norm(target, axis=1)
    logits = cosines / 0.2
    own = np.tile(np.arange(PAIRS), 2)
    chosen = np.take_along_axis(logits, own[:, None], axis=1)[:, 0] - np.log(np.exp(logits).sum(axis=1))
    distance = 1 - np.take_along_axis(cosines, own[:, None], axis=1).mean()
    assert float(method(views).loss.detach()) == pytest.approx(distance - 0.5 * chosen.mean(), rel=1e-9)


def test_only_the_encoder_moves() -> None:
    method = tiny_distillation()
    before = copy.deepcopy(method.state_dict())
    recipe = get_recipe("distill-mini")
    optimizer = build_optimizer(method, recipe, fused=False, capturable=False)
    method(tiny_views(pairs=PAIRS)).loss.backward()
    optimizer.step()
    after = method.state_dict()
    assert not method.teacher.training
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("teacher."))
    assert all(not torch.equal(after[name], before[name]) for name in before if name == "encoder.stem.0.weight")
    owned = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    assert owned == sum(parameter.numel() for parameter in method.encoder.parameters())


def test_kept_statistics_never_change_also_in_a_copy() -> None:
    network = TinyResidual()
    keep_batch_norm_statistics(network)
    for encoder in (network, copy.deepcopy(network)):
        norm = encoder.stem[1]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.running_mean = torch.full((12,), 0.5)
        images = torch.randn(4, 1, 8, 8)
        features = encoder.train()(images)
        assert torch.equal(norm.running_mean, torch.full((12,), 0.5))
        torch.testing.assert_close(features, encoder.eval()(images))
        features.sum().backward()
        assert norm.weight.grad is not None


def test_a_teacher_of_one_band_sees_no_colours() -> None:
    with pytest.raises(UserError, match=r"teacher\.sees is colour, but model\.init takes one band"):
        Distillation(TinyResidual(), TinyResidual(), part=TeacherPart(sees="colour", sizes_px=(8,)), passes="joint")
