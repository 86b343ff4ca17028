"""The protocol ``segmentation``: a linear head on frozen feature maps that gives every pixel a class.

The head is a 1 x 1 convolution on the last two stages of the network, resized (bilinearly) to the class map and
concatenated. A 1 x 1 convolution and bilinear resampling commute, so the feature maps are never enlarged: the
convolution runs on the small maps, and only its logits are resized.

It is trained with cross-entropy on pixels drawn at random from the labelled images, equally many from each
(:data:`PIXELS` in all, ours), by the same solver and with the same choice of regularisation as the protocol
``logistic``. Pixels without a class, or without a value in a band, are neither drawn nor scored. Nothing but these
pixels is kept in memory or on disk: images stream through the network, labelled ones to draw pixels from, test images
to be scored, however many there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eo_backbones.datasets import LabelledImages
from eo_backbones.datasets.labelled import IGNORED, ClassMaps
from eo_backbones.datasets.splits import Split
from eo_backbones.device import inference
from eo_backbones.errors import UserError
from eo_backbones.evaluation.columns import Column
from eo_backbones.evaluation.encoders import WITHOUT_MAPS, Setting
from eo_backbones.evaluation.features import ModelInput, read_batches
from eo_backbones.evaluation.probes import logistic
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.progress import Tick

STAGES = 2
"""How many of the network's last stages the head sees; a ResNet50's have strides 16 and 32."""
PIXELS = 16_384
"""Pixels that the head is trained and validated on; 3,072 features of each are 200 MB."""
SHOWN = 6
"""Test images whose predicted maps are kept for the report."""
_IMAGES_AT_ONCE = 16  # of 256 x 256 pixels: bounds the activations to some hundred megabytes


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class PixelTask:
    """One head to train and evaluate.

    Attributes:
        data: the images.
        maps: their classes, pixel by pixel.
        column: the band or bands.
        setting: image size and scaling that the networks get.
        networks: label of each band of the column -> network in eval mode, on ``device``.
        split: images to learn from and to be scored on.
        seed: of the drawn pixels.
        device: where to compute.
        dtype: of the networks; bfloat16 runs under autocast.
    """

    data: LabelledImages
    maps: ClassMaps
    column: Column
    setting: Setting
    networks: Mapping[str, nn.Module]
    split: Split
    seed: int
    device: torch.device
    dtype: torch.dtype

    @property
    def labelled(self) -> np.ndarray:
        """Images whose classes may be used: train and validation."""
        return np.concatenate([self.split.train, self.split.val])

    def truth(self, row: int, valid: np.ndarray | bool = True) -> np.ndarray:
        """Return the class map of an image, int64 ``(height, width)``, without a class where it is not ``valid``."""
        return np.where(valid, self.maps.reader(self.data.paths[row]), IGNORED)

    def streamed(self, rows: np.ndarray, tick: Tick) -> Iterator[tuple[np.ndarray, list[Tensor], np.ndarray]]:
        """Yield the rows in small groups.

        Yields:
            Rows; their feature maps, float32 ``(images, channels, h, w)`` a stage; and the pixels that have a value in
            every band, bool ``(images, height, width)``.
        """
        parts = self.column.parts
        sources = list(dict.fromkeys(part.source for part in parts))
        inputs = [ModelInput(self.data, self.setting, part) for part in parts]

        def stages_of(raw: Tensor) -> list[Tensor]:
            with inference(self.device, self.dtype):
                by_part = [
                    feature_maps(self.networks[part.label], model_input(raw[:, sources.index(part.source)]))
                    for part, model_input in zip(parts, inputs, strict=True)
                ]
                return [self.column.join(stages).float() for stages in zip(*by_part, strict=True)]

        for start, raw in read_batches(self.data, sources, rows):
            for first in range(0, len(raw), _IMAGES_AT_ONCE):
                group = raw[first : first + _IMAGES_AT_ONCE]
                valid = group.isfinite().all(dim=1).numpy()
                yield rows[start + first : start + first + len(group)], stages_of(group.to(self.device)), valid
                tick(len(group))


@dataclass(frozen=True, eq=False, slots=True)
class Head:
    """A 1 x 1 convolution on all stages: ``weight (classes, channels of all stages)``, ``bias (classes,)``."""

    weight: Tensor
    bias: Tensor

    def logits(self, stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return ``(images, classes, *size)`` for maps ``(images, channels, h, w)``."""
        total = self.bias[:, None, None]
        for stage, weight in zip(
            stages, torch.split(self.weight, [stage.shape[1] for stage in stages], dim=1), strict=True
        ):
            small = F.conv2d(stage, weight[:, :, None, None])
            total = total + F.interpolate(small, size, mode="bilinear")
        return total


@dataclass(frozen=True, eq=False, slots=True)
class PixelPredictions:
    """What the head predicted for the test images.

    Attributes:
        confusions: of each image, int64 ``(n, classes, classes)``; row = true class.
        maps: predicted classes of the first images, uint8 ``(at most SHOWN, height, width)``.
    """

    confusions: np.ndarray
    maps: np.ndarray


