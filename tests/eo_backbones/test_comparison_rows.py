"""What a reviewer asks for, end to end: who beats whom on the same images, with how few labels, over several seeds."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eo_backbones.bands import BANDS
from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.evaluation import encoders, features, predictions
from eo_backbones.evaluation.columns import choose_columns
from eo_backbones.evaluation.request import Request
from eo_backbones.results import Result
from support.measured import measured
from support.synthetic_data import eurosat_rgb_folder  # noqa: F401  fixture
from support.tiny_encoders import write_tiny_encoder

Measure = Callable[..., list[Result]]


@pytest.fixture
def measure(eurosat_rgb_folder: Path, tmp_path: Path) -> Measure:  # noqa: F811
    def run_request(*models: str, **changes: object) -> list[Result]:
        request = Request(dataset="eurosat-rgb", models=models, bands=("B04",), protocols=("knn",), sizes=(32,))
        return measured(request, root=eurosat_rgb_folder, folder=tmp_path, **changes)

    return run_request


@pytest.fixture
def data(eurosat_rgb_folder: Path) -> LabelledImages:  # noqa: F811
    return open_dataset("eurosat-rgb", eurosat_rgb_folder)


def test_encoders_against_each_other_and_against_every_baseline(measure: Measure, tmp_path: Path) -> None:
    """Each minus the other, by band, on the same test images."""
    byol = write_tiny_encoder(tmp_path / "byol", seed=1)
    simsiam = write_tiny_encoder(tmp_path / "simsiam", seed=2)
    rows = measure(byol, simsiam, "random-bn", "stats", "raw", seeds=2, protocols=("logistic",))
    f1 = {
        model: np.mean([row.f1_weighted for row in rows if row.model == model]) for model in {row.model for row in rows}
    }
    text = (tmp_path / "out" / "report.md").read_text()
    lines = re.findall(r"^\| (\S+) - (\S+) \| ([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]", text, flags=re.M)
    expected = [
        (byol, simsiam),
        *((first, base) for first in (byol, simsiam) for base in ("random-bn", "stats", "raw")),
    ]
    assert [(first, second) for first, second, *_ in lines] == expected
    for first, second, value, low, high in lines:
        assert float(value) == pytest.approx(f1[first] - f1[second], abs=6e-4)
        assert float(low) <= float(value) <= float(high)


def test_few_labels_over_several_seeds(measure: Measure, data: LabelledImages, tmp_path: Path) -> None:
    """Every seed draws its own labelled images of each class; the test images are the same for every budget."""
    rows = measure("stats", fractions=(0.5, 1.0), seeds=3)
    rows = measure("stats", shots=(3,), seeds=3)
    labelled = {row.fraction: {r.n_train for r in rows if r.fraction == row.fraction} for row in rows}
    # synthetic: 2 train and 1 validation image a class; at least one of each stays
    assert labelled == {"0.5": {20}, "1": {30}, "3-shot": {30}}
    tests = {}
    for row in rows:
        kept = predictions.read_predictions(tmp_path / "out", row.key)
        assert kept is not None
        tests.setdefault(row.seed, set()).add(tuple(kept.test.tolist()))
    assert all(len(found) == 1 for found in tests.values())
    assert len(set().union(*tests.values())) == 3
    report = (tmp_path / "out" / "report.md").read_text()
    assert "label budget 0.5" in report and "label budget 3-shot" in report
    assert "10 test images, 3 seeds" in report


@pytest.mark.parametrize("name", ["random", "random-bn", "encoder", "foreign"])
def test_every_network_is_frozen_in_eval_mode(
    data: LabelledImages, tmp_path: Path, tiny_folder: Path, name: str
) -> None:
    """BatchNorm uses its running statistics: features of an image do not depend on its neighbours in the batch."""
    typed = {"encoder": write_tiny_encoder(tmp_path), "foreign": f"imagenet=local-dir:{tiny_folder}"}.get(name, name)
    model = encoders.open_model(typed, [32])
    encoder = model.build(0)
    setting = model.settings[0]
    (band,) = choose_columns(data, ["B04"])
    if model.adapted:
        options = {"device": torch.device("cpu"), "dtype": torch.float32, "tick": lambda _: None}
        encoder = features.adapt_batch_norm(data, encoder, setting, [band], np.arange(10), **options)["B04"]  # type: ignore[arg-type]
    network = encoder.network
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(module.training for module in network.modules())
    raw = torch.from_numpy(np.stack([data.read(index, ["B04"])[0] for index in (0, 13, 27, 39)]))
    images = features.ModelInput(data, setting, band)(raw)
    with torch.inference_mode():
        torch.testing.assert_close(network(images)[:1], network(images[:1]), atol=1e-4, rtol=1e-3)


def test_what_imagenet_weights_see(data: LabelledImages, tiny_folder: Path) -> None:
    """At both sizes: display values 0...255 are 0...0.275 reflectance; plain, or by the band's mean and deviation."""
    model = encoders.open_model(f"imagenet=local-dir:{tiny_folder}", [64, 224])
    assert [(setting.size, setting.scaling) for setting in model.settings] == [
        (64, "div10000"),
        (64, "standardised"),
        (224, "div10000"),
        (224, "standardised"),
    ]
    (band,) = choose_columns(data, ["B04"])
    raw = torch.full((1, 64, 64), 100, dtype=torch.uint8)
    reflectance = 100 * 0.275 / 255
    band_row = BANDS["B04"]
    for setting in model.settings:
        images = features.ModelInput(data, setting, band)(raw)
        value = reflectance
        if setting.scaling == "standardised":
            value = (reflectance * 10_000 - band_row.mean) / band_row.std
        assert images.shape == (1, 1, setting.size, setting.size)
        torch.testing.assert_close(images, torch.full_like(images, value), atol=1e-5, rtol=1e-5)
