"""What a run logs: ``metrics.jsonl``, ``loss.png``, and curves elsewhere (:mod:`eo_backbones_train.tracking`).

``metrics.jsonl`` has one JSON object per line. A run that was killed may have written records of steps after its last
checkpoint; resuming drops them, so that the file reads as if the run had never stopped.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from eo_backbones.files import atomic_file, write_atomically
from eo_backbones_train.pretraining.stops import SIGNAL_STATUS, RunStopped
from eo_backbones_train.tracking.logger import Tracking, open_loggers

METRICS_FILE = "metrics.jsonl"
LOSS_FILE = "loss.png"
ROLLING_REACH = 25  # records on either side in the curve of loss.png; fewer for short runs


class RunLog:
    """The records of one run, appended as they come; use it as a context manager."""

    def __init__(self, folder: Path, *, step: int, tracking: Tracking = Tracking()) -> None:
        """Open the log of a run that continues after ``step`` completed steps.

        Raises:
            UserError: a logger of ``tracking`` cannot be opened.
        """
        self._folder = folder
        self._loggers = open_loggers(folder, step=step, tracking=tracking)
        keep_records(folder / METRICS_FILE, up_to_step=step)
        self._metrics = (folder / METRICS_FILE).open("a", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._metrics.close()
        interrupted = isinstance(error, RunStopped) and error.exit_status > SIGNAL_STATUS
        for one in self._loggers:
            one.close("finished" if error is None else "interrupted" if interrupted else "failed")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; ``step`` is the number of completed steps, every other field a curve."""
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()
        values = {name: value for name, value in record.items() if name != "step"}
        for one in self._loggers:
            one.log(values, record["step"])

    def sync(self) -> None:
        """Flush what was written before a checkpoint is saved, and draw the loss."""
        for one in self._loggers:
            one.flush()
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
