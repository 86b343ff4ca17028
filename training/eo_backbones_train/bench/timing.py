"""Timing of alternatives in turn, so that what disturbs a machine for a while disturbs all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
