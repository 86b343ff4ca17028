"""What a fine-tuning works with, whatever its task."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.splits import Split
from eo_backbones_train.finetuning.own_images import OwnImages
from eo_backbones_train.finetuning.settings import Settings
from eo_backbones_train.finetuning.training import Fitted

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Name and number of steps of a part of the work -> what is told of steps done, as ``ProgressWatcher.stage``."""

PREDICTIONS_FILE = "predictions.csv"


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class OpenedData:
    """The user's images, opened.

    Attributes:
        images: the files with their classes.
        bands: canonical names of the bands to use, one a channel.
        mask_values: value of each class in the masks; empty for classification.
    """

    images: LabelledImages
    bands: tuple[str, ...]
    mask_values: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Work:
    """One fine-tuning, ready to begin.

    Attributes:
        network: on its device, frozen as the mode says.
        images: what it gets.
        split: which of them train, validate and test.
        settings: all else that decides the result.
        run: folder of the run.
        tensorboard: also write TensorBoard events.
        stage: shows progress.
    """

    network: nn.Module
    images: OwnImages
    split: Split
    settings: Settings
    run: Path
    tensorboard: bool
    stage: Stage


class Approach(Protocol):
    """What classification and segmentation do differently: a module with these functions."""

    def open_data(self, path: Path, bands: list[str], units: list[str]) -> OpenedData:
        """Open ``--data``, or say what is wrong with it."""

    def size(self, images: LabelledImages, asked: int | None) -> int:
        """Return the side of the images that a network is trained on: as asked for, or the default."""

    def check(self, split: Split, settings: Settings) -> None:
        """Refuse settings that these many images do not allow."""

    def train(self, work: Work) -> Fitted:
        """Train the network; it ends with the weights of the best epoch."""

    def judge(self, work: Work, folder: Path) -> dict[str, Any]:
        """Return the figures of validation and test images; write answers into the run, a picture into ``folder``."""
