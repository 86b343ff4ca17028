"""Losses: closed forms, lightly's implementation, and no gradient into the goal."""

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity

from eo_backbones_train.methods.modules import negative_cosine, squared_distance


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
