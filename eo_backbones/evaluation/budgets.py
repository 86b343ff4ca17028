"""How many labels a probe may use (a share of them, or a number a class), and the splits they are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_backbones.datasets import LabelledImages
from eo_backbones.datasets.splits import (
    STANDARD_LISTS,
    Split,
    official_split,
    seeded_split,
    standard_split,
    subset_of,
)
from eo_backbones.errors import UserError, unknown_name

SEEDED, STANDARD = "seeded", "standard"
SPLITS = (SEEDED, *STANDARD_LISTS)
SHOT_SUFFIX = "-shot"
"""What follows the number where a label budget is so many images of each class."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A share of the labels, or ``shots`` of each class in all (give one of the two).

    A share is taken of training and validation alike. Of N shots, a quarter (at least one) validate.
    """

    fraction: float = 1.0
    shots: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise UserError(f"label fraction {self.fraction:g} is not between 0 and 1; 0.1 keeps a tenth of the labels")
        if self.shots is not None and self.shots < 2:
            raise UserError(
                f"{self.shots} shots are too few: one image of each class trains, one validates; pass 2 or more"
            )

    def __str__(self) -> str:
        return f"{self.fraction:g}" if self.shots is None else f"{self.shots}{SHOT_SUFFIX}"

    def apply(self, split: Split, labels: np.ndarray, seed: int) -> Split:
        """Return the split with fewer labelled images, drawn by class; the test part stays whole.

        Raises:
            UserError: a class has fewer images than shots.
        """
        if self.shots is None:
            if self.fraction == 1:
                return split
            train, val = (
                subset_of(labels, part, fraction=self.fraction, seed=seed) for part in (split.train, split.val)
            )
        else:
            validating = max(1, self.shots // 4)
            wanted = ((split.train, self.shots - validating), (split.val, validating))
            for part, shots in wanted:
                rarest = int(np.unique(labels[part], return_counts=True)[1].min())
                if rarest < shots:
                    raise UserError(
                        f"{self.shots} shots: {self.shots - validating} images of each class train and {validating} "
                        f"validate, but a class has only {rarest} images in the part for {shots}; pass fewer"
                    )
            train, val = (subset_of(labels, part, shots=shots, seed=seed) for part, shots in wanted)
        return Split(name=split.name, train=train, val=val, test=split.test)


def make_splits(
    data: LabelledImages, name: str, seeds: Sequence[int], *, lists: Path | None, allow_missing: bool = False
) -> dict[int, Split]:
    """Return seed -> split.

    Args:
        data: the images.
        name: ``seeded`` (60/20/20 of each class, redrawn with each seed), ``standard`` (the data set's own) or
            ``spatial`` (EuroSAT).
        seeds: the seeds.
        lists: folder of EuroSAT's published lists.
        allow_missing: go on if lists name images that are not there.

    Raises:
        UserError: unknown name, a split that the data set does not have, no lists, or too few images.
    """
    if name not in SPLITS:
        raise unknown_name("split", name, SPLITS)
    if name == SEEDED:
        return {seed: seeded_split(data.strata, seed=seed, classes=data.classes) for seed in seeds}
    if name == STANDARD and data.official is not None:
        return {seed: official_split(data, seed=seed) for seed in seeds}
    if not data.name.startswith("eurosat"):
        raise UserError(f"{data.name} in this folder has no {name} split; pass --split seeded")
    if lists is None:
        raise UserError(f"the {name} split needs its lists; pass their folder, or use the seeded split")
    split = standard_split(data, lists, name=name, allow_missing=allow_missing)
    return dict.fromkeys(seeds, split)
