"""Files to masks: read window by window, checked by the input contract, segmented, written as they are computed.

What is done to an image here is what ``eo-train finetune --task segmentation`` does to one it validates with, except
that it may be too large for memory, and that missing pixels stay missing.
"""

import csv
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rasterio.errors import NotGeoreferencedWarning
from torch import nn

from eo_backbones.contract import InputSpec, Unit, declared_units, default_unit
from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file
from eo_backbones.inputs import TINY, InputTransform, UnitError
from eo_backbones.prediction import windows
from eo_backbones.prediction.classify import Classifier, refuse_missing, requests_for
from eo_backbones.prediction.mask_file import MaskForm, new_mask, pixels_of
from eo_backbones.progress import SILENT, Progress, Tick
from eo_backbones.scenes.band_files import BandFile, find_bands
from eo_backbones.scenes.request import identity_of
from eo_backbones.scenes.scene import Scene

TABLE_FILE = "predictions.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmented:
    """A mask that is written.

    Attributes:
        image: the file.
        mask: the mask of it.
        pixels: with each class, in the order of the classes.
        before: whether an earlier call wrote it.
    """

    image: Path
    mask: Path
    pixels: tuple[int, ...]
    before: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    image: Path
    mask: Path
    bands: tuple[BandFile, ...]
    units: tuple[Unit, ...]
    facts: Mapping[str, Any]
    windows: int
    done: tuple[int, ...] | None


def segment(
    model: Classifier,
    files: Sequence[Path],
    out: Path,
    *,
    bands: Sequence[str] = (),
    units: Sequence[str] = (),
    progress: Progress = SILENT,
) -> list[Segmented]:
    """Write a mask for each file: a GeoTIFF of class values, on the ground of its image, nodata where that has none.

    Masks that an earlier call wrote are kept, so the same call goes on after an interruption.

    Args:
        model: see :func:`eo_backbones.prediction.classify.open_classifier`; must give every pixel a class.
        files: images of any size.
        out: folder for the masks, ``NAME.tif`` for each ``NAME.*``.
        bands: ``B04=4`` where the files do not say which band is where; default: the model's bands by name.
        units: as typed after ``--unit``, see :func:`eo_backbones.contract.declared_units`.
        progress: is told how it is getting on.

    Raises:
        UserError: files that are not there (all are named), damaged, without a band, in another unit, or with the same
            name; a band or unit that the model does not take; a file in the way; or a folder that cannot be written.
    """
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # a picture needs no coordinates
    refuse_missing(files)
    form = MaskForm(values=model.mask_values, classes=model.classes)
    declared = declared_units(units, model.spec.band_names)
    jobs = _jobs(model, files, out, requests_for(model.spec, bands), declared)
    made = []
    with progress.stage(f"segment {len(jobs)} images", sum(job.windows for job in jobs)) as tick:
        for job in jobs:
            if job.done is None:
                pixels = _segment(model, form, job, tick)
            else:
                pixels = job.done
                tick(job.windows)
            made.append(Segmented(image=job.image, mask=job.mask, pixels=pixels, before=job.done is not None))
    return made


def _jobs(
    model: Classifier, files: Sequence[Path], out: Path, requests: Sequence[str], declared: Mapping[str, Unit]
) -> list[_Job]:
    """Return what is to be done, after looking into every file for its bands and whether its values fit their unit."""
    images = {path.resolve() for path in files}
    by_mask: dict[Path, Path] = {}
    jobs = []
    for path in files:
        mask = out / f"{path.stem}.tif"
        if mask in by_mask:
            raise UserError(f"{by_mask[mask]} and {path} would both become {mask}; predict them into two folders")
        if mask.resolve() in images:
            raise UserError(f"the mask of {path} would replace the image {mask}; name another folder with --out")
        by_mask[mask] = path
        found = find_bands([str(path)], requests)
        identity = identity_of(found[0])
        with Scene(found) as scene:
            units = tuple(
                declared.get(band.name, default_unit(band.name, dtype))
                for band, dtype in zip(found, scene.dtypes, strict=True)
            )
            facts = {
                "image": path.name,
                "image_bytes": identity["bytes"],
                "image_time": identity["time"],
                "weights_sha256": model.network.eo_digest,
                "bands": {band.name: band.index for band in found},
                "units": list(units),
                "classes": {str(value): name for value, name in zip(model.mask_values, model.classes, strict=True)},
            }
            done = pixels_of(mask, facts)
            if done is None:
                _check_units(model, scene, units)
            count = windows.count(scene.height, scene.width)
        jobs.append(_Job(image=path, mask=mask, bands=found, units=units, facts=facts, windows=count, done=done))
    return jobs


