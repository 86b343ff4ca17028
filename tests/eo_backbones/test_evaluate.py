"""The evaluation as a whole on small synthetic images: every row once, each where it belongs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.datasets.splits import seeded_split
from eo_backbones.datasets.synthetic_files import write_eurosat_rgb
from eo_backbones.errors import UserError
from eo_backbones.evaluation import encoders, features, metrics, predictions
from eo_backbones.evaluation.budgets import Budget, make_splits
from eo_backbones.evaluation.columns import choose_columns
from eo_backbones.evaluation.encoders import random_resnet50
from eo_backbones.evaluation.request import Request, limited, run_evaluation
from eo_backbones.models import create_model, create_transform
from eo_backbones.networks.state import state_digest
from eo_backbones.progress import SILENT
from eo_backbones.results import Result, read_results
from support.hub_fixtures import files_of
from support.hub_http import Hub
from support.measured import measured
from support.recorded_progress import Killed, RecordedProgress
from support.synthetic_data import eurosat_ms_folder, eurosat_rgb_folder  # noqa: F401  fixtures


@pytest.fixture
def data(eurosat_rgb_folder: Path) -> LabelledImages:  # noqa: F811
    return open_dataset("eurosat-rgb", eurosat_rgb_folder)


@pytest.fixture
def measure(eurosat_rgb_folder: Path, tmp_path: Path) -> Callable[..., list[Result]]:  # noqa: F811
    """Run a request on the synthetic RGB images; returns all rows."""

    def run_request(*models: str, **changes: object) -> list[Result]:
        request = Request(dataset="eurosat-rgb", models=models, bands=("B04",), sizes=(32,))
        return measured(request, root=eurosat_rgb_folder, folder=tmp_path, **changes)

    return run_request


def test_every_combination_is_one_row(measure: Callable[..., list[Result]], tmp_path: Path) -> None:
    rows = measure("stats", "raw", bands=("B04", "blue"), protocols=("logistic", "knn"), seeds=2)
    found = {(row.model, row.band, row.protocol, row.seed) for row in rows}
    assert len(rows) == len(found) == 2 * 2 * 3 * 2
    assert {row.band for row in rows} == {"B04", "B02"}
    assert {(row.n_train, row.n_test) for row in rows} == {(30, 10)}
    assert all(row.f1_low <= row.f1_weighted <= row.f1_high for row in rows)
    assert {row.weights_digest for row in rows} == {"stats-1", "raw-1"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "bands.png",
        "commands.txt",
        "predictions",
        "report.html",
        "report.md",
        "results.csv",
    ]


def test_a_row_says_what_its_predictions_say(
    measure: Callable[..., list[Result]], data: LabelledImages, tmp_path: Path
) -> None:
    (row,) = measure("stats")
    kept = predictions.read_predictions(tmp_path / "out", row.key)
    assert kept is not None
    np.testing.assert_array_equal(kept.test, seeded_split(data.labels, seed=0).test)
    confusion = metrics.confusion_matrix(data.labels[kept.test], kept.predicted, 10)
    assert kept.projection.shape == (len(kept.test), 2)
    assert row.f1_weighted == pytest.approx(float(metrics.weighted_f1(confusion)), abs=1e-6)
    assert row.accuracy == pytest.approx(float(metrics.accuracy(confusion)), abs=1e-6)


def test_what_is_there_is_not_measured_again(measure: Callable[..., list[Result]]) -> None:
    first = measure("stats", seeds=2)
    again = RecordedProgress()
    assert measure("stats", seeds=2, progress=again) == first
    assert again.totals["stats 32 px: probes"] == 0
    more = RecordedProgress()
    assert len(measure("stats", seeds=2, protocols=("logistic", "knn"), progress=more)) == 2 + 4
    assert more.totals["stats 32 px: probes"] == 4
    for progress in (again, more):
        assert not [stage for stage in progress.totals if "features" in stage], "features are in the cache"
    assert measure("stats", seeds=1) != first  # all rows stay, also those that were not asked for


def test_an_interrupted_run_keeps_its_rows(measure: Callable[..., list[Result]], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        measure("stats", bands=("B02", "B03", "B04"), progress=RecordedProgress(kill_in="probes", kill_at=1))
    kept = read_results(tmp_path / "out")
    assert [row.band for row in kept] == ["B02"]
    progress = RecordedProgress()
    rows = measure("stats", bands=("B02", "B03", "B04"), progress=progress)
    assert progress.totals["stats 32 px: probes"] == 2
    assert rows[0] == kept[0]
    assert [row.band for row in rows] == ["B02", "B03", "B04"]


def test_a_seed_makes_its_own_random_network(measure: Callable[..., list[Result]]) -> None:
    rows = measure("random", seeds=2, protocols=("knn",))
    digests = {row.seed: row.weights_digest for row in rows}
    assert len(set(digests.values())) == 2


@pytest.mark.parametrize(("model", "averaging"), [("random-bn", False), ("random-averaging", True)])
def test_batch_norm_sees_the_training_images(measure: Callable[..., list[Result]], model: str, averaging: bool) -> None:
    """As it is initialised, the averaging network passes on little: without estimated statistics it is no baseline."""
    row = measure(model, seeds=1, protocols=("knn",))[0]
    assert row.model == model
    assert row.weights_digest != state_digest(random_resnet50(0, averaging=averaging))


def test_a_local_folder_with_a_contract(
    measure: Callable[..., list[Result]], weights_folder: Path, data: LabelledImages, tmp_path: Path
) -> None:
    """Its features are what ``create_model`` gives for ``create_transform``'s output, its digest is the file's."""
    (row,) = measure(f"local-dir:{weights_folder}", sizes=(64,))
    network = create_model(f"local-dir:{weights_folder}").eval()
    assert (row.weights_digest, row.input_scaling) == (network.eo_digest, "contract")
    prepare = create_transform(network, band="red", unit="uint8")
    with torch.inference_mode():
        expected = network(torch.stack([prepare(data.read(index, ["B04"])) for index in (0, 39)]))
    (file,) = (tmp_path / "cache" / "features").glob("*.npy")
    stored = torch.from_numpy(np.load(file))
    stored = stored.view(torch.bfloat16).float() if stored.dtype == torch.uint16 else stored
    assert (stored[[0, 39]] - expected).norm() < 0.01 * expected.norm()  # bfloat16 where the CPU has it


def test_a_band_that_a_model_does_not_take_stops_before_anything_is_computed(
    measure: Callable[..., list[Result]], weights_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no input statistics for band B02; it takes B04, VV"):
        measure("stats", f"local-dir:{weights_folder}", bands=("B04", "B02"))
    assert not (tmp_path / "out").exists()


def test_imagenet_through_the_hub(
    measure: Callable[..., list[Result]], hub: Hub, tiny_folder: Path, data: LabelledImages
) -> None:
    """Made-up three-channel weights under the id of the real ones: two scalings at each size, folded exactly."""
    hub.store.publish("timm/resnet50.tv_in1k", files_of(tiny_folder))
    rows = measure("imagenet", protocols=("knn",), sizes=(32, 64))
    assert {(row.size, row.input_scaling) for row in rows} == {
        (size, scaling) for size in (32, 64) for scaling in ("div10000", "standardised")
    }
    model = encoders.open_model("imagenet", [64])
    network = model.build(0).network
    literal = create_model("hf-hub:timm/resnet50.tv_in1k", num_classes=0).eval()
    (band,) = choose_columns(data, ["B04"])
    raw = torch.from_numpy(np.stack([data.read(i, ["B04"])[0] for i in range(4)]))
    for setting in model.settings:
        images = features.ModelInput(data, setting, band)(raw)
        with torch.inference_mode():
            copied = literal(images.expand(-1, 3, -1, -1))
            assert (network(images) - copied).abs().max() <= 1e-5 * copied.abs().max()


@pytest.mark.usefixtures("empty_hub")
def test_imagenet_out_of_reach_is_a_note_not_an_end(
    measure: Callable[..., list[Result]],
    tmp_path: Path,
    eurosat_rgb_folder: Path,  # noqa: F811
) -> None:
    rows = measure("imagenet", "stats")
    assert [row.model for row in rows] == ["stats"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| `imagenet` | not measured here |" in text
    assert "--models imagenet --bands B04 --protocol logistic --split seeded --seeds 1 --size 64 224" in text
    measure("stats", shots=(2,))
    text = (tmp_path / "out" / "report.md").read_text()
    for budget in ("", "--shots 2 "):
        command = f"--models imagenet --bands B04 --protocol logistic --split seeded {budget}--seeds 1 --size 64 224"
        assert text.count(f"{command} --out OUT") == 1, "each table with its own label budget"
    assert str(eurosat_rgb_folder) not in text


def test_any_other_model_that_cannot_be_loaded_is_an_error(measure: Callable[..., list[Result]], hub: Hub) -> None:
    del hub
    with pytest.raises(UserError, match="has no repository timm/none"):
        measure("stats", "hf-hub:timm/none")
    with pytest.raises(UserError, match="there is no folder"):
        measure("imagenet=local-dir:nowhere", "stats")
    with pytest.raises(UserError, match="unknown model 'rndom'; did you mean random"):
        measure("rndom")
    with pytest.raises(UserError, match="no weights are published yet"):
        measure("eo_resnet50.byol_sen12ms_90k")


def test_a_multispectral_model_is_refused(tmp_path: Path) -> None:
    import timm

    timm.models.save_for_hf(timm.create_model("test_resnet", in_chans=13), str(tmp_path), safe_serialization=True)
    with pytest.raises(UserError, match="takes 13 bands at once"):
        encoders.open_model(f"local-dir:{tmp_path}", [64])


def test_limit_keeps_the_mix_of_classes(data: LabelledImages) -> None:
    few = limited(data, 20)
    assert np.bincount(few.labels).tolist() == [2] * 10
    assert set(few.ids) < set(data.ids)
    assert few.digest != data.digest
    assert limited(data, 20).ids == few.ids
    assert limited(data, 1000) is data
    with pytest.raises(UserError, match="--limit 0"):
        limited(data, 0)


@pytest.mark.parametrize(
    ("budget", "train", "val"), [(Budget(), 60, 20), (Budget(fraction=0.1), 6, 2), (Budget(shots=8), 12, 4)]
)
def test_label_budgets(budget: Budget, train: int, val: int) -> None:
    labels = np.repeat([0, 1], 50)
    split = seeded_split(labels, seed=0)
    part = budget.apply(split, labels, seed=3)
    assert (len(part.train), len(part.val)) == (train, val)
    np.testing.assert_array_equal(part.test, split.test)
    assert set(part.train) <= set(split.train)
    assert set(part.val) <= set(split.val)
    assert np.bincount(labels[part.train]).min() == train // 2


def test_budgets_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="1 shots are too few"):
        Budget(shots=1)
    with pytest.raises(UserError, match="label fraction 10 is not between 0 and 1"):
        Budget(fraction=10)
    assert str(Budget(fraction=0.1)) == "0.1"
    assert str(Budget(shots=5)) == "5-shot"


def test_published_lists(data: LabelledImages, tmp_path: Path) -> None:
    names = [f"{path.stem}.jpg" for path in data.paths]
    for part, chosen in (("train", names[::4] + names[1::4]), ("val", names[2::4]), ("test", names[3::4])):
        (tmp_path / f"eurosat-{part}.txt").write_text("\n".join(chosen))
    splits = make_splits(data, "standard", range(2), lists=tmp_path)
    assert [len(splits[1].train), len(splits[1].test)] == [20, 10]
    assert splits[0] is splits[1]
    with pytest.raises(UserError, match="no split list"):
        make_splits(data, "spatial", range(2), lists=tmp_path)
    with pytest.raises(UserError, match="unknown split 'random'"):
        make_splits(data, "random", range(2), lists=tmp_path)


def test_a_set_that_is_too_small_to_split(tmp_path: Path) -> None:
    root = write_eurosat_rgb(tmp_path / "data", per_class=1)
    request = Request(dataset="eurosat-rgb", models=("stats",))
    with pytest.raises(UserError, match="too small to split"):
        run_evaluation(request, root=root, out=tmp_path / "out", cache=tmp_path, device="cpu", progress=SILENT)
    assert not (tmp_path / "out").exists()


def test_the_real_sample_is_too_small_to_split(shared_data: Path, tmp_path: Path) -> None:
    request = Request(dataset="eurosat-ms", models=("stats",))
    with pytest.raises(UserError, match="too small to split"):
        run_evaluation(
            request, root=shared_data / "eurosat_ms", out=tmp_path, cache=tmp_path, device="cpu", progress=SILENT
        )


def test_progress_reaches_its_end(eurosat_rgb_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    progress = RecordedProgress()
    request = Request(dataset="eurosat-rgb", models=("stats",), bands=("B04",), sizes=(32,), seeds=2)
    measured(request, root=eurosat_rgb_folder, folder=tmp_path, progress=progress)
    for stage, total in (("stats 32 px: features of B04", 40), ("stats 32 px: probes", 2)):
        assert (progress.totals[stage], progress.counts[stage][-1]) == (total, total)
