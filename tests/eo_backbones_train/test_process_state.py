"""What training and preparing change in their process is restored when they end, however they end."""

import logging
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones_train.methods.modules import StepOutput
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.pretraining.run_options import resolve_machine, torch_configured_for
from eo_backbones_train.pretraining.stops import RunStopped
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.prepare import prepare
from support.recorded_progress import Killed, RecordedProgress
from support.tiny_run import build_tiny, tiny_options, tiny_recipe, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data"))


def torch_settings() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill memory": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn benchmark": torch.backends.cudnn.benchmark,
        "cudnn deterministic": torch.backends.cudnn.deterministic,
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def process_state() -> dict[str, Any]:
    loggers = [logging.getLogger(name) for name in ("", "eo_backbones", "eo_backbones_train")]
    return torch_settings() | {
        "random": torch.get_rng_state().tolist(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": list(warnings.filters),
        "loggers": [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers],
    }


class AtStep(nn.Module):
    """Does something in the middle of a step."""

    def __init__(self, method: nn.Module, call: int, action: Any) -> None:
        super().__init__()
        self.encoder, self.method, self.calls, self.when, self.action = method.encoder, method, 0, call, action

    def forward(self, views: Tensor) -> StepOutput:
        self.calls += 1
        if self.calls == self.when:
            self.action()
        return self.method(views)

    def update_target(self, decay: Tensor) -> None:
        self.method.update_target(decay)


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    raise RuntimeError("no such operation")


@pytest.mark.parametrize(
    ("action", "ends_with"),
    [(interrupt, KeyboardInterrupt), (terminate, RunStopped), (fail, RuntimeError), (None, None)],
)
def test_a_run_leaves_its_process_as_it_was(
    action: Any, ends_with: type[BaseException] | None, store: Path, tmp_path: Path
) -> None:
    inside: list[dict[str, Any]] = []

    def build(recipe: Recipe) -> nn.Module:
        inside.append(torch_settings())
        return AtStep(build_tiny(recipe), 2, action) if action else build_tiny(recipe)

    before = process_state()
    options = tiny_options(store, tmp_path / "run", threads=torch.get_num_threads() + 1)
    if ends_with is None:
        train(tiny_recipe(epochs=1), options, build=build)
    else:
        with pytest.raises(ends_with):
            train(tiny_recipe(), options, build=build)
    assert inside[0]["threads"] == options.threads
    assert inside[0]["deterministic"]
    assert process_state() == before


@pytest.mark.parametrize("deterministic", [True, False])
def test_torch_is_configured_within_the_block_only(
    deterministic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    options = tiny_options(tmp_path, tmp_path, deterministic=deterministic)
    machine = resolve_machine(options, device=torch.device("cpu"), world_size=1, pairs=8)
    before = torch_settings()
    with pytest.raises(KeyboardInterrupt), torch_configured_for(replace(machine, threads=before["threads"] + 1)):
        assert torch_settings() == before | {
            "threads": before["threads"] + 1,
            "deterministic": deterministic,
            "fill memory": False,
            "cudnn benchmark": not deterministic,
            "cublas": ":4096:8",
        }
        raise KeyboardInterrupt
    assert torch_settings() == before


def test_a_workspace_that_the_user_chose_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    options = tiny_options(tmp_path, tmp_path)
    with torch_configured_for(resolve_machine(options, device=torch.device("cpu"), world_size=1, pairs=8)):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_preparing_leaves_its_process_as_it_was(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", count=4, sizes=(16,))
    before = process_state()
    with pytest.raises(Killed):
        prepare("pairs", pairs, tmp_path / "store", workers=1, block_scenes=2, progress=RecordedProgress(kill_at=2))
    assert process_state() == before
    prepare("pairs", pairs, tmp_path / "store", workers=1, block_scenes=2)
    assert process_state() == before
