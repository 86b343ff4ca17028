"""What bench counts, divides and prints; never how long something takes."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones.progress import SILENT
from eo_backbones_train.bench import run
from eo_backbones_train.bench.augmenting import measure_views, torchvision_views
from eo_backbones_train.bench.loading import (
    copied_kib_per_pair,
    disk_kib_per_pair,
    loader_stopwatch,
    made_up_scenes,
    measure_loading,
)
from eo_backbones_train.bench.report import SECTIONS, Row, to_markdown
from eo_backbones_train.bench.steps import VARIANTS, launched_operations
from eo_backbones_train.bench.timing import in_turn, seconds, times_faster
from eo_backbones_train.bench.training import StepMetrics, count_operations, measure_gpu, projected_hours, step_metrics
from eo_backbones_train.cli import main
from eo_backbones_train.data.loader import PREFETCH
from eo_backbones_train.data.plan import Plan
from eo_backbones_train.pretraining.run_options import Machine
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.store.prepare import prepare
from eo_backbones_train.store.store import Store
from support.recorded_progress import RecordedProgress
from support.tiny_run import write_store

CPU = torch.device("cpu")
MACHINE = Machine(
    device="cpu",
    device_name="a test",
    precision="fp32",
    graph=False,
    deterministic=True,
    threads=1,
    world_size=1,
    compress_gradients=False,
    torch="",
)
PROMISED = (  # the contract in docs/architecture.md
    "loader_pairs_per_s",
    "loader_ratio",
    "loader_ratio_tuned",
    "kib_per_pair",
    "views_ratio",
    "step_ops",
    "step_ratio",
    "device",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four scenes of 48 pixels."""
    return write_store(tmp_path_factory.mktemp("bench"), scenes=24)


