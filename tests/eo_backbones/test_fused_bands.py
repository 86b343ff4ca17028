"""Several bands at once in an evaluation: made of the features of each, and a column like any other."""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from eo_backbones import MultiBand, create_model, create_transform
from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.errors import UserError
from eo_backbones.evaluation import features, plots, run
from eo_backbones.evaluation.columns import FusedBands, choose_bands, sources_of
from eo_backbones.evaluation.predictions import Predictions
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.evaluation.request import Request, fulfil
from eo_backbones.networks.multi_band import Fuse
from eo_backbones.progress import SILENT
from eo_backbones.results import Result, read_results, sections
from support.measured import measured
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
        return measured(request, root=eurosat_rgb_folder, place=tmp_path, **changes)

    return run_request


@pytest.fixture
def features_seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The features that reach the probes, in order."""
    seen: list[torch.Tensor] = []
    original = run.protocols.fit_predict

    def watched(names: list[str], tasks: list[Task], dtype: torch.dtype) -> Mapping[str, list[np.ndarray]]:
        seen.extend(task.features for task in tasks)
        return original(names, tasks, dtype)

    monkeypatch.setattr(run.protocols, "fit_predict", watched)
    return seen


def test_columns(data: LabelledImages) -> None:
    columns = choose_bands(data, ["B04", "blue+green+red", "B03+B02"], ["concat", "mean"])
    assert [column.label for column in columns] == [
        "B04",
        "B02+B03+B04 (concat)",
        "B02+B03+B04 (mean)",
        "B03+B02 (concat)",
        "B03+B02 (mean)",
    ]
    assert [column.label for column in choose_bands(data, [RGB])] == ["B02+B03+B04 (concat)"]
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
        choose_bands(data, typed, fuses)


def test_fusing_by_hand(data: LabelledImages) -> None:
    """In bfloat16 the average is taken in float32: 256 + 1 + 1 is not lost."""
    concat, mean = choose_bands(data, [RGB], ["concat", "mean"])
    parts = [torch.tensor([[value, 2.0]], dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    assert concat.join(parts).tolist() == [[256, 2, 1, 2, 1, 2]]
    torch.testing.assert_close(mean.join(parts), torch.tensor([[86.0, 2.0]]))
    assert isinstance(mean, FusedBands)


@pytest.mark.parametrize("fuse", ["concat", "mean"])
def test_features_are_those_of_multi_band(
    measure: Measure, features_seen: list[torch.Tensor], data: LabelledImages, fuse: Fuse, tmp_path: Path
) -> None:
    """What is evaluated from cached single bands is the module that users get (bfloat16 where that is fast)."""
    name = write_tiny_encoder(tmp_path / "weights")
    measure(name, bands=("B04+B03",), fuses=(fuse,), sizes=(64,))

    model = MultiBand(create_model(name), ["B04", "B03"], fuse).eval()
    prepare = create_transform(model, band=model.bands, unit="uint8")
    with torch.inference_mode():
        expected = model(torch.stack([prepare(data.read(index, model.bands)) for index in (0, 39)]))
    found = features_seen[0][[0, 39]].float()
    assert found.shape == expected.shape
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_no_second_extraction(measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Single bands first, then the three at once: only files that are there are read, and rows are not repeated."""
    measure("stats", bands=("B02", "B03", "B04"))
    before = {path.name for path in (tmp_path / "cache" / "features").glob("*.npy")}
    monkeypatch.setattr(features, "extract", lambda *_, **__: pytest.fail("features are in the cache"))
    rows = measure("stats", fuses=("concat", "mean"), protocols=("logistic", "knn"))
    assert {path.name for path in (tmp_path / "cache" / "features").glob("*.npy")} == before
    assert len(before) == 3
    fused = [row for row in rows if "+" in row.band]
    assert {row.band for row in fused} == {f"{RGB} (concat)", f"{RGB} (mean)"}
    assert len(fused) == 2 * 3
    assert {row.weights_digest for row in fused} == {"stats-1"}
    monkeypatch.setattr(run.protocols, "fit_predict", lambda *_: pytest.fail("all rows are there"))
    assert measure("stats", fuses=("mean",)) == rows


def test_one_pass_extracts_every_band_once(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where single bands and fused ones are asked for together."""
    jobs: list[str] = []
    original = features.extract

    def watched(data: LabelledImages, jobs_: list[features.Job], **options: object) -> None:
        jobs.extend(job.band.label for job in jobs_)
        original(data, jobs_, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "extract", watched)
    measure("stats", bands=("B04", RGB, "B03+B04"), fuses=("concat", "mean"))
    assert sorted(jobs) == ["B02", "B03", "B04"]


@pytest.mark.parametrize("model", ["random", "random-bn", "raw"])
def test_baselines_have_rows_too(measure: Measure, features_seen: list[torch.Tensor], model: str) -> None:
    rows = measure(model, bands=("B04", RGB), seeds=2, protocols=("knn",))
    digests = {(row.band, row.seed): row.weights_digest for row in rows}
    single, fused = digests["B04", 0], digests[f"{RGB} (concat)", 0]
    # random-bn has another network for every band, so the three of them are other weights than one of them
    assert (single == fused) is (model != "random-bn")
    assert (digests["B04", 1] == single) is (model == "raw")
    widths = {features.shape[1] for features in features_seen}
    assert widths == ({1024, 3072} if model == "raw" else {2048, 6144})


def test_three_bands_know_more_than_one(measure: Measure) -> None:
    """Synthetic classes differ in colour: image statistics of three bands beat those of one."""
    rows = measure("stats", bands=("B04", RGB), seeds=3)
    f1 = {
        band: np.mean([row.f1_weighted for row in rows if row.band == band and row.protocol == "knn"])
        for band in ("B04", f"{RGB} (concat)")
    }
    assert f1[f"{RGB} (concat)"] > f1["B04"]


@pytest.mark.parametrize("room", [0, 10**9])
def test_columns_worked_on_together_give_the_same_rows(
    measure: Measure,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    eurosat_rgb_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """As on a GPU, where all bands and seeds are trained at once; on a CPU every column is on its own."""
    options = {"bands": ("B04", "B03", RGB), "seeds": 2, "protocols": ("paper", "logistic", "knn")}
    alone = measure("stats", **options)
    taken: list[int] = []
    original = run.protocols.fit_predict

    def watched(names: list[str], tasks: list[Task], dtype: torch.dtype) -> Mapping[str, list[np.ndarray]]:
        taken.append(len(tasks))
        return original(names, tasks, dtype)

    monkeypatch.setattr(run.protocols, "fit_predict", watched)
    monkeypatch.setattr(run, "bytes_for_columns", lambda _: room)
    fulfil(
        Request(dataset="eurosat-rgb", models=("stats",), sizes=(32,), **options),  # type: ignore[arg-type]
        root=eurosat_rgb_folder,
        out=tmp_path / "again",
        cache=tmp_path / "cache",
        device="cpu",
        watcher=SILENT,
    )
    assert taken == ([3 * 2] * 3 if room else [2] * 9)
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
