"""``eo-train finetune``: from labelled images and an encoder to a folder with a classifier.

The run lives in ``OUT/.finetuning`` (hidden, so that a push leaves it out): ``plan.json``, checkpoints while it trains,
``metrics.jsonl``, TensorBoard events, ``predictions.csv``. The folder's own files appear together at the end;
``recipe.json`` is the last and says that the run is finished.
"""

import csv
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eo_backbones import hub
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.splits import Split
from eo_backbones.errors import UserError
from eo_backbones.evaluation.precision import pick_device
from eo_backbones.folder import RECIPE_FILE
from eo_backbones_train.finetuning.augmentation import Augmentation
from eo_backbones_train.finetuning.frozen import FrozenFeatures
from eo_backbones_train.finetuning.network import build_network, freeze, parameter_groups, train_mode
from eo_backbones_train.finetuning.own_images import OwnImages, as_input, check_all, divide, open_data, own_size
from eo_backbones_train.finetuning.scores import score
from eo_backbones_train.finetuning.settings import Settings
from eo_backbones_train.finetuning.training import CHECKPOINTS, Fitted, Learner, fit, logits
from eo_backbones_train.finetuning.written_folder import classifier_config, move_into, write_folder
from eo_backbones_train.run.checkpoint import remove_unfinished
from eo_backbones_train.run.run_folder import differences, git_commit, read_json, versions, write_json
from eo_backbones_train.run.runlog import LOSS_FILE, METRICS_FILE, require_tensorboard

RUN_FOLDER = ".finetuning"
PLAN_FILE = "plan.json"
PREDICTIONS_FILE = "predictions.csv"
LOG_FILE = "training_log.jsonl"
METRICS_BY_CLASS_FILE = "metrics.json"

logger = logging.getLogger(__name__)

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Name and number of steps of a part of the work -> what is told of steps done, as ``ProgressWatcher.stage``."""


def finetune(
    data: Path,
    out: Path,
    *,
    bands: Sequence[str],
    units: Sequence[str] = (),
    size_px: int | None = None,
    resume: bool = False,
    license: str = "other",  # noqa: A002  named as in the card
    device: str = "auto",
    tensorboard: bool = True,
    stage: Stage,
    **values: Any,
) -> dict[str, Any]:
    """Train a classifier on labelled images and write its folder.

    Args:
        data: folder of class folders, or CSV file with ``path,label[,split]``.
        out: folder to make.
        bands: names, or ``B04=4``; may be empty if the images have one band only.
        units: one for all bands, or ``BAND=UNIT``; default: what the files suggest, checked image by image.
        size_px: side that images are brought to; default: their own, up to 224.
        resume: go on with the run in ``out``, or start it.
        license: of the weights.
        device: ``auto``, ``cpu`` or ``cuda``.
        tensorboard: also write TensorBoard events.
        stage: shows progress.
        **values: other fields of :class:`Settings`.

    Returns:
        ``folder``, ``finished_before`` and the content of ``recipe.json``.

    Raises:
        UserError: whatever is wrong with images, options, model or folder.
        RunStopped: by Ctrl-C or SIGTERM; the run can be resumed.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(f"--license {license!r} is no identifier as the Hub takes it; write it like cc-by-4.0 or other")
    if tensorboard:
        require_tensorboard()
    place = pick_device(device)
    torch.backends.cudnn.deterministic = True
    _refuse_occupied(out, resume=resume)
    labelled, chosen = open_data(data, bands=bands, units=units)
    settings = Settings(**values, size_px=size_px or own_size(labelled))
    split = divide(labelled, seed=settings.seed, shots=settings.shots)
    network = build_network(settings, bands=chosen, num_classes=len(labelled.classes))
    spec: Any = network.eo_input
    images = as_input(labelled, chosen, spec, size_px=settings.size_px, device=place)
    plan = {
        "settings": settings.to_dict(),
        "bands": list(chosen),
        "units": [labelled.unit_of(name) for name in chosen],
        "classes": list(labelled.classes),
        "data_digest": labelled.digest,
        "parts": [len(split.train), len(split.val), len(split.test)],
        "encoder_sha256": network.eo_digest,
    }
    if _finished(out, plan):
        logger.info("%s is finished; nothing is left to do", out)
        return {"folder": str(out), "finished_before": True, **read_json(out / RECIPE_FILE)}
    freeze(network, settings)
    with stage("check images", len(labelled)) as tick:
        check_all(images, tick)
    run = _claim(out, plan)
    fitted = _train(network.to(place), images, split, settings, run, tensorboard=tensorboard, stage=stage)
    results, probabilities = _judge(network, images, split, settings, stage)
    _write_predictions(run / PREDICTIONS_FILE, labelled, split, probabilities)
    record = _record(data, plan, settings, split, fitted, results)
    unfinished = run / "folder"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed here
    unfinished.mkdir()
    shutil.copyfile(run / METRICS_FILE, unfinished / LOG_FILE)
    shutil.copyfile(run / LOSS_FILE, unfinished / LOSS_FILE)
    write_json(unfinished / METRICS_BY_CLASS_FILE, results)
    source = hub.resolve(settings.model, with_weights=False).config
    config = classifier_config(source, network, classes=labelled.classes, size_px=settings.size_px, license=license)
    record = write_folder(unfinished, network.cpu(), config, record, license=license)
    move_into(unfinished, out)
    shutil.rmtree(run / CHECKPOINTS)
    return {"folder": str(out), "finished_before": False, **record}


