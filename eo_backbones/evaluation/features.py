"""Features of all images: pixels read in batches, one pass over the files for all bands, features kept in a cache."""

import copy
import hashlib
import json
import logging
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eo_backbones.datasets import LabelledImages
from eo_backbones.device import inference
from eo_backbones.errors import UserError
from eo_backbones.evaluation.columns import BandChoice
from eo_backbones.evaluation.encoders import Encoder, Setting
from eo_backbones.files import atomic_file
from eo_backbones.inputs import InputTransform
from eo_backbones.networks.state import batch_norm_layers, estimating_batch_norm
from eo_backbones.progress import Tick

logger = logging.getLogger(__name__)

BATCH = 128
_MAX_READERS = 8  # files are small; more readers only wait for each other
FORMAT = 2
"""Part of every key of the cache: changed when features of the same key would come out differently."""
CACHE_VARIABLE = "EO_BACKBONES_CACHE"


# Reading pixels


def read_batches(
    data: LabelledImages, bands: Sequence[str], rows: np.ndarray, *, batch_size: int = BATCH
) -> Iterator[tuple[int, Tensor]]:
    """Yield (position of the first image in ``rows``, raw values ``(batch, bands, H, W)``) in order.

    Threads read ahead; each file is opened once for all bands.

    Args:
        data: the images.
        bands: what to read of each.
        rows: indices of the images, in the order to read them.
        batch_size: images in a batch.

    Raises:
        UserError: a file is missing, damaged, or of another size than the images before it.
    """
    parts = [(start, rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    readers = min(_MAX_READERS, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="pixels") as pool:
        try:
            for start, part in parts:
                waiting.append((start, pool.submit(_read_batch, data, bands, part)))
                if len(waiting) > readers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_batch(data: LabelledImages, bands: Sequence[str], rows: np.ndarray) -> Tensor:
    images = [data.read(int(row), bands) for row in rows]
    for row, image in zip(rows, images, strict=True):
        if image.shape != images[0].shape:
            (_, height, width), (_, expected_height, expected_width) = image.shape, images[0].shape
            raise UserError(
                f"{data.paths[row]} has {width} x {height} pixels, other images have {expected_width} x "
                f"{expected_height}; remove it, or resize all images to one size"
            )
    return torch.from_numpy(np.stack(images))


# The cache


def default_cache_folder() -> Path:
    """Return ``$EO_BACKBONES_CACHE``, else ``eo_backbones`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eo_backbones"


class FeatureFile:
    """Features ``(n, d)`` of one (model, band) and way of feeding it, as an ordinary ``.npy`` file.

    Its name is the digest of everything that decides its content: weights, images, band, scaling, size, dtype. So it
    cannot be stale, and any file may be deleted at any time. A file appears under its name only when it is whole; one
    that was cut or replaced since counts as missing. bfloat16 is kept as the uint16 of the same bits.
    """

    def __init__(self, folder: Path, key: Mapping[str, object], dtype: torch.dtype) -> None:
        text = json.dumps({"format": FORMAT, "dtype": str(dtype), **key}, sort_keys=True)
        self.path = folder / "features" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"
        self.dtype = dtype
        self._description = text

    def exists(self, rows: int | None = None) -> bool:
        """Return whether the features are there, whole, those of ``rows`` images; a file that is not is logged."""
        if not self.path.exists():
            return False
        try:
            with self.path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran_order, dtype = read_header[version](file)
                whole = os.fstat(file.fileno()).st_size == file.tell() + math.prod(shape) * dtype.itemsize
            kind = (len(shape), fortran_order, dtype)
            if whole and kind == (2, False, _stored_as(self.dtype)) and rows in (None, shape[0]):
                return True
        except (OSError, ValueError, KeyError):
            pass  # no such file at all
        logger.warning("%s is cut or holds something else; the features are computed again", self.path)
        return False

    def read(self) -> Tensor:
        """Return the features, in memory."""
        stored = torch.from_numpy(np.load(self.path))
        return stored.view(self.dtype) if self.dtype == torch.bfloat16 else stored

    @contextmanager
    def writing(self, rows: int) -> Iterator["FeatureWriter"]:
        """Give a writer; the file appears when the block ends without an error, otherwise nothing does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path, shared=True) as unfinished, unfinished.open("wb") as file:
            writer = FeatureWriter(file, rows, self.dtype)
            yield writer
            writer.close()
            self.path.with_suffix(".json").write_text(self._description + "\n")  # for people who look into the folder


class FeatureWriter:
    """Writes features batch by batch to disk, so that memory holds only one batch.

    Not into mapped memory: on a disk that is full the system would kill the process.
    """

    def __init__(self, file: BinaryIO, rows: int, dtype: torch.dtype) -> None:
        self._file = file
        self._rows = rows
        self._dtype = dtype
        self._begin = self._written = 0

    def put(self, start: int, features: Tensor) -> None:
        """Store features ``(batch, d)`` as the rows from ``start`` on."""
        values = features.to(self._dtype).cpu().contiguous()
        stored = (values.view(torch.uint16) if self._dtype == torch.bfloat16 else values).numpy()
        if self._begin == 0:  # the width is known with the first batch
            header = {"descr": stored.dtype.str, "fortran_order": False, "shape": (self._rows, stored.shape[1])}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._begin = self._file.tell()
        self._file.seek(self._begin + start * stored[0].nbytes)
        self._file.write(stored.data)
        self._written += len(stored)

    def close(self) -> None:
        """Check that all rows are there."""
        assert self._written == self._rows, "rows are missing"
        self._file.flush()


def _stored_as(dtype: torch.dtype) -> np.dtype:
    """Return numpy's type of the stored features."""
    return torch.empty(0, dtype=torch.uint16 if dtype == torch.bfloat16 else dtype).numpy().dtype


# Computing features


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FeatureJob:
    """One band through one encoder into one file."""

    encoder: Encoder
    setting: Setting
    band: BandChoice
    file: FeatureFile


class ModelInput(nn.Module):
    """Raw values of one band ``(B, H, W)`` -> what the encoder gets, ``(B, 1, size, size)`` float32."""

    def __init__(self, data: LabelledImages, setting: Setting, band: BandChoice) -> None:
        super().__init__()
        unit = data.unit_of(band.source)  # of values as read: an offset is taken off already
        self.transform = InputTransform(setting.spec, band=band.treated_as, unit=unit, offset=0.0)
        self.size = setting.size

    def forward(self, raw: Tensor) -> Tensor:
        """Normalise by the contract, then resize with antialiasing where the size differs."""
        images: Tensor = self.transform(raw[:, None])
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last)


