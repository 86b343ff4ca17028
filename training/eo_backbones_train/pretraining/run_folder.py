"""The run folder: who may write into it, and the small files that say what ran, where and with what result.

``recipe.json`` (what is trained, on which store) is written first and never changed; ``run.json`` (machine settings,
versions, command, the sources of the store) and ``config.yaml`` (the options of the command) describe the last start;
``result.json`` exists only when the run is finished.
"""

import logging
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from eo_backbones.errors import UserError
from eo_backbones.files import dotted, read_json, refuse_occupied, write_atomically, write_json
from eo_backbones_train.methods.initial_weights import InitialWeights
from eo_backbones_train.pretraining.checkpoint import newest_checkpoint, remove_unfinished
from eo_backbones_train.pretraining.run_options import Machine, RunOptions
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import digest, to_dict
from eo_backbones_train.store.format import described_sources, read_manifest

RECIPE_FILE = "recipe.json"
RUN_FILE = "run.json"
RESULT_FILE = "result.json"
CONFIG_FILE = "config.yaml"
CHECKPOINT_FOLDER = "checkpoints"
RECORDED_PACKAGES = ("eo-backbones", "torch", "torchvision", "timm", "numpy")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a run begins: ``checkpoint`` is None at step 0; a finished run has nothing left to do."""

    checkpoint: Path | None = None
    finished: bool = False


def claim(
    options: RunOptions, recipe: Recipe, *, store_digest: str, machine: Machine, initial: InitialWeights | None = None
) -> Start:
    """Make the run folder, or find where the run in it continues.

    Raises:
        UserError: the folder holds something else, a run of another recipe or store, or a run while ``resume`` is
            false; or it cannot be written.
    """
    folder = options.out
    plan = {
        "name": recipe.name,
        "digest": digest(recipe),
        "seed": recipe.seed,
        "store_digest": store_digest,
        **({"init": initial.record()} if initial else {}),
        "recipe": to_dict(recipe),
    }
    try:
        has_run = (folder / RECIPE_FILE).is_file()
        refuse_occupied(
            folder,
            earlier="a run of eo-train",
            recognised=has_run,
            remedy=None if options.resume else "add --resume to continue it",
        )
        if has_run:
            _refuse_another_run(folder, plan)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / RECIPE_FILE, plan)
        if (folder / RESULT_FILE).is_file():
            return Start(finished=True)
        write_json(folder / RUN_FILE, _description(options, machine))
        write_config(folder, options.config)
        newest = newest_checkpoint(folder / CHECKPOINT_FOLDER)
        remove_unfinished(folder / CHECKPOINT_FOLDER)
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}; name another with --out") from error
    if newest is None:
        return Start()
    path, content = newest
    changed = differences(content["machine"], machine.to_dict())
    if changed:
        logger.warning("this run continues, but not bit for bit as it began: %s", "; ".join(changed))
    return Start(checkpoint=path)


def write_config(folder: Path, config: Mapping[str, Any] | None) -> None:
    """Write the options of a command as the file that its ``--config`` takes, if there are any."""
    if config is not None:
        write_atomically(folder / CONFIG_FILE, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one message for each field, in dotted names, that differs between two JSON values."""
    flat_before, flat_now = dict(dotted(before)), dict(dotted(now))
    return [
        f"{name} was {flat_before.get(name)!r} and is now {flat_now.get(name)!r}"
        for name in (flat_before | flat_now)
        if flat_before.get(name) != flat_now.get(name)
    ]


def _refuse_another_run(folder: Path, plan: Mapping[str, Any]) -> None:
    saved = read_json(folder / RECIPE_FILE)
    if saved["digest"] != plan["digest"]:
        changed = differences(saved["recipe"], plan["recipe"])
        raise UserError(
            f"{folder} holds a run of another recipe ({'; '.join(changed)}); "
            "resume with the recipe it began with, or name another folder with --out"
        )
    if saved["store_digest"] != plan["store_digest"]:
        raise UserError(
            f"{folder} holds a run on another store (digest was {saved['store_digest']} and is now "
            f"{plan['store_digest']}); resume with the store it began with, or name another folder with --out"
        )


def _description(options: RunOptions, machine: Machine) -> dict[str, Any]:
    return {
        "command": sys.argv,
        "store": str(options.store),
        "sources": described_sources(read_manifest(options.store)),
        "machine": machine.to_dict(),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"  # our own code, run from a checkout
    if torch.version.cuda:
        installed["cuda"] = torch.version.cuda
    return installed


def git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, with ``+`` if files differ; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # or is it installed in another checkout, say in its .venv?
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
