"""One probe to train: frozen features, labels, and which images it may learn from."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eo_backbones.datasets.splits import Split

_ROWS_AT_ONCE = 4096  # bounds the float32 copy that is made while half-precision features are standardised


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Task:
    """What a protocol is given.

    Attributes:
        features: ``(n, d)`` of all images, as extracted (any floating type), on the device to compute on.
        labels: class numbers, int64 ``(n,)``, or several labels an image, bool ``(n, labels)``; same device.
        split: the images to learn from (``train``, ``val``) and to be scored on (``test``).
        num_classes: number of classes, or of labels.
        seed: of everything random in the probe.
    """

    features: Tensor
    labels: Tensor
    split: Split
    num_classes: int
    seed: int

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @property
    def labelled(self) -> np.ndarray:
        """Every image whose label may be used: train and validation. All final classifiers are fitted on these."""
        return np.concatenate([self.split.train, self.split.val])

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the features over the training part, float64; infinity for constant ones."""
        train = self.index(self.split.train)
        mean = torch.zeros(self.features.shape[1], dtype=torch.float64, device=self.features.device)
        square = torch.zeros_like(mean)
        first = self.features[train[0]].double()  # shifted by any row, so that squares do not cancel
        for rows in torch.split(train, _ROWS_AT_ONCE):
            shifted = self.features[rows].double() - first
            mean += shifted.sum(dim=0)
            square += shifted.square().sum(dim=0)
        mean /= len(train)
        deviation = (square / len(train) - mean.square()).clamp_min(0).sqrt()
        mean += first
        deviation[deviation <= 1e-6 * mean.abs()] = torch.inf
        return mean, deviation

    def standardised(self, dtype: torch.dtype, *, out: Tensor | None = None) -> Tensor:
        """Return the features with mean 0 and deviation 1 over the training part, constant ones as 0.

        Args:
            dtype: of the result; mean and deviation are computed in float64.
            out: where to write it, of that dtype; new memory otherwise.
        """
        mean, deviation = self.scaling()
        result = torch.empty(self.features.shape, dtype=dtype, device=self.features.device) if out is None else out
        for start in range(0, len(result), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            result[block] = (self.features[block].double() - mean) / deviation
        return result

    def index(self, rows: np.ndarray) -> Tensor:
        """Return row numbers as a tensor beside the features."""
        return torch.from_numpy(rows).to(self.features.device)
