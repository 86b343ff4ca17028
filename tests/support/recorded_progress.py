"""A progress that remembers what it was told, and can stand in for a kill at a given point."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from eo_backbones.progress import Tick


class Killed(BaseException):
    """Ends a job in the middle, as Ctrl-C does."""


@dataclass
class RecordedProgress:
    """What a job told, by the names of its stages.

    Attributes:
        kill_at: steps of a stage after which the job is killed.
        kill_in: part of the names of the stages that this holds for.
        counts: stage -> steps done after each call, those of an earlier run first.
        totals: stage -> steps in all.
        notes: lines for the user.
    """

    kill_at: int | None = None
    kill_in: str = ""
    counts: dict[str, list[int]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, text: str, total: int, done: int = 0) -> Iterator[Tick]:
        counts = self.counts[text] = [done]
        self.totals[text] = total

        def tick(steps: int, detail: str = "") -> None:
            counts.append(counts[-1] + steps)
            self._kill_if_due(text, counts[-1])

        self._kill_if_due(text, done)
        yield tick

    def note(self, text: str) -> None:
        self.notes.append(text)

    def _kill_if_due(self, text: str, done: int) -> None:
        if self.kill_at is not None and self.kill_in in text and done >= self.kill_at:
            raise Killed
