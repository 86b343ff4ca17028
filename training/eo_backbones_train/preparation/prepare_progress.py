"""The progress bar of ``eo-train prepare`` on standard error; a plain line now and then where that is no terminal."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 30.0

logger = logging.getLogger(__name__)


class PrepareProgress:
    """A context manager to pass to ``prepare(progress=...)``."""

    def __init__(self, *, shown: bool = True) -> None:
        """Show nothing at all if not ``shown``."""
        self._shown = shown
        self._started = self._last_line = time.monotonic()
        self._first: int | None = None
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("scenes"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[skipped]} skipped  {task.fields[speed]:.0f}/s"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=None, skipped=0, speed=0.0)

    def __call__(self, done: int, total: int, skipped: int) -> None:
        """Take the state of the conversion: scenes done, in all, and skipped so far."""
        now = time.monotonic()
        if self._first is None:  # what an earlier run did is not part of this run's speed
            self._first, self._started = done, now
        speed = (done - self._first) / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, skipped=skipped, speed=speed)
        elif self._shown and (now - self._last_line > LINE_SECONDS or done == total):
            self._last_line = now
            logger.info("%d of %d scenes, %d skipped, %.0f/s", done, total, skipped, speed)

    def __enter__(self) -> "PrepareProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
