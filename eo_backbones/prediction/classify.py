"""A fine-tuned classifier on new images: read, checked by the input contract, resized, classified.

What is done to an image here is what ``eo-train finetune`` does to one it validates with.
"""

import csv
import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eo_backbones.contract import InputSpec, Unit
from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file, refuse_unwritable, write_problem
from eo_backbones.hub import download
from eo_backbones.inputs import InputTransform, as_options, check_values
from eo_backbones.models import create_model
from eo_backbones.rasters.offset_test import refuse_shifted
from eo_backbones.rasters.options import KeptReading, Numbers, ReadingOptions
from eo_backbones.rasters.reader import is_gdal_name, read_declared, split_request, tell_sources
from eo_backbones.rasters.scaling import BandReading, DeclaredReading, levels_differ

logger = logging.getLogger(__name__)

_READERS = 4  # files are small; more readers only wait for each other


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Classifier:
    """A network with names for its outputs.

    Attributes:
        network: from ``(B, bands, H, W)`` to ``(B, classes)``, or to ``(B, classes, H, W)`` if every pixel gets a
            class; in eval mode.
        spec: its input contract; one entry a channel, in order.
        classes: names of the outputs.
        size_px: side of the images that it was trained on.
        mask_values: value of each class in a mask, if every pixel gets a class; else empty.
        reading: how the images that it was trained on were read.
    """

    network: nn.Module
    spec: InputSpec
    classes: tuple[str, ...]
    size_px: int
    mask_values: tuple[int, ...] = ()
    reading: KeptReading = field(default_factory=lambda: KeptReading(positions={}, declared=DeclaredReading()))


def open_classifier(model: str, *, device: torch.device) -> Classifier:
    """Load what ``eo-train finetune`` wrote.

    Args:
        model: its folder, or ``local-dir:PATH``, ``hf-hub:ORG/NAME``.
        device: where to compute.

    Raises:
        UserError: no such model, or one without classes.
    """
    name = f"{download.LOCAL_PREFIX}{model}" if Path(model).is_dir() else model
    config = download.resolve(name, with_weights=False).config
    if not config.classes or config.input is None or len(config.input.bands) != config.in_chans:
        raise UserError(f"{model} is an encoder without named classes; pass a folder that 'eo-train finetune' wrote")
    return Classifier(
        network=create_model(name).eval().to(device),
        spec=config.input,
        classes=config.classes,
        size_px=int(config.pretrained_cfg["input_size"][-1]),
        mask_values=config.mask_values,
        reading=KeptReading.from_dict(config.reading),
    )


def model_input(raw: Tensor, transform: InputTransform, size_px: int) -> Tensor:
    """Return raw values ``(..., bands, H, W)`` as a network gets them: normalised, then resized with antialiasing."""
    images: Tensor = transform(raw)
    if images.shape[-2:] == (size_px, size_px):
        return images
    single = images.ndim == 3
    batch = images[None] if single else images
    resized = F.interpolate(batch, (size_px, size_px), mode="bilinear", antialias=True)
    return resized[0] if single else resized


def refuse_wrong_unit(
    path: Path | str, raw: Tensor, transform: InputTransform, readings: Sequence[BandReading] = ()
) -> str | None:
    """Check raw values ``(bands, H, W)`` of a file; messages name the options of the command line.

    Args:
        path: the file.
        raw: its values, NaN where missing.
        transform: says bands and units.
        readings: of the bands, so that messages name stored values.

    Returns:
        A doubt about the values, if there is one.

    Raises:
        UserError: they cannot be in the unit that was declared or assumed.
    """
    doubt = None
    for number, (values, entry, unit) in enumerate(zip(raw, transform.entries, transform.units, strict=True)):
        scale, offset = (readings[number].scale, readings[number].offset) if readings else (1.0, 0.0)
        finding = check_values(values, entry, unit, scale=scale, offset=offset)
        if finding is None:
            continue
        named = (entry.band,) if len(transform.entries) > 1 else ()
        message = f"{path}: {as_options(finding.message, *named)}"
        if finding.certain:
            raise UserError(f"{message} (it was read as --unit {entry.band}={unit})")
        doubt = doubt or message
    return doubt


def warn_of(doubts: Sequence[str], images: int) -> None:
    """Log the first of the doubts about some images, and how many there are."""
    if doubts:
        more = f" ({len(doubts)} of {images} images raise a doubt)" if images > 1 else ""
        logger.warning("%s%s", doubts[0], more)


