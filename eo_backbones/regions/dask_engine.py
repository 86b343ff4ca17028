"""Runs tasks on the workers of a Dask cluster: one that is started on this machine, or one that runs already.

Twice as many tasks as can run are with the scheduler at any time, so a client that is killed leaves only those behind.
What a worker that died was doing is given to another one; a scene that has ended several workers is left out.
"""

import logging
import os
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from queue import Empty, Queue
from typing import Any

import torch

from eo_backbones.device import fast_dtype, pick_device
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.progress import Progress
from eo_backbones.regions.engines import Outcome, Task, Told, attempt
from eo_backbones.regions.job import RegionJob, RunError, encoder_of
from eo_backbones.regions.layout import REGION_FILE

_CONNECT_SECONDS = 20
_WAIT_SECONDS = 20.0
_COUNT_SECONDS = 5.0  # how often workers are counted: they may come and go
_QUEUED = 2  # tasks with the scheduler for each one that runs
_SETTINGS = {
    # Dask's own but for MALLOC_TRIM_THRESHOLD_: with it each large tensor is mapped anew, which takes torch 1.7 times
    # the CPU time on windows of 64 pixels (docs/clusters.md)
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
    "distributed.scheduler.allowed-failures": 1,  # what is blamed for a second death runs once more, alone
}
"""Of a cluster that is started here."""
_COMPARED = {"python": 2, "dask": 3, "distributed": 3}
"""What must be the same on all machines -> so many parts of its version."""


class DaskEngine:
    """Runs tasks through a client, see :class:`eo_backbones.regions.engines.Engine`.

    Args:
        client: of the scheduler.
        progress: is told what is waited for.
        threads: of torch in each task; ``None``: what the worker's environment says.
        revive: called now and then while there is no worker at all; default: wait for one.
    """

    def __init__(
        self,
        client: Any,
        progress: Progress,
        threads: int | None = None,
        *,
        revive: Callable[[], object] | None = None,
    ) -> None:
        self._client, self._progress, self._threads = client, progress, threads
        self._revive = revive
        self._counted_at, self._slots = -_COUNT_SECONDS, 1

    @property
    def slots(self) -> int:
        """How many tasks run at the same time."""
        if time.monotonic() - self._counted_at >= _COUNT_SECONDS:
            self._counted_at = time.monotonic()
            self._slots = max(sum(self._client.nthreads().values()), 1)
        return self._slots

    def number_format(self, device: str) -> torch.dtype:
        """Return bfloat16 if all workers are fast in it, else float32, in which all can compute."""
        found = self._on_workers(_number_format, device)
        return torch.bfloat16 if set(found.values()) == {torch.bfloat16} else torch.float32

    def check(self, job: RegionJob) -> None:
        """Check that all workers see the folder and have the model; they load it."""
        problems = self._on_workers(_problem, job, sha256_of(job.folder / REGION_FILE))
        for worker, problem in problems.items():
            if problem is not None:
                raise RunError(f"worker {worker}: {problem}")

    def run(self, tasks: deque[Task], told: Told) -> Iterator[tuple[Task, Outcome]]:
        """Run tasks.

        Dask blames the death of a worker on all tasks that it had, also those that waited. A task that was blamed too
        often is therefore run once more, alone.
        """
        running: dict[str, Task] = {}
        futures: dict[str, Any] = {}
        blamed: deque[Task] = deque()
        done: Queue[str] = Queue()

        def submit(task: Task) -> None:
            key = f"{task.function.__name__}-{task.scene}-{uuid.uuid4().hex}"
            running[key] = task
            futures[key] = self._client.submit(_on_worker, task, self._threads, key=key, pure=False)
            futures[key].add_done_callback(lambda future: done.put(future.key))

        while tasks or running or blamed:
            alone = bool(blamed) and not running
            if alone:
                submit(blamed.popleft())
            while tasks and not blamed and not alone and len(running) < _QUEUED * self.slots:
                submit(tasks.popleft())
            key = self._next(done)
            task = running.pop(key)
            outcome = self._outcome(futures.pop(key))
            if outcome is None and not alone:
                blamed.append(task)
                continue
            if outcome is None:
                outcome = Outcome(
                    failure="each worker that embedded it died; the system may have killed them for memory"
                )
            if outcome.failure is None and task.cells:
                told(task, task.cells)
            yield task, outcome

    def _next(self, done: "Queue[str]") -> str:
        """Return the key of a task that has ended; say so while there is no worker to run any."""
        while True:
            try:
                return done.get(timeout=_WAIT_SECONDS)
            except Empty:
                if self._client.status == "running" and not self._client.nthreads():
                    self._progress.note(f"waiting for a worker of {self._client.scheduler.address}")
                    if self._revive is not None:
                        self._revive()

    def _outcome(self, future: Any) -> Outcome | None:
        """Return what became of a task, ``None`` if too many workers died that had it.

        Raises:
            RunError: it says so, or the scheduler is gone.
        """
        distributed = import_module("distributed")
        try:
            outcome: Outcome = future.result()
        except distributed.KilledWorker:
            return None
        except (distributed.CancelledError, OSError, TimeoutError) as error:
            raise RunError(
                f"lost the scheduler {self._client.scheduler.address}; what is finished is kept, the same command goes "
                "on when a scheduler runs again"
            ) from error
        if outcome.fatal is not None:
            raise RunError(outcome.fatal)
        return outcome

    def _on_workers(self, function: Any, *arguments: Any) -> Mapping[str, Any]:
        """Return what a function gives on each worker."""
        found = self._client.run(function, *arguments, on_error="return")
        for worker, value in found.items():
            if isinstance(value, ModuleNotFoundError):
                raise RunError(f"worker {worker} has no {value.name}; install eo-backbones {_ours()} there")
            if isinstance(value, BaseException):
                raise RunError(f"worker {worker}: {type(value).__name__}: {value}")
        return dict(found)


