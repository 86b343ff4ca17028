"""The task ``segmentation``: a class for every pixel, by a decoder on the encoder's feature maps.

Nothing is shrunk: training sees squares of ``size_px`` pixels cut out of the images, validation and test whole images.
"""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor, nn

from eo_backbones.bands import BANDS
from eo_backbones.datasets.labelled import IGNORED, LabelledImages
from eo_backbones.datasets.mask_folders import mask_folders, mask_table
from eo_backbones.datasets.splits import Split
from eo_backbones.errors import UserError
from eo_backbones.evaluation.metrics import Counts, accuracy, confusion_matrix, mean_iou
from eo_backbones.evaluation.plots import png
from eo_backbones.networks.segmentation import STRIDES, require_decoder
from eo_backbones.prediction.mask_file import class_colours
from eo_backbones.progress import Tick
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones.rasters.reader import facts_of
from eo_backbones_train.finetuning.fit import (
    NO_CLASS,
    PREDICTIONS_FILE,
    FinetuneContext,
    FitResult,
    Goal,
    Learner,
    OpenedData,
    class_weights,
    fit,
)
from eo_backbones_train.finetuning.images import Augmentation, OwnImages, band_indices, chosen_bands, shorter_side
from eo_backbones_train.finetuning.network import parameter_groups, train_mode
from eo_backbones_train.finetuning.scores import score_pixels
from eo_backbones_train.finetuning.settings import Settings

EXAMPLES_FILE = "examples.png"
LARGEST_DEFAULT_PX = 256  # side of the squares that are cut out of larger images unless --size says otherwise (ours)
SHOWN = 6
"""Images in the picture, at most."""

_INCHES, _LEGEND_INCHES = 1.9, 1.7
_ROWS_OF_LEGEND = 24  # more classes get a second column
_NO_CLASS = "#ffffff"


def open_data(path: Path, bands: Sequence[str], reading: ReadingOptions) -> OpenedData:
    """Open a folder with ``images`` and ``masks``, or a table.

    Args:
        path: ``--data``.
        bands: names, or ``B04=4``; may be empty if the images have one band only.
        reading: what the user says about the stored values.

    Raises:
        UserError: the decoder's package is missing, or whatever is wrong with the data or the bands.
    """
    require_decoder()
    indices = band_indices(bands)
    if path.is_dir():
        opened = mask_folders(path, positions=indices, reading=reading)
    elif path.is_file():
        opened = mask_table(path, positions=indices, reading=reading)
    else:
        raise UserError(
            f"no folder or table {path}; pass a folder that holds images and masks, or a CSV file with path,mask"
        )
    return OpenedData(images=opened.data, bands=chosen_bands(opened.data, bands), mask_values=opened.values)


def training_size(images: LabelledImages, requested: int | None) -> int:
    """Return the side of the squares to train on: as requested, else the images' shorter one, up to 256.

    Raises:
        UserError: the images are smaller.
    """
    shorter = shorter_side(images)
    if requested is not None and requested > shorter:
        raise UserError(
            f"--size is {requested}, but the images' shorter side has {shorter} pixels, and images to segment are cut, "
            f"not enlarged; give {shorter} or less"
        )
    return min(LARGEST_DEFAULT_PX, shorter) if requested is None else requested


def check(split: Split, settings: Settings) -> None:
    """Refuse what BatchNorm cannot learn from: one image a step whose last feature map is a single cell.

    Raises:
        UserError: there is one training image, so small, and the encoder is to learn.
    """
    if settings.mode != "linear" and len(split.train) == 1 and settings.size_px <= STRIDES[-1]:
        raise UserError(
            f"--mode {settings.mode} cannot learn from one training image of {settings.size_px} pixels; give more "
            "images, or larger ones, or take --mode linear"
        )


def train(context: FinetuneContext) -> FitResult:
    """Train the decoder, and what the mode says of the encoder, on squares of the images."""
    network, images, settings = context.network, context.images, context.settings
    spec: Any = network.eo_input
    views = Augmentation(spec, size_px=settings.size_px, seed=settings.seed, device=images.device)
    train_mode(network)
    learner = Learner(
        module=network,
        groups=parameter_groups(network, settings),
        batches=partial(batches_with_masks, images),
        augment=views.with_maps,
        to_train_mode=lambda: train_mode(network),
        recomputed_bn=[
            module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.training
        ],
    )
    counts = pixels_per_class(images, context.split.train)
    goal = Goal(
        class_weights=class_weights(counts, settings),
        metric=mean_iou,
        name="miou",
        eval_batch_size=_eval_batch_size(context),
    )
    with context.progress.stage("train", settings.epochs) as tick:
        return fit(learner, goal, context.split, settings, folder=context.run, tracking=context.tracking, tick=tick)


def evaluate(context: FinetuneContext, folder: Path) -> dict[str, Any]:
    """Return the metrics of the validation and, if there are any, the test images; ``folder`` gets ``examples.png``."""
    data, parts = context.images.data, {"val": context.split.val, "test": context.split.test}
    results: dict[str, Any] = {}
    table: list[list[Any]] = []
    with context.progress.stage("evaluate", len(context.split.val) + len(context.split.test)) as tick:
        for part, rows in parts.items():
            if len(rows) == 0:
                continue
            confusions, shown = _predict(context, rows, tick)
            results[part] = score_pixels(confusions, data.classes)
            table += [
                [data.paths[row], part, int(own.sum()), f"{float(accuracy(own)):.6f}", f"{float(mean_iou(own)):.6f}"]
                for row, own in zip(rows.tolist(), confusions, strict=True)
            ]
            draw_examples(folder / EXAMPLES_FILE, data, context.images.bands, rows, shown, part=part)  # test after val
    path = context.run / PREDICTIONS_FILE
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "split", "pixels", "accuracy", "miou"])
        writer.writerows(table)
    return results


