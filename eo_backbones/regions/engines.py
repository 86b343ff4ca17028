"""Where tasks run: an engine takes them from a queue and gives back what became of each, in any order."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from eo_backbones.device import fast_dtype, pick_device
from eo_backbones.errors import UserError
from eo_backbones.progress import Progress
from eo_backbones.regions.job import RegionJob, RunError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something to do for one scene.

    Attributes:
        scene: id of the scene.
        function: a function of a module, so that other processes find it.
        arguments: can be sent to other processes.
        cells: how many it finishes; if there are any, the function takes ``report`` besides, a function that is told
            how many were just finished.
    """

    scene: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    cells: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task.

    Attributes:
        value: what its function returned.
        failure: what is wrong with its scene, in one line; ``None`` if nothing is.
        fatal: why nothing can go on, in one line; ``None`` if it can.
        seconds: how long it took.
    """

    value: Any = None
    failure: str | None = None
    fatal: str | None = None
    seconds: float = 0.0


Told = Callable[[Task, int], None]
"""Called with a task and the number of cells that it has just finished."""


class Engine(Protocol):
    """Runs tasks."""

    @property
    def slots(self) -> int:
        """How many tasks run at the same time."""
        ...

    def number_format(self, device: str) -> torch.dtype:
        """Return the dtype that all processes compute fast in, on a device of :data:`eo_backbones.device.DEVICES`."""
        ...

    def check(self, job: RegionJob) -> None:
        """Check that all processes can do the job.

        Raises:
            UserError: one has another model, or does not see the folder.
        """
        ...

    def run(self, tasks: deque[Task], told: Told) -> Iterator[tuple[Task, Outcome]]:
        """Run tasks until the queue is empty and all are finished; the caller may add more between two outcomes.

        Raises:
            RunError: nothing can go on.
        """
        ...


def attempt(task: Task, report: Callable[[int], None]) -> Outcome:
    """Run a task; whatever goes wrong becomes an outcome."""
    began = time.monotonic()
    try:
        value = task.function(*task.arguments, **({"report": report} if task.cells else {}))
    except RunError as error:
        return Outcome(fatal=_one_line(error))
    except UserError as error:
        return Outcome(failure=_one_line(error), seconds=time.monotonic() - began)
    except Exception as error:  # whatever it is, it must not end the work on the other scenes
        logger.debug("%s of %s", task.function.__name__, task.scene, exc_info=True)
        text = f"unexpected {type(error).__name__}: {_one_line(error)}"
        return Outcome(failure=text, seconds=time.monotonic() - began)
    return Outcome(value=value, seconds=time.monotonic() - began)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class Loop:
    """Runs one task after the other in this process."""

    slots = 1

    def number_format(self, device: str) -> torch.dtype:
        """Return the dtype of this process, see :class:`Engine`."""
        return fast_dtype(pick_device(device))

    def check(self, job: RegionJob) -> None:
        """Do nothing: this process has made the job."""

    def run(self, tasks: deque[Task], told: Told) -> Iterator[tuple[Task, Outcome]]:
        """Run tasks, see :class:`Engine`."""
        while tasks:
            task = tasks.popleft()
            outcome = attempt(task, partial(told, task))
            if outcome.fatal is not None:
                raise RunError(outcome.fatal)
            yield task, outcome


@contextmanager
def open_engine(*, workers: int | None, scheduler: "str | Client | None", progress: Progress) -> Iterator[Engine]:
    """Give the engine that is asked for.

    Args:
        workers: processes on this machine.
        scheduler: address of a scheduler that runs, or a client of one.
        progress: is told what is waited for.

    Raises:
        UserError: both are given, the extra is missing, or the scheduler cannot be used.
    """
    if workers is None and scheduler is None:
        yield Loop()
        return
    if workers is not None and scheduler is not None:
        raise UserError("--workers starts processes here and --scheduler uses those of a cluster; pass one of them")
    from eo_backbones.regions import dask_engine  # noqa: PLC0415 -- needs the extra, as do its imports

    opened = (
        dask_engine.local_cluster(workers, progress)
        if workers is not None
        else dask_engine.running_cluster(scheduler, progress)
    )
    with opened as engine:
        yield engine
