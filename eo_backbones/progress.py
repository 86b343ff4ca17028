"""Progress of a long command on standard error: bars in a terminal, elsewhere a plain line now and then.

Library functions take a :class:`Progress`, which shows nothing unless told otherwise (:data:`SILENT`); commands pass
:class:`ProgressBars`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol, Self

import rich.progress
from rich.console import Console

SECONDS_BETWEEN_LINES = 30.0
LOGGERS = ("eo_backbones", "eo_backbones_train")

Clock = Callable[[], float]
"""Returns seconds, as ``time.monotonic``."""


class Tick(Protocol):
    """Called whenever steps of a stage are finished."""

    def __call__(self, steps: int, detail: str = "") -> None:
        """Count ``steps`` more; ``detail`` says what else is worth showing, say the loss."""


class Progress(Protocol):
    """Receives the progress of a long job."""

    def stage(self, text: str, total: int, done: int = 0) -> AbstractContextManager[Tick]:
        """Enter a stage of ``total`` steps, of which an earlier run did ``done``."""
        ...

    def note(self, text: str) -> None:
        """Take a line that the user should see."""
        ...


class Silent:
    """Progress that is not shown."""

    @contextmanager
    def stage(self, text: str, total: int, done: int = 0) -> Iterator[Tick]:
        """Ignore the steps."""
        del text, total, done
        yield lambda steps, detail="": None

    def note(self, text: str) -> None:
        """Ignore the line."""


SILENT: Progress = Silent()


class ProgressBars:
    """Shows stages, notes and the log of these packages on standard error; use it as a context manager.

    Args:
        console: where to show them.
        clock: tells the time.
    """

    def __init__(self, console: Console | None = None, *, clock: Clock = time.monotonic) -> None:
        self.console = Console(stderr=True) if console is None else console
        self._clock = clock
        self._stack = ExitStack()
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[state]}"),
            rich.progress.TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._stack.enter_context(shown_log(self.console))
        self._stack.callback(self._bars.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def stage(self, text: str, total: int, done: int = 0) -> Iterator[Tick]:
        """Show a stage: a bar in a terminal, else lines: its name, then where it is every half minute.

        A stage whose steps come with details also ends with a line.
        """
        self._bars.start()  # not before: a process that has nothing to show leaves the terminal alone
        bar = self._bars.add_task(text, total=total, completed=done, state="")
        began = line_at = self._clock()
        finished, last_detail = done, ""

        def tick(steps: int, detail: str = "") -> None:
            nonlocal finished, last_detail, line_at
            last_detail = detail
            finished += steps
            now = self._clock()
            left = (total - finished) * (now - began) / max(finished - done, 1)
            state = ", ".join(part for part in (detail, f"{duration(left)} left" if finished < total else "") if part)
            self._bars.update(bar, completed=finished, state=state)
            due = now - line_at >= SECONDS_BETWEEN_LINES or (detail and finished == total)
            if due and not self.console.is_terminal:
                line_at = now
                self.note(f"{text}: {finished}/{total}{f', {state}' if state else ''}")

        if not self.console.is_terminal and total:
            self.note(text)
        yield tick
        self._bars.update(bar, completed=total, state=last_detail)
        if not total:
            self._bars.remove_task(bar)

    def note(self, text: str) -> None:
        """Show a line."""
        _print(self.console, text)


class Speed:
    """How many steps were done in a second since the last reading."""

    def __init__(self, done: int = 0, *, clock: Clock = time.monotonic) -> None:
        """Begin with ``done`` steps, which do not count."""
        self._done, self._clock = done, clock
        self._read_at = clock()

    def read(self, done: int) -> float:
        """Return the speed, ``done`` steps being finished now."""
        now = self._clock()
        speed = (done - self._done) / max(now - self._read_at, 1e-9)
        self._done, self._read_at = done, now
        return speed


def duration(seconds: float) -> str:
    """Return a length of time as people say it: ``42 s``, ``7 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class LogLines(logging.Handler):
    """Log records as plain lines of a console, above its bars; warnings say that they are."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        _print(self._console, prefix + self.format(record))


@contextmanager
def shown_log(console: Console, level: int = logging.INFO) -> Iterator[None]:
    """Show the log of these packages on a console and nowhere else; how it was before is restored at the end.

    Args:
        console: where to print the records.
        level: lowest level that is shown, unless a logger has one already.
    """
    handler = LogLines(console)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers = [handler]
        if logger.level == logging.NOTSET:
            logger.setLevel(level)
    try:
        yield
    finally:
        for logger, handlers, own_level in before:
            logger.handlers = handlers
            logger.setLevel(own_level)


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
