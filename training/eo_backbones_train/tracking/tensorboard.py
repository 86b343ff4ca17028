"""TensorBoard: event files in the run folder."""

from collections.abc import Mapping
from typing import Protocol

from eo_backbones_train.tracking.logger import Logger, Opening, Outcome

TENSORBOARD_FOLDER = "tensorboard"


class _EventWriter(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files; several processes after each other write one file each, which are read as one run."""

    run_id: str | None = None

    def __init__(self, writer: _EventWriter) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is in memory."""
        self._writer.flush()

    def close(self, outcome: Outcome) -> None:
        """Close the file; events have no outcome."""
        del outcome
        self._writer.close()


def open_logger(opening: Opening) -> Logger:
    """Open a new event file."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

    # Events of steps after the checkpoint, written before a kill, are hidden from here on.
    return TensorBoard(SummaryWriter(str(opening.folder / TENSORBOARD_FOLDER), purge_step=opening.step + 1))
