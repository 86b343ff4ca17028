"""Does the encoder still tell scenes apart? Metrics that show collapse long before the loss does.

A non-contrastive loss is smallest when every image gets one vector (reported in torchgeo#3998: standard deviation
0.0000 while the loss fell by 30 %), so the loss cannot show it. The monitor keeps the pooled encoder features of the
last steps, L2-normalised, at least ``SCENES`` of them, and computes:

* ``std``: root mean square over the features of their standard deviation over the scenes, times the square root of
  their number: 1 if the vectors point everywhere, 0 if all are equal (Chen and He, SimSiam, 2021, section 4.1).
* ``rank``: effective rank, the exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007;
  RankMe, Garrido et al. 2023), of the centred vectors of both sensors together. At most the number of vectors.
* ``cosine_different``: mean cosine between different scenes of one sensor; ``cosine_same``: between the two sensors'
  views of one scene. Features that tell scenes apart have the second above the first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SCENES = 64  # the standard deviation of fewer vectors is noise
COLLAPSED_STD = 0.02  # cosine between different scenes above 0.9996
COLLAPSED_READINGS = 3  # in a row: early training may pass through a dip


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Metrics of the embeddings at one step, defined in the module's docstring.

    Attributes:
        std: of the Sentinel-2 and the Sentinel-1 view.
        scenes: number of different scenes that they were computed on.
    """

    std: tuple[float, float]
    rank: float
    cosine_different: float
    cosine_same: float
    scenes: int

    @property
    def collapsed(self) -> bool:
        """Whether one sensor's embeddings are nearly equal, on enough scenes to tell."""
        return self.scenes >= SCENES and min(self.std) < COLLAPSED_STD

    def record(self) -> dict[str, float]:
        """Return the metrics under their names in ``metrics.jsonl``."""
        return {
            "std_s2": self.std[0],
            "std_s1": self.std[1],
            "effective_rank": self.rank,
            "cosine_different": self.cosine_different,
            "cosine_same": self.cosine_same,
            "monitored_scenes": self.scenes,
        }


class EmbeddingMonitor:
    """The embeddings of the last steps, kept on the compute device so that adding to them never waits for it."""

    def __init__(self, *, pairs: int) -> None:
        """Keep as many steps as hold ``SCENES`` pairs, and of a large batch at most four times as many pairs."""
        self._pairs = min(pairs, 4 * SCENES)
        self._steps = math.ceil(SCENES / pairs)
        self._embeddings: Tensor | None = None  # [2, steps, pairs, features]
        self._scenes: Tensor | None = None  # [steps, pairs]
        self._added = 0

    def add(self, embeddings: Tensor, scenes: Tensor) -> None:
        """Add one step: ``embeddings`` [2, B, D], ``scenes`` [B]."""
        embeddings, scenes = embeddings[:, : self._pairs], scenes[: self._pairs]
        if self._embeddings is None or self._scenes is None:
            views, pairs, features = embeddings.shape
            self._embeddings = torch.zeros(views, self._steps, pairs, features, device=embeddings.device)
            self._scenes = torch.zeros(self._steps, pairs, dtype=torch.int64, device=scenes.device)
        slot = self._added % self._steps
        self._embeddings[:, slot].copy_(embeddings)
        self._scenes[slot].copy_(scenes)
        self._added += 1

    def read(self) -> Reading | None:
        """Return the metrics, or None before enough steps were added."""
        if self._embeddings is None or self._scenes is None or self._added < self._steps:
            return None
        embeddings = F.normalize(self._embeddings.flatten(1, 2), dim=-1)
        scenes = self._scenes.flatten()
        return Reading(
            std=(normalized_std(embeddings[0]), normalized_std(embeddings[1])),
            rank=effective_rank(embeddings.flatten(0, 1)),
            cosine_different=mean_cosine_between_scenes(embeddings, scenes),
            cosine_same=float((embeddings[0] * embeddings[1]).sum(-1).mean()),
            scenes=len(set(scenes.tolist())),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs so that the next reading is that of an uninterrupted run."""
        if self._embeddings is None or self._scenes is None:
            return {"added": 0}
        return {"added": self._added, "embeddings": self._embeddings, "scenes": self._scenes}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from a saved state; one taken with another number of pairs is dropped."""
        if state["added"] and state["embeddings"].shape[1:3] == (self._steps, self._pairs):
            self._added = state["added"]
            self._embeddings = state["embeddings"].to(device)
            self._scenes = state["scenes"].to(device)


class CollapseDetector:
    """Counts collapsed readings in a row, once warm-up is over."""

    def __init__(self, *, after_step: int) -> None:
        """Ignore readings up to ``after_step`` completed steps."""
        self._after_step = after_step
        self.count = 0

    def update(self, step: int, reading: Reading) -> bool:
        """Add a reading after ``step`` completed steps; return whether the run has collapsed."""
        if step <= self._after_step:
            return False
        self.count = self.count + 1 if reading.collapsed else 0
        return self.count >= COLLAPSED_READINGS


def normalized_std(vectors: Tensor) -> float:
    """Return the standard deviation of unit vectors [N, D], scaled so that 1 is isotropic and 0 is one point."""
    variance = vectors.var(dim=0, correction=0)
    return float((variance.mean() * vectors.shape[1]).sqrt())


def effective_rank(vectors: Tensor) -> float:
    """Return exp(entropy) of the singular values, normalised to sum 1, of centred unit vectors [N, D].

    It is 0 for vectors that are all equal.
    """
    centred = (vectors - vectors.mean(dim=0)).double()
    # The Gram matrix has the squared singular values and is small: N is at most a few hundred.
    squared = torch.linalg.eigvalsh(centred @ centred.T).clamp_min(0)
    singular = squared.sqrt()
    # Unit vectors in float32: smaller values are rounding, not directions.
    singular = singular[singular > 1e-6 * math.sqrt(len(vectors))]
    if singular.numel() == 0:
        return 0.0
    share = singular / singular.sum()
    return float((-(share * share.log()).sum()).exp())


def mean_cosine_between_scenes(embeddings: Tensor, scenes: Tensor) -> float:
    """Return the mean cosine over all pairs of different scenes of one sensor.

    Args:
        embeddings: unit vectors [2, N, D].
        scenes: scene of each vector [N]; NaN is returned where all are the same.
    """
    different = scenes[:, None] != scenes[None, :]
    cosines = embeddings @ embeddings.transpose(1, 2)
    return float(cosines[:, different].mean())