def feature_key(data: LabelledImages, encoder_digest: str, setting: Setting, band: BandChoice) -> dict[str, object]:
    """Return everything that decides the features of one band, as JSON types."""
    entry = next(e for e in setting.spec.to_dict()["bands"] if e["band"] == band.treated_as)
    return {
        "weights": encoder_digest,
        "data": data.digest,
        "band": band.source,
        "unit": data.unit_of(band.source),
        "input": entry,
        "normalization": setting.spec.normalization,
        "size": setting.size,
    }


def extract_features(
    data: LabelledImages,
    jobs: Sequence[FeatureJob],
    *,
    device: torch.device,
    dtype: torch.dtype,
    tick: Tick,
    batch_size: int = BATCH,
) -> None:
    """Compute and store the features of every image for every job.

    Args:
        data: the images; each file is opened once.
        jobs: one for each band; networks are moved to the device.
        device: where to compute.
        dtype: of the networks; bfloat16 runs under autocast.
        tick: told after each batch how many images it held.
        batch_size: images in a batch.
    """
    sources = list(dict.fromkeys(job.band.source for job in jobs))
    inputs = [ModelInput(data, job.setting, job.band) for job in jobs]
    for job in jobs:
        if isinstance(job.encoder.embed, nn.Module):
            job.encoder.embed.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with ExitStack() as files, inference(device, dtype):
        writers = [files.enter_context(job.file.writing(len(data))) for job in jobs]
        for start, raw in read_batches(data, sources, np.arange(len(data)), batch_size=batch_size):
            values = raw.to(device, non_blocking=True)
            for job, model_input, writer in zip(jobs, inputs, writers, strict=True):
                writer.put(start, job.encoder.embed(model_input(values[:, sources.index(job.band.source)])))
            tick(len(raw))


def adapt_batch_norm(
    data: LabelledImages,
    encoder: Encoder,
    setting: Setting,
    bands: Sequence[BandChoice],
    train: np.ndarray,
    *,
    device: torch.device,
    dtype: torch.dtype,
    tick: Tick,
) -> Mapping[str, Encoder]:
    """Return a copy of a network for each band, with BatchNorm statistics of that band's training images.

    Args:
        data: the images.
        encoder: a network; it is not changed.
        setting: image size and scaling that it gets.
        bands: one copy is made for each.
        train: the images whose statistics are taken; read in random order, so that no batch holds one class only.
        device: where to compute.
        dtype: as in :func:`extract_features`.
        tick: told after each batch how many images it held.
    """
    sources = list(dict.fromkeys(band.source for band in bands))
    networks = {band.label: copy.deepcopy(encoder.network) for band in bands}
    inputs = {band.label: ModelInput(data, setting, band) for band in bands}
    order = np.random.default_rng(0).permutation(train)
    whole = len(order) // BATCH * BATCH or len(order)  # a last, smaller batch would count as much
    with ExitStack() as estimation, inference(device, dtype):
        for network in networks.values():
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            estimation.enter_context(estimating_batch_norm(batch_norm_layers(network)))
        for _, raw in read_batches(data, sources, order[:whole]):
            values = raw.to(device, non_blocking=True)
            for band in bands:
                networks[band.label](inputs[band.label](values[:, sources.index(band.source)]))
            tick(len(raw))
    return {
        label: Encoder(embed=network, digest=adapted_digest(data, encoder, label, train))
        for label, network in networks.items()
    }


def adapted_digest(data: LabelledImages, encoder: Encoder, band: str, train: np.ndarray) -> str:
    """Return a digest of a network after :func:`adapt_batch_norm`; it follows from network and images."""
    text = "\n".join([encoder.digest, data.digest, band, *(data.ids[row] for row in train)])
    return hashlib.sha256(text.encode()).hexdigest()
