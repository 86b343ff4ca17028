"""The task ``classification``: one class an image, by a linear layer."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eo_backbones.datasets.class_folders import class_folders, label_table
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.splits import Split
from eo_backbones.errors import UserError
from eo_backbones.evaluation.metrics import weighted_f1
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones_train.finetuning.fit import (
    PREDICTIONS_FILE,
    FinetuneContext,
    FitResult,
    Goal,
    Learner,
    OpenedData,
    class_weights,
    fit,
)
from eo_backbones_train.finetuning.images import Augmentation, Inputs, band_indices, chosen_bands, shorter_side
from eo_backbones_train.finetuning.network import classifier_of, parameter_groups, pooled_features, train_mode
from eo_backbones_train.finetuning.scores import score
from eo_backbones_train.finetuning.settings import Settings

LARGEST_DEFAULT_PX = 224  # side beyond which images are shrunk unless --size says otherwise (ours)
_FEATURES_BATCH = 64
_CONSTANT = 1e-6  # standard deviation below which a feature says nothing


def open_data(path: Path, bands: Sequence[str], reading: ReadingOptions) -> OpenedData:
    """Open a folder of class folders or a table.

    Args:
        path: ``--data``.
        bands: names, or ``B04=4``; may be empty if the images have one band only.
        reading: what the user says about the stored values.

    Raises:
        UserError: whatever is wrong with the data or the bands.
    """
    indices = band_indices(bands)
    if path.is_dir():
        data = class_folders(path, positions=indices, reading=reading)
    elif path.is_file():
        data = label_table(path, positions=indices, reading=reading)
    else:
        raise UserError(f"no folder or table {path}; pass a folder of class folders, or a CSV file with path,label")
    return OpenedData(images=data, bands=chosen_bands(data, bands))


def training_size(images: LabelledImages, requested: int | None) -> int:
    """Return the side that images are resized to: as requested, else their own shorter one, up to 224."""
    return min(LARGEST_DEFAULT_PX, shorter_side(images)) if requested is None else requested


def check(split: Split, settings: Settings) -> None:
    """Allow everything: with at least two classes no step has a single image."""
    del split, settings


def train(context: FinetuneContext) -> FitResult:
    """Train the layer on features that are computed once (mode ``linear``), or the network on views of the images."""
    network, images, split, settings = context.network, context.images, context.split, context.settings
    spec: Any = network.eo_input
    labels = torch.from_numpy(images.data.labels)
    frozen = None
    if settings.mode == "linear":
        with context.progress.stage("features", len(split.train) + len(split.val)) as tick:
            frozen = FrozenFeatures(network, images.inputs, split, tick)
        learner = frozen.learner(network, labels.to(images.device), settings)
    else:
        views = Augmentation(spec, size_px=settings.size_px, seed=settings.seed, device=images.device)

        def batches(rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
            for start, inputs in images.inputs(rows, size):
                yield inputs, labels[rows[start : start + len(inputs)]].to(images.device)

        learner = Learner(
            module=network,
            groups=parameter_groups(network, settings),
            batches=batches,
            augment=lambda inputs, targets, step: (views(inputs, step), targets),
            to_train_mode=lambda: train_mode(network),
        )
    counts = np.bincount(images.data.labels[split.train], minlength=len(images.data.classes))
    goal = Goal(
        class_weights=class_weights(counts, settings), metric=weighted_f1, name="f1", eval_batch_size=settings.batch
    )
    with context.progress.stage("train", settings.epochs) as tick:
        result = fit(learner, goal, split, settings, folder=context.run, tracking=context.tracking, tick=tick)
    if frozen is not None:
        layer = learner.module
        assert isinstance(layer, nn.Linear)
        frozen.fold(layer, network)
    return result


def evaluate(context: FinetuneContext, folder: Path) -> dict[str, Any]:
    """Return the metrics of the validation and, if there are any, the test images; ``folder`` gets no picture."""
    del folder
    data, parts = context.images.data, {"val": context.split.val, "test": context.split.test}
    results: dict[str, Any] = {}
    probabilities: dict[str, Tensor] = {}
    with context.progress.stage("evaluate", len(context.split.val) + len(context.split.test)) as tick:
        for part, rows in parts.items():
            if len(rows):
                logits = _logits(context.network, context.images.inputs, rows, context.settings.batch)
                probabilities[part] = logits.softmax(dim=1)
                predicted = probabilities[part].argmax(dim=1).numpy()
                results[part] = score(data.labels[rows], predicted, data.classes)
                tick(len(rows))
    _write_predictions(context.run / PREDICTIONS_FILE, data, context.split, probabilities)
    return results


class FrozenFeatures:
    """Standardised features of the images that train and validate, for the mode ``linear``.

    Features are computed once, one linear layer is trained on them, and put back into the network. They are
    standardised because their scale differs from encoder to encoder by orders of magnitude; mean and deviation are then
    folded into the layer's weights, which is exact up to rounding.
    """

    def __init__(self, network: nn.Module, inputs: Inputs, split: Split, tick: Callable[[int], None]) -> None:
        """Compute them with a network in eval mode; ``tick`` is called with the number of images of each batch."""
        network.eval()
        rows = np.concatenate([split.train, split.val])
        parts = []
        with torch.no_grad():
            for _, images in inputs(rows, _FEATURES_BATCH):
                parts.append(pooled_features(network, images).float())
                tick(len(images))
        features = torch.cat(parts)
        train = features[: len(split.train)]
        self.mean = train.mean(dim=0)
        deviation = train.std(dim=0, correction=0)
        self.std = torch.where(deviation > _CONSTANT, deviation, torch.ones_like(deviation))
        self._features = (features - self.mean) / self.std
        self._index = {int(row): index for index, row in enumerate(rows)}

    def batches(self, labels: Tensor, rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield standardised features with the classes of their images; ``labels`` are those of all images."""
        indices = torch.tensor([self._index[int(row)] for row in rows], device=self._features.device)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            yield self._features[indices[part]], labels[rows[part]]

    def learner(self, network: nn.Module, labels: Tensor, settings: Settings) -> Learner:
        """Return the training of a new linear layer, which starts at zero; ``labels`` are on its device."""
        classifier = classifier_of(network)
        layer = nn.Linear(classifier.in_features, classifier.out_features, device=classifier.weight.device)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        groups = [
            {"params": [layer.weight], "lr_scale": 1.0, "weight_decay": settings.weight_decay},
            {"params": [layer.bias], "lr_scale": 1.0, "weight_decay": 0.0},
        ]
        return Learner(
            module=layer,
            groups=groups,
            batches=partial(self.batches, labels),
            augment=lambda features, targets, _: (features, targets),
            to_train_mode=layer.train,
        )

    @torch.no_grad()
    def fold(self, layer: nn.Linear, network: nn.Module) -> None:
        """Write a layer for standardised features into the network, as one for plain features."""
        weight = layer.weight.double() / self.std.double()
        classifier = classifier_of(network)
        classifier.weight.copy_(weight)
        classifier.bias.copy_(layer.bias.double() - weight @ self.mean.double())


@torch.no_grad()
def _logits(network: nn.Module, inputs: Inputs, rows: np.ndarray, batch_size: int) -> Tensor:
    """Return the network's logits for rows, in eval mode, ``(len(rows), classes)`` on the CPU."""
    network.eval()
    return torch.cat([network(batch).float().cpu() for _, batch in inputs(rows, batch_size)])


def _write_predictions(path: Path, data: LabelledImages, split: Split, probabilities: Mapping[str, Tensor]) -> None:
    """Write the prediction for each validation and test image, to look at what went wrong."""
    rows: dict[str, np.ndarray] = {"val": split.val, "test": split.test}
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "split", "label", "class", *(f"p_{name}" for name in data.classes)])
        for part, values in probabilities.items():
            for row, shares in zip(rows[part].tolist(), values, strict=True):
                truth, predicted = data.classes[data.labels[row]], data.classes[int(shares.argmax())]
                writer.writerow([data.paths[row], part, truth, predicted, *(f"{p:.6f}" for p in shares.tolist())])