@pytest.fixture
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-in for the training steps, which take a minute."""
    steps = StepMetrics(**{field.name: 7 for field in fields(StepMetrics)})  # type: ignore[arg-type]
    monkeypatch.setattr(run, "measure_steps", lambda *_args, **_options: replace(steps, step_ratio=None))


# Timing


def test_stopwatches_take_turns_and_the_first_time_does_not_count() -> None:
    calls: list[str] = []

    def stopwatch(name: str) -> Callable[[], float]:
        def watch() -> float:
            calls.append(name)
            return float(len(calls))

        return watch

    times = in_turn({"a": stopwatch("a"), "b": stopwatch("b")}, rounds=3)
    assert "".join(calls) == "abababab"
    assert times == {"a": [3, 5, 7], "b": [4, 6, 8]}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # A disturbed round, the second, slows both. The ratio of the medians would be 6.5.
    assert times_faster([20, 400, 40, 90], [10, 100, 8, 10]) == (4 + 5) / 2


def test_seconds_are_those_of_the_clock() -> None:
    now = iter((10.0, 12.5))
    assert seconds(lambda: None, CPU, clock=lambda: next(now)) == 2.5


# Counting


def test_only_operations_that_launch_something_are_counted() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 3)

    def work() -> None:
        c = torch.empty(3, 3)  # allocation
        torch.mm(a, b, out=c)  # 1
        d = c.view(-1).detach()[2:5].unsqueeze(0).t()  # views
        d.add_(1)  # 2
        torch._foreach_mul_([a, b], 2.0)  # 3: one for a whole list

    assert launched_operations(work) == 3


def test_operations_of_the_backward_pass_are_counted() -> None:
    x = torch.ones(3, requires_grad=True)

    def forward() -> torch.Tensor:
        return (x * 2).sum()

    assert launched_operations(forward) == 2
    # The gradient of the sum (ones_like), broadcast as a view, times 2.
    assert launched_operations(lambda: forward().backward()) == 4


@pytest.mark.slow
def test_a_step_launches_few_operations(store: Path) -> None:
    counts = count_operations(Store.open(store), MACHINE)
    assert set(VARIANTS) <= set(counts)
    assert counts["joint"] <= 900
    assert counts["one_directional"] <= 900
    assert counts["simsiam"] < counts["joint"] < counts["separate"]
    # ResNet50 alone: 53 convolutions, 53 batch normalisations and 49 ReLUs a pass, in two networks.
    assert counts["joint"] > 2 * (53 + 53 + 49)
    if "lightly" in counts:
        # Measured with lightly 1.6.0: about 3,060.
        assert counts["lightly"] > 3 * counts["joint"]


def test_steps_differ_only_in_what_is_compared() -> None:
    joint, separate, paper, simsiam = (VARIANTS[name] for name in ("joint", "separate", "one_directional", "simsiam"))
    assert replace(joint, model=separate.model) == separate
    assert replace(separate, loss="one-directional") == paper == get_recipe("byol-sen12ms-90k")
    assert replace(simsiam, method="byol", target=joint.target) == joint
    assert (joint.model.batch_norm, separate.model.batch_norm) == ("joint", "separate")


@pytest.mark.parametrize("lightly", [True, False])
def test_step_ratios_compare_equal_losses(lightly: bool) -> None:
    times = {"joint": [0.5, 0.5], "separate": [0.8, 0.8], "one_directional": [0.25, 0.25], "simsiam": [0.4, 0.4]}
    times |= {"lightly": [1.0, 1.0], "lightly_one_directional": [0.6, 0.6]} if lightly else {}
    found = step_metrics(times, dict.fromkeys(times, 3), size_px=32, pairs=16)
    assert (found.step_ms, found.step_pairs_per_s, found.byol_over_simsiam) == (500, 32, 1.25)
    ratios = (
        found.step_ratio,
        found.step_ratio_separate,
        found.step_ratio_one_directional,
        found.step_ratio_one_directional_to_symmetric,
    )
    assert ratios == ((2.0, 1.25, 2.4, 4.0) if lightly else (None,) * 4)
    assert (found.step_ops_lightly, found.step_ms_lightly) == ((3, 1000) if lightly else (None, None))


# Bytes


def test_bytes_of_a_pair_are_those_of_its_two_tiles(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", count=9, sizes=(48, 64), s2_bands=("B03", "B04"))
    prepare("pairs", tmp_path / "pairs", tmp_path / "store", workers=1)
    store, recipe = Store.open(tmp_path / "store"), replace(get_recipe("byol-full"), global_batch=4)
    plan = Plan(store, s2_bands=("B03", "B04"), s1_bands=("VV", "VH"), seed=recipe.seed, global_batch=4)
    nbytes = [
        store.tile(scene, name).nbytes for step in (0, 1) for scene in plan.step(step).scene for name in ("B03", "VV")
    ]
    assert copied_kib_per_pair(store, recipe) == pytest.approx(sum(nbytes) / 8 / 1024)
    assert 2 * 48 * 48 / 1024 < copied_kib_per_pair(store, recipe) < 2 * 64 * 64 / 1024


def test_reading_from_the_disk_costs_whole_pages_at_most(store: Path) -> None:
    found = disk_kib_per_pair(Store.open(store), replace(get_recipe("byol-full"), global_batch=8))
    # 48 x 48 bytes begin anywhere in a page of 4 KiB: a tile is in two pages at most. Nothing is measured on a RAM
    # disk.
    assert found is None or 0 < found <= 16 + 1


def test_without_the_kernels_counters_nothing_is_measured(store: Path, tmp_path: Path) -> None:
    recipe = replace(get_recipe("byol-full"), global_batch=8)
    assert disk_kib_per_pair(Store.open(store), recipe, counters=tmp_path / "nowhere") is None


# Loading and views


def test_batches_made_ready_beforehand_are_not_timed() -> None:
    asked: list[int] = []
    timed: list[list[int]] = []
    loader = SimpleNamespace(batch=asked.append)

    def watch(work: Callable[[], object], _device: torch.device) -> float:
        before = len(asked)
        work()
        timed.append(asked[before:])
        return 1.0

    stopwatch = loader_stopwatch(loader, 4, stopwatch=watch)  # type: ignore[arg-type]
    stopwatch()
    stopwatch()
    first = PREFETCH + 1
    assert asked == list(range(2 * (first + 4)))
    assert timed == [list(range(first, first + 4)), list(range(2 * first + 4, 2 * first + 8))]


def test_made_up_scenes_have_the_files_of_sen12ms_and_go_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    progress = RecordedProgress()
    with made_up_scenes(3, rounds=1, progress=progress, synthesised=2) as files:
        sizes = [(files.root / file.path).stat().st_size for pair in files.pairs for file in pair.files]
        assert len(Store.open(files.store)) == len(files.pairs) == 3
        # 13 bands of 16 bits, 2 of 32; the header and the map position come on top.
        expected = [256 * 256 * 26, 256 * 256 * 8] * 3
        assert all(0 <= size - least < 4096 for size, least in zip(sizes, expected, strict=True))
        found = measure_loading(files.store, files, batch=2, batches=1, reads=2, rounds=1)
        assert files.prepare_scenes_per_s > 0
    assert found.kib_per_pair == 128
    assert found.rasterio_kib_per_pair == pytest.approx(sum(sizes) / 3 / 1024)
    assert found.rasterio_pairs_per_s is not None
    assert found.loader_ratio == pytest.approx(found.loader_pairs_per_s / found.rasterio_pairs_per_s)
    assert not list(tmp_path.iterdir())
    assert progress.notes == ["writing 3 made-up scenes", "preparing them, round 1 of 1"]


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(UserError, match="TMPDIR"),
        made_up_scenes(10**9, rounds=1, progress=SILENT),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crop_first", [True, False])
def test_torchvision_without_chance_is_an_antialiased_resize(crop_first: bool) -> None:
    views = replace(get_recipe("byol-full").views, crop_scale=(1.0, 1.0), flip_p=0, rotation_p=0, blur_p=0, size_px=40)
    image = torch.rand(1, 96, 96)
    expected = F.interpolate(image[None], (40, 40), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(torchvision_views(views, crop_first=crop_first)(image), expected)


def test_views_are_measured_on_one_thread_and_threads_are_given_back(store: Path) -> None:
    before = torch.get_num_threads()
    found = measure_views(store, pairs=2, rounds=1)
    assert torch.get_num_threads() == before
    assert found.views_size_px == 112
    assert found.views_ratio == pytest.approx(found.views_torchvision_us / found.views_us)


# A GPU


def test_two_hundred_epochs_in_an_hour_take_ten_thousand_pairs_a_second() -> None:
    assert projected_hours(180_662 * 200 / 3600) == pytest.approx(1)


def test_results_of_a_gpu_follow_from_the_seconds_of_a_step(store: Path) -> None:
    made: list[tuple[str, int, bool, bool]] = []

    class Step:
        def __init__(self, recipe: object, machine: Machine, _device: torch.device) -> None:
            made.append((recipe.loss, recipe.global_batch, machine.graph, machine.deterministic))  # type: ignore[attr-defined]

        def __call__(self, *_inputs: object) -> None:
            pass

    found = measure_gpu(
        store,
        machine=MACHINE,
        device=CPU,
        steps=2,
        rounds=1,
        large_batch=8,
        paper_batch=4,
        build_step=Step,
        stopwatch=lambda work, _device: (work(), 0.5)[1],
    )
    assert made == [
        ("symmetric", 8, False, True),
        ("symmetric", 8, False, True),
        ("symmetric", 8, False, False),
        ("symmetric", 4, True, True),
        ("one-directional", 4, True, True),
    ]
    assert (found.gpu_pairs_per_s, found.gpu_graph_ms, found.gpu_input_share) == (32, 250, 1)
    assert found.gpu_hours == pytest.approx(200 * 180_662 / 32 / 3600)


@pytest.mark.gpu
def test_results_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    folder = write_store(tmp_path, scenes=256)
    found = measure_gpu(
        folder,
        machine=replace(MACHINE, device="cuda", precision="bf16"),
        device=torch.device("cuda"),
        steps=2,
        rounds=1,
    )
    assert min(found.gpu_pairs_per_s, found.gpu_graph_ms, found.gpu_input_share) > 0


# Report and command


@pytest.mark.parametrize(
    ("bound", "aim", "value", "reached"),
    [
        ("at least", 3, 3, True),
        ("at least", 3, 2.99, False),
        ("at most", 900, 900, True),
        ("at most", 900, 901, False),
        ("at least", None, 5, None),
        ("at least", 3, None, None),
    ],
)
def test_an_aim_is_reached_missed_or_not_measured(
    bound: str, aim: float | None, value: float | None, reached: bool | None
) -> None:
    row = Row("speed", "x", "{:g}", bound, aim)  # type: ignore[arg-type]
    assert row.reached({"x": value, "quick": False}) is reached
    assert row.reached({"x": value, "quick": True}) is None  # such numbers prove nothing


@pytest.mark.usefixtures("quick_steps")
def test_json_has_every_promised_field_and_standard_output_nothing_else(store: Path, tmp_path: Path) -> None:
    arguments = ["bench", "--device", "cpu", "--quick", "--store", str(store), "--json", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main.app, arguments)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert set(PROMISED) <= set(found)
    assert found["kib_per_pair"] == pytest.approx(2 * 48 * 48 / 1024)
    assert found["device"] == "cpu"
    assert found["loader_ratio"] is found["step_ratio"] is found["gpu_pairs_per_s"] is None
    for reason in ("--quick", "--store", "lightly", "--device cuda"):
        assert any(reason in note for note in found["notes"])
    (report,) = (tmp_path / "out").iterdir()
    assert report.name == f"{found['date']}-cpu-quick.md"
    text = report.read_text()
    assert "eo-train bench --device cpu --store STORE --quick" in text
    assert str(store) not in text
    assert json.loads(text.partition("```json")[2].partition("```")[0]) == found


@pytest.mark.usefixtures("quick_steps")
def test_every_row_has_a_field_and_a_line(store: Path) -> None:
    result = CliRunner().invoke(main.app, ["bench", "--device", "cpu", "--quick", "--store", str(store)])
    found = run.run_bench(device="cpu", store=store, quick=True, progress=SILENT)
    lines = to_markdown(found, "command").splitlines()
    for rows in SECTIONS.values():
        for row in rows:
            assert f"| {' | '.join(row.cells(found))} |" in lines
    assert "not measured" in result.stdout


def test_mistakes_are_one_line(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--device", "gpu"], "unknown device"),
        (["--store", str(store)], "24 usable scenes"),
        (["--out", str(tmp_path / "file")], "--out"),
    ):
        result = CliRunner().invoke(main.app, ["bench", *arguments])
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
