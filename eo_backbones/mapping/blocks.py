"""Which labelled points are held out together: squares on the ground, and folds of whole squares.

Neighbouring places look alike, and windows that overlap share pixels, so a classifier that is tested beside its own
training points looks better than it is (Roberts et al. 2017, doi:10.1111/ecog.02881). Points are therefore held out by
squares on the ground; and while a square is held out, points outside it whose windows overlap one of its windows are
not learned from either (Le Rest et al. 2014, doi:10.1111/geb.12161).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.scenes.grid import EARTH_RADIUS_M

FOLDS = 10
"""Folds of a cross-validation, fewer where there are fewer blocks (Kohavi 1995 recommends ten)."""
MEASURED_FOLDS = 5
"""Folds to measure with; each takes a whole cross-validation of the other points."""
BLOCKS_OF_A_CLASS = 3
"""Blocks that each class needs: one is held out to measure, one to calibrate, one is left to learn from."""
WINDOWS_A_BLOCK = 4
"""Side of a block in windows, unless given: most neighbours then lie in the same block (ours)."""
_PAIRS_AT_ONCE = 2**22  # bounds the distances in memory: 32 MiB


def metres(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return places in metres on a sinusoidal projection around their middle, float64 ``(n, 2)``.

    Distances between near places are right to a few per cent within some ten degrees; the 180th meridian is no edge.
    """
    turns = np.exp(1j * np.radians(lon))
    middle = math.degrees(float(np.angle(turns.mean())))
    east = (lon - middle + 180) % 360 - 180
    flat: np.ndarray = EARTH_RADIUS_M * np.radians(np.stack([east * np.cos(np.radians(lat)), lat], axis=1))
    return flat


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Blocks:
    """Blocks of neighbouring points.

    Attributes:
        of_point: number of the block of each point, int64 ``(n,)``.
        side_m: side of a block in metres.
        window_m: side of a window; nearer points share pixels.
        close: pairs of points of different blocks that share pixels, int64 ``(pairs, 2)``, each in both orders.
    """

    of_point: np.ndarray
    side_m: float
    window_m: float
    close: np.ndarray

    @classmethod
    def of(cls, places: np.ndarray, *, side_m: float, window_m: float) -> "Blocks":
        """Put points into squares.

        Args:
            places: metres ``(n, 2)``.
            side_m: of the squares.
            window_m: windows are squares of this side around the points.
        """
        squares = np.floor((places - places.min(axis=0)) / side_m).astype(np.int64)
        _, of_point = np.unique(squares, axis=0, return_inverse=True)
        of_point = of_point.reshape(-1)
        return cls(of_point=of_point, side_m=side_m, window_m=window_m, close=_close(places, of_point, window_m))

    @property
    def number(self) -> int:
        """How many blocks there are."""
        return len(np.unique(self.of_point))


