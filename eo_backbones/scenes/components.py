"""Principal components of a scene's features: a few values per cell instead of thousands.

Computed from all cells, or from a random sample (seed 0) where their features would take more than 256 MiB: 32,768
cells of 2,048 features. Cells without a value do not count. The sign of a component, which is arbitrary, is chosen so
that its largest weight is positive.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file

SAMPLE_BYTES = 256 * 2**20
"""How much the features of the cells that components are computed from may take."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Components:
    """An affine map from features to fewer values.

    Attributes:
        mean: subtracted first, float32 ``(features,)``.
        axes: orthonormal rows, strongest first, float32 ``(components, features)``.
        explained: share of the sample's variance along each, ``(components,)``.
        belongs_to: digest of weights, bands, units and fusion of the features.
    """

    mean: np.ndarray
    axes: np.ndarray
    explained: np.ndarray
    belongs_to: str

    def project(self, features: np.ndarray) -> np.ndarray:
        """Return ``(n, components)`` of features ``(n, features)``; NaN stays NaN."""
        projected: np.ndarray = (features - self.mean) @ self.axes.T
        return projected

    def save(self, path: Path) -> None:
        """Write them, so that another scene can be projected in the same way."""
        with atomic_file(path) as unfinished:
            np.savez(
                unfinished,
                mean=self.mean,
                axes=self.axes,
                explained=self.explained,
                belongs_to=np.array(self.belongs_to),
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read them back.

        Raises:
            UserError: no such file, or not one of these.
        """
        if not path.is_file():
            raise UserError(f"no file {path}; --components-from takes the .components.npz beside an embedding")
        try:
            with np.load(path, allow_pickle=False) as stored:
                fields = {name: stored[name] for name in ("mean", "axes", "explained")}
                return cls(**fields, belongs_to=str(stored["belongs_to"]))
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise UserError(f"{path} holds no components; pass the .components.npz beside an embedding") from error


def components_file(out: Path) -> Path:
    """Return where the components of an output are kept."""
    return out.with_name(f"{out.stem}.components.npz")


def principal_components(
    rows: Iterable[np.ndarray], valid: np.ndarray, count: int, *, belongs_to: str, sample_bytes: int = SAMPLE_BYTES
) -> Components:
    """Return the principal components of the cells that have a value.

    Args:
        rows: features of each row of cells, float32 ``(cols, features)``.
        valid: which cells have a value, bool ``(rows, cols)``.
        count: how many components.
        belongs_to: see :class:`Components`.
        sample_bytes: see :data:`SAMPLE_BYTES`.

    Raises:
        UserError: fewer cells, or features, than components.
    """
    return components_of(_sample(rows, valid, sample_bytes), count, belongs_to=belongs_to)


def components_of(sample: np.ndarray, count: int, *, belongs_to: str) -> Components:
    """Return the principal components of features ``(n, features)``, none of them missing; the array is overwritten.

    Args:
        sample: float32.
        count: how many components.
        belongs_to: see :class:`Components`.

    Raises:
        UserError: fewer cells, or features, than components.
    """
    cells, width = sample.shape
    if not 1 <= count <= min(cells - 1, width):
        raise UserError(
            f"{count} components cannot be computed from {cells:,} cells with {width:,} features; pass --components of "
            f"1 to {min(cells - 1, width)}, or a smaller --stride"
        )
    mean = sample.mean(axis=0, dtype=np.float64)
    sample -= mean.astype(np.float32)
    # the smaller of the two products has the same eigenvalues
    product = sample.T @ sample if width <= cells else sample @ sample.T
    values, vectors = np.linalg.eigh(product.astype(np.float64))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    axes = vectors.T if width <= cells else (sample.T.astype(np.float64) @ vectors).T
    axes = axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    strongest = np.abs(axes).argmax(axis=1)
    axes *= np.sign(axes[np.arange(count), strongest])[:, None]
    total = max(float(np.trace(product)), np.finfo(np.float64).tiny)
    return Components(
        mean=mean.astype(np.float32),
        axes=axes.astype(np.float32),
        explained=np.maximum(values, 0) / total,
        belongs_to=belongs_to,
    )


def _sample(rows: Iterable[np.ndarray], valid: np.ndarray, max_bytes: int) -> np.ndarray:
    """Return the features of all valid cells, or of as many as fit, float32 ``(n, features)``."""
    cells = np.flatnonzero(valid)
    chosen = np.zeros(valid.size, bool)
    chosen[cells] = True
    parts = []
    for number, row in enumerate(rows):
        if number == 0:
            max_cells = max(max_bytes // (4 * row.shape[1]), 2)
            if len(cells) > max_cells:
                dropped = np.random.default_rng(0).permutation(cells)[max_cells:]
                chosen[dropped] = False
        parts.append(row[chosen.reshape(valid.shape)[number]])
    return np.concatenate(parts)
