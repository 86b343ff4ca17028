"""``eo-train export``: a run's encoder as a weights folder that plain timm, this package and the Hub can read.

What the folder holds: docs/architecture.md. It is written beside its place, loaded again through both ways that users
have, compared with its own golden outputs, and only then renamed; so a folder that exists is one that works.
``model.safetensors`` depends on weights and recipe alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from eo_backbones import weights
from eo_backbones.cards import CardFacts, folder_texts
from eo_backbones.cards.facts import as_planned, check_license
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.files import (
    atomic_folder,
    read_json,
    refuse_occupied,
    refuse_unwritable,
    sha256_of,
    utf8,
    write_json,
)
from eo_backbones.hub.folder import (
    CONFIG_FILE,
    CONFIG_KEY,
    DIGEST_KEY,
    LOG_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    check_golden,
    config_json,
    save_golden,
    save_weights,
)
from eo_backbones.models import create_model
from eo_backbones.results import read_results, rows_of
from eo_backbones.weights import Weights
from eo_backbones_train.pretraining import run_folder
from eo_backbones_train.pretraining.checkpoint import checkpoints, read_checkpoint
from eo_backbones_train.pretraining.run_folder import CHECKPOINT_FOLDER, RESULT_FILE, RUN_FILE
from eo_backbones_train.pretraining.runlog import LOSS_FILE, METRICS_FILE, draw_loss, read_records
from eo_backbones_train.recipes.published import RECIPES, input_spec
from eo_backbones_train.recipes.recipe import RANDOM, Recipe
from eo_backbones_train.recipes.serialise import digest, from_dict, to_dict
from eo_backbones_train.store.layouts import SCENE_LAYOUTS

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

_ENCODER = "encoder."  # of the online network in the state of BYOL and SimSiam; the target's begins otherwise
_GOLDEN_SHAPE = (2, 1, 64, 64)
_GOLDEN_SEED = 0
_NAMED_SOURCES = 3  # in a name, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """What an export takes from a run folder.

    Attributes:
        folder: of the run.
        recipe: what was trained.
        checkpoint: content of the newest checkpoint.
        finished: whether that is the end of the training.
        start: content of ``run.json``.
    """

    folder: Path
    recipe: Recipe
    checkpoint: Mapping[str, Any]
    finished: bool
    start: Mapping[str, Any]


def export(
    run: Path,
    out: Path,
    *,
    average: Sequence[Path] = (),
    shares: Sequence[float] = (),
    dtype: str = "fp32",
    license: str | None = None,  # noqa: A002  named as in the card
    results: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the encoder of a run as a weights folder, or the mean of several runs' encoders.

    An unfinished run is exported as its newest checkpoint has it; record and card say so. The mean of runs that started
    from the same weights is often better than each (Wortsman et al., arXiv 2203.05482, "model soups"), at no cost; the
    record then names all of them, under ``averaged_with``, and the rest of the folder is about ``run``.

    Args:
        run: folder of ``eo-train pretrain``.
        out: folder to make; its parent is made too.
        average: folders of other runs whose weights are averaged with those of ``run``.
        shares: how much ``run`` and each of ``average`` count, in any scale, say ``(3, 1)``; equal unless given.
        dtype: ``"fp32"``, or ``"fp16"``: convolutions in half precision, BatchNorm stays float32.
        license: of the weights, SPDX identifier in lower case; default: that of the declared row the run belongs to,
            else ``"other"``.
        results: ``results.csv`` of ``eo-backbones evaluate`` for these weights (or its folder), for the card.
        overwrite: replace an earlier export.

    Returns:
        ``folder``, ``name``, ``sha256``, ``bytes``, ``steps``, ``finished``, ``golden`` (largest difference from the
        golden outputs when loaded again).

    Raises:
        UserError: no run, no or a damaged checkpoint, a folder in the way, an unknown option, or runs that cannot be
            averaged: unfinished, or of other networks, initial weights, inputs or stores.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if license is not None:
        check_license(license)
    refuse_occupied(
        out,
        earlier="an export",
        recognised=(out / WEIGHTS_FILE).is_file() and (out / RECIPE_FILE).is_file(),
        remedy=None if overwrite else "add --overwrite to replace it",
    )
    refuse_unwritable(out, folder=True)
    measured = read_results(results) if results else []
    trained = read_run(run)
    others = [read_run(other) for other in average]
    _check_average(trained, others)
    parts = _parts_of_one(shares, number=1 + len(others))
    contract = input_spec(trained.recipe)
    with atomic_folder(out, overwrite=overwrite) as folder:
        # The weights: they depend on recipe and values alone.
        network = trained.recipe.model.architecture
        config = config_json(input=contract, architecture=network)
        save_weights(
            mean_weights([trained, *others], parts, DTYPES[dtype]),
            folder / WEIGHTS_FILE,
            {"recipe_digest": digest(trained.recipe), CONFIG_KEY: json.dumps(config[CONFIG_KEY])},
        )
        sha256 = sha256_of(folder / WEIGHTS_FILE)

        # What describes them.
        row = declared_row(trained, sha256)
        name = row.name if row else run_name(trained)
        license = license or (row.license if row else "other")  # noqa: A001
        record = _record(trained, others, parts, name=name, sha256=sha256, dtype=dtype)
        if measured and not rows_of(measured, name, sha256):
            raise UserError(f"{results} holds nothing measured with these weights ({sha256[:12]}…); evaluate them")
        known = replace(contract, processing_levels=_levels_of(trained.start["sources"]))
        write_json(folder / CONFIG_FILE, config_json(input=known, license=license, architecture=network))
        write_json(folder / RECIPE_FILE, record)
        _write_log(trained, folder)

        # Loaded again: our loader's outputs are recorded, and timm's must be the same.
        model = create_model(f"local-dir:{folder}")
        save_golden(folder, model, golden_inputs())
        difference = check_golden(folder, timm.create_model(f"local-dir:{folder}", pretrained=True))

        size = (folder / WEIGHTS_FILE).stat().st_size
        facts = CardFacts(name=name, input=known, record=record, license=license, row=row)
        for filename, text in folder_texts(facts, measured, size_bytes=size).items():
            (folder / filename).parent.mkdir(exist_ok=True)
            (folder / filename).write_bytes(utf8(text))
    return {
        "folder": str(out),
        "name": name,
        "sha256": sha256,
        "bytes": size,
        "steps": trained.checkpoint["step"],
        "finished": trained.finished,
        "golden": difference,
    }


def read_run(folder: Path) -> TrainedRun:
    """Read what a run folder says about itself, and its newest checkpoint.

    Raises:
        UserError: there is no run, no checkpoint, or a damaged file.
    """
    if not (folder / run_folder.RECIPE_FILE).is_file():
        raise UserError(
            f"{folder} is not a run folder of eo-train (it has no {run_folder.RECIPE_FILE}); name the --out of a run"
        )
    saved = checkpoints(folder / CHECKPOINT_FOLDER)
    if not saved:
        raise UserError(f"{folder} has no checkpoint yet; type the command of the run again, with --resume")
    try:
        checkpoint = read_checkpoint(saved[-1])
    except UserError as error:
        raise UserError(f"{error}; delete it to go back to the checkpoint before") from error
    if "method" not in checkpoint or "recipe" not in checkpoint:
        raise UserError(f"{saved[-1]} holds no trained method; name the folder of a run of eo-train pretrain")
    result = read_json(folder / RESULT_FILE) if (folder / RESULT_FILE).is_file() else None
    return TrainedRun(
        folder=folder,
        recipe=from_dict(checkpoint["recipe"]),
        checkpoint=checkpoint,
        finished=result is not None and result["steps"] == checkpoint["step"],
        start=read_json(folder / RUN_FILE, kind="run folder of eo-train"),
    )


def _check_average(trained: TrainedRun, others: Sequence[TrainedRun]) -> None:
    """Refuse runs whose weights have no meaningful mean, or for which one card could not speak."""
    if not others:
        return
    folders = [one.folder.resolve() for one in (trained, *others)]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"the run {folder} is named twice; name each run once")
    if trained.recipe.model.init == RANDOM:
        raise UserError(
            f"{trained.folder} started at random; only runs that started from the same weights (--init) can be "
            "averaged, so leave --average out"
        )
    for one in (trained, *others):
        if not one.finished:
            raise UserError(f"{one.folder} is unfinished; finish it with eo-train pretrain --resume, then average")
    for other in others:
        for what, own, theirs in (
            ("network", trained.recipe.model.architecture, other.recipe.model.architecture),
            ("initial weights", trained.recipe.model.init, other.recipe.model.init),
            ("input", input_spec(trained.recipe), input_spec(other.recipe)),
            ("store", trained.checkpoint["store_digest"], other.checkpoint["store_digest"]),
        ):
            if own != theirs:
                raise UserError(
                    f"{other.folder} and {trained.folder} differ in their {what}; only runs of one network from the "
                    "same initial weights, with the same input and on the same store, can be averaged"
                )


def _parts_of_one(shares: Sequence[float], *, number: int) -> list[float]:
    """Return how much each run counts; the sum is 1."""
    if not shares:
        return [1 / number] * number
    if len(shares) != number or not all(0 < share < math.inf for share in shares):
        raise UserError(
            f"--shares {' '.join(f'{share:g}' for share in shares)} is for {number} runs; give {number} positive "
            "numbers, that of RUN first, then those of --average"
        )
    return [share / sum(shares) for share in shares]


def mean_weights(runs: Sequence[TrainedRun], parts: Sequence[float], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the mean of the runs' encoders, tensor by tensor; otherwise as :func:`encoder_weights`.

    Args:
        runs: of one network; counters are those of the first.
        parts: how much each counts; the sum is 1.
        dtype: of the result.
    """
    if len(runs) == 1:
        return encoder_weights(runs[0], dtype)
    states = [encoder_weights(run, torch.float32) for run in runs]
    means: dict[str, Tensor] = {}
    for name, first in states[0].items():
        weighted = [part * state[name].double() for part, state in zip(parts, states, strict=True)]
        mean = torch.stack(weighted).sum(dim=0).float() if first.is_floating_point() else first
        means[name] = _stored(mean, dtype)
    return means


