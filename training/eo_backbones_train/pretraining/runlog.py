"""What a run logs: ``metrics.jsonl``, TensorBoard events and ``loss.png``.

``metrics.jsonl`` has one JSON object per line. A run that was killed may have written records of steps after its last
checkpoint; resuming drops them, so that the file reads as if the run had never stopped.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file, write_atomically

METRICS_FILE = "metrics.jsonl"
LOSS_FILE = "loss.png"
TENSORBOARD_FOLDER = "tensorboard"
ROLLING_REACH = 25  # records on either side in the curve of loss.png; fewer for short runs


class _EventWriter(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """The records of one run, appended as they come; use it as a context manager."""

    def __init__(self, folder: Path, *, step: int, tensorboard: bool) -> None:
        """Open the log of a run that continues after ``step`` completed steps."""
        self._folder = folder
        self._events = _open_events(folder / TENSORBOARD_FOLDER, step) if tensorboard else None
        keep_records(folder / METRICS_FILE, up_to_step=step)
        self._metrics = (folder / METRICS_FILE).open("a", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        if self._events is not None:
            self._events.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; ``step`` is the number of completed steps, every other field a TensorBoard curve."""
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()
        if self._events is not None:
            for name, value in record.items():
                if name != "step":
                    self._events.add_scalar(name, value, record["step"])

    def sync(self) -> None:
        """Flush what was written before a checkpoint is saved, and draw the loss."""
        if self._events is not None:
            self._events.flush()
        draw_loss(read_records(self._folder / METRICS_FILE), self._folder / LOSS_FILE)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ``metrics.jsonl``; a line cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records.append(record)
    return records


def keep_records(path: Path, *, up_to_step: int) -> None:
    """Drop the records of later steps than ``up_to_step``, in one atomic replacement."""
    if not path.is_file():
        return
    kept = [record for record in read_records(path) if record["step"] <= up_to_step]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))


def rolling_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and its neighbours up to ``reach`` away on either side.

    At the start, where a loss falls steeply, the window is shorter on both sides alike, so that the curve is not drawn
    too low; at the end, where it is flat, only what lies ahead is missing.
    """
    sums = [0.0, *accumulate(values)]
    bounds = [(i - min(reach, i), min(i + min(reach, i) + 1, len(values))) for i in range(len(values))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in bounds]


def draw_loss(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the loss over the steps with its rolling mean, as figure 2 of the paper does."""
    import matplotlib as mpl  # noqa: PLC0415 - only a run that draws pays for it
    from matplotlib.figure import Figure  # noqa: PLC0415

    steps = [record["step"] for record in records if "loss" in record]
    losses = [record["loss"] for record in records if "loss" in record]
    if not steps:
        return
    reach = min(ROLLING_REACH, len(steps) // 20)
    with mpl.rc_context({"font.size": 9}), atomic_file(path) as unfinished:
        figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, losses, color="#9db7d5", linewidth=0.8, label="loss")
        axes.plot(steps, rolling_mean(losses, reach), color="#1f4e8c", linewidth=1.8, label="rolling mean")
        axes.set(xlabel="training step", ylabel="loss", xlim=(0, steps[-1]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.legend(frameon=False)
        figure.savefig(unfinished, format="png")


def require_tensorboard() -> None:
    """Check that TensorBoard can be imported, before anything is written.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise UserError(
            'TensorBoard is not installed; run pip install "eo-backbones[train]", or add --no-tensorboard'
        ) from error


def _open_events(folder: Path, step: int) -> _EventWriter:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

    # Events of steps after the checkpoint, written before a kill, are hidden from here on.
    writer: _EventWriter = SummaryWriter(str(folder), purge_step=step + 1)
    return writer
