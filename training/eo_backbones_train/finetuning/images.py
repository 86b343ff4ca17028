"""The user's images: opened, divided into parts, checked one by one before anything is trained, and augmented."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eo_backbones.contract import InputSpec
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.splits import PARTS, Split, seeded_split, subset_of, with_validation
from eo_backbones.errors import UserError
from eo_backbones.evaluation import features
from eo_backbones.inputs import InputTransform
from eo_backbones.prediction.classify import model_input, refuse_wrong_unit, warn_of
from eo_backbones.rasters.reader import facts_of, split_request
from eo_backbones_train.data.views import draw_view_params, make_views
from eo_backbones_train.recipes.recipe import ViewPart

logger = logging.getLogger(__name__)

_ANY_VALUE = 1e4  # bound for images that are normalised each by itself, whose values have no fixed range
_CHECKED_TOGETHER = 64

Inputs = Callable[[np.ndarray, int], Iterator[tuple[int, Tensor]]]
"""Rows of images and batch size -> (position of the batch's first, model input), in order."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class OwnImages:
    """Labelled images as the input of a network.

    Attributes:
        data: the files.
        bands: canonical names of the bands to use, one a channel.
        transform: raw values to model input; the values were checked, so it does not check again.
        size_px: side that :meth:`inputs` resizes them to.
        device: of the network.
    """

    data: LabelledImages
    bands: tuple[str, ...]
    transform: InputTransform
    size_px: int
    device: torch.device

    def values(self, rows: np.ndarray, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (position in ``rows``, raw values ``(batch, bands, H, W)``) in order, read ahead."""
        for start, raw in features.read_batches(self.data, self.bands, rows, batch_size=size):
            yield start, raw.to(self.device)

    def inputs(self, rows: np.ndarray, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (position in ``rows``, model input ``(batch, bands, size_px, size_px)``) in order, read ahead."""
        for start, values in self.values(rows, size):
            yield start, model_input(values, self.transform, self.size_px)


def band_indices(bands: Sequence[str]) -> dict[str, int]:
    """Return the index, counted from 1, that the user gives each band; empty if none is given.

    Raises:
        UserError: some bands have an index and some have none.
    """
    requested = [split_request(item) for item in bands]
    indices = {name: index for name, index in requested if index is not None}
    if indices and len(indices) < len(requested):
        raise UserError(f"--bands {' '.join(bands)}: some bands have an index and some have none; give each one's")
    return indices


def chosen_bands(data: LabelledImages, bands: Sequence[str]) -> tuple[str, ...]:
    """Return canonical names of the bands to use.

    Raises:
        UserError: none is named and the images have several, or one is not in them.
    """
    if not bands and len(data.bands) > 1:
        raise UserError(f"the images have the bands {', '.join(data.bands)}; say with --bands which to use")
    return data.check_bands([split_request(item)[0] for item in bands] or data.bands)


def shorter_side(data: LabelledImages) -> int:
    """Return the shorter side of the images in pixels; all have the same size."""
    facts = facts_of(data.paths[0])
    return min(facts.width, facts.height)


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
    """Read every image once and compare its values with the unit it is said to have; doubts are logged.

    Raises:
        UserError: a damaged file, or values that cannot be in the unit.
    """
    data = images.data
    doubts: list[str] = []
    for start, raw in features.read_batches(data, images.bands, np.arange(len(data)), batch_size=_CHECKED_TOGETHER):
        for path, values in zip(data.paths[start:], raw, strict=False):
            doubt = refuse_wrong_unit(path, values, images.transform)
            doubts += [doubt] if doubt else []
        tick(len(raw))
    warn_of(doubts, len(data))


def divide(data: LabelledImages, *, seed: int, shots: int | None) -> Split:
    """Return which images train, validate and test: the user's own parts, else 60, 20 and 20 % of each class.

    Of parts without validation images, a fifth of each class's training images validates.

    Args:
        data: the images.
        seed: of split and subset.
        shots: training images of each class; ``None``: all.

    Raises:
        UserError: too few images of a class, or parts that cannot be used.
    """
    if data.official is None:
        if data.multilabel and len(data) < len(PARTS):
            raise UserError(f"{len(data)} images are too few: training, validation and test need one each; add some")
        split = seeded_split(data.strata, seed=seed, classes=data.classes)
        remedy = "label more images with it, or pass another --seed"
    else:
        train, val, test = (np.flatnonzero(data.official.parts == part) for part in PARTS)
        if len(train) == 0:
            raise UserError(f"{data.official.source} says train for no image; give each class some")
        if len(val) == 0:
            train, val = with_validation(data.strata, train, seed=seed)
            logger.warning(
                "%s says val for no image: %d of its %d training images validate, a fifth of each class",
                data.official.source,
                len(val),
                len(train) + len(val),
            )
        split = Split(name="given", train=train, val=val, test=test)
        remedy = f"change it in {data.official.source}"
    present = data.labels if data.multilabel else data.labels[:, None] == np.arange(len(data.classes))
    absent = np.flatnonzero(present.any(axis=0) & ~present[split.train].any(axis=0))
    if len(absent):
        raise UserError(
            f"no image of {', '.join(data.classes[label] for label in absent)} is in the training part; {remedy}"
        )
    if shots is None:
        return split
    train = subset_of(data.labels, split.train, shots=shots, seed=seed)
    return Split(name=split.name, train=train, val=split.val, test=split.test)


class Augmentation:
    """Makes one view of each image, which depends on (seed, step, position in the batch) alone.

    The trainer's views with what leaves the meaning of a labelled image alone: flips along both axes, rotation by any
    angle, a square crop of 70 to 100 % of the area, because an image from above has no upright side. No blur,
    brightness or contrast: absolute values tell land covers apart. All bands of an image, and the map of its classes,
    get the same view.
    """

    def __init__(self, spec: InputSpec, *, size_px: int, seed: int, device: torch.device) -> None:
        """Prepare for model inputs of the bands of ``spec``, ``size_px`` pixels wide and high."""
        self._views = ViewPart(
            size_px=size_px,
            crop_scale=(0.7, 1.0),
            flip_p=0.5,
            rotation_p=0.5,
            rotation_degrees=180.0,
            blur_p=0.0,
            blur_sigma=(0.0, 0.0),
            brightness=0.0,
            contrast=0.0,
        )
        self._seed = seed
        rows = []
        for entry in spec.bands:
            low, high = ((bound - entry.mean) / entry.std for bound in entry.clip)
            if spec.normalization == "image":
                low, high = -_ANY_VALUE, _ANY_VALUE
            rows.append((0.0, 1.0, 0.0, low, high, float("nan")))  # a value stands for itself, none for "missing"
        self._decode = torch.tensor(rows, device=device)

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """Return views ``(B, bands, size, size)`` of model inputs ``(B, bands, H, W)``."""
        return self._view(images, self._decode, step)

    def with_maps(self, images: Tensor, maps: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return views of square pieces of images, and of the same pieces of their maps.

        The pieces are ``size`` pixels a side, drawn anew each time: nothing is shrunk but what the view's own crop is
        enlarged by (up to a fifth).

        Args:
            images: model inputs ``(B, bands, H, W)``, neither side below ``size``.
            maps: class numbers, int64 ``(B, H, W)``, another number where there is none.
            step: counted from 0.
        """
        batch, bands, height, width = images.shape
        size = self._views.size_px
        draw = np.random.default_rng([self._seed, step])
        tops, lefts = (draw.integers(0, side - size + 1, batch) for side in (height, width))
        images, maps = (
            torch.stack([item[..., y : y + size, x : x + size] for item, y, x in zip(tensor, tops, lefts, strict=True)])
            for tensor in (images, maps)
        )
        # a plane for each class and one for "none": the class of a pixel of the view is that of most of its weight
        numbers = torch.unique(maps)
        planes = (maps[:, None] == numbers[:, None, None]).float()
        share = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0, float("nan")]], device=images.device)
        decode = torch.cat([self._decode, share.expand(len(numbers), -1)])
        views = self._view(torch.cat([images, planes], dim=1), decode, step)
        return views[:, :bands], numbers[views[:, bands:].argmax(dim=1)]

    def _view(self, planes: Tensor, decode: Tensor, step: int) -> Tensor:
        """Return the same view of all planes of an image, each decoded in its own way."""
        batch, number, height, width = planes.shape
        params = draw_view_params(self._views, seed=self._seed, step=step, global_batch=batch)[0].to(planes.device)
        views = make_views(
            planes.flatten(0, 1)[None],
            torch.tensor([height, width], device=planes.device).float().expand(1, batch * number, 2),
            decode.repeat(batch, 1)[None],
            params.repeat_interleave(number, dim=0)[None],
            self._views.size_px,
        )
        return views.view(batch, number, self._views.size_px, self._views.size_px)
