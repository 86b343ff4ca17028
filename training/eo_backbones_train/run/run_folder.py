"""The run folder: who may write into it, and the three small files that say what ran, where and with what result.

``recipe.json`` (what is trained, on which store) is written first and never changed; ``run.json`` (machine settings,
versions, command, the sources of the store) describes the last start; ``result.json`` exists only when the run is
finished.
"""

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from eo_backbones.errors import UserError
from eo_backbones_train.initial_weights import InitialWeights
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.recipe_json import digest, to_dict
from eo_backbones_train.run.checkpoint import newest_checkpoint, remove_unfinished
from eo_backbones_train.run.run_options import Machine, RunOptions
from eo_backbones_train.store_format import described_sources, read_manifest

RECIPE_FILE = "recipe.json"
RUN_FILE = "run.json"
RESULT_FILE = "result.json"
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
    """Make the run folder, or find where the run in it goes on.

    Raises:
        UserError: the folder holds a run and ``resume`` was not asked for, or something else, or a run of another
            recipe or store; or it cannot be written.
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
        if not (folder / RECIPE_FILE).is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise UserError(f"{folder} is not empty and holds no run of eo-train; name a new folder with --out")
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / RECIPE_FILE, plan)
        elif not options.resume:
            raise UserError(
                f"{folder} already holds a run; add --resume to continue it, or name another folder with --out"
            )
        else:
            _refuse_another_run(folder, plan)
        if (folder / RESULT_FILE).is_file():
            return Start(finished=True)
        write_json(folder / RUN_FILE, _description(options, machine))
        found = newest_checkpoint(folder / CHECKPOINT_FOLDER)
        remove_unfinished(folder / CHECKPOINT_FOLDER)
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}; name another with --out") from error
    if found is None:
        return Start()
    path, content = found
    changed = differences(content["machine"], machine.to_dict())
    if changed:
        logger.warning("this run goes on, but not bit for bit as it began: %s", "; ".join(changed))
    return Start(checkpoint=path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is complete as soon as it exists."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read one of the files of a run folder.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; is {path.parent} a run folder of eo-train?") from error
    return content


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say, field by field in dotted names, what differs between two JSON values."""
    flat_before, flat_now = dict(_flat(before)), dict(_flat(now))
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


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(entry, f"{prefix}.{key}" if prefix else str(key))
    else:
        # JSON has no tuples: what was read back must compare equal to what was written.
        yield prefix, list(value) if isinstance(value, tuple) else value


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
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"  # our own code, run from a checkout
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, with ``+`` if files differ; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed inside somebody else's checkout, say in its .venv?
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
