"""Any model by name as a folder that is read where this package is not installed.

timm (``local-dir:``), segmentation_models_pytorch (``tu-local-dir:``), terratorch and transformers read such a folder;
what it holds: docs/architecture.md. Weights that ship in the package get the files that ``eo-train export`` wrote with
them; of a Hub repository or a folder the files are copied, and a ``config.json`` that an earlier version of this
package wrote is brought up to date.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from eo_backbones.cards import CardFacts, folder_texts
from eo_backbones.cards.card import CARD_FILE
from eo_backbones.cards.facts import LICENSE_FILE
from eo_backbones.cards.folder_texts import DATASET_IDS, RESULTS_FOLDER, STAC_FILE
from eo_backbones.errors import UserError
from eo_backbones.files import atomic_folder, read_json, refuse_unwritable, utf8, write_json
from eo_backbones.hub import download
from eo_backbones.hub.download import HUB_PREFIX, Resolved
from eo_backbones.hub.folder import (
    CONFIG_FILE,
    DIGEST_KEY,
    GOLDEN_FILE,
    LOG_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    check_golden,
    read_config,
    save_golden,
    timm_fields,
)
from eo_backbones.models import create_model
from eo_backbones.results import RESULTS_FILE, read_results
from eo_backbones.weights import Weights

EMBEDDED_FILES = (RECIPE_FILE, RESULTS_FILE, GOLDEN_FILE, LOG_FILE, "loss.png")
"""Files beside weights that ship in the package, as ``eo-train export`` and the measurement wrote them."""

_COPIED = (
    *(CARD_FILE, LICENSE_FILE, STAC_FILE, *EMBEDDED_FILES),
    *("metrics.json", "examples.png"),  # of a fine-tuning
    *(f"{RESULTS_FOLDER}/{dataset}.yaml" for dataset in DATASET_IDS),
)
"""Files beside weights and config that are copied from a Hub repository or a folder, those that are there."""


def save(
    name: str, folder: Path, *, cache_dir: str | Path | None = None, local_files_only: bool = False
) -> dict[str, Any]:
    """Write a model as a folder of weights, and load it again from there.

    A folder that exists afterwards is one that works: it is written beside its place, compared with its own golden
    outputs through this package and through timm alone, and only then renamed.

    Args:
        name: as in :func:`eo_backbones.create_model`.
        folder: to make; missing or empty.
        cache_dir: as in :func:`eo_backbones.create_model`.
        local_files_only: likewise.

    Returns:
        ``folder``, ``name``, ``sha256`` (of the weights), ``bytes``, ``files``, ``golden`` (largest difference from the
        golden outputs when loaded again), ``needs_eo_backbones`` (whether timm alone cannot build the network: one
        that reads several bands by themselves, or gives every pixel a class).

    Raises:
        UserError: something is in the folder, or it cannot be written; whatever is wrong with name or weights.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder")
    refuse_unwritable(folder, option="FOLDER", folder=True)
    resolved = download.resolve(name, cache_dir=cache_dir, local_files_only=local_files_only)
    assert resolved.weights_path is not None, "resolved with weights"
    with atomic_folder(folder) as unfinished:
        shutil.copyfile(resolved.weights_path, unfinished / WEIGHTS_FILE)
        if resolved.row is not None and resolved.route == "embedded":
            _write_embedded(resolved.row, resolved.weights_path.parent, unfinished)
        else:
            for filename, path in _beside(resolved, cache_dir=cache_dir, local_files_only=local_files_only):
                (unfinished / filename).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, unfinished / filename)
        _renew_config(unfinished / CONFIG_FILE)
        if not (unfinished / RECIPE_FILE).is_file():  # of a foreign repository; the digest lets the folder be verified
            write_json(unfinished / RECIPE_FILE, {"name": name, DIGEST_KEY: resolved.sha256})
        model = create_model(f"{download.LOCAL_PREFIX}{unfinished}")
        if not (unfinished / GOLDEN_FILE).is_file():
            save_golden(unfinished, model, _inputs(resolved))
        networks: list[nn.Module] = [model]
        if resolved.config.fuse is None:
            networks.append(timm.create_model(f"{download.LOCAL_PREFIX}{unfinished}", pretrained=True))
        difference = max(check_golden(unfinished, network) for network in networks)
        files = sorted(path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file())
        size = (unfinished / WEIGHTS_FILE).stat().st_size
    return {
        "folder": str(folder),
        "name": name,
        "sha256": resolved.sha256,
        "bytes": size,
        "files": files,
        "golden": difference,
        "needs_eo_backbones": resolved.config.fuse is not None,
    }


def _write_embedded(row: Weights, source: Path, folder: Path) -> None:
    """Write what belongs to weights that ship in the package: files beside them, and the texts made from these."""
    missing = [filename for filename in EMBEDDED_FILES if not (source / filename).is_file()]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}; install eo-backbones again")
    for filename in EMBEDDED_FILES:
        shutil.copyfile(source / filename, folder / filename)
    record = read_json(folder / RECIPE_FILE)
    facts = CardFacts(name=row.name, input=row.input, record=record, license=row.license, row=row)
    for filename, text in folder_texts(facts, read_results(folder), size_bytes=row.size_bytes).items():
        (folder / filename).parent.mkdir(exist_ok=True)
        (folder / filename).write_bytes(utf8(text))


def _beside(resolved: Resolved, *, cache_dir: str | Path | None, local_files_only: bool) -> Iterator[tuple[str, Path]]:
    """Yield name and path of the files beside the weights in a Hub repository, at the same commit, or in a folder."""
    assert resolved.weights_path is not None, "resolved with weights"
    name = resolved.name
    if resolved.route == "hub":
        source = download.parse_source(name)
        repo_id = source.row.repo_id if source.row else source.repo_id
        name = f"{HUB_PREFIX}{repo_id}@{resolved.weights_path.parent.name}"
    for filename in (CONFIG_FILE, *_COPIED):
        path = download.fetch_beside(name, filename, cache_dir=cache_dir, local_files_only=local_files_only)
        if path is not None:
            yield filename, path


def _renew_config(path: Path) -> None:
    """Let other libraries read a folder that an earlier version wrote: :func:`eo_backbones.hub.folder.config_json`."""
    config = read_config(path)
    if config.input is None or config.fuse is not None:  # not of this package, or for this package only
        return
    content = read_json(path)
    fresh = timm_fields(config.input, in_chans=config.in_chans, architecture=config.architecture)
    arguments = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    description = {**config.pretrained_cfg, "mean": fresh["mean"], "std": fresh["std"]}
    renewed = {"dtype": "float32", **content, "num_classes": config.num_classes}
    renewed |= {"model_args": arguments, "pretrained_cfg": description}
    if renewed != content:
        write_json(path, renewed)


def _inputs(resolved: Resolved) -> torch.Tensor:
    """Return images to record the outputs of: two of the declared size, in [0, 1), float32."""
    size = resolved.config.pretrained_cfg["input_size"]
    return torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
