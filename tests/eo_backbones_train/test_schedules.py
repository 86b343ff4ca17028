"""Schedules return the literal values of their formulas at chosen steps."""

import pytest

from eo_backbones_train.optim import learning_rate, target_decay


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
