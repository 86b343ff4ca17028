"""Facts about a model (``info``), and whether its weights are what was declared (``verify``)."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eo_backbones.files import read_json
from eo_backbones.hub import download
from eo_backbones.hub.folder import DIGEST_KEY, RECIPE_FILE, check_golden
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
    record = read_json(recipe)
    sha256 = record.get(DIGEST_KEY)
    facts = {
        "recipe": record.get("recipe", {}).get("name"),
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
        sha256: of the weights of a Hub repository, if the caller knows it; otherwise what the Hub reports counts.

    Returns:
        ``name``, ``route`` (``"embedded"``, ``"hub"``, ``"local"``), ``file``, ``sha256``, ``expected`` (``None``:
        nothing says what it should be), ``pinned`` (whether a row of this package says it) and ``golden``: largest
        absolute difference from the golden outputs, ``None`` if there are none.

    Raises:
        UserError: whatever is wrong with the weights.
    """
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    resolved = download.resolve(name, **where, sha256=sha256)
    model = build_model(resolved)
    folder = download.fetch_golden(resolved, **where)
    return {
        "name": name,
        "route": resolved.route,
        "file": str(resolved.weights_path),
        "sha256": resolved.sha256,
        "expected": resolved.expected,
        "pinned": resolved.pinned,
        "golden": check_golden(folder, model) if folder else None,
    }
