"""Features of all images, in one pass over the files for all bands: computed batch by batch, written batch by batch."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eo_backbones.datasets import LabelledImages
from eo_backbones.evaluation import pixels
from eo_backbones.evaluation.band_choice import BandChoice
from eo_backbones.evaluation.baselines import estimating_batch_norm
from eo_backbones.evaluation.cache import FeatureFile
from eo_backbones.evaluation.encoders import Encoder, Setting
from eo_backbones.inputs import InputTransform

Tick = Callable[[int], None]
"""Told how many more images have been seen."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Job:
    """One band through one encoder into one file."""

    encoder: Encoder
    setting: Setting
    band: BandChoice
    file: FeatureFile


class ModelInput(nn.Module):
    """Raw values of one band ``(B, H, W)`` -> what the encoder gets, ``(B, 1, size, size)`` float32."""

    def __init__(self, data: LabelledImages, setting: Setting, band: BandChoice) -> None:
        super().__init__()
        self.transform = InputTransform(setting.spec, band=band.treated_as, unit=data.unit_of(band.source))
        self.size = setting.size

    def forward(self, raw: Tensor) -> Tensor:
        """Normalise by the contract, then resize with antialiasing where the size differs."""
        images: Tensor = self.transform(raw[:, None])
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last)


def key_of(data: LabelledImages, encoder_digest: str, setting: Setting, band: BandChoice) -> dict[str, object]:
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


def extract(data: LabelledImages, jobs: Sequence[Job], *, device: torch.device, dtype: torch.dtype, tick: Tick) -> None:
    """Compute and store the features of every image for every job.

    Args:
        data: the images; each file is opened once.
        jobs: encoders of equal kind; networks are moved to the device.
        device: where to compute.
        dtype: number format of the networks; bfloat16 runs under autocast.
        tick: told after each batch how many images it held.
    """
    sources = _sources(jobs)
    inputs = [ModelInput(data, job.setting, job.band) for job in jobs]
    for job in jobs:
        _place(job.encoder, device)
    with ExitStack() as files, _computing(device, dtype):
        writers = [files.enter_context(job.file.writing(len(data))) for job in jobs]
        for start, raw in pixels.batches(data, sources, np.arange(len(data))):
            values = raw.to(device, non_blocking=True)
            for job, prepare, writer in zip(jobs, inputs, writers, strict=True):
                writer.put(start, job.encoder.embed(prepare(values[:, sources.index(job.band.source)])))
            tick(len(raw))


def adapt(
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
        setting: how images are brought to it.
        bands: one copy is made for each.
        train: the images to look at; in random order, so that no batch holds one class only.
        device: where to compute.
        dtype: number format, as in :func:`extract`.
        tick: told after each batch how many images it held.
    """
    sources = list(dict.fromkeys(band.source for band in bands))
    networks = {band.label: copy.deepcopy(encoder.network) for band in bands}
    inputs = {band.label: ModelInput(data, setting, band) for band in bands}
    order = np.random.default_rng(0).permutation(train)
    whole = len(order) // pixels.BATCH * pixels.BATCH or len(order)  # a last, smaller batch would count as much
    with ExitStack() as estimation, _computing(device, dtype):
        for network in networks.values():
            estimation.enter_context(estimating_batch_norm(network.to(device, memory_format=torch.channels_last)))  # type: ignore[call-overload]
        for _, raw in pixels.batches(data, sources, order[:whole]):
            values = raw.to(device, non_blocking=True)
            for band in bands:
                networks[band.label](inputs[band.label](values[:, sources.index(band.source)]))
            tick(len(raw))
    return {
        label: Encoder(embed=network, digest=adapted_digest(data, encoder, label, train))
        for label, network in networks.items()
    }


def adapted_digest(data: LabelledImages, encoder: Encoder, band: str, train: np.ndarray) -> str:
    """Return a digest of a network after :func:`adapt`, which follows from where it began and what it saw."""
    text = "\n".join([encoder.digest, data.digest, band, *(data.ids[row] for row in train)])
    return hashlib.sha256(text.encode()).hexdigest()


def _sources(jobs: Sequence[Job]) -> list[str]:
    return list(dict.fromkeys(job.band.source for job in jobs))


def _place(encoder: Encoder, device: torch.device) -> None:
    if isinstance(encoder.embed, nn.Module):
        encoder.embed.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def _computing(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, and bfloat16 where asked for; entered once a pass, so that weights are converted once."""
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        yield
