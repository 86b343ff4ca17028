"""``eo-train finetune``: from labelled images and an encoder to a folder with a classifier or a segmentation network.

The run lives in ``OUT/.finetuning`` (hidden, so that a push leaves it out): ``plan.json``, ``config.yaml``, checkpoints
while it trains, ``metrics.jsonl``, TensorBoard events, ``predictions.csv``. The folder's own files appear together at
the end; ``recipe.json`` is the last and says that the run is finished.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from eo_backbones.cards.facts import check_license
from eo_backbones.datasets.splits import Split
from eo_backbones.device import pick_device
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.files import read_json, refuse_occupied, refuse_unwritable, write_json
from eo_backbones.hub import download
from eo_backbones.hub.folder import LOG_FILE, RECIPE_FILE
from eo_backbones.progress import SILENT, Progress
from eo_backbones.rasters.options import KeptReading, Numbers, ReadingOptions
from eo_backbones.rasters.scaling import levels_differ
from eo_backbones_train.finetuning import classification, segmentation
from eo_backbones_train.finetuning.fit import CHECKPOINTS, Approach, FinetuneContext, FitResult, OpenedData
from eo_backbones_train.finetuning.folder import move_into, network_config, write_folder
from eo_backbones_train.finetuning.images import as_input, band_indices, check_all, divide
from eo_backbones_train.finetuning.network import build_network, freeze
from eo_backbones_train.finetuning.settings import DEFAULT_BATCH, Settings, Task, refuse_idle_fields
from eo_backbones_train.pretraining.checkpoint import remove_unfinished
from eo_backbones_train.pretraining.run_folder import differences, git_commit, versions, write_config
from eo_backbones_train.pretraining.runlog import LOSS_FILE, METRICS_FILE
from eo_backbones_train.tracking.logger import Tracking, choose_loggers

RUN_FOLDER = ".finetuning"
PLAN_FILE = "plan.json"
METRICS_BY_CLASS_FILE = "metrics.json"
_NOUNS = {"classification": "classifier", "segmentation": "segmentation"}

logger = logging.getLogger(__name__)

APPROACHES: Mapping[Task, Approach] = MappingProxyType({"classification": classification, "segmentation": segmentation})


def finetune(
    data: Path,
    out: Path,
    *,
    bands: Sequence[str],
    units: Sequence[str] = (),
    scale: Numbers = None,
    offset: Numbers = None,
    nodata: Numbers = None,
    task: Task = "classification",
    size_px: int | None = None,
    batch: int | None = None,
    resume: bool = False,
    license: str = "other",  # noqa: A002  named as in the card
    device: str = "auto",
    loggers: Sequence[str] | None = None,
    tensorboard: bool = True,
    config: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
    **values: Any,
) -> dict[str, Any]:
    """Train a network on labelled images and write its folder.

    Args:
        data: for classification a folder of class folders, or a CSV file with ``path,label[,split]``; for segmentation
            a folder with ``images`` and ``masks``, or a CSV file with ``path,mask[,split]``.
        out: folder to make.
        bands: names, or ``B04=4``; may be empty if the images have one band only.
        units: one for all bands, or ``BAND=UNIT``; default: what the files suggest, checked image by image.
        scale: factor of the stored values, see :class:`eo_backbones.rasters.options.ReadingOptions`. The folder keeps
            it and the two below, ``units``, and the positions in ``bands``, for the images that it will predict.
        offset: added after it.
        nodata: stored value that means "missing".
        task: ``classification`` or ``segmentation``.
        size_px: side that images are resized to; default: their own, up to 224. For segmentation of the squares that
            are cut out of them; default: up to 256.
        batch: images a step, at most; default: 32, for segmentation 8.
        resume: go on with the run in ``out``, or start it.
        license: of the weights.
        device: ``auto``, ``cpu`` or ``cuda``.
        loggers: where curves go (:data:`eo_backbones_train.tracking.logger.LOGGERS`), or ``["none"]``; ``None`` is
            TensorBoard if it is installed.
        tensorboard: whether that default is wanted.
        config: options of the command, which ``config.yaml`` in the run's folder keeps; from Python usually none.
        progress: where progress is reported.
        **values: other fields of :class:`Settings`.

    Returns:
        ``folder``, ``finished_before`` and the content of ``recipe.json``.

    Raises:
        UserError: whatever is wrong with images, options, model or folder, or a logger that is missing.
        RunStopped: by Ctrl-C or SIGTERM; the run can be resumed.
    """
    check_license(license)
    chosen = choose_loggers(loggers, tensorboard=tensorboard)
    if task not in APPROACHES:
        raise unknown_name("--task", task, APPROACHES)
    refuse_occupied(
        out,
        earlier="a run of eo-train finetune",
        recognised=(out / RUN_FOLDER / PLAN_FILE).is_file(),
        remedy=None if resume else "add --resume to continue it",
    )
    refuse_unwritable(out, folder=True)
    refuse_idle_fields(values)
    with _repeatable(pick_device(device)) as torch_device:
        return _finetune(
            data,
            out,
            bands=bands,
            reading=ReadingOptions.of(units, scale=scale, offset=offset, nodata=nodata),
            approach=APPROACHES[task],
            values={**values, "task": task, "batch": DEFAULT_BATCH[task] if batch is None else batch},
            size_px=size_px,
            license=license,
            device=torch_device,
            loggers=chosen,
            config=config,
            progress=progress,
        )


@contextmanager
def _repeatable(device: torch.device) -> Iterator[torch.device]:
    """Let a run repeat bit for bit, and leave torch's generators and cuDNN's settings as they were."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
            yield device
    finally:
        torch.backends.cudnn.deterministic = before


