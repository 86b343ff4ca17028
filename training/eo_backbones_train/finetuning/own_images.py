"""The user's images: opened, divided into parts, checked one by one before anything is trained."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eo_backbones.contract import InputSpec
from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.datasets.label_table import label_table
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.raster import facts_of, split_request
from eo_backbones.datasets.splits import PARTS, Split, seeded_split, subset_of
from eo_backbones.errors import UserError
from eo_backbones.evaluation import pixels
from eo_backbones.inputs import InputTransform
from eo_backbones.predict import model_input, refuse_wrong_unit

LARGEST_DEFAULT_PX = 224  # side beyond which images are shrunk unless --size says otherwise (ours)
_CHECKED_TOGETHER = 64


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class OwnImages:
    """Labelled images with what a network gets of them.

    Attributes:
        data: the files.
        bands: canonical names of the bands to use, one a channel.
        transform: raw values to model input; the values were checked, so it does not check again.
        size_px: side that a network gets.
        device: where it gets them.
    """

    data: LabelledImages
    bands: tuple[str, ...]
    transform: InputTransform
    size_px: int
    device: torch.device

    def inputs(self, rows: np.ndarray, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (position in ``rows``, model input ``(batch, bands, size_px, size_px)``) in order, read ahead."""
        for start, raw in pixels.batches(self.data, self.bands, rows, size=size):
            yield start, model_input(raw.to(self.device), self.transform, self.size_px)


def open_data(path: Path, *, bands: Sequence[str], units: Sequence[str]) -> tuple[LabelledImages, tuple[str, ...]]:
    """Open a folder of class folders or a table; return it with the bands to use.

    Args:
        path: ``--data``.
        bands: names, or ``B04=4``; may be empty if the images have one band only.
        units: as in :func:`eo_backbones.datasets.class_folders.class_folders`.

    Raises:
        UserError: whatever is wrong with the data or the bands.
    """
    asked = [split_request(item) for item in bands]
    positions = {name: place for name, place in asked if place is not None}
    if positions and len(positions) < len(asked):
        raise UserError(f"--bands {' '.join(bands)}: some bands have a place and some have none; give each one's place")
    if path.is_dir():
        data = class_folders(path, positions=positions, units=units)
    elif path.is_file():
        data = label_table(path, positions=positions, units=units)
    else:
        raise UserError(f"no folder or table {path}; pass a folder of class folders, or a CSV file with path,label")
    if not asked and len(data.bands) > 1:
        raise UserError(f"the images have the bands {', '.join(data.bands)}; say with --bands which to use")
    return data, data.check_bands([name for name, _ in asked] or data.bands)


def own_size(data: LabelledImages) -> int:
    """Return the side that images are brought to unless the user says one: their own shorter one, up to 224."""
    facts = facts_of(data.paths[0])
    return min(LARGEST_DEFAULT_PX, facts.width, facts.height)


def as_input(
    data: LabelledImages, bands: tuple[str, ...], spec: InputSpec, *, size_px: int, device: torch.device
) -> OwnImages:
    """Return the images as input of a model.

    Raises:
        UserError: the model does not take a band, or not in its unit.
    """
    units = [data.unit_of(name) for name in bands]
    transform = InputTransform(spec, band=bands, unit=units, check="off")
    return OwnImages(data=data, bands=bands, transform=transform, size_px=size_px, device=device)


def check_all(images: OwnImages, tick: Callable[[int], None]) -> None:
    """Read every image once and compare its values with the unit it is said to have.

    Raises:
        UserError: a damaged file, or values that cannot be in the unit.
    """
    data = images.data
    for start, raw in pixels.batches(data, images.bands, np.arange(len(data)), size=_CHECKED_TOGETHER):
        for path, values in zip(data.paths[start:], raw, strict=False):
            refuse_wrong_unit(path, values, images.transform)
        tick(len(raw))


def divide(data: LabelledImages, *, seed: int, shots: int | None) -> Split:
    """Return which images train, validate and test: the table's own parts, else 60, 20 and 20 % of each class.

    Args:
        data: the images.
        seed: of split and subset.
        shots: training images of each class; ``None``: all.

    Raises:
        UserError: too few images of a class, or parts that cannot be used.
    """
    if data.official is None:
        split = seeded_split(data.labels, seed=seed, classes=data.classes)
    else:
        rows = {part: np.flatnonzero(data.official.parts == part) for part in PARTS}
        split = Split(name="given", **rows)
        for part in ("train", "val"):
            if len(rows[part]) == 0:
                raise UserError(f"{data.official.source} says {part} for no image; give each class some")
        absent = [data.classes[label] for label in sorted({*data.labels.tolist()} - {*data.labels[split.train]})]
        if absent:
            raise UserError(f"no image of {', '.join(absent)} is in the training part ({data.official.source})")
    if shots is None:
        return split
    train = subset_of(data.labels, split.train, shots=shots, seed=seed)
    return Split(name=split.name, train=train, val=split.val, test=split.test)