def _check_units(model: Classifier, scene: Scene, units: Sequence[Unit]) -> None:
    try:
        scene.check_units(model.spec, units)
    except UnitError as error:
        raise UserError(re.sub(r"unit='(\w+)'", r"--unit \1", str(error))) from error


def _segment(model: Classifier, form: MaskForm, job: _Job, tick: Tick) -> tuple[int, ...]:
    """Write one mask and return its pixels of each class."""
    with Scene(job.bands) as scene:
        scene.warn_control_points()
        names = [band.name for band in job.bands]
        transform = InputTransform(_fixed(model.spec, scene, job.units), band=names, unit=job.units, check="off")
        with new_mask(
            job.mask,
            form,
            height=scene.height,
            width=scene.width,
            crs=scene.crs,
            transform=scene.transform,
            facts=job.facts,
        ) as mask:
            for rows, columns, places in answers(model.network, scene, transform):
                mask.write(places, rows, columns)
                tick(1)
        return mask.pixels


@torch.inference_mode()
def answers(
    network: nn.Module,
    scene: Scene,
    transform: InputTransform,
    *,
    core: int = windows.CORE_PX,
    margin: int = windows.MARGIN_PX,
) -> Iterator[tuple[windows.Span, windows.Span, np.ndarray]]:
    """Yield rows, columns and answer of each window's core.

    Args:
        network: from model inputs to logits, in eval mode.
        scene: the open image.
        transform: raw values to model inputs.
        core: pixels of a window that are kept, a multiple of 32.
        margin: pixels that are read around them, a multiple of 32.

    Yields:
        Spans, and the places of the classes, int64 ``(height, width)`` of the core; -1 where a band has no value.
    """
    device = next(network.parameters()).device
    for rows, columns in windows.windows(scene.height, scene.width, core=core, margin=margin):
        raw = _read(scene, rows, columns)
        missing = np.isnan(raw).any(axis=0)[rows.kept, columns.kept]
        places = np.full(missing.shape, -1, np.int64)
        if not missing.all():
            logits = network(transform(torch.from_numpy(raw).to(device))[None])[0]
            found = logits[:, rows.kept, columns.kept].argmax(dim=0).cpu().numpy()
            places[~missing] = found[~missing]
        yield rows, columns, places


def _read(scene: Scene, rows: windows.Span, columns: windows.Span) -> np.ndarray:
    raw = np.empty((len(scene.bands), rows.last - rows.first, columns.last - columns.first), np.float32)
    scene.read(raw, top=rows.first, left=columns.first)
    return raw


def _fixed(spec: InputSpec, scene: Scene, units: Sequence[Unit]) -> InputSpec:
    """Return a contract with figures of the whole image where each image is standardised by its own.

    Else every window would be standardised by itself, and show.
    """
    if spec.normalization == "band":
        return spec
    plain = replace(spec, normalization="band", bands=tuple(replace(entry, mean=0.0, std=1.0) for entry in spec.bands))
    native = InputTransform(plain, band=spec.band_names, unit=units, check="off")
    sums = np.zeros((2, len(spec.bands)))
    for rows, columns in windows.windows(scene.height, scene.width, margin=0):
        values = native(_read(scene, rows, columns)).double()
        sums += np.stack([values.sum(dim=(1, 2)).numpy(), values.square().sum(dim=(1, 2)).numpy()])
    mean, square = sums / (scene.height * scene.width)
    deviation = np.sqrt((square - mean**2).clip(min=0)).clip(min=TINY)
    return replace(
        plain,
        bands=tuple(
            replace(entry, mean=float(own), std=float(spread))
            for entry, own, spread in zip(plain.bands, mean, deviation, strict=True)
        ),
    )


def write_table(out: Path, classes: Sequence[str], made: Sequence[Segmented]) -> Path:
    """Write ``predictions.csv``: path, mask, pixels with a class, and the share of each class in them; return its path.

    Lines of an earlier call about other images stay.

    Raises:
        UserError: the file cannot be written.
    """
    path = out / TABLE_FILE
    header = ["path", "mask", "pixels", *(f"share_{name}" for name in classes)]
    try:
        lines = _lines_before(path, header)
        for one in made:
            total = sum(one.pixels)
            shares = [f"{count / total:.6f}" if total else "" for count in one.pixels]
            lines[one.mask.name] = [str(one.image), one.mask.name, str(total), *shares]
        with atomic_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines.values()])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with --out") from error
    return path


def _lines_before(path: Path, header: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines of an earlier table of the same classes by the mask that each is about; a damaged one has none.

    Every mask holds the counts of its own line, so nothing is lost that the same command would not write again.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            before, *old = list(csv.reader(file)) or [[]]
    except (ValueError, csv.Error):
        return {}
    return {line[1]: line for line in old if before == header and len(line) == len(header)}
