"""Timing of alternatives in turn, so that what disturbs a machine for a while disturbs all of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import torch

from eo_backbones_train.pretraining.run_options import Machine, apply

Stopwatch = Callable[[Callable[[], object], torch.device], float]
"""Work and the device it runs on -> the seconds it took, as :func:`seconds`."""


def seconds(
    work: Callable[[], object], device: torch.device, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return how long ``work`` takes, on CUDA until the GPU is done."""
    _wait(device)
    begin = clock()
    work()
    _wait(device)
    return clock() - begin


def in_turn(stopwatches: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Take each stopwatch once for warming up, then all of them in each of ``rounds`` rounds.

    Args:
        stopwatches: name -> does its work and returns the seconds it took.
        rounds: how often.

    Returns:
        Name -> one time for each round.
    """
    for stopwatch in stopwatches.values():
        stopwatch()
    times: dict[str, list[float]] = {name: [] for name in stopwatches}
    for _ in range(rounds):
        for name, stopwatch in stopwatches.items():
            times[name].append(stopwatch())
    return times


def times_faster(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median over the rounds of ``slow / fast``: both of a round met the same disturbance."""
    return median(one / other for one, other in zip(slow, fast, strict=True))


@contextmanager
def set_up_as(machine: Machine) -> Iterator[None]:
    """Set torch up as a training run with these settings does, for a while."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only, benchmark = torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.cudnn.benchmark
    apply(machine)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
