"""The protocol ``segmentation``: its arithmetic against plain torch and scikit-learn, and DFC2020 end to end."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor, nn
from torch.nn import functional as F

from eo_backbones.contract import unit_range
from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.datasets.labelled import IGNORED, ClassMaps
from eo_backbones.datasets.splits import official_split
from eo_backbones.datasets.synthetic_files import write_eurosat_rgb
from eo_backbones.errors import UserError
from eo_backbones.evaluation import metrics, predictions
from eo_backbones.evaluation.columns import choose_columns
from eo_backbones.evaluation.encoders import Setting, random_resnet50
from eo_backbones.evaluation.predictions import compare_models
from eo_backbones.evaluation.probes import logistic, segmentation
from eo_backbones.evaluation.request import Request, default_sizes, run_evaluation
from eo_backbones.progress import SILENT
from eo_backbones.results import Result
from support.measured import measured
from support.recorded_progress import RecordedProgress
from support.result_rows import result
from support.synthetic_layouts import write_dfc2020

SIZE = 32


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dfc2020(tmp_path_factory.mktemp("dfc"), validation=30, test=20, size=SIZE)


class Pyramid(nn.Module):
    """Stands in for a network: its two stages are the image itself and its halved copy, beside a constant."""

    def forward_intermediates(self, images: Tensor, *, indices: int, intermediates_only: bool) -> list[Tensor]:
        assert (indices, intermediates_only) == (2, True)
        return [torch.cat([images, torch.ones_like(images)], dim=1), F.avg_pool2d(images, 2)]


@pytest.fixture
def make(root: Path) -> Callable[..., segmentation.PixelTask]:
    """A task on the synthetic images; ``truth`` turns an image (one band) into its class map."""

    def made(truth: Callable[[np.ndarray], np.ndarray] | None = None, **changes: object) -> segmentation.PixelTask:
        data = open_dataset("dfc2020", root)
        maps = data.maps
        assert maps is not None
        if truth is not None:
            maps = ClassMaps(classes=maps.classes, reader=lambda path: truth(data.reader(path, ["B04"])[0]))
        task = segmentation.PixelTask(
            data=data,
            maps=maps,
            column=choose_columns(data, ["B04"])[0],
            setting=Setting(size=SIZE, scaling="contract", spec=unit_range()),
            networks={"B04": Pyramid()},
            split=official_split(data, seed=0),
            seed=0,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        return replace(task, **changes)  # type: ignore[arg-type]

    return made


def test_pixels_without_a_value_are_neither_drawn_nor_scored(make: Callable[..., segmentation.PixelTask]) -> None:
    """As a predicted mask has no class there; elsewhere nothing changes."""

    def with_gaps(path: Path, bands: Sequence[str]) -> np.ndarray:
        values = whole.data.reader(path, bands).astype(np.float32)
        values[:, :8] = np.nan
        return values

    def no_class_in_gaps(path: Path) -> np.ndarray:
        classes = whole.maps.reader(path).copy()
        classes[:8] = IGNORED
        return classes

    whole = make()
    gaps = replace(whole, data=replace(whole.data, reader=with_gaps))
    known = replace(gaps, maps=ClassMaps(classes=whole.maps.classes, reader=no_class_in_gaps))
    drawn, expected = segmentation.draw_pixels(gaps, ignore), segmentation.draw_pixels(known, ignore)
    torch.testing.assert_close(drawn.features, expected.features, rtol=0, atol=0)
    torch.testing.assert_close(drawn.labels, expected.labels, rtol=0, atol=0)
    found = segmentation.fit_predict(gaps, ignore)
    lacking = segmentation.fit_predict(whole, ignore).confusions.sum() - found.confusions.sum()
    truth = np.stack([whole.maps.reader(whole.data.paths[row])[:8] for row in whole.split.test])
    assert lacking == (truth != IGNORED).sum() > 0


def ignore(_: int) -> None:
    """Take no notice of progress."""


def test_single_pixels_have_the_features_of_enlarged_maps() -> None:
    stages = [torch.rand(3, 8, 6), torch.rand(5, 4, 3)]
    size = (19, 24)
    enlarged = torch.cat([F.interpolate(stage[None], size, mode="bilinear")[0] for stage in stages])
    rows, columns = (grid.ravel() for grid in np.mgrid[0:19, 0:24])
    found = segmentation.at_pixels(stages, rows, columns, size)
    torch.testing.assert_close(found, enlarged.flatten(1).T, atol=1e-5, rtol=1e-5)


def test_the_head_is_a_convolution_on_enlarged_maps() -> None:
    stages = [torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)]
    head = segmentation.Head(torch.randn(4, 8), torch.randn(4))
    enlarged = torch.cat([F.interpolate(stage, (20, 20), mode="bilinear") for stage in stages], dim=1)
    expected = F.conv2d(enlarged, head.weight[:, :, None, None], head.bias)
    torch.testing.assert_close(head.logits(stages, (20, 20)), expected, atol=1e-5, rtol=1e-5)


def test_the_maps_are_the_networks_last_stages() -> None:
    network = random_resnet50(0)
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        coarse, coarsest = segmentation.feature_maps(network, images)
        expected = images
        for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"):
            expected = network.get_submodule(name)(expected)
        torch.testing.assert_close(coarse, expected)
        torch.testing.assert_close(coarsest, network.get_submodule("layer4")(expected))


def test_the_head_solves_the_logistic_regression_of_drawn_pixels(make: Callable[..., segmentation.PixelTask]) -> None:
    task = make()
    pixels = segmentation.draw_pixels(task, ignore)
    head = segmentation.fit_head(pixels)
    x = pixels.standardised(torch.float64).numpy()
    theirs = [
        LogisticRegression(C=strength, max_iter=5000).fit(x[pixels.labelled], pixels.labels[pixels.labelled])
        for strength in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
    ]
    ours = F.linear(pixels.features, head.weight, head.bias).argmax(dim=1).numpy()
    assert max(np.mean(ours == other.predict(x)) for other in theirs) > 0.99
    assert head.weight[:, 1].abs().max() == 0  # the constant channel


def test_pixels_are_drawn_equally_and_only_where_there_is_a_class(make: Callable[..., segmentation.PixelTask]) -> None:
    def half(image: np.ndarray) -> np.ndarray:
        truth = np.full(image.shape, IGNORED, np.int64)
        truth[: SIZE // 2] = 3
        truth[0, 0] = 4
        return truth

    task = make(half)
    pixels = segmentation.draw_pixels(task, ignore)
    assert set(pixels.labels.tolist()) == {3, 4}
    each = SIZE * SIZE // 2  # fewer than the budget allows: all of them
    assert len(pixels.split.train) == each * len(task.split.train)
    assert len(pixels.split.val) == each * len(task.split.val)
    predicted = segmentation.predict(task, segmentation.Head(torch.zeros(10, 3), torch.arange(10.0)), ignore)
    assert predicted.confusions.sum(axis=(1, 2)).tolist() == [each] * len(task.split.test)
    assert predicted.confusions[:, 3, 9].tolist() == [each - 1] * len(task.split.test)
    with pytest.raises(UserError, match="no pixel with a class"):
        segmentation.draw_pixels(make(lambda image: np.full(image.shape, IGNORED, np.int64)), ignore)


def test_what_the_maps_show_is_found(make: Callable[..., segmentation.PixelTask]) -> None:
    """Bright or dark in the band itself: a linear head on the image must find nearly every pixel."""
    task = make(lambda image: (image > 900).astype(np.int64))
    seen: list[int] = []
    predicted = segmentation.fit_predict(task, seen.append)
    assert float(metrics.mean_iou(predicted.confusions.sum(axis=0))) > 0.9
    assert sum(seen) == len(task.labelled) + len(task.split.test)
    assert predicted.maps.shape == (segmentation.SHOWN, SIZE, SIZE)
    truth = np.stack([task.truth(row) for row in task.split.test[: segmentation.SHOWN]])
    assert np.mean(predicted.maps == truth) > 0.9


def test_test_pixels_teach_nothing(make: Callable[..., segmentation.PixelTask]) -> None:
    task = make()
    plain = segmentation.fit_head(segmentation.draw_pixels(task, ignore))
    fewer = segmentation.fit_head(
        segmentation.draw_pixels(replace(task, split=replace(task.split, test=task.split.test[:3])), ignore)
    )
    torch.testing.assert_close(plain.weight, fewer.weight)


def test_iou_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, (30, 50))
    predicted = np.where(rng.random(true.shape) < 0.7, true, rng.integers(0, 5, true.shape))
    confusions = np.stack([metrics.confusion_matrix(t, p, 6) for t, p in zip(true, predicted, strict=True)])
    found = metrics.pixel_metrics(confusions, "abcdef")
    labels = [0, 1, 2, 3]  # 4 is only predicted, 5 nowhere
    expected = jaccard_score(true.ravel(), predicted.ravel(), labels=labels, average=None)
    np.testing.assert_allclose(metrics.class_iou(confusions.sum(axis=0))[:4], expected)
    assert found.miou == pytest.approx(expected.mean())
    assert found.f1.value == pytest.approx(f1_score(true.ravel(), predicted.ravel(), average="weighted"))
    assert found.per_class.count(";") == 3
    assert found.f1.low < found.f1.value < found.f1.high


def test_a_hand_made_iou() -> None:
    """Class 0: 2 found, 1 missed, 1 false alarm: 2 of 4; class 1: 1 found, 1 missed, 1 false alarm: 1 of 3."""
    counts = np.array([[2, 1], [1, 1]])
    np.testing.assert_allclose(metrics.class_iou(counts), [1 / 2, 1 / 3])
    assert metrics.mean_iou(counts) == pytest.approx(5 / 12)


def test_two_models_are_compared_on_whole_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, (40, 60))
    rows = {}
    for model, right in (("a", 0.9), ("random", 0.5)):
        predicted = np.where(rng.random(true.shape) < right, true, rng.integers(0, 3, true.shape))
        counts = np.stack([metrics.confusion_matrix(t, p, 3) for t, p in zip(true, predicted, strict=True)])
        rows[model] = [result(model=model, protocol="segmentation")]
        kept = predictions.Predictions(np.arange(40), counts, predictions.NO_PROJECTION)
        predictions.write_predictions(tmp_path, rows[model][0].key, kept)
    (found,) = compare_models(tmp_path, np.zeros(40, np.int64), 3, rows)
    assert found.bands["B04"].low > 0.2


def test_few_pixels_are_fitted_in_the_space_they_span(make: Callable[..., segmentation.PixelTask]) -> None:
    """More features than pixels: the head must still say on the maps what the classifier says on the pixels."""
    pixels = segmentation.draw_pixels(make(), ignore)
    wide = torch.cat([pixels.features, torch.randn(len(pixels.features), 400)], dim=1)
    split = replace(pixels.split, train=pixels.split.train[::200], val=pixels.split.val[::200])
    task = replace(pixels, features=wide, split=split)
    head = segmentation.fit_head(task)
    features = logistic.in_row_space(task.standardised(torch.float32), task.index(task.labelled))
    assert features.shape[1] < wide.shape[1]
    expected = logistic.fit_task(task, features).logits(features[task.labelled])
    found = F.linear(wide[task.labelled], head.weight, head.bias)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.fixture
def measure(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Result]]:
    monkeypatch.setattr(segmentation, "PIXELS", 500)

    def run_request(*models: str, **changes: object) -> list[Result]:
        request = Request(
            dataset="dfc2020", models=models, bands=("B04",), sizes=(32,), split="standard", protocols=("segmentation",)
        )
        return measured(request, root=root, folder=tmp_path, **changes)

    return run_request


def test_dfc2020_end_to_end(measure: Callable[..., list[Result]], tmp_path: Path, root: Path) -> None:
    rows = measure("random", "stats", bands=("B04", "B04+VV"), protocols=("segmentation", "logistic"))
    measured_rows = [(row.model, row.band, row.protocol) for row in rows]
    assert sorted(measured_rows) == sorted(
        [
            *(
                ("random", band, protocol)
                for band in ("B04", "B04+VV (concat)")
                for protocol in ("segmentation", "logistic")
            ),
            *(("stats", band, "logistic") for band in ("B04", "B04+VV (concat)")),
        ]
    )
    row = rows[measured_rows.index(("random", "B04", "segmentation"))]
    data: LabelledImages = open_dataset("dfc2020", root)
    split = official_split(data, seed=0)
    assert (row.n_train, row.n_test) == (len(split.train) + len(split.val), len(split.test))
    kept = predictions.read_predictions(tmp_path / "out", row.key)
    assert kept is not None
    assert kept.predicted.sum() == len(split.test) * SIZE * SIZE
    assert row.miou == pytest.approx(float(metrics.mean_iou(kept.predicted.sum(axis=0))), abs=1e-6)
    assert row.per_class.startswith("IoU: Forest 0.")
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"| mean intersection over union: random | {row.miou:.3f} |" in report
    assert "class maps of test images" in (tmp_path / "out" / "report.html").read_text()
    progress = RecordedProgress()
    assert measure("random", progress=progress) == rows
    assert not [stage for stage in progress.totals if "pixels" in stage], "all rows are there"


def test_a_network_with_its_own_batch_norm_for_each_band(measure: Callable[..., list[Result]]) -> None:
    (row,) = measure("random-bn")
    assert row.miou is not None
    assert row.miou > 0


def test_where_it_makes_no_sense(measure: Callable[..., list[Result]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was measured: stats has no feature maps"):
        measure("stats")
    folder = write_eurosat_rgb(tmp_path / "rgb", per_class=3)
    request = Request(dataset="eurosat-rgb", models=("random",), protocols=("segmentation",))
    with pytest.raises(UserError, match="needs a class for every pixel, which eurosat-rgb does not have"):
        run_evaluation(request, root=folder, out=tmp_path / "o", cache=tmp_path, device="cpu", progress=SILENT)
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "out").exists()
    assert default_sizes(["logistic"]) == (64,)
    assert default_sizes(["logistic", "segmentation"]) == (256,)