def _refuse_occupied(out: Path, *, resume: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RUN_FOLDER / PLAN_FILE).is_file():
        raise UserError(f"{out} is not empty and holds no run of eo-train finetune; name a new folder with --out")
    if not resume:
        raise UserError(f"{out} already holds a run; add --resume to continue it, or name another folder with --out")


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


def _claim(out: Path, plan: Mapping[str, Any]) -> Path:
    """Make the run's folder, or tidy it up after a kill, and return it.

    Raises:
        UserError: it cannot be written.
    """
    run = out / RUN_FOLDER
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / PLAN_FILE, plan)
    except OSError as error:
        raise UserError(f"cannot write the folder {out}: {error.strerror}; name another with --out") from error
    remove_unfinished(run / CHECKPOINTS)
    return run


def _train(
    network: torch.nn.Module,
    images: OwnImages,
    split: Split,
    settings: Settings,
    run: Path,
    *,
    tensorboard: bool,
    stage: Stage,
) -> Fitted:
    spec: Any = network.eo_input
    frozen = None
    if settings.mode == "linear":
        with stage("features", len(split.train) + len(split.val)) as tick:
            frozen = FrozenFeatures(network, images.inputs, split, tick)
        learner = frozen.learner(network, settings)
    else:
        learner = Learner(
            module=network,
            groups=parameter_groups(network, settings),
            inputs=images.inputs,
            augment=Augmentation(spec, size_px=settings.size_px, seed=settings.seed, device=images.device),
            to_train_mode=lambda: train_mode(network),
        )
    data = images.data
    with stage("train", settings.epochs) as tick:
        fitted = fit(
            learner,
            data.labels,
            split,
            settings,
            num_classes=len(data.classes),
            folder=run,
            tensorboard=tensorboard,
            tick=tick,
        )
    if frozen is not None:
        layer = learner.module
        assert isinstance(layer, torch.nn.Linear)
        frozen.fold(layer, network)
    return fitted


def _judge(
    network: torch.nn.Module, images: OwnImages, split: Split, settings: Settings, stage: Stage
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return scores and probabilities of the validation and, if there are any, the test images."""
    data = images.data
    parts = {"val": split.val, "test": split.test}
    results: dict[str, Any] = {}
    probabilities: dict[str, Tensor] = {}
    with stage("judge", len(split.val) + len(split.test)) as tick:
        for part, rows in parts.items():
            if len(rows):
                probabilities[part] = logits(network, images.inputs, rows, settings.batch).softmax(dim=1)
                answers = probabilities[part].argmax(dim=1).numpy()
                results[part] = score(data.labels[rows], answers, data.classes)
                tick(len(rows))
    return results, probabilities


def _write_predictions(path: Path, data: LabelledImages, split: Split, probabilities: Mapping[str, Tensor]) -> None:
    """Write what was answered for each validation and test image, to look at what went wrong."""
    rows: dict[str, np.ndarray] = {"val": split.val, "test": split.test}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "split", "label", "class", *(f"p_{name}" for name in data.classes)])
        for part, values in probabilities.items():
            for row, own in zip(rows[part].tolist(), values, strict=True):
                truth, answer = data.classes[data.labels[row]], data.classes[int(own.argmax())]
                writer.writerow([data.paths[row], part, truth, answer, *(f"{value:.6f}" for value in own.tolist())])


def _record(
    data: Path,
    plan: Mapping[str, Any],
    settings: Settings,
    split: Split,
    fitted: Fitted,
    results: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``recipe.json`` without the digest of the weights: no paths, host or time."""
    base = settings.model
    if base.startswith(hub.LOCAL_PREFIX):  # a path of this machine; the folder may know a better name
        beside = hub.fetch_beside(base, RECIPE_FILE)
        base = str(read_json(beside).get("name", "local folder")) if beside else "local folder"
    return {
        "name": f"{data.stem} classifier",
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
            "classes": plan["classes"],
            "split": split.name,
            "train": len(split.train),
            "val": len(split.val),
            "test": len(split.test),
        },
        "results": results,
        "versions": versions(),
        "git_commit": git_commit(),
    }
