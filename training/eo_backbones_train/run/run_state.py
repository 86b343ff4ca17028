"""Everything that changes while a run goes, which is everything that a checkpoint must hold.

View parameters and the order of the scenes are functions of (seed, step, position), so the step number is all there
is to know about them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from eo_backbones_train.run.checkpoint import random_states, restore_random_states, save_checkpoint
from eo_backbones_train.run.monitors import CollapseJudge, EmbeddingMonitor

# How the optimiser computes belongs to the machine: a run resumed elsewhere keeps its moments, not these.
_MACHINE_KEYS = ("lr", "fused", "foreach", "capturable")


@dataclass(slots=True, kw_only=True)
class RunState:
    """A run after ``step`` completed steps.

    Attributes:
        method: BYOL or SimSiam with its target and buffers.
        optimizer: over its parameters.
        monitor, judge: of the embeddings.
        step: completed steps.
        seconds: training time so far, over all starts of the run.
        window: losses of the steps since the last record of ``metrics.jsonl``.
    """

    method: nn.Module
    optimizer: Optimizer
    monitor: EmbeddingMonitor
    judge: CollapseJudge
    step: int = 0
    seconds: float = 0.0
    window: list[float] = field(default_factory=list)

    def save(self, folder: Path, identity: Mapping[str, Any]) -> Path:
        """Write a checkpoint; ``identity`` (recipe, store, machine, versions) is stored with it."""
        return save_checkpoint(
            folder,
            self.step,
            {
                **identity,
                "step": self.step,
                "seconds": self.seconds,
                "window": self.window,
                "collapsed_readings": self.judge.count,
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
        self.judge.count = content["collapsed_readings"]
        self.method.load_state_dict(content["method"])
        self.monitor.load_state_dict(content["monitor"], device)
        saved = content["optimizer"]
        for group, present in zip(saved["param_groups"], self.optimizer.param_groups, strict=True):
            group.update({key: present[key] for key in _MACHINE_KEYS if key in present})
        self.optimizer.load_state_dict(saved)
        restore_random_states(content["random"])
