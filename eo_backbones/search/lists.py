"""Approximate search: inverted lists of faiss, which look at the cells near a query only.

k-means divides the cells among lists; a query looks into the few lists whose means are nearest (Jégou et al., "Product
quantization for nearest neighbor search", 2011, section V; `IndexIVF` of faiss). Lists keep vectors as float16 and give
twice as many candidates as are asked for, which the exact vectors then put in order. How many lists a query needs is
measured when the index is built: the fewest that find :data:`RECALL` of the ten nearest. The queries of that
measurement lie half-way between two cells drawn at random. They are harder than cells of the index, which have their
overlapping neighbours beside them, and an image from elsewhere has not (benchmarks/2026-11-25-search-stores.md).
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.progress import Progress
from eo_backbones.search.index import Lists, unit_length

CELLS_FROM = 50_000
"""With fewer cells an exact scan takes a few milliseconds, and there are no lists."""
RECALL = 0.95
_SAMPLES_A_LIST = 64  # for k-means; faiss warns below 39 and uses no more than 256
_ITERATIONS = 10
_ASKED = 100  # queries that recall is measured with
_NEAREST = 10
_BATCH = 100_000
_OVERSAMPLING = 2


def load_faiss() -> Any | None:
    """Return the module ``faiss``, which comes with an extra; ``None`` without it."""
    try:
        return import_module("faiss")
    except ImportError:
        return None


def build_lists(vectors: np.ndarray, path: Path, progress: Progress) -> Lists:
    """Write inverted lists of vectors, and measure how to ask them.

    Args:
        vectors: float32 ``(cells, features)`` of length 1.
        path: the file.
        progress: where progress is reported.
    """
    faiss = load_faiss()
    assert faiss is not None, "the caller has looked for it"
    count = 2 ** round(float(np.log2(2 * np.sqrt(len(vectors)))))
    index = faiss.index_factory(vectors.shape[1], f"IVF{count},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = _ITERATIONS
    rng = np.random.default_rng(0)
    with progress.stage("divide the cells among lists", len(vectors)) as tick:
        sample = np.sort(rng.choice(len(vectors), min(_SAMPLES_A_LIST * count, len(vectors)), replace=False))
        index.train(np.ascontiguousarray(vectors[sample]))
        for first in range(0, len(vectors), _BATCH):
            batch = np.ascontiguousarray(vectors[first : first + _BATCH])
            index.add(batch)
            tick(len(batch))
    faiss.write_index(index, str(path))
    ones, others = (vectors[rng.integers(len(vectors), size=_ASKED)] for _ in range(2))
    probes, recall = _measured(index, vectors, unit_length(ones + others))
    return Lists(lists=count, probes=probes, recall=recall)


def _measured(index: Any, vectors: np.ndarray, queries: np.ndarray) -> tuple[int, float]:
    """Return the fewest probes, a power of two, that find enough of the nearest cells, and the share that they find."""
    scores: np.ndarray = np.full((len(queries), _NEAREST), -np.inf, np.float32)
    nearest: np.ndarray = np.zeros((len(queries), _NEAREST), np.int64)
    for first in range(0, len(vectors), _BATCH):
        found = queries @ vectors[first : first + _BATCH].T
        best = np.argpartition(-found, min(_NEAREST, found.shape[1] - 1), axis=1)[:, :_NEAREST]
        scores = np.concatenate([scores, np.take_along_axis(found, best, axis=1)], axis=1)
        nearest = np.concatenate([nearest, best + first], axis=1)
        kept = np.argpartition(-scores, _NEAREST - 1, axis=1)[:, :_NEAREST]
        scores, nearest = (np.take_along_axis(part, kept, axis=1) for part in (scores, nearest))
    probes, recall = 1, 0.0
    while True:
        index.nprobe = probes
        candidates = index.search(queries, _OVERSAMPLING * _NEAREST)[1]
        shares = [np.isin(true, found).mean() for true, found in zip(nearest, candidates, strict=True)]
        recall = float(np.mean(shares))
        if recall >= RECALL or probes >= index.nlist:
            return probes, recall
        probes = min(2 * probes, index.nlist)


def candidates(path: Path, queries: np.ndarray, count: int, probes: int) -> np.ndarray:
    """Return the numbers of cells that are near any of the queries, sorted.

    Args:
        path: of the lists.
        queries: float32 ``(n, features)`` of length 1.
        count: how many cells are wanted.
        probes: how many lists to look into.

    Raises:
        UserError: the lists are damaged.
    """
    faiss = load_faiss()
    assert faiss is not None, "the caller has looked for it"
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise UserError(f"cannot read {path}; make the index again, or search with --exact") from error
    parameters = faiss.SearchParametersIVF(nprobe=min(probes, index.nlist))
    found = index.search(np.ascontiguousarray(queries), _OVERSAMPLING * count, params=parameters)[1]
    return np.unique(found[found >= 0])
