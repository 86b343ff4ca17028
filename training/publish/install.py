"""Published weights into the repository: what an exported folder and its measurement become there.

The weights of an embedded row go into the package, what is known about them into ``eo_backbones/published/<name>.json``
(which makes the row a published one), the rest into ``model_cards/<name>``, and its recipe under lock. Everything is
checked before anything is written; the same command can be typed again, also with other weights.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from eo_backbones import weights
from eo_backbones.cards.facts import as_planned, planned_sources
from eo_backbones.errors import UserError
from eo_backbones.files import read_json
from eo_backbones.hub.download import LOCAL_PREFIX
from eo_backbones.hub.folder import CONFIG_FILE, GOLDEN_FILE, RECIPE_FILE, WEIGHTS_FILE, read_config
from eo_backbones.info import verify
from eo_backbones.results import RESULTS_FILE, csv_text, read_results, renamed, rows_of, scores
from eo_backbones.weights import Weights
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.serialise import digest, to_dict
from publish.generated import INSTALLED_FILES, row_folder

LARGEST_EMBEDDED = 50_000_000
"""Bytes of weights that may ship inside the package."""

_COPIED = tuple(name for name in INSTALLED_FILES if name not in (RECIPE_FILE, RESULTS_FILE))

SNAPSHOTS = Path("tests/golden/recipes")


def install(folder: Path, results: Path, checkout: Path, *, revision: str | None = None) -> list[Path]:
    """Install an exported folder as the weights of the row it names, and return the files that were written.

    The generated text (cards, README) is written by another step, which a new process must do: this one has read the
    rows already.

    Args:
        folder: what ``eo-train export`` wrote, from an unchanged recipe, trained to its end.
        results: ``results.csv`` of ``eo-backbones evaluate`` for these weights, or its folder.
        checkout: root of the repository.
        revision: commit on the Hub, 40 hex digits; for rows that are not embedded.

    Raises:
        UserError: the folder is not of a declared row, differs from what the row declares, does not reproduce its
            recorded outputs, is too large to be embedded, or was not measured.
    """
    record = read_json(folder / RECIPE_FILE)
    row = _row_of(folder, record)
    _check(folder, record, row, checkout, revision)
    verified = verify(f"{LOCAL_PREFIX}{folder}")
    if verified["golden"] is None:
        raise UserError(f"{folder} has no {GOLDEN_FILE}; export it again")
    sha256, size = str(verified["sha256"]), (folder / WEIGHTS_FILE).stat().st_size
    if row.embedded and size > LARGEST_EMBEDDED:
        raise UserError(f"{folder / WEIGHTS_FILE} has {size:,} bytes, too many to embed; export with --dtype fp16")
    rows = renamed(read_results(results), row.name, sha256)
    measured = rows_of(rows, row.name, sha256)
    if not measured:
        raise UserError(f"{results} holds nothing measured with these weights ({sha256[:12]}…); evaluate them")
    facts = {
        "sha256": sha256,
        "size_bytes": size,
        "revision": revision,
        "recipe_digest": record["recipe_digest"],
        "results": [score.to_dict() for score in scores(measured)],
    }
    texts = {
        checkout / "eo_backbones" / "published" / f"{row.name}.json": _json(facts),
        row_folder(checkout, row) / RESULTS_FILE: csv_text(rows),
        row_folder(checkout, row) / RECIPE_FILE: _json({**record, "name": row.name}),
        checkout / SNAPSHOTS / f"{row.recipe}.json": json.dumps(_snapshot(row), indent=2, sort_keys=True) + "\n",
    }
    copies = {row_folder(checkout, row) / name: folder / name for name in _COPIED}
    if row.embedded:
        target = checkout / "eo_backbones" / "embedded" / row.embedded
        copies |= {target: folder / WEIGHTS_FILE}
        copies |= {target.with_name(name): folder / name for name in _COPIED}
        texts |= {
            target.with_name(name): texts[row_folder(checkout, row) / name] for name in (RESULTS_FILE, RECIPE_FILE)
        }
    for target, source in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for target, text in texts.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return sorted([*copies, *texts])


def _row_of(folder: Path, record: dict[str, Any]) -> Weights:
    name = record["recipe"]["name"]
    for row in weights.WEIGHTS.values():
        if row.recipe == name:
            return row
    raise UserError(
        f"{folder} was trained with recipe {name}, which no row of eo_backbones/weights.py names; "
        f"give the recipe of the row its values, train and export again"
    )


def _check(folder: Path, record: dict[str, Any], row: Weights, checkout: Path, revision: str | None) -> None:
    recipe = get_recipe(row.recipe)
    if not record["finished"]:
        raise UserError(f"{folder} holds an unfinished training; finish it with eo-train pretrain --resume")
    if record["recipe_digest"] != digest(recipe):
        raise UserError(
            f"{folder} was trained with recipe digest {record['recipe_digest']}, {recipe.name} now has "
            f"{digest(recipe)}; train again, or give the recipe the values that were used"
        )
    lock = checkout / SNAPSHOTS / f"{row.recipe}.json"
    if lock.is_file() and read_json(lock)["digest"] != digest(recipe):
        raise UserError(
            f"{recipe.name} is locked by {lock} with another digest: add a recipe with a new name, or delete that "
            f"file if its weights never left this repository"
        )
    if read_config(folder / CONFIG_FILE).input != row.input:
        raise UserError(f"{folder} has another input contract than the row {row.name}; correct eo_backbones/weights.py")
    if bool(row.embedded) == bool(revision):
        raise UserError(
            f"{row.name} ships in the package, --revision has no meaning for it"
            if row.embedded
            else f"{row.name} is loaded from the Hub: push the folder first, then pass --revision COMMIT"
        )
    missing = [name for name in (*_COPIED, CONFIG_FILE, RECIPE_FILE) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; export it again")
    if not as_planned(recipe.data.sources, record["data"]["sources"]):
        seen = ", ".join(f"{source['scenes']:,} of {source['name']}" for source in record["data"]["sources"])
        wanted = ", ".join(f"{source.scenes:,} of {source.name}" for source in planned_sources(recipe.data.sources))
        raise UserError(
            f"{folder} was trained on {seen}, {row.name} stands for {recipe.data.sources} ({wanted}); prepare these, "
            "train and export again"
        )


def _snapshot(row: Weights) -> dict[str, Any]:
    recipe = get_recipe(row.recipe)
    return {"digest": digest(recipe), "recipe": to_dict(recipe)}


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
