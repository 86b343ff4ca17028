"""Masks of images of any size by a fine-tuned segmentation network: ``eo-backbones predict FILES... --out MASKS``.

Files are read window by window, checked by the input contract, segmented, and written as they are computed.

What is done to an image here is what ``eo-train finetune --task segmentation`` does to one it validates with, except
that it may be too large for memory, and that missing pixels stay missing.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import nn

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file, refuse_unwritable, write_problem
from eo_backbones.inputs import TINY, InputTransform, to_native
from eo_backbones.prediction.classify import Classifier, declared_for, refuse_missing, requests_for
from eo_backbones.prediction.mask_file import MaskFormat, new_mask, pixels_of
from eo_backbones.prediction.windows import WINDOW_SIZE, Span, WindowSize, count_windows, windows
from eo_backbones.progress import SILENT, Progress, Tick
from eo_backbones.rasters.band_files import BandFile, find_bands
from eo_backbones.rasters.options import Numbers, ReadingOptions
from eo_backbones.rasters.reader import is_gdal_name, local_file, tell_sources
from eo_backbones.rasters.scaling import DeclaredReading
from eo_backbones.scenes.request import identity_of
from eo_backbones.scenes.scene import Scene

TABLE_FILE = "predictions.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmented:
    """A mask that is written.

    Attributes:
        image: the file.
        mask: the mask of it.
        pixels: number of pixels of each class, in the order of the classes.
        before: whether an earlier call wrote it.
    """

    image: Path | str
    mask: Path
    pixels: tuple[int, ...]
    before: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    image: Path | str
    mask: Path
    bands: tuple[BandFile, ...]
    facts: Mapping[str, Any]
    windows: int
    done: tuple[int, ...] | None


def segment(
    model: Classifier,
    files: Sequence[Path | str],
    out: Path,
    *,
    bands: Sequence[str] = (),
    units: Sequence[str] = (),
    scale: Numbers = None,
    offset: Numbers = None,
    nodata: Numbers = None,
    progress: Progress = SILENT,
    window_size: WindowSize = WINDOW_SIZE,
) -> list[Segmented]:
    """Write a mask for each file: a GeoTIFF of class values, georeferenced as its image, with its nodata areas.

    Masks that an earlier call wrote are kept, so the same call goes on after an interruption.

    Args:
        model: see :func:`eo_backbones.prediction.classify.open_classifier`; must give every pixel a class.
        files: images of any size.
        out: folder for the masks, ``NAME.tif`` for each ``NAME.*``.
        bands: as for :func:`eo_backbones.prediction.classify.predict`, likewise the following.
        units: as typed after ``--unit``.
        scale: factor of the stored values, see :class:`eo_backbones.rasters.options.ReadingOptions`.
        offset: added after it.
        nodata: stored value that means "missing".
        progress: where progress is reported.
        window_size: of the parts that larger images are read in.

    Raises:
        UserError: files that are missing (all are named), damaged, without a band, in another unit, or with the same
            name; a band or unit that the model does not take; a file in the way; or a folder that cannot be written.
    """
    refuse_missing(files)
    refuse_unwritable(out, folder=True)
    declared = declared_for(model, ReadingOptions.of(units, scale=scale, offset=offset, nodata=nodata))
    jobs = _jobs(model, files, out, requests_for(model, bands), declared, window_size)
    made = []
    with progress.stage(f"segment {len(jobs)} images", sum(job.windows for job in jobs)) as tick:
        for job in jobs:
            if job.done is None:
                pixels = _segment(model, job, declared, window_size, tick)
            else:
                pixels = job.done
                tick(job.windows)
            made.append(Segmented(image=job.image, mask=job.mask, pixels=pixels, before=job.done is not None))
    return made


def _jobs(
    model: Classifier,
    files: Sequence[Path | str],
    out: Path,
    requests: Sequence[str],
    declared: DeclaredReading,
    window_size: WindowSize,
) -> list[_Job]:
    """Return what is to be done, after checking for every file where its bands are and whether values fit the unit."""
    images = {local.resolve() for path in files if (local := local_file(path))}
    by_mask: dict[Path, Path | str] = {}
    jobs = []
    said = set[str]()
    for path in files:
        mask = out / f"{_mask_name(path)}.tif"
        if mask in by_mask:
            raise UserError(f"{by_mask[mask]} and {path} would both become {mask}; predict them into two folders")
        if mask.resolve() in images:
            raise UserError(f"the mask of {path} would replace the image {mask}; name another folder with --out")
        by_mask[mask] = path
        band_files = find_bands([str(path)], requests)
        identity = identity_of(band_files[0])
        with Scene(band_files, declared) as scene:
            facts = {
                "image": str(path) if is_gdal_name(path) else Path(path).name,
                "image_bytes": identity.get("bytes"),
                "image_time": identity.get("time"),
                "weights_sha256": model.network.eo_digest,
                "bands": {band.name: band.index for band in band_files},
                "units": list(scene.units),
                "classes": {str(value): name for value, name in zip(model.mask_values, model.classes, strict=True)},
                **{name: identity[name] for name in ("sidecars",) if name in identity},
                **{
                    f"reading_{reading.band}": [reading.scale, reading.offset, reading.nodata]
                    for reading in scene.readings
                    if not reading.unchanged or reading.nodata is not None
                },
            }
            tell_sources(scene.readings, said)
            done = pixels_of(mask, facts)
            if done is None:
                scene.check_units(model.spec)
            count = count_windows(scene.height, scene.width, window_size)
        jobs.append(_Job(image=path, mask=mask, bands=band_files, facts=facts, windows=count, done=done))
    return jobs


def _mask_name(path: Path | str) -> str:
    """Return the name of an image's mask without suffix; ``NETCDF:"a.nc":red`` gives ``NETCDF_a.nc_red``."""
    if not is_gdal_name(path):
        return Path(path).stem
    return PurePosixPath(re.sub(r"[^\w./-]+", "_", str(path).strip('"'))).stem