def notes_on_models(data: LabelledImages, models: Sequence[str]) -> list[str]:
    """Return a note for each model that cannot have a row.

    Raises:
        UserError: the data has no class maps.
    """
    if data.maps is None:
        raise UserError(
            f"protocol segmentation needs a class for every pixel, which {data.name} does not have; use --dataset "
            "dfc2020"
        )
    return [f"{name} has no feature maps: no row for protocol segmentation" for name in models if name in WITHOUT_MAPS]


def feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps of a timm network's last stages for its input ``(images, 1, size, size)``, coarsest last."""
    take: Callable[..., list[Tensor]] = network.forward_intermediates  # type: ignore[assignment]
    return take(images, indices=STAGES, intermediates_only=True)


def at_pixels(stages: Sequence[Tensor], rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return the features of single pixels ``(pixels, channels of all stages)``, as bilinear enlargement gives them.

    Args:
        stages: maps of one image, ``(channels, h, w)`` each.
        rows: of the pixels.
        columns: of the pixels.
        size: height and width of the class map that they are counted in.
    """
    height, width = size
    position = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], axis=1)
    grid = torch.from_numpy(position).to(stages[0])[None, None]
    sampled = [
        F.grid_sample(stage[None], grid, padding_mode="border", align_corners=False)[0, :, 0] for stage in stages
    ]
    return torch.cat(sampled).T


def fit_predict(task: PixelTask, tick: Tick) -> PixelPredictions:
    """Train a head and return its predictions; every labelled and every test image is read once.

    Raises:
        UserError: the training or the validation images have no pixel with a class.
    """
    return predict(task, fit_head(draw_pixels(task, tick)), tick)


def draw_pixels(task: PixelTask, tick: Tick) -> Task:
    """Return the task of classifying pixels that are drawn from the labelled images; it has no test part.

    Raises:
        UserError: the training or the validation images have no pixel with a class.
    """
    images = task.labelled
    each = max(1, PIXELS // len(images))
    features: Tensor | None = None
    labels = np.empty(len(images) * each, np.int64)
    owners = np.empty_like(labels)
    filled = 0
    for rows, stages, valid in task.streamed(images, tick):
        if features is None:
            width = sum(stage.shape[1] for stage in stages)
            features = torch.empty(len(labels), width, device=task.device)
        for position, row in enumerate(rows.tolist()):
            truth = task.truth(row, valid[position])
            known = np.flatnonzero(truth != IGNORED)
            chosen = np.random.default_rng((task.seed, row)).choice(known, min(each, len(known)), replace=False)
            block = slice(filled, filled + len(chosen))
            size = (truth.shape[0], truth.shape[1])
            features[block] = at_pixels([stage[position] for stage in stages], *np.divmod(chosen, size[1]), size)
            labels[block], owners[block] = truth.ravel()[chosen], row
            filled += len(chosen)
    assert features is not None, "there are labelled images"
    parts = [np.flatnonzero(np.isin(owners[:filled], part)) for part in (task.split.train, task.split.val)]
    if min(map(len, parts)) == 0:
        raise UserError("the training or the validation images have no pixel with a class; use more images")
    return Task(
        features=features[:filled],
        labels=torch.from_numpy(labels[:filled]).to(task.device),
        split=Split(name=task.split.name, train=parts[0], val=parts[1], test=np.empty(0, np.int64)),
        num_classes=len(task.maps.classes),
        seed=task.seed,
    )


def fit_head(task: Task) -> Head:
    """Fit the head to single pixels; what standardises their features becomes part of its weights."""
    features = task.standardised(torch.float32)
    basis = logistic.row_space(features, task.index(task.labelled))
    classifier = logistic.fit_task(task, features if basis is None else features @ basis)
    standardised = classifier.weight if basis is None else classifier.weight @ basis.T
    mean, deviation = task.scaling()
    weight = standardised.double() / deviation
    return Head(weight.float(), (classifier.bias.double() - weight @ mean).float())


def predict(task: PixelTask, head: Head, tick: Tick) -> PixelPredictions:
    """Return the head's predictions for the test images."""
    classes = len(task.maps.classes)
    confusions: list[np.ndarray] = []
    shown: list[np.ndarray] = []
    for rows, stages, valid in task.streamed(task.split.test, tick):
        maps = [task.truth(row, one) for row, one in zip(rows.tolist(), valid, strict=True)]
        truth = torch.from_numpy(np.stack(maps)).to(task.device)
        predicted = head.logits(stages, (truth.shape[1], truth.shape[2])).argmax(dim=1)
        image = torch.arange(len(truth), device=task.device)[:, None, None]
        known = truth != IGNORED
        cells = ((image * classes + truth) * classes + predicted)[known]
        counts = torch.bincount(cells, minlength=len(truth) * classes**2)
        confusions.append(counts.reshape(-1, classes, classes).cpu().numpy())
        shown += list(predicted[: SHOWN - len(shown)].to(torch.uint8).cpu().numpy()) if len(shown) < SHOWN else []
    return PixelPredictions(np.concatenate(confusions), np.stack(shown))
