"""Weights & Biases, online or offline as its variables say (``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_ENTITY``)."""

import os
from collections.abc import Mapping
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones_train.tracking.logger import Logger, Opening, Outcome

PROJECT = "eo-backbones"

_EXIT_CODES: Mapping[Outcome, int] = {"finished": 0, "interrupted": 130, "failed": 1}


class WeightsAndBiases:
    """One run there. Sending happens in a process of its own, so a lost connection does not stop the training."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.run_id: str | None = run.id
        # Its own counter of steps refuses those that a resumed run repeats, so the curves have ours as their axis.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send one point of each curve."""
        self._run.log({**values, "step": step})

    def flush(self) -> None:
        """Do nothing: its process writes all the time."""

    def close(self, outcome: Outcome) -> None:
        """Wait until everything was written or sent."""
        self._run.finish(exit_code=_EXIT_CODES[outcome])


def open_logger(opening: Opening) -> Logger:
    """Begin a run, or go on with the one that an earlier process began.

    Raises:
        UserError: there is no login, or the server refuses.
    """
    import wandb  # noqa: PLC0415 - an extra

    tracking = opening.tracking
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=tracking.name,
            id=opening.run_id,
            resume="allow" if opening.run_id else None,
            dir=os.environ.get("WANDB_DIR") or str(opening.folder),
            config=dict(tracking.config),
            allow_val_change=True,
            settings=wandb.Settings(console="off"),  # standard output holds the result, progress is on the other
        )
    except wandb.errors.Error as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Weights & Biases cannot be used ({reason}); run wandb login, or set WANDB_MODE=offline, or leave "
            "--logger wandb out"
        ) from error
    return WeightsAndBiases(run)