def _segment(
    model: Classifier, job: _Job, declared: DeclaredReading, window_size: WindowSize, tick: Tick
) -> tuple[int, ...]:
    """Write one mask and return its number of pixels of each class."""
    with Scene(job.bands, declared) as scene:
        scene.warn_control_points()
        names = [band.name for band in job.bands]
        spec = _with_fixed_statistics(model.spec, scene, window_size)
        transform = InputTransform(spec, band=names, unit=scene.units, check="off")
        with new_mask(
            job.mask,
            MaskFormat(values=model.mask_values, classes=model.classes),
            height=scene.height,
            width=scene.width,
            crs=scene.crs,
            transform=scene.transform,
            facts=job.facts,
        ) as mask:
            for rows, columns, class_indices in predict_windows(model.network, scene, transform, window_size):
                mask.write(class_indices, rows, columns)
                tick(1)
        return mask.pixels


@torch.inference_mode()
def predict_windows(
    network: nn.Module, scene: Scene, transform: InputTransform, window_size: WindowSize = WINDOW_SIZE
) -> Iterator[tuple[Span, Span, np.ndarray]]:
    """Yield rows, columns and prediction of each window's core.

    Args:
        network: from model inputs to logits, in eval mode.
        scene: the open image.
        transform: raw values to model inputs.
        window_size: of the windows.

    Yields:
        Spans, and the indices of the classes, int64 ``(height, width)`` of the core; -1 where a band has no value.
    """
    device = next(network.parameters()).device
    for rows, columns in windows(scene.height, scene.width, window_size):
        raw = _read(scene, rows, columns)
        missing = np.isnan(raw).any(axis=0)[rows.kept, columns.kept]
        class_indices = np.full(missing.shape, -1, np.int64)
        if not missing.all():
            logits = network(transform(torch.from_numpy(raw).to(device))[None])[0]
            predicted = logits[:, rows.kept, columns.kept].argmax(dim=0).cpu().numpy()
            class_indices[~missing] = predicted[~missing]
        yield rows, columns, class_indices


def _read(scene: Scene, rows: Span, columns: Span) -> np.ndarray:
    raw = np.empty((len(scene.bands), rows.last - rows.first, columns.last - columns.first), np.float32)
    scene.read(raw, top=rows.first, left=columns.first)
    return raw


def _with_fixed_statistics(spec: InputSpec, scene: Scene, window_size: WindowSize) -> InputSpec:
    """Return the contract with mean and deviation of all valid pixels, where it standardises each image by its own.

    Otherwise every window would be standardised by itself, which would be visible.
    """
    if spec.normalization == "band":
        return spec
    sums = np.zeros((3, len(spec.bands)))
    for rows, columns in windows(scene.height, scene.width, replace(window_size, margin=0)):
        for number, values in enumerate(torch.from_numpy(_read(scene, rows, columns))):
            entry = spec.bands[number]
            native = to_native(values, entry, scene.units[number])
            valid = native[native.isfinite()].clamp(*entry.clip).double()
            sums[:, number] += len(valid), float(valid.sum()), float(valid.square().sum())
    count, total, squares = sums
    mean = total / count.clip(min=1)
    deviation = np.sqrt((squares / count.clip(min=1) - mean**2).clip(min=0)).clip(min=TINY)
    return replace(
        spec,
        normalization="band",
        bands=tuple(
            replace(entry, mean=float(center), std=float(spread))
            for entry, center, spread in zip(spec.bands, mean, deviation, strict=True)
        ),
    )


def write_table(out: Path, classes: Sequence[str], made: Sequence[Segmented]) -> Path:
    """Write ``predictions.csv``: path, mask, pixels with a class, and the share of each class in them; return its path.

    Rows of an earlier call about other images stay.

    Raises:
        UserError: the file cannot be written.
    """
    path = out / TABLE_FILE
    header = ["path", "mask", "pixels", *(f"share_{name}" for name in classes)]
    try:
        rows = _earlier_rows(path, header)
        for one in made:
            total = sum(one.pixels)
            shares = [f"{count / total:.6f}" if total else "" for count in one.pixels]
            rows[one.mask.name] = [str(one.image), one.mask.name, str(total), *shares]
        with (
            atomic_file(path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([header, *rows.values()])
    except OSError as error:
        raise UserError(f"cannot write {path}: {write_problem(error)}; name another folder with --out") from error
    return path


def _earlier_rows(path: Path, header: Sequence[str]) -> dict[str, list[str]]:
    """Return mask -> row of an earlier table of the same classes; of a damaged one nothing.

    Every mask holds the counts of its own row, so nothing is lost that the same command would not write again.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            old_header, *rows = list(csv.reader(file)) or [[]]
    except (ValueError, csv.Error):
        return {}
    return {row[1]: row for row in rows if old_header == header and len(row) == len(header)}
