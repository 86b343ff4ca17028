"""Dask gives what one process gives, bit for bit, and a process that is killed costs what it was doing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import distributed
import numpy as np
import pytest

from eo_backbones.errors import UserError
from eo_backbones.progress import SILENT, Tick
from eo_backbones.regions.engines import Task, open_engine
from support.recorded_progress import RecordedProgress
from support.region_scenes import cells_by_scene, embed, files_of, write_scenes
from support.tiny_encoders import write_tiny_encoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # each process imports torch
psutil = pytest.importorskip("psutil")


@dataclass
class ActingProgress(RecordedProgress):
    """Does something once, after a number of cells."""

    act: Callable[[], None] = field(default=lambda: None)
    act_at: int = 1

    @contextmanager
    def stage(self, text: str, total: int, done: int = 0) -> Iterator[Tick]:
        with super().stage(text, total, done) as inner:

            def tick(steps: int, detail: str = "") -> None:
                before = self.counts[text][-1]
                inner(steps, detail)
                if text.startswith("embed") and before < self.act_at <= before + steps:
                    self.act()

            yield tick


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 4)
    return folder


@pytest.fixture(scope="module")
def alone(scenes: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process writes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    embed([scenes], model, out, components=3)
    return out


@contextmanager
def process(*command: str, folder: Path | None = None, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of this environment until the end of the block."""
    started = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a scheduler; give its process and its address."""
    told = folder / "scheduler.json"
    with process(
        "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file",
        str(told),
    ) as running:  # fmt: skip
        while not told.is_file() or not told.read_text().endswith("}"):
            assert running.poll() is None
            time.sleep(0.1)
        yield running, json.loads(told.read_text())["address"]


def worker(address: str, folder: Path, **environment: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run a worker, in a folder of its own."""
    return process(
        "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory",
        str(folder), folder=folder, **environment,
    )  # fmt: skip


def kill_a_worker() -> None:
    """Kill the youngest process that this one has started for work."""
    children = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    max(children, key=lambda child: child.create_time()).send_signal(signal.SIGKILL)


def test_two_processes_and_the_death_of_one_change_nothing(
    tmp_path: Path, scenes: Path, model: str, alone: Path
) -> None:
    progress = ActingProgress(act=kill_a_worker)
    made = embed([scenes], model, tmp_path / "out", components=3, workers=2, progress=progress)
    assert (made.embedded, made.failed, made.computed_cells) == (4, (), made.cells)
    assert files_of(tmp_path / "out") == files_of(alone)


def test_a_task_that_ends_its_worker_each_time_does_not_take_others_along() -> None:
    tasks = deque(
        Task(scene=scene, function=function, arguments=(value,))
        for scene, function, value in (("bad", os._exit, 1), ("good", abs, -4), ("fine", abs, -5))
    )
    with open_engine(workers=1, scheduler=None, progress=SILENT) as engine:
        outcomes = {task.scene: outcome for task, outcome in engine.run(tasks, lambda task, cells: None)}
    assert {scene: outcome.value for scene, outcome in outcomes.items()} == {"bad": None, "good": 4, "fine": 5}
    assert {scene: outcome.failure is None for scene, outcome in outcomes.items()} == {
        "bad": False, "good": True, "fine": True,
    }  # fmt: skip


def test_a_worker_that_dask_gave_up_is_started_again() -> None:
    with open_engine(workers=1, scheduler=None, progress=SILENT) as engine:
        client = distributed.default_client()
        client.sync(client.cluster.workers[0].close)  # as when a worker dies while it starts
        assert not client.nthreads()
        task = Task(scene="good", function=abs, arguments=(-4,))
        assert [outcome.value for _, outcome in engine.run(deque([task]), lambda task, cells: None)] == [4]


def test_a_scheduler_that_runs_is_used_and_its_loss_costs_what_was_running(
    tmp_path: Path, scenes: Path, model: str, alone: Path
) -> None:
    out = tmp_path / "out"
    with (
        scheduler(tmp_path) as (running, address),
        worker(address, tmp_path),
        pytest.raises(UserError, match=f"lost the scheduler {address}"),
    ):
        progress = ActingProgress(act=running.kill, act_at=24)
        embed([scenes], model, out, components=3, scheduler=address, progress=progress)
    before = len(files_of(out)) + len(list(out.glob(".parts/*/block-*.f32")))
    assert before
    (tmp_path / "scheduler.json").unlink()
    with scheduler(tmp_path) as (running, address), worker(address, tmp_path):
        made = embed([scenes], model, out, components=3, scheduler=address)
    assert made.computed_cells < made.cells
    assert files_of(out) == files_of(alone)


def test_a_client_that_is_killed_takes_its_processes_along_and_loses_little(
    tmp_path: Path, scenes: Path, model: str, alone: Path
) -> None:
    out = tmp_path / "out"
    arguments = [str(scenes), "--model", model, "--bands", "B04", "B08", "--size", "32", "--stride", "16"]
    arguments += ["--components", "3", "--device", "cpu", "--out", str(out)]
    code = "from eo_backbones.cli.main import main; main()"
    client = subprocess.Popen([sys.executable, "-c", code, "embed", *arguments, "--workers", "2"])
    while not (out / "journal.jsonl").is_file():
        assert client.poll() is None
        time.sleep(0.02)
    children = psutil.Process(client.pid).children(recursive=True)
    client.kill()
    client.wait()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert gone
    assert not alive
    ended = subprocess.run([sys.executable, "-c", code, "embed", *arguments, "--json"], check=True, capture_output=True)
    made = json.loads(ended.stdout)
    assert made["earlier"] >= 1
    assert made["computed_cells"] < made["cells"]
    expected = cells_by_scene(alone)  # in smaller batches than the command's
    for scene, cells in cells_by_scene(out).items():
        np.testing.assert_allclose(cells, expected.pop(scene), atol=0.02)
    assert not expected


def test_a_worker_of_another_version_is_refused_and_named(tmp_path: Path, scenes: Path, model: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "true = m.version\n"
        "m.version = lambda name: '0.0.7' if name == 'eo-backbones' else true(name)\n"
    )
    with (
        scheduler(tmp_path) as (_, address),
        worker(address, tmp_path, PYTHONPATH=str(tmp_path)),
        pytest.raises(UserError, match=r"the worker tcp://.* runs eo-backbones 0\.0\.7, this command "),
    ):
        embed([scenes], model, tmp_path / "out", scheduler=address)
    assert not (tmp_path / "out").exists()


def test_a_worker_with_other_weights_is_refused_and_named(
    tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, place in enumerate(("here", "there")):
        write_tiny_encoder(tmp_path / place / "model", seed=number)
    with scheduler(tmp_path) as (_, address), worker(address, tmp_path / "there"):
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(UserError, match=r"worker tcp://.*: local-dir:model is another model on "):
            embed([scenes], "local-dir:model", tmp_path / "out", scheduler=address)
    assert not files_of(tmp_path / "out")


def test_mistakes_about_workers_are_one_line(
    tmp_path: Path, scenes: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "):
        embed([scenes], model, tmp_path / "out", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(UserError, match="no Dask scheduler answers at localhost:none"):
        embed([scenes], model, tmp_path / "out", scheduler="localhost:none")
    with pytest.raises(UserError, match="pass one of them"):
        embed([scenes], model, tmp_path / "out", scheduler="tcp://127.0.0.1:9", workers=2)
    with pytest.raises(UserError, match="--workers 0: pass 1 or more"):
        embed([scenes], model, tmp_path / "out", workers=0)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"--workers needs Dask: pip install 'eo-backbones\[scale\]'"):
        embed([scenes], model, tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()
