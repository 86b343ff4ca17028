"""The live line of a run on standard error: where it is, how fast, how long it will take.

On a terminal one line of :mod:`rich` that renews itself; elsewhere (Slurm, a log file) a plain line now and then.
"""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_SECONDS = 30.0

logger = logging.getLogger(__name__)


class TrainingProgress:
    """Speed and time left, measured since the first update and shown if ``shown``."""

    def __init__(self, *, steps: int, done: int, global_batch: int, shown: bool) -> None:
        """Begin at ``done`` of ``steps`` steps of ``global_batch`` pairs."""
        self._steps, self._first, self._global_batch = steps, done, global_batch
        self._shown = shown
        self._started = self._last_line = time.monotonic()
        self._last_step, self._last_time = done, self._started
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} pairs/s  {task.fields[left]} left"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=steps, completed=done, loss=float("nan"), speed=0.0, left="?")

    def __enter__(self) -> "TrainingProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float) -> float:
        """Show that ``step`` steps are done; return the pairs/s since the previous update."""
        now = time.monotonic()
        speed = (step - self._last_step) * self._global_batch / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        if not self._shown:
            return speed
        left = duration((now - self._started) / max(step - self._first, 1) * (self._steps - step))
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=loss, speed=speed, left=left)
        elif now - self._last_line >= LINE_SECONDS or step == self._steps:
            self._last_line = now
            logger.info("step %d/%d  loss %.4f  %.0f pairs/s  %s left", step, self._steps, loss, speed, left)
        return speed


def duration(seconds: float) -> str:
    """Return a length of time as people say it: ``42 s``, ``7 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
