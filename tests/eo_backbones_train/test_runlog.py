"""Records that survive a kill, and the loss drawn as a picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eo_backbones_train.pretraining.runlog import (
    LOSS_FILE,
    METRICS_FILE,
    RunLog,
    draw_loss,
    read_records,
    rolling_mean,
)


def test_records_come_back_in_order(tmp_path: Path) -> None:
    with RunLog(tmp_path, step=0) as log:
        log.write({"step": 1, "loss": 2.0})
        log.write({"step": 2, "loss": 1.5, "std_s2": 0.5})
    assert read_records(tmp_path / METRICS_FILE) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "std_s2": 0.5}]


def test_resuming_drops_records_after_the_checkpoint_and_a_line_cut_off(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (10, 20, 30)]
    (tmp_path / METRICS_FILE).write_text("\n".join(lines) + '\n{"step": 40, "lo')
    with RunLog(tmp_path, step=20) as log:
        log.write({"step": 30, "loss": 0.5})
    assert read_records(tmp_path / METRICS_FILE) == [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 1.0},
        {"step": 30, "loss": 0.5},
    ]


def test_rolling_mean_equals_numpy() -> None:
    values = list(np.random.default_rng(0).normal(size=30))
    reach = [min(7, i) for i in range(30)]
    expected = [np.mean(values[i - r : i + r + 1]) for i, r in enumerate(reach)]  # a slice ends with the list
    assert rolling_mean(values, 7) == pytest.approx(expected)


def test_the_loss_is_drawn(tmp_path: Path) -> None:
    draw_loss([{"step": s, "loss": 2.0 / s} for s in range(1, 200)], tmp_path / LOSS_FILE)
    with Image.open(tmp_path / LOSS_FILE) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20
    assert [path.name for path in tmp_path.iterdir()] == [LOSS_FILE]


def test_nothing_is_drawn_without_records(tmp_path: Path) -> None:
    draw_loss([], tmp_path / LOSS_FILE)
    assert not list(tmp_path.iterdir())
