"""What happens between two steps: records, monitoring of the embeddings, checkpoints, reasons to stop.

Losses stay on the device until a record or a checkpoint needs them, so that the host can run ahead of a GPU. Every
decision that ends or saves a run is the same in all processes, because each of them waits for the others.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eo_backbones.progress import Speed, Tick, duration
from eo_backbones_train.pretraining.checkpoint import RunState, checkpoints
from eo_backbones_train.pretraining.distributed import Process
from eo_backbones_train.pretraining.monitors import COLLAPSED_READINGS, COLLAPSED_STD
from eo_backbones_train.pretraining.run_folder import CHECKPOINT_FOLDER
from eo_backbones_train.pretraining.run_options import RunOptions
from eo_backbones_train.pretraining.runlog import RunLog
from eo_backbones_train.pretraining.step import StepResult
from eo_backbones_train.pretraining.stops import (
    COLLAPSED_STATUS,
    NOT_FINITE_STATUS,
    SIGNAL_STATUS,
    RunStopped,
    StopSignals,
)

logger = logging.getLogger(__name__)


class Bookkeeper:
    """Counts the steps of a run, and does what is due after each of them."""

    def __init__(
        self,
        state: RunState,
        *,
        options: RunOptions,
        process: Process,
        steps: int,
        steps_per_epoch: int,
        identity: Mapping[str, Any],
        signals: StopSignals,
        tick: Tick,
        global_batch: int,
        log: RunLog | None,
        probe: Callable[[nn.Module], Mapping[str, float]] | None,
    ) -> None:
        """Begin where ``state`` stands.

        Args:
            state: of the run; this class counts its steps.
            options: how often to record, monitor and save.
            process: this one among those of the run.
            steps: of the whole run.
            steps_per_epoch: of one pass over the scenes.
            identity: stored in every checkpoint beside the state.
            signals: whether a signal asked the run to stop.
            tick: told of steps when they are recorded.
            global_batch: pairs of one step, of all processes.
            log: of rank 0; None in the others.
            probe: takes the encoder and returns metrics for the log; only in rank 0, None without probe data.
        """
        self._state, self._options, self._process = state, options, process
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        self._identity, self._signals, self._log = identity, signals, log
        self._tick, self._shown_step = tick, state.step
        self._speed, self._global_batch = Speed(state.step), global_batch
        self._probe, self._probe_steps = probe, options.probe_epochs * steps_per_epoch
        self._folder = options.out / CHECKPOINT_FOLDER
        self._losses: list[Tensor] = []
        self._began = time.monotonic() - state.seconds
        self._saved_at = time.monotonic()
        # Asking the other processes makes the host wait for a GPU, but not for a CPU.
        self._ask_every = 1 if process.world_size == 1 or process.device.type == "cpu" else options.log_steps

    def after_step(
        self, result: StepResult, scenes: Tensor, *, learning_rate: float, target_decay: float | None
    ) -> None:
        """Count a step that was just completed, and do what is due.

        Args:
            result: of the step.
            scenes: scene of each sample [B].
            learning_rate: that the step used.
            target_decay: that the step used; None for SimSiam, which has no target.

        Raises:
            RunStopped: a signal was received, the loss is not finite, or the embeddings have collapsed.
            UserError: a checkpoint could not be written.
        """
        state = self._state
        state.step += 1
        state.monitor.add(result.embeddings, scenes)
        self._losses.append(result.loss.clone())

        last = state.step == self._steps
        recording = last or state.step % self._options.log_steps == 0
        reading = last or state.step % self._options.monitor_steps == 0
        asking = last or state.step % self._ask_every == 0
        stopping = asking and self._process.any(self._signals.received is not None)
        saving = last or stopping or self._checkpoint_due(asking=asking)
        if recording or reading or saving:
            self._flush_losses()
        if recording or reading:
            self._record(learning_rate=learning_rate, target_decay=target_decay, reading=reading)
        if self._probe is not None and (last or state.step % self._probe_steps == 0):
            self._run_probe(self._probe)
        if saving:
            self._save()
        if stopping and not last:
            self._stop_on_signal()

    def _checkpoint_due(self, *, asking: bool) -> bool:
        options = self._options
        by_steps = options.checkpoint_steps is not None and self._state.step % options.checkpoint_steps == 0
        minutes = (time.monotonic() - self._saved_at) / 60
        by_time = options.checkpoint_minutes is not None and minutes >= options.checkpoint_minutes
        return by_steps or (asking and self._process.any(by_time))

    def _flush_losses(self) -> None:
        """Bring the losses of the last steps to the host, averaged over processes; stop at one that is not finite."""
        if not self._losses:
            return
        losses = self._process.mean(torch.stack(self._losses)).tolist()
        first = self._state.step - len(losses) + 1
        self._losses.clear()
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise RunStopped(
                    f"the loss is {loss} at step {step}; the last good checkpoint is {self._last_checkpoint()}. "
                    "Lower optim.base_lr (--set, in a new folder), or try --precision fp32",
                    exit_status=NOT_FINITE_STATUS,
                )
        self._state.window += losses

    def _record(self, *, learning_rate: float, target_decay: float | None, reading: bool) -> None:
        state = self._state
        loss = sum(state.window) / len(state.window)
        pairs_per_s = self._speed.read(state.step) * self._global_batch
        self._tick(state.step - self._shown_step, f"loss {loss:.4f}, {pairs_per_s:,.0f} pairs/s")
        self._shown_step = state.step
        state.window.clear()
        state.seconds = time.monotonic() - self._began
        record = {
            "step": state.step,
            "epoch": state.step / self._steps_per_epoch,
            "loss": loss,
            "learning_rate": learning_rate,
            "pairs_per_s": pairs_per_s,
            "seconds": state.seconds,
        }
        if target_decay is not None:
            record["target_decay"] = target_decay
        embeddings = state.monitor.read() if reading else None
        if embeddings is not None:
            record |= embeddings.record()
        if self._log is not None:
            self._log.write(record)
        if embeddings is None:
            return
        collapsed = self._process.any(state.collapse.update(state.step, embeddings))
        if collapsed:
            message = (
                f"the embeddings have collapsed: at step {state.step}, in {COLLAPSED_READINGS} readings in a row, "
                f"their std is {min(embeddings.std):.4f} (1 is healthy, below {COLLAPSED_STD} all scenes look alike)"
            )
            if self._options.stop_on_collapse:
                raise RunStopped(
                    f"{message}. Lower optim.base_lr or raise global_batch; --no-stop-on-collapse continues regardless",
                    exit_status=COLLAPSED_STATUS,
                )
            logger.warning("%s", message)

    def _run_probe(self, probe: Callable[[nn.Module], Mapping[str, float]]) -> None:
        assert self._log is not None, "the process that probes is the one that writes"
        encoder = self._state.method.encoder
        assert isinstance(encoder, nn.Module)
        metrics = probe(encoder)
        self._log.write({"step": self._state.step, "epoch": self._state.step / self._steps_per_epoch, **metrics})
        logger.info("probe after step %d: weighted F1 %.3f", self._state.step, metrics["probe_f1"])

    def _save(self) -> None:
        self._state.seconds = time.monotonic() - self._began
        self._saved_at = time.monotonic()
        if self._log is not None:
            self._log.sync()
            self._state.save(self._folder, self._identity)

    def _stop_on_signal(self) -> None:
        # Another process may have been the one that received it.
        number = self._signals.received or signal.SIGTERM
        raise RunStopped(
            f"interrupted after step {self._state.step} of {self._steps} ({duration(self._state.seconds)}), "
            f"saved in {self._last_checkpoint()}; run the same command with --resume to continue",
            exit_status=SIGNAL_STATUS + number,
        )

    def _last_checkpoint(self) -> str:
        saved = checkpoints(self._folder)
        return str(saved[-1]) if saved else "none yet"
