"""The values of cells and how files hold them: number formats, the coding of int8, the item that says what they are of.

``int8`` is coded per value of a cell (feature or component) by its own smallest and largest number in the scene:
``value = scale * code + offset``; code -128 means that the cell has no value. Elsewhere NaN does.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Self

import numpy as np

Rows = Callable[[], Iterator[np.ndarray]]
"""Gives all rows of cells from the first on, float32 ``(cols, numbers)`` each; may be called more than once."""
EmbeddingDtype = Literal["float32", "float16", "int8"]

TAG = "EO_BACKBONES"
"""Metadata item that holds, as JSON, what the embedding is of."""
INT8_NODATA = -128
_INT8_MAX = 127


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Int8Codes:
    """How each number of a cell becomes 8 bits.

    Attributes:
        scale: of the codes, more than 0, float64 ``(numbers,)``.
        offset: of the codes, float64 ``(numbers,)``.
    """

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[np.ndarray], numbers: int) -> Self:
        """Return the codes that span each number's range over all cells, ``(cols, numbers)`` a row."""
        low, high = np.full(numbers, np.inf), np.full(numbers, -np.inf)
        for row in rows:
            known = row[~np.isnan(row[:, 0])]
            if len(known):
                low, high = np.minimum(low, known.min(axis=0)), np.maximum(high, known.max(axis=0))
        span = high - low
        return cls(scale=np.where(span > 0, span / (2 * _INT8_MAX), 1.0), offset=(low + high) / 2)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes of values ``(..., numbers)``, int8."""
        codes = np.rint((values - self.offset) / self.scale).clip(-_INT8_MAX, _INT8_MAX)
        return np.where(np.isnan(codes), INT8_NODATA, codes).astype(np.int8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the values of codes ``(..., numbers)``, float32, NaN where there is none."""
        values: np.ndarray = (codes * self.scale + self.offset).astype(np.float32)
        values[codes == INT8_NODATA] = np.nan
        return values


def to_half(values: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to half precision; what is beyond its range becomes its largest number."""
    limit = np.finfo(np.float16).max
    return values.clip(-limit, limit).astype(np.float16).astype(np.float32)


def blocks_of(rows: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Yield rows of cells in blocks of ``count``, the last one perhaps with fewer: ``(n, cols, numbers)``."""
    rows = iter(rows)
    while block := list(islice(rows, count)):
        yield np.stack(block)
