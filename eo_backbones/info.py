"""Facts about a model (``info``), and whether its weights are what was declared (``verify``)."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.hub import download
from eo_backbones.hub.folder import (
    CONFIG_KEY,
    DIGEST_KEY,
    GOLDEN_FILE,
    RECIPE_FILE,
    check_golden,
    metadata_of,
    read_record,
)
from eo_backbones.models import build_model
from eo_backbones.results import RESULTS_FILE, read_results, rows_of, scores


def info(name: str, *, cache_dir: str | Path | None = None, local_files_only: bool = False) -> dict[str, Any]:
    """Return all that is declared about a model, as JSON types; loads no weights.

    For a row this needs no network access. ``how_to_make`` is ``None`` unless the row is declared but not published.
    ``recipe_digest`` and ``results`` are there if they are known: from the row, or from ``recipe.json`` and
    ``results.csv`` beside the weights.
    """
    resolved = download.resolve(name, cache_dir=cache_dir, local_files_only=local_files_only, with_weights=False)
    config, row = resolved.config, resolved.row
    facts: dict[str, Any] = {
        "name": row.name if row else name,
        "route": resolved.route,
        "architecture": config.architecture,
        "in_chans": config.in_chans,
        "num_classes": config.num_classes,
        "classes": list(config.classes),
        **({"mask_values": list(config.mask_values)} if config.mask_values else {}),
        "input": config.input.to_dict() if config.input else None,
        "license": config.pretrained_cfg.get("license"),
    }
    if row is not None:
        declared = asdict(row)
        del declared["input"], declared["name"]
        if row.init is None:
            del declared["init"]  # a random start
        facts |= declared | {
            "results": [score.to_dict() for score in row.results],
            "published": row.published,
            "repo_id": None if row.embedded else row.repo_id,
            "how_to_make": None if row.published else str(row.unpublished_error()),
        }
        return facts
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    return facts | _recorded(name, where)


def _recorded(name: str, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return recipe, digests and results of a Hub repository or folder, as far as its files hold them."""
    recipe = download.fetch_beside(name, RECIPE_FILE, **where)
    if recipe is None:
        return {}
    record = read_record(recipe)
    sha256 = record.get(DIGEST_KEY)
    facts: dict[str, Any] = {
        "recipe": (record.get("recipe") or {}).get("name"),
        "recipe_digest": record.get("recipe_digest"),
        "sha256": sha256,
        "results": [],
    }
    measured = download.fetch_beside(name, RESULTS_FILE, **where)
    if measured is not None and sha256:
        rows = rows_of(read_results(measured), str(record.get("name")), sha256)
        facts["results"] = [score.to_dict() for score in scores(rows)]
    return facts


def verify(
    name: str, *, cache_dir: str | Path | None = None, local_files_only: bool = False, sha256: str | None = None
) -> dict[str, Any]:
    """Fetch a model's weights, compare them with their digest, build the model and compare it with its golden outputs.

    Args:
        name: as in :func:`eo_backbones.create_model`.
        cache_dir: likewise.
        local_files_only: likewise.
        sha256: of the weights, if the caller knows it: 64 hexadecimal digits. Without it counts what the row, the
            folder or the Hub says.

    Returns:
        ``name``, ``route`` (``"embedded"``, ``"hub"``, ``"local"``), ``file``, ``sha256``, ``expected`` (``None``:
        nothing says what it should be), ``pinned`` (whether a row of this package says it) and ``golden``: largest
        absolute difference from the golden outputs, ``None`` if there are none.

    Raises:
        UserError: whatever is wrong with the weights, their input contract or their recorded outputs.
    """
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    resolved = download.resolve(name, **where, sha256=sha256)
    _compare_declarations(resolved)
    model = build_model(resolved)
    folder = download.fetch_golden(resolved, **where)
    if folder is None and resolved.route == "embedded":
        raise UserError(f"{GOLDEN_FILE} is missing beside {resolved.weights_path}; install eo-backbones again")
    return {
        "name": name,
        "route": resolved.route,
        "file": str(resolved.weights_path),
        "sha256": resolved.sha256,
        "expected": resolved.expected,
        "pinned": resolved.pinned,
        "golden": check_golden(folder, model) if folder else None,
    }


def _compare_declarations(resolved: download.Resolved) -> None:
    """Compare what is declared about weights with the file itself: its size, and the contract in its header.

    Raises:
        UserError: the file says something else.
    """
    path, row, declared = resolved.weights_path, resolved.row, resolved.config.input
    assert path is not None, "resolved with weights"
    size = path.stat().st_size
    if row is not None and row.size_bytes not in (None, size):
        raise UserError(
            f"{path} has {size:,} bytes, the row {row.name} says {row.size_bytes:,}; install eo-backbones again"
        )
    header = metadata_of(path).get(CONFIG_KEY)
    if header is None or declared is None:  # of a foreign repository
        return
    block = json.loads(header)
    trained = InputSpec.from_dict(block.get("input", {}))
    if (declared.bands, declared.normalization) != (trained.bands, trained.normalization):
        differing = [entry.band for entry in declared.bands if entry not in trained.bands] or [
            "their order or normalisation"
        ]
        raise UserError(
            f"the input contract that is declared for {resolved.name} is not the one that {path.name} was trained with "
            f"({', '.join(differing)} differs); restore its config.json, or export the folder again"
        )
    if list(resolved.config.classes) != block.get("classes", []):
        raise UserError(
            f"the classes that are declared for {resolved.name} ({', '.join(resolved.config.classes)}) are not those "
            f"that {path.name} was trained for ({', '.join(block.get('classes', []))}); restore its config.json"
        )
