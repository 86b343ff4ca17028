"""The nearest cells of an index: by an exact scan, which is the truth, or through its inverted lists.

The score of a cell is its largest cosine with any of the queries.
"""

import numpy as np

from eo_backbones.search.index import SearchIndex
from eo_backbones.search.lists import candidates, load_faiss

_BLOCK_BYTES = 16 * 2**20  # of vectors, and of scores: about the size of a processor's cache


def nearest(
    index: SearchIndex, queries: np.ndarray, count: int, *, allowed: np.ndarray | None = None, exact: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers and scores of the nearest cells, best first; equal ones by their number.

    Args:
        index: the cells.
        queries: float32 ``(n, features)`` of length 1.
        count: how many; fewer are returned where there are fewer.
        allowed: bool ``(cells,)``: the cells that may be returned; these are always scanned exactly.
        exact: scan all cells, although there are lists.
    """
    if exact or allowed is not None or not has_lists(index):
        return scan(index.vectors, queries, count, allowed=allowed)
    assert index.lists is not None
    probes = index.lists.probes
    while True:
        found = candidates(index.lists_file, queries, count, probes)
        if len(found) >= min(count, len(index.vectors)) or probes >= index.lists.lists:
            return _best(found, scores_of(index.vectors[found], queries), count)
        probes *= 4


def has_lists(index: SearchIndex) -> bool:
    """Return whether an index has inverted lists, and faiss to ask them is there."""
    return index.lists is not None and load_faiss() is not None


def scan(
    vectors: np.ndarray, queries: np.ndarray, count: int, *, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers and scores of the nearest vectors after looking at each of them; see :func:`nearest`."""
    step = max(_BLOCK_BYTES // (4 * max(vectors.shape[1], len(queries))), 1)
    numbers, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for first in range(0, len(vectors), step):
        part = slice(first, first + step)
        if allowed is not None and not allowed[part].any():
            continue
        found = scores_of(vectors[part], queries)
        chosen = np.arange(len(found)) if allowed is None else np.flatnonzero(allowed[part])
        if len(chosen) > count:
            chosen = chosen[np.argpartition(-found[chosen], count - 1)[:count]]
        numbers, scores = _best(
            np.concatenate([numbers, chosen + first]), np.concatenate([scores, found[chosen]]), count
        )
    return numbers, scores


def scores_of(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the largest cosine of each vector ``(n, features)`` with any query ``(m, features)``, all of length 1."""
    if len(queries) == 1:
        single: np.ndarray = vectors @ queries[0]
        return single
    largest: np.ndarray = (vectors @ queries.T).max(axis=1)
    return largest


def _best(numbers: np.ndarray, scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((numbers, -scores))[:count]
    return numbers[order], scores[order]
