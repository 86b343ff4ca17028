"""Several bands at once in an evaluation: made of the features of each, and a column like any other."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from eo_backbones import MultiBand, create_model, create_transform
from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.device import fast_dtype
from eo_backbones.errors import UserError
from eo_backbones.evaluation import plots
from eo_backbones.evaluation.columns import FusedBands, choose_columns, sources_of
from eo_backbones.evaluation.encoders import open_model
from eo_backbones.evaluation.features import FeatureFile, feature_key
from eo_backbones.evaluation.predictions import Predictions
from eo_backbones.evaluation.request import Request, run_evaluation
from eo_backbones.networks.multi_band import Fuse
from eo_backbones.results import Result, read_results, sections
from support.measured import measured
from support.recorded_progress import RecordedProgress
from support.result_rows import result
from support.synthetic_data import eurosat_rgb_folder  # noqa: F401  fixture
from support.tiny_encoders import write_tiny_encoder

RGB = "B02+B03+B04"
Measure = Callable[..., list[Result]]


@pytest.fixture
def data(eurosat_rgb_folder: Path) -> LabelledImages:  # noqa: F811
    return open_dataset("eurosat-rgb", eurosat_rgb_folder)


@pytest.fixture
def measure(eurosat_rgb_folder: Path, tmp_path: Path) -> Measure:  # noqa: F811
    def run_request(*models: str, **changes: object) -> list[Result]:
        request = Request(dataset="eurosat-rgb", models=models, bands=(RGB,), protocols=("knn",), sizes=(32,))
        return measured(request, root=eurosat_rgb_folder, folder=tmp_path, **changes)

    return run_request


def test_columns(data: LabelledImages) -> None:
    columns = choose_columns(data, ["B04", "blue+green+red", "B03+B02"], ["concat", "mean"])
    assert [column.label for column in columns] == [
        "B04",
        "B02+B03+B04 (concat)",
        "B02+B03+B04 (mean)",
        "B03+B02 (concat)",
        "B03+B02 (mean)",
    ]
    assert [column.label for column in choose_columns(data, [RGB])] == ["B02+B03+B04 (concat)"]
    assert sources_of(data, "B03+B02 (mean)") == ("B03", "B02")
    assert sources_of(data, "B04") == ("B04",)


@pytest.mark.parametrize(
    ("typed", "fuses", "message"),
    [
        (["B02+B08"], (), "eurosat-rgb has no band B08"),
        (["B02+blue"], (), "band B02 is named more than once"),
        (["B02+B99"], (), "unknown band 'B99'"),
        (["B02+"], (), "unknown band ''"),
        ([RGB, RGB], (), "named more than once"),
        ([RGB], ("sum",), "unknown way to fuse bands 'sum'"),
        (["B02", "B03"], ("mean",), "name them as in --bands B02\\+B03\\+B04"),
    ],
)
def test_mistakes(data: LabelledImages, typed: list[str], fuses: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_columns(data, typed, fuses)


def test_fusing_by_hand(data: LabelledImages) -> None:
    """In bfloat16 the average is taken in float32: 256 + 1 + 1 is not lost."""
    concat, mean = choose_columns(data, [RGB], ["concat", "mean"])
    parts = [torch.tensor([[value, 2.0]], dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    assert concat.join(parts).tolist() == [[256, 2, 1, 2, 1, 2]]
    torch.testing.assert_close(mean.join(parts), torch.tensor([[86.0, 2.0]]))
    assert isinstance(mean, FusedBands)


@pytest.mark.parametrize("fuse", ["concat", "mean"])
def test_features_are_those_of_multi_band(measure: Measure, data: LabelledImages, fuse: Fuse, tmp_path: Path) -> None:
    """What is evaluated from cached single bands is the module that users get (bfloat16 where that is fast)."""
    name = write_tiny_encoder(tmp_path / "weights")
    measure(name, bands=("B04+B03",), fuses=(fuse,), sizes=(64,))
    model = open_model(name, [64])
    (setting,), digest, (column,) = model.settings, model.build(0).digest, choose_columns(data, ["B04+B03"], [fuse])
    files = [
        FeatureFile(tmp_path / "cache", feature_key(data, digest, setting, band), fast_dtype(torch.device("cpu")))
        for band in column.parts
    ]
    found = column.join([file.read() for file in files])[[0, 39]].float()

    module = MultiBand(create_model(name), ["B04", "B03"], fuse).eval()
    prepare = create_transform(module, band=module.bands, unit="uint8")
    with torch.inference_mode():
        expected = module(torch.stack([prepare(data.read(index, module.bands)) for index in (0, 39)]))
    assert found.shape == expected.shape
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_no_second_extraction(measure: Measure, tmp_path: Path) -> None:
    """Single bands first, then the three at once: only files that are there are read, and rows are not repeated."""
    measure("stats", bands=("B02", "B03", "B04"))
    before = {path.name for path in (tmp_path / "cache" / "features").glob("*.npy")}
    fusing, again = RecordedProgress(), RecordedProgress()
    rows = measure("stats", fuses=("concat", "mean"), protocols=("logistic", "knn"), progress=fusing)
    assert not [stage for stage in fusing.totals if "features" in stage], "features are in the cache"
    assert {path.name for path in (tmp_path / "cache" / "features").glob("*.npy")} == before
    assert len(before) == 3
    fused = [row for row in rows if "+" in row.band]
    assert {row.band for row in fused} == {f"{RGB} (concat)", f"{RGB} (mean)"}
    assert len(fused) == 2 * 3
    assert {row.weights_digest for row in fused} == {"stats-1"}
    assert measure("stats", fuses=("mean",), progress=again) == rows
    assert again.totals["stats 32 px: probes"] == 0


def test_one_pass_extracts_every_band_once(measure: Measure) -> None:
    """Also where single bands and fused ones are asked for together."""
    progress = RecordedProgress()
    measure("stats", bands=("B04", RGB, "B03+B04"), fuses=("concat", "mean"), progress=progress)
    stages = [stage for stage in progress.totals if "features" in stage]
    assert stages == ["stats 32 px: features of B04, B02, B03"]
    assert progress.counts[stages[0]][-1] == progress.totals[stages[0]] == 40


@pytest.mark.parametrize("model", ["random", "random-bn", "raw"])
def test_baselines_have_rows_too(measure: Measure, model: str, tmp_path: Path) -> None:
    rows = measure(model, bands=("B04", RGB), seeds=2, protocols=("knn",))
    digests = {(row.band, row.seed): row.weights_digest for row in rows}
    single, fused = digests["B04", 0], digests[f"{RGB} (concat)", 0]
    # random-bn has another network for every band, so the three of them are other weights than one of them
    assert (single == fused) is (model != "random-bn")
    assert (digests["B04", 1] == single) is (model == "raw")
    files = list((tmp_path / "cache" / "features").glob("*.npy"))
    assert len(files) == (3 if model == "raw" else 6)
    assert {np.load(file).shape[1] for file in files} == {1024 if model == "raw" else 2048}


def test_three_bands_know_more_than_one(measure: Measure) -> None:
    """Synthetic classes differ in colour: image statistics of three bands beat those of one."""
    rows = measure("stats", bands=("B04", RGB), seeds=3)
    f1 = {
        band: np.mean([row.f1_weighted for row in rows if row.band == band and row.protocol == "knn"])
        for band in ("B04", f"{RGB} (concat)")
    }
    assert f1[f"{RGB} (concat)"] > f1["B04"]


@pytest.mark.parametrize("memory_bytes", [0, 10**9])
def test_columns_worked_on_together_give_the_same_rows(
    measure: Measure,
    memory_bytes: int,
    eurosat_rgb_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """As on a GPU, where all bands and seeds are trained in one batch; on a CPU every column is on its own."""
    options = {"bands": ("B04", "B03", RGB), "seeds": 2, "protocols": ("paper", "logistic", "knn")}
    alone = measure("stats", **options)
    progress = RecordedProgress()
    run_evaluation(
        Request(dataset="eurosat-rgb", models=("stats",), sizes=(32,), **options),  # type: ignore[arg-type]
        root=eurosat_rgb_folder,
        out=tmp_path / "again",
        cache=tmp_path / "cache",
        device="cpu",
        progress=progress,
        memory_bytes=memory_bytes,
    )
    rows_in_a_batch = np.diff(progress.counts["stats 32 px: probes"]).tolist()  # two rows a seed for knn
    assert rows_in_a_batch == ([3 * 2, 3 * 2, 3 * 4] if memory_bytes else [2, 2, 4] * 3)
    together = {row.key: row for row in read_results(tmp_path / "again" / "results.csv")}
    assert together.keys() == {row.key for row in alone}
    for row in alone:
        other = together[row.key]
        assert (other.n_train, other.n_test) == (row.n_train, row.n_test)
        assert other.f1_weighted == pytest.approx(row.f1_weighted, abs=0.11 if row.protocol == "paper" else 1e-6)


def test_reports_show_the_column(measure: Measure, tmp_path: Path, eurosat_rgb_folder: Path) -> None:  # noqa: F811
    measure("stats", "raw", bands=("B04", RGB), fuses=("concat", "mean"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| model | B04 | B02+B03+B04 (concat) | B02+B03+B04 (mean) |" in text
    assert "| `BAND+BAND (mean)` | the average of the features of each band" in text
    assert f"--bands B04 {RGB} --fuse concat mean" in text
    assert "B02+B03+B04 (concat)" in (tmp_path / "out" / "report.html").read_text()
    assert str(eurosat_rgb_folder) not in text


def test_names_under_the_bars_are_broken_before_the_way_of_fusing(tmp_path: Path) -> None:
    axes = Figure().subplots()
    plots.draw_section(axes, sections([result(), result(band=f"{RGB} (mean)")])[0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["B04", f"{RGB}\n(mean)"]


def test_three_bands_are_shown_in_colour(data: LabelledImages) -> None:
    """Longest wavelength as red, whatever the order they were named in; two bands show the first."""
    test = np.arange(len(data))
    kept = Predictions(test, data.labels, np.empty((0, 2), np.float32))

    def colourful(bands: tuple[str, ...]) -> bool:
        pixels = np.asarray(Image.open(BytesIO(plots.samples_picture(data, bands, kept))).convert("RGB")).astype(int)
        area = pixels[60:140]  # the upper row of images; frames and letters lie outside their middle
        return bool((np.ptp(area, axis=2) > 25).mean() > 0.1)

    assert colourful(("B02", "B03", "B04"))
    assert not colourful(("B02", "B03"))
    assert not colourful(("B02",))
