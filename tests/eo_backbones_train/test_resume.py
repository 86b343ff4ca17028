"""A run that was interrupted, killed or crashed ends as if nothing had happened; anything else is refused."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eo_backbones.errors import UserError
from eo_backbones_train.methods.modules import StepOutput
from eo_backbones_train.pretraining.checkpoint import checkpoints
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.pretraining.runlog import read_records
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import override
from support.tiny_run import build_tiny, tiny_options, tiny_recipe, write_store

TIMES = {"seconds", "pairs_per_s"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data"))


class Crash(BaseException):
    """Stands for a kill: nothing in the trainer catches it, and nothing is saved on its way out."""


class CrashAt(nn.Module):
    def __init__(self, method: nn.Module, call: int) -> None:
        super().__init__()
        self._method, self._left = [method], call  # in a list: not a submodule, the state keeps its names
        for name, child in method.named_children():
            self.add_module(name, child)

    def forward(self, views: Tensor) -> StepOutput:
        self._left -= 1
        if self._left == 0:
            raise Crash
        return self._method[0](views)

    def __getattr__(self, name: str) -> Any:
        if name == "update_target":
            return self._method[0].update_target
        return super().__getattr__(name)


def outcome(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """The digest of the weights, and the records without what the clock wrote."""
    records = read_records(run / "metrics.jsonl")
    digest = json.loads((run / "result.json").read_text())["weights_digest"]
    return digest, [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def crash(recipe: Recipe, call: int, **options: Any) -> None:
    with pytest.raises(Crash):
        train(recipe, tiny_options(**options), build=lambda recipe: CrashAt(build_tiny(recipe), call))


@pytest.mark.parametrize(
    ("name", "optimizer"), [("byol-mini", "adamw"), ("simsiam-mini", "adamw"), ("byol-mini", "lars")]
)
def test_a_run_that_crashed_at_any_step_ends_like_one_that_did_not(
    name: str, optimizer: str, store: Path, tmp_path: Path
) -> None:
    recipe = override(tiny_recipe(name), [f"optim.name={optimizer}"])
    whole = outcome(train(recipe, tiny_options(store, tmp_path / "whole"), build=build_tiny))
    assert [record["step"] for record in whole[1]] == [2, 4, 6, 8, 10, 12]
    # A checkpoint every third step falls inside the windows of two steps that records average over.
    options = {"store": store, "out": tmp_path / "run", "resume": True, "checkpoint_steps": 3}
    crash(recipe, 1, **options)  # nothing saved
    crash(recipe, 5, **options)  # after step 4, saved at 3, recorded at 4
    crash(recipe, 1, **options)
    crash(recipe, 6, **options)  # after step 8, saved at 6, recorded at 8
    assert outcome(train(recipe, tiny_options(**options), build=build_tiny)) == whole


def test_a_crash_while_a_checkpoint_is_written_costs_only_that_checkpoint(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe()
    whole = outcome(train(recipe, tiny_options(store, tmp_path / "whole"), build=build_tiny))
    options = {"store": store, "out": tmp_path / "run", "resume": True, "checkpoint_steps": 3}
    write = torch.save

    def killed_at_nine(content: Any, stream: Any) -> None:
        if content["step"] == 9:
            stream.write(b"PK half of it")
            # What a kill leaves behind, and an exception would not.
            (tmp_path / "run" / "checkpoints" / "step-000000009.pt.unfinished").write_bytes(b"PK half of it")
            raise Crash
        write(content, stream)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed_at_nine)
        with pytest.raises(Crash):
            train(recipe, tiny_options(**options), build=build_tiny)
    with caplog.at_level(logging.WARNING):
        assert outcome(train(recipe, tiny_options(**options), build=build_tiny)) == whole
    assert "step-000000009.pt.unfinished: it was being written when the run ended" in caplog.text


def test_a_crash_between_the_last_checkpoint_and_the_result_is_made_good(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=2)
    run = train(recipe, tiny_options(store, tmp_path / "run"), build=build_tiny)
    whole = outcome(run)
    (run / "result.json").unlink()
    assert outcome(train(recipe, tiny_options(store, run, resume=True), build=build_tiny)) == whole


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    whole = outcome(train(recipe, tiny_options(store, tmp_path / "whole"), build=build_tiny))
    options = {"store": store, "out": tmp_path / "run", "resume": True, "checkpoint_steps": 3}
    crash(recipe, 8, **options)
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    assert outcome(train(recipe, tiny_options(**options), build=build_tiny)) == whole


def start(store: Path, out: Path, epochs: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "support.tiny_run", str(store), str(out)]
    return subprocess.Popen([*command, "resume=1", "checkpoint_steps=3", f"epochs={epochs}"], stderr=subprocess.PIPE)


@pytest.mark.slow
def test_kill_minus_nine_at_random_moments_changes_nothing(
    store: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(repository / name) for name in (".", "training", "tests")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    epochs = 60
    whole = outcome(train(tiny_recipe(epochs=epochs), tiny_options(store, tmp_path / "whole"), build=build_tiny))
    run = tmp_path / "run"
    seed = time.time_ns()
    generator = random.Random(seed)
    killed_at = []
    for _ in range(2):
        process = start(store, run, epochs)
        before = len(killed_at) and killed_at[-1]
        while process.poll() is None and newest_step(run) <= before:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"ended by itself; seed {seed}"
        killed_at.append(newest_step(run))
        assert not (run / "result.json").exists()
    last = start(store, run, epochs)
    message = last.communicate()[1].decode()
    assert last.returncode == 0, message
    assert f"from step {killed_at[-1]} " in message
    assert outcome(run) == whole, f"seed {seed}"


def newest_step(run: Path) -> int:
    saved = checkpoints(run / "checkpoints")
    return int(saved[-1].stem.removeprefix("step-")) if saved else 0


def test_resuming_a_finished_run_does_nothing(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tiny_recipe(epochs=1)
    run = train(recipe, tiny_options(store, tmp_path / "run"), build=build_tiny)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO):
        train(recipe, tiny_options(store, run, resume=True), build=build_tiny)
    assert "is finished; there is nothing to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_with_a_run_is_not_started_again_by_accident(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=1)
    train(recipe, tiny_options(store, tmp_path / "run"), build=build_tiny)
    with pytest.raises(UserError, match="already holds a run of eo-train; add --resume"):
        train(recipe, tiny_options(store, tmp_path / "run"), build=build_tiny)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_things_is_left_alone(resume: bool, store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("my only copy")
    with pytest.raises(UserError, match="is not empty and does not hold a run of eo-train; name a new folder"):
        train(tiny_recipe(), tiny_options(store, tmp_path, resume=resume), build=build_tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_recipe_is_refused_and_the_fields_named(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    options = {"store": store, "out": tmp_path / "run", "resume": True, "checkpoint_steps": 2}
    crash(recipe, 4, **options)
    other = replace(recipe, seed=5, optim=replace(recipe.optim, weight_decay=0.5))
    with pytest.raises(UserError, match=r"optim\.weight_decay was 0\.01 and is now 0\.5.*seed was 0 and is now 5"):
        train(other, tiny_options(**options), build=build_tiny)


def test_another_store_is_refused_and_the_digests_named(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    crash(recipe, 4, store=store, out=tmp_path / "run", checkpoint_steps=2)
    other = write_store(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"on another store \(digest was [0-9a-f]+ and is now [0-9a-f]+\)"):
        train(recipe, tiny_options(other, tmp_path / "run", resume=True), build=build_tiny)


def test_another_precision_is_allowed_and_said(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tiny_recipe(epochs=2)
    crash(recipe, 3, store=store, out=tmp_path / "run", checkpoint_steps=2)
    options = tiny_options(store, tmp_path / "run", resume=True, precision="bf16")
    with caplog.at_level(logging.WARNING):
        train(recipe, options, build=build_tiny)
    assert "not bit for bit as it began: precision was 'fp32' and is now 'bf16'" in caplog.text
