"""Whoever is told how an evaluation is getting on."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from eo_backbones.evaluation.extract import Tick


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
