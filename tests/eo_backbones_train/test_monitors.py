"""Collapse monitors against closed forms and plain numpy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eo_backbones_train.pretraining.monitors import (
    COLLAPSED_READINGS,
    CollapseDetector,
    EmbeddingMonitor,
    Reading,
    effective_rank,
    mean_cosine_between_scenes,
    normalized_std,
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def reading(std: float, scenes: int = 64) -> Reading:
    return Reading(std=(0.5, std), rank=1.0, cosine_different=0.0, cosine_same=0.0, scenes=scenes)


def test_std_is_one_for_isotropic_vectors_and_zero_for_one_point() -> None:
    assert normalized_std(unit(5000, 32)) == pytest.approx(1.0, abs=0.01)
    assert normalized_std(unit(1, 32).expand(100, 32)) == pytest.approx(0.0, abs=1e-6)


def test_std_follows_from_the_length_of_the_mean_vector() -> None:
    vectors = F.normalize(unit(400, 16) + 2.0 * unit(1, 16, seed=1), dim=-1)
    # The variances of unit vectors sum to one minus the squared length of their mean.
    expected = math.sqrt(1 - np.square(vectors.numpy().mean(0)).sum())
    assert normalized_std(vectors) == pytest.approx(expected, rel=1e-4)


def test_effective_rank_equals_numpy_singular_values() -> None:
    vectors = unit(40, 12)
    singular = np.linalg.svd(vectors.double().numpy() - vectors.double().numpy().mean(0), compute_uv=False)
    share = singular / singular.sum()
    assert effective_rank(vectors) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_effective_rank_counts_directions() -> None:
    axes = torch.eye(8)[:4]
    cross = torch.cat([axes, -axes])  # mean zero, four equal singular values
    assert effective_rank(cross) == pytest.approx(4.0, rel=1e-6)
    assert effective_rank(unit(1, 8).expand(50, 8)) == pytest.approx(0.0, abs=1e-9)


def test_cosine_counts_only_pairs_of_different_scenes() -> None:
    embeddings = torch.stack([unit(3, 5), unit(3, 5, seed=1)])
    scenes = torch.tensor([7, 7, 8])
    pairs = [(view, i, j) for view in (0, 1) for i, j in ((0, 2), (1, 2))]
    expected = np.mean([float(embeddings[view, i] @ embeddings[view, j]) for view, i, j in pairs])
    assert mean_cosine_between_scenes(embeddings, scenes) == pytest.approx(expected, rel=1e-5)


def test_a_reading_waits_for_64_scenes_and_covers_the_last_steps() -> None:
    monitor = EmbeddingMonitor(pairs=16)
    steps = [torch.stack([unit(16, 8, seed=step), unit(16, 8, seed=100 + step)]) for step in range(6)]
    for step, embeddings in enumerate(steps):
        monitor.add(3.0 * embeddings, torch.arange(16) + 16 * step)
        assert (monitor.read() is None) == (step < 3)
    last = monitor.read()
    assert last is not None
    expected = torch.cat(steps[2:], dim=1)  # in any order of steps
    assert last.scenes == 64
    assert last.std[1] == pytest.approx(normalized_std(expected[1]), rel=1e-4)
    assert last.cosine_same == pytest.approx(float((expected[0] * expected[1]).sum(-1).mean()), rel=1e-4)


def test_equal_scenes_are_not_counted_twice() -> None:
    monitor = EmbeddingMonitor(pairs=32)
    for step in range(2):
        monitor.add(torch.stack([unit(32, 8, seed=step)] * 2), torch.arange(32))
    found = monitor.read()
    assert found is not None
    assert found.scenes == 32
    assert not Reading(std=(0.0, 0.0), rank=0, cosine_different=1, cosine_same=1, scenes=found.scenes).collapsed


def test_a_restored_monitor_reads_the_same() -> None:
    whole, first, second = (EmbeddingMonitor(pairs=32) for _ in range(3))
    for step in range(3):
        embeddings, scenes = torch.stack([unit(32, 8, seed=step)] * 2), torch.arange(32) + 32 * step
        whole.add(embeddings, scenes)
        if step < 2:
            first.add(embeddings, scenes)
        else:
            second.load_state_dict(first.state_dict(), torch.device("cpu"))
            second.add(embeddings, scenes)
    assert second.read() == whole.read()


def test_a_large_batch_is_cut() -> None:
    monitor = EmbeddingMonitor(pairs=1000)
    monitor.add(torch.stack([unit(1000, 4)] * 2), torch.arange(1000))
    found = monitor.read()
    assert found is not None
    assert found.scenes == 256


def test_collapse_is_detected_after_warm_up_on_readings_in_a_row() -> None:
    detector = CollapseDetector(after_step=100)
    assert not any(detector.update(step, reading(0.0)) for step in (80, 90, 100))
    verdicts = [detector.update(110 + step, reading(std)) for step, std in enumerate([0.0, 0.0, 0.5, 0.0, 0.0, 0.0])]
    assert verdicts == [False, False, False, False, False, True]
    assert COLLAPSED_READINGS == 3


def test_too_few_scenes_never_count_as_collapse() -> None:
    assert reading(0.0, scenes=64).collapsed
    assert not reading(0.0, scenes=63).collapsed
