"""Progress of a long command on standard error: bars in a terminal, a line now and then in a log file."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