def _close(places: np.ndarray, of_point: np.ndarray, window_m: float) -> np.ndarray:
    """Return the pairs of points of different blocks whose windows overlap, ``(pairs, 2)``."""
    rows = max(1, _PAIRS_AT_ONCE // len(places))
    pairs = []
    for start in range(0, len(places), rows):
        apart = np.abs(places[start : start + rows, None] - places[None]).max(axis=2)
        near = (apart < window_m) & (of_point[start : start + rows, None] != of_point[None])
        first, second = np.nonzero(near)
        pairs.append(np.stack([first + start, second], axis=1))
    return np.concatenate(pairs)


@dataclass(frozen=True, eq=False, slots=True)
class Fold:
    """Points to hold out and points to learn from meanwhile, int64 indices in ascending order."""

    held_out: np.ndarray
    train: np.ndarray


def folds(blocks: Blocks, labels: np.ndarray, points: np.ndarray, number: int = FOLDS) -> list[Fold]:
    """Deal the blocks of some points into folds, so that each class is spread over the folds as evenly as they allow.

    Args:
        blocks: of all points.
        labels: class of every point ``(n,)``.
        points: the points to deal, ascending indices.
        number: of folds at most.

    Returns:
        The folds. Every point is held out once, with all of its block.
    """
    names, members = np.unique(blocks.of_point[points], return_inverse=True)
    counts = np.zeros((len(names), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (members, labels[points]), 1)
    number = min(number, len(names))
    dealt = np.zeros((number, counts.shape[1]), np.int64)
    fold_of_block = np.empty(len(names), np.int64)
    for block in np.argsort(-counts.sum(axis=1), kind="stable"):
        of_its_classes = dealt[:, counts[block] > 0].sum(axis=1)
        chosen = np.lexsort((dealt.sum(axis=1), of_its_classes))[0]
        fold_of_block[block] = chosen
        dealt[chosen] += counts[block]
    of_point = fold_of_block[members]
    made = []
    for fold in range(number):
        held_out = points[of_point == fold]
        beside = blocks.close[np.isin(blocks.close[:, 0], held_out), 1]
        made.append(Fold(held_out, np.setdiff1d(points[of_point != fold], beside)))
    return made


def least_points(error_rate: float) -> int:
    """Return how many calibration points a conformal set of an error rate needs: ``ceil((n + 1)(1 - rate)) <= n``.

    With fewer, every set holds every class.
    """
    return math.ceil(1 / error_rate - 1 - 1e-9)


def choose_blocks(
    places: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    window_m: float,
    cell_m: float,
    error_rate: float,
    side_m: float | None = None,
) -> Blocks:
    """Return blocks that leave enough points for learning, calibration and measurement.

    Unless their side is given: four windows, halved (not below a cell) while the points are too few for it.

    Args:
        places: of the points in metres ``(n, 2)``.
        labels: their classes ``(n,)``.
        classes: names.
        window_m: side of a window.
        cell_m: side of a cell.
        error_rate: of the conformal sets.
        side_m: side of a block, if given.

    Raises:
        UserError: the points are too few, or too near each other; says how many more of which class are needed.
    """
    problem: UserError | None = None
    for side in [side_m] if side_m is not None else _sides(window_m, cell_m):
        blocks = Blocks.of(places, side_m=side, window_m=window_m)
        problem = _shortage(blocks, labels, classes, error_rate, given=side_m is not None)
        if problem is None:
            return blocks
    assert problem is not None, "at least one side was tried"
    raise problem


def _sides(window_m: float, cell_m: float) -> Iterator[float]:
    side = WINDOWS_A_BLOCK * window_m
    while side > cell_m:
        yield side
        side /= 2
    yield cell_m


def _shortage(
    blocks: Blocks, labels: np.ndarray, classes: Sequence[str], error_rate: float, *, given: bool
) -> UserError | None:
    """Return what is missing for these blocks, ``None`` if they do."""
    apart = f"{blocks.side_m:,.0f} m"
    smaller = ", or pass a smaller --block" if given and blocks.side_m > blocks.window_m else ""
    lacking = []
    for number, name in enumerate(classes):
        found = len(np.unique(blocks.of_point[labels == number]))
        if found < BLOCKS_OF_A_CLASS:
            lacking.append(f"{name} in {found} ({BLOCKS_OF_A_CLASS - found} more)")
    if lacking:
        return UserError(
            f"every class needs points in {BLOCKS_OF_A_CLASS} places at least {apart} apart, to be learned, calibrated "
            f"and measured: {', '.join(lacking)}; add points there{smaller}"
        )
    outer = folds(blocks, labels, np.arange(len(labels)), MEASURED_FOLDS)
    needed = least_points(error_rate)
    for fold in outer:
        lost = [name for number, name in enumerate(classes) if not (labels[fold.train] == number).any()]
        if lost:
            return UserError(
                f"while the points of one block of {apart} are held out, no point of {', '.join(lost)} is left whose "
                f"window overlaps none of theirs; add points of it at least {blocks.window_m:,.0f} m from all others"
            )
    short = needed - min(len(fold.train) for fold in outer)
    if short > 0:
        return UserError(
            f"{len(labels)} labelled cells are too few for --error-rate {error_rate:g}: {needed} must be left while a "
            f"block of {apart} is held out; add {short} points at least {apart} from the others{smaller}, or pass "
            f"--error-rate {_rate_for(needed - short)}"
        )
    return None


def _rate_for(points: int) -> str:
    """Return the smallest error rate in hundredths that so many points allow."""
    return f"{min(math.ceil(100 / (points + 1) - 1e-9) / 100, 0.5):g}"