def batches_with_masks(images: OwnImages, rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield model inputs ``(batch, bands, H, W)`` and class numbers ``(batch, H, W)`` of whole images.

    A pixel has no class (:data:`NO_CLASS`) where the mask says so, and where a band has no value: prediction gives it
    none either.
    """
    data = images.data
    assert data.maps is not None, "images to segment have masks"
    for start, values in images.values(rows, size):
        part = rows[start : start + len(values)].tolist()
        targets = torch.from_numpy(np.stack([data.maps.reader(data.paths[row]) for row in part])).to(images.device)
        nothing = targets == IGNORED
        if values.is_floating_point():
            nothing |= ~values.isfinite().all(dim=1)
        yield images.transform(values), targets.masked_fill(nothing, NO_CLASS)


def pixels_per_class(images: OwnImages, rows: np.ndarray) -> Counts:
    """Return how many pixels of the images each class has, int64 ``(classes,)``.

    Raises:
        UserError: none of a class.
    """
    classes = images.data.classes
    counts = np.zeros(len(classes), np.int64)
    for _, targets in batches_with_masks(images, rows, 1):
        counts += np.bincount(targets[targets != NO_CLASS].cpu().numpy(), minlength=len(classes))
    if not counts.all():
        absent = ", ".join(classes[number] for number in np.flatnonzero(counts == 0))
        raise UserError(f"the training images have no pixel of {absent} with a value in every band; add images of it")
    return counts


def _eval_batch_size(context: FinetuneContext) -> int:
    """Return how many whole images have about as many pixels as the squares of a training step."""
    facts = facts_of(context.images.data.paths[0])
    return max(1, context.settings.batch * context.settings.size_px**2 // (facts.width * facts.height))


@torch.no_grad()
def _predict(context: FinetuneContext, rows: np.ndarray, tick: Tick) -> tuple[Counts, list[np.ndarray]]:
    """Return the confusion of each image, ``(images, classes, classes)``, and the predictions for the first ones."""
    context.network.eval()
    classes = len(context.images.data.classes)
    confusions: list[Counts] = []
    shown: list[np.ndarray] = []
    for inputs, targets in batches_with_masks(context.images, rows, _eval_batch_size(context)):
        predictions = context.network(inputs).argmax(dim=1).cpu().numpy()
        for truth, predicted in zip(targets.cpu().numpy(), predictions, strict=True):
            known = truth != NO_CLASS
            confusions.append(confusion_matrix(truth[known], predicted[known], classes))
            shown += [predicted] if len(shown) < SHOWN else []
        tick(len(inputs))
    return np.stack(confusions), shown


def draw_examples(
    path: Path,
    data: LabelledImages,
    bands: Sequence[str],
    rows: np.ndarray,
    predictions: Sequence[np.ndarray],
    *,
    part: str,
) -> None:
    """Draw the first images of a part above their masks and the predictions, to see what is right and what wrong.

    Args:
        path: PNG file to write.
        data: the images, with maps.
        bands: canonical names: three or more are shown in colour, the longest three wavelengths as red, green and blue
            in the order of their wavelengths; of fewer the first.
        rows: the images of the part.
        predictions: class numbers ``(H, W)`` for the first of them.
        part: its name.
    """
    assert data.maps is not None, "images to segment have masks"
    by_wavelength = sorted(bands, key=lambda name: BANDS[name].wavelength_nm, reverse=True)
    shown = by_wavelength[:3] if len(bands) >= 3 else bands[:1]
    palette = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in class_colours(len(data.classes))]
    colours = ListedColormap(palette)
    legend = _LEGEND_INCHES * (1 + (len(data.classes) - 1) // _ROWS_OF_LEGEND)
    figure = Figure(figsize=(_INCHES * len(predictions) + legend, 3 * _INCHES + 0.4), layout="constrained")
    grid = figure.subplots(3, len(predictions), squeeze=False)
    for column, (row, predicted) in enumerate(zip(rows.tolist(), predictions, strict=False)):
        path_of_image = data.paths[row]
        grid[0, column].imshow(_stretched(data.read(row, shown)), cmap="gray", interpolation="nearest")
        grid[0, column].set_title(path_of_image.stem, fontsize=7)
        truth = data.maps.reader(path_of_image)
        for line, classes in ((1, np.ma.masked_equal(truth, IGNORED)), (2, predicted)):
            axes = grid[line, column]
            axes.set_facecolor(_NO_CLASS)
            axes.imshow(classes, cmap=colours, vmin=-0.5, vmax=len(palette) - 0.5, interpolation="nearest")
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], (", ".join(shown), "mask", "prediction"), strict=True):
        axes.set_ylabel(name, fontsize=9)
    figure.suptitle(f"The first images of the {part} part; white: no class in the mask", fontsize=9, x=0.01, ha="left")
    handles = [
        Patch(facecolor=colour, edgecolor="#596273", linewidth=0.4, label=name)
        for colour, name in zip(palette, data.classes, strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="outside right center",
        frameon=False,
        fontsize=8,
        ncols=1 + (len(handles) - 1) // _ROWS_OF_LEGEND,
    )
    path.write_bytes(png(figure))


def _stretched(image: np.ndarray) -> np.ndarray:
    """Return bands ``(C, H, W)`` between their percentiles 1 and 99 as 0 to 1: ``(H, W, C)``, or ``(H, W)`` for one."""
    values = image.astype(np.float32)
    low, high = np.nanpercentile(values, (1, 99), axis=(1, 2), keepdims=True)
    scaled: np.ndarray = ((values - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
    return scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0)