def predict(
    classifier: Classifier,
    files: Sequence[Path | str],
    *,
    bands: Sequence[str] = (),
    units: Sequence[str] = (),
    scale: Numbers = None,
    offset: Numbers = None,
    nodata: Numbers = None,
    batch: int = 32,
) -> Iterator[tuple[Path | str, Tensor]]:
    """Yield each file with the probabilities of its classes, float32 ``(classes,)`` on the CPU, in the given order.

    Args:
        classifier: see :func:`open_classifier`.
        files: images of any size, anything that GDAL opens; each is resized to the classifier's.
        bands: ``B04=4`` where the files do not say which band is at which position; default: the positions of the
            training images, if they were given, else the classifier's bands by name.
        units: as typed after ``--unit``, see :func:`eo_backbones.contract.declared_units`; default, also of the
            following: what was declared for the training images.
        scale: factor of the stored values, see :class:`eo_backbones.rasters.options.ReadingOptions`.
        offset: added after it.
        nodata: stored value that means "missing".
        batch: images at once.

    Raises:
        UserError: files that are missing (all are named), damaged, without a band, without a valid pixel, or in another
            unit; a band that the classifier does not take, or an unknown unit; a model that gives every pixel a class.
    """
    if classifier.mask_values:
        raise UserError("this model gives every pixel a class; its masks come from eo_backbones.prediction.segment")
    refuse_missing(files)
    requests = requests_for(classifier, bands)
    options = ReadingOptions.of(units, scale=scale, offset=offset, nodata=nodata)
    declared = declared_for(classifier, options)
    return _predict(classifier, files, requests, declared, batch)


def declared_for(classifier: Classifier, options: ReadingOptions) -> DeclaredReading:
    """Return what is declared about stored values: by the user, else as for the training images.

    Raises:
        UserError: as :func:`eo_backbones.rasters.scaling.parse_reading`.
    """
    return classifier.reading.under(options.for_bands(classifier.spec.band_names))


def _predict(
    classifier: Classifier,
    files: Sequence[Path | str],
    requests: Sequence[str],
    declared: DeclaredReading,
    batch: int,
) -> Iterator[tuple[Path | str, Tensor]]:
    device = next(classifier.network.parameters()).device
    said: set[str] = set()
    doubts: list[str] = []

    @cache
    def transform(units: tuple[Unit, ...]) -> InputTransform:
        spec = classifier.spec
        return InputTransform(spec, band=spec.band_names, unit=units, check="off")  # checked file by file below

    def read(path: Path | str) -> tuple[Tensor, np.ndarray, Sequence[BandReading], str | None]:
        values, readings = read_declared(path, requests, declared)
        raw, prepare = torch.from_numpy(values), transform(tuple(reading.unit for reading in readings))
        doubt = refuse_wrong_unit(path, raw, prepare, readings)
        return model_input(raw, prepare, classifier.size_px), values, readings, doubt

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), batch):
            part = files[start : start + batch]
            images, values, readings, found = zip(*pool.map(read, part), strict=True)
            doubts += [doubt for doubt in found if doubt]
            if start == 0:
                where = f"{part[0]}" if len(files) == 1 else f"{part[0]} and {len(part) - 1} more"
                refuse_shifted(zip(values, readings, strict=True), where)
                levels = (one.level for of_file in readings for one in of_file)
                warning = levels_differ(levels, classifier.spec.processing_levels)
                if warning:
                    logger.warning("%s: %s", where, warning)
            tell_sources(itertools.chain.from_iterable(readings), said)
            with torch.inference_mode():
                probabilities = classifier.network(torch.stack(images).to(device)).softmax(dim=1).float().cpu()
            yield from zip(part, probabilities, strict=True)
    warn_of(doubts, len(files))


def refuse_missing(files: Sequence[Path | str]) -> None:
    """Check that files exist; what only GDAL understands is tried when it is opened.

    Raises:
        UserError: some are missing; all of these are named.
    """
    missing = [str(path) for path in files if not is_gdal_name(path) and not Path(path).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(files)} files are missing: {', '.join(missing)}; correct the paths")


def requests_for(classifier: Classifier, bands: Sequence[str]) -> tuple[str, ...]:
    """Return which band of a file each channel takes, in the network's order, as ``read_bands`` takes it.

    Args:
        classifier: the model.
        bands: as typed: none, or each of the model's bands with its position in the file.

    Raises:
        UserError: a band that the model does not take, or not all of them.
    """
    spec, kept = classifier.spec, classifier.reading.positions
    if not bands and kept:
        typed = [f"{name}={position}" for name, position in kept.items()]
        logger.info("bands are read from the positions of the training images, %s", ", ".join(typed))
    else:
        typed = list(bands)
    requests = {split_request(item)[0]: item for item in typed}
    for name in requests:
        spec.for_band(name)
    missing = [name for name in spec.band_names if requests and name not in requests]
    if missing:
        raise UserError(f"this model takes {', '.join(spec.band_names)} together; --bands lacks {', '.join(missing)}")
    return tuple(requests.get(name, name) for name in spec.band_names)


def write_predictions(path: Path, classes: Sequence[str], rows: Iterator[tuple[Path | str, Tensor]]) -> dict[str, int]:
    """Write ``path,class,p_<class>,...`` row by row; the file gets its name only when it is whole.

    Returns:
        How many images each class got.

    Raises:
        UserError: the file cannot be written, or what the rows raise.
    """
    counts = dict.fromkeys(classes, 0)
    refuse_unwritable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "class", *(f"p_{name}" for name in classes)])
            for image, probabilities in rows:
                predicted = classes[int(probabilities.argmax())]
                counts[predicted] += 1
                writer.writerow([str(image), predicted, *(f"{value:.6f}" for value in probabilities.tolist())])
    except OSError as error:
        raise UserError(f"cannot write {path}: {write_problem(error)}; name another file with --out") from error
    return counts