def _finetune(
    data: Path,
    out: Path,
    *,
    bands: Sequence[str],
    reading: ReadingOptions,
    approach: Approach,
    values: Mapping[str, Any],
    size_px: int | None,
    license: str,  # noqa: A002  named as in the card
    device: torch.device,
    loggers: Sequence[str],
    config: Mapping[str, Any] | None,
    progress: Progress,
) -> dict[str, Any]:
    opened = approach.open_data(data, list(bands), reading)
    kept = KeptReading(
        positions=band_indices(bands),
        declared=reading.for_bands(opened.images.bands).narrowed(opened.bands),
    )
    settings = Settings(**values, size_px=approach.training_size(opened.images, size_px))
    split = divide(opened.images, seed=settings.seed, shots=settings.shots)
    approach.check(split, settings)
    network = build_network(settings, bands=opened.bands, num_classes=len(opened.images.classes))
    spec: Any = network.eo_input
    warning = levels_differ(opened.images.levels, spec.processing_levels)
    if warning:
        logger.warning("%s: %s", data, warning)
    images = as_input(opened.images, opened.bands, spec, size_px=settings.size_px, device=device)
    plan = _plan(opened, settings, split, encoder_sha256=network.eo_digest)
    if _finished(out, plan):
        logger.info("%s is finished; nothing is left to do", out)
        return {"folder": str(out), "finished_before": True, **read_json(out / RECIPE_FILE)}
    freeze(network, settings)
    with progress.stage("check images", len(opened.images)) as tick:
        check_all(images, tick)
    run = _prepare_run_folder(out, plan, config)
    context = FinetuneContext(
        network=network.to(device),
        images=images,
        split=split,
        settings=settings,
        run=run,
        tracking=Tracking(loggers=loggers, name=out.absolute().name, config=plan),
        progress=progress,
    )
    fitted = approach.train(context)
    unfinished = run / "folder"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed here
    unfinished.mkdir()
    results = approach.evaluate(context, unfinished)
    shutil.copyfile(run / METRICS_FILE, unfinished / LOG_FILE)
    shutil.copyfile(run / LOSS_FILE, unfinished / LOSS_FILE)
    write_json(unfinished / METRICS_BY_CLASS_FILE, results)
    described = network_config(
        download.resolve(settings.model, with_weights=False).config,
        network,
        classes=opened.images.classes,
        mask_values=opened.mask_values,
        size_px=settings.size_px,
        license=license,
        reading=kept,
        levels=opened.images.levels,
    )
    record = _record(data, plan, settings, split, fitted, results, kept)
    record = write_folder(unfinished, network.cpu(), described, record, license=license)
    move_into(unfinished, out)
    shutil.rmtree(run / CHECKPOINTS)
    return {"folder": str(out), "finished_before": False, **record}


def _plan(opened: OpenedData, settings: Settings, split: Split, *, encoder_sha256: Any) -> dict[str, Any]:
    """Return ``plan.json``: what decides the result, to compare with when a run is resumed."""
    images = opened.images
    return {
        "settings": settings.to_dict(),
        "bands": list(opened.bands),
        "units": [images.unit_of(name) for name in opened.bands],
        "classes": list(images.classes),
        **({"mask_values": list(opened.mask_values)} if opened.mask_values else {}),
        "data_digest": images.digest,
        "parts": [len(split.train), len(split.val), len(split.test)],
        "encoder_sha256": encoder_sha256,
    }


def _finished(out: Path, plan: Mapping[str, Any]) -> bool:
    """Return whether the folder holds this run, finished.

    Raises:
        UserError: the run in it has other settings or images.
    """
    path = out / RUN_FOLDER / PLAN_FILE
    if not path.is_file():
        return False
    changed = differences(read_json(path), plan)
    if changed:
        raise UserError(
            f"{out} holds a run with other settings ({'; '.join(changed)}); resume with those it began with, or "
            "name another folder with --out"
        )
    return (out / RECIPE_FILE).is_file()


def _prepare_run_folder(out: Path, plan: Mapping[str, Any], config: Mapping[str, Any] | None) -> Path:
    """Make the run's folder, or remove what a killed run left half-written, and return it.

    Raises:
        UserError: it cannot be written.
    """
    run = out / RUN_FOLDER
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / PLAN_FILE, plan)
        write_config(run, config)
    except OSError as error:
        raise UserError(f"cannot write the folder {out}: {error.strerror}; name another with --out") from error
    remove_unfinished(run / CHECKPOINTS)
    return run


def _record(
    data: Path,
    plan: Mapping[str, Any],
    settings: Settings,
    split: Split,
    fitted: FitResult,
    results: Mapping[str, Any],
    reading: KeptReading,
) -> dict[str, Any]:
    """Return ``recipe.json`` without the digest of the weights: no paths, host or time."""
    base = settings.model
    if base.startswith(download.LOCAL_PREFIX):  # a path of this machine; the folder may know a better name
        beside = download.fetch_beside(base, RECIPE_FILE)
        base = str(read_json(beside).get("name", "local folder")) if beside else "local folder"
    return {
        "name": f"{data.stem} {_NOUNS[settings.task]}",
        "recipe": {"name": "finetune", **settings.to_dict(), "model": base},
        "base": {"name": base, "weights_sha256": plan["encoder_sha256"]},
        "seed": settings.seed,
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "data": {
            "name": data.stem,
            "digest": plan["data_digest"],
            "bands": plan["bands"],
            "units": plan["units"],
            **{name: plan[name] for name in ("classes", "mask_values") if name in plan},
            **({"reading": kept} if (kept := reading.to_dict()) else {}),
            "split": split.name,
            "train": len(split.train),
            "val": len(split.val),
            "test": len(split.test),
        },
        "results": results,
        "versions": versions(),
        "git_commit": git_commit(),
    }
