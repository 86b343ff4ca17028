"""Progress of a long command on standard error: bars in a terminal, a line now and then in a log file."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tick = Callable[[int], None]

# FOLDED eo_backbones/progress.py: 'Whoever is told how an evaluation is getting on.'


class Watcher(Protocol):
    """Told how an evaluation is getting on."""

    def stage(self, text: str, total: int) -> AbstractContextManager[Tick]:
        """Enter a stage of so many steps; the value is called with every number of steps done."""
        ...

    def note(self, text: str) -> None:
        """Take a line that the user should see."""
        ...


class Silent:
    """A watcher that shows nothing."""

    @contextmanager
    def stage(self, text: str, total: int) -> Iterator[Tick]:
        """Ignore the steps."""
        del text, total
        yield lambda _: None

    def note(self, text: str) -> None:
        """Ignore the line."""


# FOLDED eo_backbones/progress.py: 'The progress bar of ``eo-train prepare`` on standard error; a plain line now and then where that is no terminal.'

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


# FOLDED eo_backbones/progress.py: 'The live line of a run on standard error: where it is, how fast, how long it will take.\n\nOn a terminal one line of :mod:`rich` that renews itself; elsewhere (Slurm, a log file) a plain line now and then.'


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


_SECONDS_BETWEEN_LINES = 30.0


class ProgressWatcher:
    """Shows stages, notes and the library's log; use it as a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._logger = logging.getLogger("eo_backbones")
        self._handler = StderrHandler(self.console)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._logger.addHandler(self._handler)
        self._logger.setLevel(logging.INFO)
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        self._logger.removeHandler(self._handler)

    @contextmanager
    def stage(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a stage of so many steps; the value is called with every number of steps done."""
        task = self._bars.add_task(text, total=total)
        lines = _Lines(self.console, text, total)

        def tick(steps: int) -> None:
            self._bars.advance(task, steps)
            lines.advance(steps)

        if not self.console.is_terminal and total:
            lines.show(text)
        yield tick
        self._bars.update(task, completed=total)
        if not total:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        """Show a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Lines:
    """What stands in for a bar where there is no terminal."""

    def __init__(self, console: Console, text: str, total: int) -> None:
        self._console, self._text, self._total = console, text, total
        self._done = 0
        self._last = time.monotonic()

    def advance(self, steps: int) -> None:
        self._done += steps
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last > _SECONDS_BETWEEN_LINES:
            self._last = now
            self.show(f"{self._text}: {self._done}/{self._total}")

    def show(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class StderrHandler(logging.Handler):
    """Log records as lines on the same console, so that they do not break the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; warnings say that they are."""
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self._console.print(prefix + self.format(record), highlight=False, markup=False, soft_wrap=True)
