"""The protocol from a request to the written files: what ``eo-backbones evaluate --protocol retrieval`` does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from eo_backbones.datasets import LabelledImages, open_unlabelled
from eo_backbones.device import fast_dtype, pick_device
from eo_backbones.errors import UserError
from eo_backbones.evaluation.columns import BandChoice, choose_columns, named_positions
from eo_backbones.evaluation.encoders import EvaluatedModel, NotMeasuredHereError, Setting, open_model
from eo_backbones.evaluation.features import (
    FeatureFile,
    FeatureJob,
    adapt_batch_norm,
    adapted_digest,
    extract_features,
    feature_key,
)
from eo_backbones.evaluation.request import Request, check_sizes, limited, remember_command
from eo_backbones.evaluation.retrieval.places import cut_places
from eo_backbones.evaluation.retrieval.recall import RANKS, places_before
from eo_backbones.evaluation.retrieval.records import RECALL_DECIMALS, RETRIEVAL_FILE, Recall, RetrievalFile
from eo_backbones.evaluation.retrieval.report import write_report
from eo_backbones.files import refuse_unwritable
from eo_backbones.progress import SILENT, Progress
from eo_backbones.results import versions


@dataclass(slots=True, kw_only=True)
class Retrieval:
    """What came of a run.

    Attributes:
        results: all rows, old and new.
        report: path of the page.
        added: how many rows are new.
        unmeasured: model -> why its weights could not be loaded.
    """

    results: RetrievalFile
    report: Path
    added: int
    unmeasured: dict[str, str] = field(default_factory=dict)


def run_retrieval(
    request: Request, *, root: Path, out: Path, cache: Path, device: str, progress: Progress = SILENT
) -> Retrieval:
    """Measure what is missing, then write report and pictures from all rows.

    Args:
        request: what to measure; labels, splits and seeds play no part.
        root: folder or archive of the data set.
        out: folder for results; what is in it is kept and completed.
        cache: folder for features.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: told how far it is.

    Raises:
        UserError: anything about the request that the user can correct.
    """
    _refuse_labels(request)
    check_sizes(request.sizes)
    compute = pick_device(device)
    refuse_unwritable(out, folder=True)
    refuse_unwritable(cache, option="--cache", folder=True)
    names, positions = named_positions(request.bands)
    images = open_unlabelled(request.dataset, root, positions=positions, reading=request.reading)
    bands = choose_bands(images, names)
    return retrieve(
        cut_places(limited(images, request.limit)),
        bands,
        request.models,
        sizes=request.sizes,
        out=out,
        cache=cache,
        device=compute,
        dtype=fast_dtype(compute),
        command=request.command(),
        progress=progress,
    )


def choose_bands(data: LabelledImages, typed: Sequence[str]) -> tuple[BandChoice, ...]:
    """Return the bands that typed names stand for; without names the paper's ten, VV and VH, as far as there.

    Raises:
        UserError: as :func:`eo_backbones.evaluation.columns.choose_columns`; several bands at once; fewer than two.
    """
    columns = choose_columns(data, typed)
    if not typed:
        shown = {column.label for column in columns}
        radar = [name for name in ("VV", "VH") if name in data.bands and name not in shown]
        columns += choose_columns(data, radar) if radar else ()
    single = tuple(column for column in columns if isinstance(column, BandChoice))
    if len(single) < len(columns):
        raise UserError("retrieval compares single bands with each other; name them one by one, as in --bands B04 B08")
    if len(single) < 2:
        raise UserError(
            f"retrieval looks a place up by another band, but there is only {single[0].label}; name at least two of "
            f"{', '.join(data.bands)}"
        )
    return single


def retrieve(
    places: LabelledImages,
    bands: Sequence[BandChoice],
    models: Sequence[str],
    *,
    sizes: Sequence[int],
    out: Path,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype,
    command: str,
    progress: Progress = SILENT,
) -> Retrieval:
    """Measure models on places, as far as ``out`` does not hold them, and write the report.

    Args:
        places: as :func:`eo_backbones.evaluation.retrieval.places.cut_places` gives them.
        bands: at least two.
        models: names, as typed.
        sizes: height and width in pixels of the images that networks get.
        out: folder for results.
        cache: folder for features.
        device: where to compute.
        dtype: of networks and features.
        command: that the report shows.
        progress: told how far it is.

    Raises:
        UserError: a model cannot be loaded or does not take a band, a file cannot be read, or ``out`` holds results of
            other places.
    """
    with progress.stage(f"reading {len(places)} places for their digest", 1):
        results = RetrievalFile(out / RETRIEVAL_FILE, data_digest=places.digest)
    opened, unmeasured = [], {}
    for name in dict.fromkeys(models):
        try:
            opened.append(open_model(name, sizes))
        except NotMeasuredHereError as error:
            unmeasured[name] = str(error)
            progress.note(str(error))
    for model in opened:  # before anything is computed
        for setting in model.settings:
            for band in bands:
                setting.spec.for_band(band.treated_as)
    before = len(results.rows)
    for model in opened:
        for setting in model.settings:
            _measure(model, setting, places, bands, results, cache, device, dtype, progress)
    if not results.rows:
        raise UserError(f"nothing was measured: {'; '.join(unmeasured.values())}")
    report = write_report(out, results.rows, commands=remember_command(out, command))
    return Retrieval(results=results, report=report, added=len(results.rows) - before, unmeasured=unmeasured)


def _measure(
    model: EvaluatedModel,
    setting: Setting,
    places: LabelledImages,
    bands: Sequence[BandChoice],
    results: RetrievalFile,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> None:
    encoder = model.build(0)
    wanted = {(asked.label, found.label) for asked in bands for found in bands}
    there = results.of((model.name, setting.size, setting.scaling))
    if {(row.asked, row.found) for row in there if row.weights_digest == encoder.digest} >= wanted:
        return
    every = np.arange(len(places))
    digests = {
        band.label: adapted_digest(places, encoder, band.label, every) if model.adapted else encoder.digest
        for band in bands
    }
    files = {
        band.label: FeatureFile(
            cache, feature_key(places, digests[band.label], setting, band), encoder.stored_as or dtype
        )
        for band in bands
    }
    missing = [band for band in bands if not files[band.label].exists(len(places))]
    if missing:
        encoders = {band.label: encoder for band in missing}
        with progress.stage(f"{model.name} {setting.size} px: features", len(places)) as tick:
            if model.adapted:
                encoders = dict(
                    adapt_batch_norm(
                        places, encoder, setting, missing, every, device=device, dtype=dtype, tick=lambda *_: None
                    )
                )
            jobs = [
                FeatureJob(encoder=encoders[band.label], setting=setting, band=band, file=files[band.label])
                for band in missing
            ]
            extract_features(places, jobs, device=device, dtype=dtype, tick=tick)
    found: Mapping[str, np.ndarray] = {label: file.read().float().numpy() for label, file in files.items()}
    before = places_before(found)
    shares = {rank: (before < rank).mean(axis=-1) for rank in RANKS}
    written = versions(f"{str(dtype).removeprefix('torch.')} on {device.type}")
    kept = [row for row in there if row.weights_digest == encoder.digest and (row.asked, row.found) not in wanted]
    results.replace(
        kept
        + [
            Recall(
                model=model.name,
                dataset=places.name,
                size=setting.size,
                input_scaling=setting.scaling,
                places=len(places),
                asked=asked,
                found=answer,
                recall_1=round(float(shares[1][row, column]), RECALL_DECIMALS),
                recall_5=round(float(shares[5][row, column]), RECALL_DECIMALS),
                weights_digest=encoder.digest,
                data_digest=places.digest,
                versions=written,
            )
            for row, asked in enumerate(found)
            for column, answer in enumerate(found)
        ]
    )


def _refuse_labels(request: Request) -> None:
    defaults = Request(dataset=request.dataset, models=request.models)
    options = {"split": "--split", "fractions": "--fraction", "shots": "--shots", "seeds": "--seeds", "fuses": "--fuse"}
    for name, option in options.items():
        if getattr(request, name) != getattr(defaults, name):
            raise UserError(f"{option} has no meaning for protocol retrieval, which uses no labels; leave it out")
