"""Masks: one band of whole numbers that says for every pixel of an image which class it has.

A pixel has no class where the mask holds 255, its own nodata value, or NaN.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_backbones.datasets.labelled import IGNORED
from eo_backbones.datasets.raster import facts_of, read_positions
from eo_backbones.errors import UserError

LARGEST_VALUE = 65_534
"""Of a class: 65,535 is nodata in the 16-bit masks that are predicted."""


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask's file, and what it declares as nodata."""

    path: Path
    nodata: float | None

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what the mask holds, and where that is a class, bool; both ``(height, width)``.

        Raises:
            UserError: the file is damaged.
        """
        stored = read_positions(self.path, [1])[0]
        known = np.isfinite(stored) & (stored != IGNORED)
        if self.nodata is not None:
            known &= stored != self.nodata
        return stored, known

    def classes(self, values: np.ndarray) -> np.ndarray:
        """Return the place of each pixel's value in ``values``, int64 ``(height, width)``; :data:`IGNORED` for none.

        Args:
            values: of all classes, ascending.

        Raises:
            UserError: the file is damaged, or has changed since the values were collected.
        """
        stored, known = self.read()
        places = np.searchsorted(values, stored).clip(max=len(values) - 1)
        if (values[places] != stored)[known].any():
            raise UserError(f"{self.path} has changed while it was used; start again when it is finished")
        return np.where(known, places, IGNORED)


def masks_of(images: Sequence[Path], masks: Sequence[Path]) -> tuple[list[Mask], list[np.ndarray]]:
    """Return the masks with the values that occur in each, int64 ascending.

    Args:
        images: the images.
        masks: the mask of each.

    Raises:
        UserError: a file is damaged; masks with several bands, fractions, other values than 0 to 65,534, or another
            size than their image: all are named.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(_look, images, masks))
    problems = [f"{mask} {problem}" for mask, (problem, _, _) in zip(masks, found, strict=True) if problem]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(masks)} masks cannot be used: {'; '.join(problems)}. A mask has the size of its "
            f"image and one band with the number of each pixel's class, 0 to {LARGEST_VALUE} (255: no class)"
        )
    return [mask for _, mask, _ in found], [values for _, _, values in found]


def _look(image: Path, path: Path) -> tuple[str | None, Mask, np.ndarray]:
    """Return what is wrong with a mask, the mask, and its values."""
    own, facts = facts_of(image), facts_of(path)
    mask, values = Mask(path, facts.nodata), np.empty(0, np.int64)
    if facts.count != 1:
        return f"has {facts.count} bands", mask, values
    if (facts.width, facts.height) != (own.width, own.height):
        return f"has {facts.width} x {facts.height} pixels, its image {own.width} x {own.height}", mask, values
    stored, known = mask.read()
    held = np.unique(stored[known])
    wrong = held[(held != np.rint(held)) | (held < 0) | (held > LARGEST_VALUE)]
    if len(wrong):
        return f"holds {wrong[0]:g}", mask, values
    return None, mask, held.astype(np.int64)