@contextmanager
def local_cluster(workers: int, progress: Progress) -> Iterator[DaskEngine]:
    """Start processes on this machine, which share its cores.

    Args:
        workers: how many.
        progress: is told what is waited for.

    Raises:
        UserError: fewer than one, the extra is missing, or they cannot be started.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: pass 1 or more, or leave it out to do all in one process")
    distributed = _load("--workers")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with _quiet(), import_module("dask").config.set(_SETTINGS):
        try:
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,  # tasks; each computes with several threads
                processes=True,
                memory_limit=0,  # a task needs a bounded amount, whatever the scene
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        except (RuntimeError, OSError, TimeoutError) as error:
            raise UserError(f"cannot start {workers} processes: {error}; pass fewer --workers, or none") from error
        with cluster, distributed.Client(cluster) as client:
            # a nanny starts its worker again when it has died, but gives up if that dies while it starts
            yield DaskEngine(client, progress, max(cores // workers, 1), revive=lambda: cluster.scale(workers))


@contextmanager
def running_cluster(scheduler: Any, progress: Progress) -> Iterator[DaskEngine]:
    """Use a cluster that runs; if it has no worker yet, wait for one.

    Args:
        scheduler: its address, or a client.
        progress: is told what is waited for.

    Raises:
        UserError: the extra is missing, the scheduler cannot be reached, or it or a worker runs other versions.
    """
    distributed = _load("--scheduler")
    with _quiet():
        if not isinstance(scheduler, str):
            yield _checked(scheduler, progress)
            return
        try:
            client = distributed.Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(
                f"no Dask scheduler answers at {scheduler} ({_first_line(error)}); pass the address that it tells when "
                "it starts, such as tcp://HOST:8786"
            ) from error
        with client:
            yield _checked(client, progress)


def _checked(client: Any, progress: Progress) -> DaskEngine:
    """Wait for a worker and compare versions."""
    address = client.scheduler.address
    while not client.nthreads():
        progress.note(f"waiting for a worker of {address}")
        try:
            client.wait_for_workers(1, timeout=_WAIT_SECONDS)
        except TimeoutError:
            continue
    found = client.get_versions()
    places = {f"scheduler {address}": found["scheduler"]}
    places |= {f"worker {worker}": told for worker, told in found["workers"].items()}
    for place, told in places.items():
        for name, compared in _COMPARED.items():
            there, here = (str(packages["packages"].get(name)) for packages in (told, found["client"]))
            if there.split(".")[:compared] != here.split(".")[:compared]:
                raise UserError(
                    f"the {place} runs {name} {there}, this command {here}; use the same version on all machines"
                )
    engine = DaskEngine(client, progress)
    packages = {f"worker {worker}": told for worker, told in engine._on_workers(_ours).items()}
    try:
        packages[f"scheduler {address}"] = client.run_on_scheduler(_ours)
    except ModuleNotFoundError as error:
        raise UserError(f"the scheduler {address} has no {error.name}; install eo-backbones {_ours()} there") from error
    for place, there in packages.items():
        if there != _ours():
            raise UserError(
                f"the {place} runs eo-backbones {there}, this command {_ours()}; use the same on all machines"
            )
    return engine


def _load(option: str) -> Any:
    try:
        return import_module("distributed")
    except ImportError as error:
        raise UserError(
            f"{option} needs Dask: pip install 'eo-backbones[scale]'; without it one process does all"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask logs of workers that come and go from the user's terminal."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():  # that versions differ, for one, which is told as an error
        warnings.filterwarnings("ignore", module="distributed")
        try:
            yield
        finally:
            logger.setLevel(before)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _ours() -> str:
    return version("eo-backbones")


def _number_format(device: str) -> torch.dtype:
    return fast_dtype(pick_device(device))


def _problem(job: RegionJob, digest: str) -> str | None:
    """Return why this process cannot do a job."""
    path = job.folder / REGION_FILE
    if not path.is_file() or sha256_of(path) != digest:
        return f"does not see {job.folder}; --out must be on a disk that all machines share, under the same path"
    try:
        encoder_of(job)
    except UserError as error:
        return " ".join(str(error).split())
    return None


def _on_worker(task: Task, threads: int | None) -> Outcome:
    if threads is not None:
        torch.set_num_threads(threads)
    return attempt(task, lambda cells: None)
