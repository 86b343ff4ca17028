"""What every figure rests on: the test images and a model's answers, kept beside ``results.csv``."""

import hashlib
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eo_backbones.evaluation.results import Key

FOLDER = "predictions"
NO_PROJECTION = np.empty((0, 2), np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class Predictions:
    """Answers for the test images of one figure.

    Attributes:
        test: row numbers of the test images ``(n,)``.
        predicted: class numbers ``(n,)``; several labels an image: bool ``(n, labels)``; classes of pixels: each
            image's confusion matrix ``(n, classes, classes)``.
        maps: predicted classes of the first test images' pixels, uint8 ``(images, height, width)``, if there are such.
        projection: the features' first two principal components ``(n, 2)``, or ``(0, 2)`` where they were not kept.
    """

    test: np.ndarray
    predicted: np.ndarray
    projection: np.ndarray
    maps: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))


def path_of(out: Path, key: Key) -> Path:
    """Return the file that belongs to a row."""
    return out / FOLDER / f"{hashlib.sha256(repr(astuple(key)).encode()).hexdigest()[:20]}.npz"


def write(out: Path, key: Key, predictions: Predictions) -> None:
    """Keep the answers behind a row; a file of the same row is replaced."""
    path = path_of(out, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.npz")
    np.savez_compressed(
        temporary, **{name: getattr(predictions, name) for name in ("test", "predicted", "projection", "maps")}
    )
    temporary.replace(path)


def read(out: Path, key: Key) -> Predictions | None:
    """Return the answers behind a row, or ``None`` if somebody removed them."""
    path = path_of(out, key)
    if not path.is_file():
        return None
    with np.load(path) as stored:
        return Predictions(**stored)


def principal_components(features: Tensor) -> np.ndarray:
    """Return the first two principal components of features ``(n, d)`` as float32 ``(n, 2)``, deviation 1 each."""
    centred = (features - features.mean(dim=0)).float()
    with torch.random.fork_rng(devices=[]):  # the range finder draws random directions
        torch.manual_seed(0)
        left, _, _ = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=4)
    pair = left[:, :2] * len(left) ** 0.5
    if pair.shape[1] < 2:
        pair = torch.cat([pair, torch.zeros(len(pair), 2 - pair.shape[1], device=pair.device)], dim=1)
    components: np.ndarray = pair.cpu().numpy()
    return components