def encoder_weights(trained: TrainedRun, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the online encoder under timm's names; in half precision only what has more than one dimension.

    BatchNorm's parameters and statistics are small, and its variances leave the range of float16.

    Raises:
        UserError: it is not the network that the recipe names, with one input channel.
    """
    architecture = trained.recipe.model.architecture
    state = {
        name.removeprefix(_ENCODER): tensor
        for name, tensor in trained.checkpoint["method"].items()
        if name.startswith(_ENCODER)
    }
    with torch.device("meta"):
        expected = timm.create_model(architecture, in_chans=1, num_classes=0).state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != {name: t.shape for name, t in expected.items()}:
        raise UserError(f"the encoder of {trained.folder} is not a {architecture} with one channel; train it again")
    return {name: _stored(tensor, dtype) for name, tensor in state.items()}


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.ndim > 1 else tensor


def declared_row(trained: TrainedRun, sha256: str) -> Weights | None:
    """Return the declared row that these weights may be called by: unchanged recipe, its images, trained to its end."""
    recipe = trained.recipe
    if not trained.finished or not _unchanged(recipe) or not as_planned(recipe.data.sources, trained.start["sources"]):
        return None
    rows = weights.WEIGHTS.values()
    return next((row for row in rows if row.recipe == recipe.name and row.sha256 in {None, sha256}), None)


def run_name(trained: TrainedRun) -> str:
    """Return what weights without a row are called: after their recipe, and their images where it means others.

    A recipe that was changed has a name that says so.
    """
    recipe, sources = trained.recipe, [source["name"] for source in trained.start["sources"]]
    if not _unchanged(recipe) or as_planned(recipe.data.sources, trained.start["sources"]):
        return f"{recipe.name} run"
    more = f" and {len(sources) - _NAMED_SOURCES} more" if len(sources) > _NAMED_SOURCES else ""
    return f"{recipe.name} run on {', '.join(sources[:_NAMED_SOURCES])}{more}"


def _unchanged(recipe: Recipe) -> bool:
    return recipe.name in RECIPES and digest(recipe) == digest(RECIPES[recipe.name])


def golden_inputs() -> Tensor:
    """Return the images whose features are recorded: normalised values as the network sees them, float32."""
    return torch.rand(_GOLDEN_SHAPE, generator=torch.Generator().manual_seed(_GOLDEN_SEED))


def _levels_of(sources: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the processing levels of the sources that were trained on, as far as they are known.

    Stores of earlier versions do not record them, but those of a data set follow from its layout.
    """
    levels: set[str] = set()
    for source in sources:
        layout = SCENE_LAYOUTS.get(source["layout"])
        levels.update(source.get("levels") or ([layout.level] if layout and layout.level else []))
    return tuple(sorted(levels))


def _record(
    trained: TrainedRun,
    others: Sequence[TrainedRun],
    parts: Sequence[float],
    *,
    name: str,
    sha256: str,
    dtype: str,
) -> dict[str, Any]:
    """Return ``recipe.json``: how the weights came about, without paths, host or time."""
    made = _how_made(trained)
    return {
        "name": name,
        "recipe": made.pop("recipe"),
        "recipe_digest": made.pop("recipe_digest"),
        DIGEST_KEY: sha256,
        "dtype": dtype,
        "network": "online",
        **made,
        **(_average_record(others, parts) if others else {}),
    }


def _average_record(others: Sequence[TrainedRun], parts: Sequence[float]) -> dict[str, Any]:
    first, *rest = parts
    return {
        "share": first,
        "averaged_with": [{"share": part, **_how_made(other)} for part, other in zip(rest, others, strict=True)],
    }


def _how_made(trained: TrainedRun) -> dict[str, Any]:
    checkpoint = trained.checkpoint
    return {
        "recipe": to_dict(trained.recipe),
        "recipe_digest": digest(trained.recipe),
        "seed": trained.recipe.seed,
        "steps": checkpoint["step"],
        "finished": trained.finished,
        **({"init": checkpoint["init"]} if "init" in checkpoint else {}),
        "data": {"manifest_digest": checkpoint["store_digest"], "sources": trained.start["sources"]},
        "machine": checkpoint["machine"],
        "versions": checkpoint["versions"],
        "git_commit": trained.start["git_commit"],
    }


def _write_log(trained: TrainedRun, folder: Path) -> None:
    path = trained.folder / METRICS_FILE
    step = trained.checkpoint["step"]
    records = [r for r in read_records(path) if r["step"] <= step] if path.is_file() else []
    if not records:
        raise UserError(f"{path} has no record up to step {step}; resume the run until it has written one")
    (folder / LOG_FILE).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    draw_loss(records, folder / LOSS_FILE)
