"""The state of a run, and checkpoints that survive a kill at any moment.

:class:`RunState` is everything that changes during a run, and so everything that a checkpoint must hold. View
parameters and the order of the scenes are functions of (seed, step, position), so the step number stands for them.

A checkpoint is written to a temporary file, synced, then renamed; the last two are kept. It is a nested dict of
tensors, numbers, strings, lists and dicts, so that ``torch.load(weights_only=True)`` reads it: opening a checkpoint
from elsewhere runs no code.
"""

import logging
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from eo_backbones.errors import UserError
from eo_backbones.files import UNFINISHED, atomic_file
from eo_backbones_train.pretraining.monitors import CollapseDetector, EmbeddingMonitor

KEPT_CHECKPOINTS = 2

# Keys of an optimiser's groups that belong to the machine: a run resumed elsewhere keeps its moments, not these.
_MACHINE_KEYS = ("lr", "fused", "foreach", "capturable")

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RunState:
    """A run after ``step`` completed steps.

    Attributes:
        method: BYOL or SimSiam with its target and buffers.
        optimizer: over its parameters.
        monitor: of the embeddings.
        collapse: counts the monitor's collapsed readings.
        step: completed steps.
        seconds: training time so far, over all starts of the run.
        window: losses of the steps since the last record of ``metrics.jsonl``.
    """

    method: nn.Module
    optimizer: Optimizer
    monitor: EmbeddingMonitor
    collapse: CollapseDetector
    step: int = 0
    seconds: float = 0.0
    window: list[float] = field(default_factory=list)

    def save(self, folder: Path, identity: Mapping[str, Any]) -> Path:
        """Write a checkpoint; ``identity`` (recipe, store, machine, versions) is stored in it."""
        return save_checkpoint(
            folder,
            self.step,
            {
                **identity,
                "step": self.step,
                "seconds": self.seconds,
                "window": self.window,
                "collapsed_readings": self.collapse.count,
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "monitor": self.monitor.state_dict(),
                "random": random_states(),
            },
        )

    def restore(self, content: Mapping[str, Any], device: torch.device) -> None:
        """Go back to where a checkpoint was taken."""
        self.step = content["step"]
        self.seconds = content["seconds"]
        self.window = list(content["window"])
        self.collapse.count = content["collapsed_readings"]
        self.method.load_state_dict(content["method"])
        self.monitor.load_state_dict(content["monitor"], device)
        saved = content["optimizer"]
        for group, present in zip(saved["param_groups"], self.optimizer.param_groups, strict=True):
            group.update({key: present[key] for key in _MACHINE_KEYS if key in present})
        self.optimizer.load_state_dict(saved)
        restore_random_states(content["random"])


def save_checkpoint(folder: Path, step: int, content: Mapping[str, Any]) -> Path:
    """Write the checkpoint after ``step`` completed steps; all but the last two are removed.

    Raises:
        UserError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:09d}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, sync=True) as unfinished, unfinished.open("wb") as stream:
            torch.save(dict(content), stream)
    # torch's writer turns a write that stopped half-way into a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"could not write the checkpoint {path}: {_first_line(error)}{_free_space(folder)}; "
            "free some space, then continue with --resume"
        ) from error
    for old in checkpoints(folder)[:-KEPT_CHECKPOINTS]:
        old.unlink()
    return path


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest readable checkpoint and its content on the CPU, or None if there is none.

    Unfinished files of a killed run, and files that cannot be read, are skipped with a warning in the log.
    """
    for unfinished in sorted(_left_behind(folder)):
        logger.warning("ignored %s: it was being written when the run ended", unfinished)
    for path in reversed(checkpoints(folder)):
        try:
            return path, read_checkpoint(path)
        except UserError as error:
            logger.warning("ignored a checkpoint: %s", error)
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {_first_line(error)}") from error
    if not isinstance(content, dict) or "step" not in content:
        raise UserError(f"{path} is not a checkpoint of eo-train")
    return content


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed writer left behind."""
    for unfinished in _left_behind(folder):
        unfinished.unlink()


def random_states() -> dict[str, torch.Tensor]:
    """Return the states of torch's generators. Training draws nothing from them, but an extension of it may."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, torch.Tensor]) -> None:
    """Set torch's generators to saved states."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _left_behind(folder: Path) -> list[Path]:
    # the second pattern is what version 0.1 called them
    return [*folder.glob(f"{UNFINISHED}*"), *folder.glob("*.unfinished")]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _free_space(folder: Path) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free / 2**20:.0f} MiB free)"
    except OSError:
        return ""
