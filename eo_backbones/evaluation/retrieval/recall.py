"""Recalls from features: of each band among the places of each other band."""

from collections.abc import Mapping, Sequence

import numpy as np

RANKS = (1, 5)
"""Lengths of the list of answers that are scored."""
_SMALLEST_DEVIATION = 1e-6  # of a feature that is the same everywhere


def places_before(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return how many other places are at least as similar as the place itself, int64 (bands, bands, N).

    Rows ask, columns answer. Of equal similarities, the place itself counts as the last: a collapsed encoder finds
    nothing.

    Args:
        found: band -> features (N, D) of the same N places.
    """
    directions = [_directions(values) for values in found.values()]
    before = np.empty((len(directions), len(directions), len(directions[0])), dtype=np.int64)
    for row, asked in enumerate(directions):
        for column, answers in enumerate(directions):
            similarity = asked @ answers.T
            before[row, column] = (similarity >= similarity.diagonal()[:, None]).sum(axis=1) - 1
    return before


def recall_matrix(found: Mapping[str, np.ndarray], *, rank: int) -> np.ndarray:
    """Return the recall of each band (row) among the places of each band (column), in [0, 1].

    Args:
        found: as in :func:`places_before`.
        rank: length of the list of answers.
    """
    shares: np.ndarray = (places_before(found) < rank).mean(axis=-1)
    return shares


def between(matrix: np.ndarray, bands: Sequence[str], first: Sequence[str], second: Sequence[str]) -> float:
    """Return the mean recall between two groups of bands, both directions, a band with itself left out."""
    places = {name: place for place, name in enumerate(bands)}
    pairs = [(a, b) for a in first for b in second if a != b]
    cells = [matrix[places[a], places[b]] for a, b in pairs] + [matrix[places[b], places[a]] for a, b in pairs]
    return float(np.mean(cells))


def _directions(values: np.ndarray) -> np.ndarray:
    standardised: np.ndarray = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), _SMALLEST_DEVIATION)
    lengths = np.linalg.norm(standardised, axis=1, keepdims=True)
    directions: np.ndarray = standardised / np.maximum(lengths, _SMALLEST_DEVIATION)
    return directions
