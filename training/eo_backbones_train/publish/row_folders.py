"""The text files in ``model_cards/<name>`` for a declared row: what is pushed beside its weights.

For published weights they follow from two files in the same folder, ``recipe.json`` and ``results.csv``, which
``install`` puts there; for others from the recipe alone.
"""

import json
from pathlib import Path

from eo_backbones.cards import CardFacts, Plan, folder_texts
from eo_backbones.errors import UserError
from eo_backbones.folder import DIGEST_KEY, GOLDEN_FILE, RECIPE_FILE, read_json
from eo_backbones.result_tables import RESULTS_FILE, read_rows
from eo_backbones.weights import Weights
from eo_backbones_train.export import LOG_FILE
from eo_backbones_train.publish.costs import cost
from eo_backbones_train.recipe_json import digest, to_dict
from eo_backbones_train.recipes import get_recipe
from eo_backbones_train.run.runlog import LOSS_FILE

CARDS_FOLDER = "model_cards"

INSTALLED_FILES = (RECIPE_FILE, RESULTS_FILE, GOLDEN_FILE, LOG_FILE, LOSS_FILE)
"""Files of a published row that are copied from the exported folder and the measurement, not generated."""

_PREPARE = {
    "dfc2020": ("eo-train prepare --layout dfc2020 --root DFC2020 --out STORE",),
    "sen12ms-90k": ("eo-train prepare --layout sen12ms --root SEN12MS --subset 90k --out STORE",),
    "s1s2-mini": (
        # display values of OMBRIA's optical bands stand for reflectance 0 to 1 (benchmarks/2026-11-23-mini-recipe.md)
        "eo-train prepare --layout pairs --root ombria --unit B03=uint8:0:1 --unit B08=uint8:0:1 --unit B11=uint8:0:1 "
        "--unit VV=uint8 --out STORE",
        "eo-train prepare --layout pairs --root multiband_pairs --out STORE",
        "eo-train prepare --layout sen12ms --root sen12ms_layout --out STORE",
    ),
}


def row_folder(checkout: Path, row: Weights) -> Path:
    """Return the folder of a row."""
    return checkout / CARDS_FOLDER / row.name


def row_texts(checkout: Path, row: Weights) -> dict[str, str]:
    """Return name -> content of the generated files of a row's folder.

    Raises:
        UserError: a published row without its record or results, or with a record of other weights.
    """
    if row.published:
        return _published_texts(row_folder(checkout, row), row)
    recipe = get_recipe(row.recipe)
    record = {"name": row.name, "recipe": to_dict(recipe), "recipe_digest": digest(recipe)}
    planned = CardFacts(name=row.name, input=row.input, record=record, license=row.license, row=row)
    lines, basis = cost(recipe, sum(count for _, count in planned.sources), checkout)
    commands = (
        *_PREPARE[recipe.data.sources],
        f"eo-train pretrain {recipe.name} --store STORE --out RUN --resume",
        "eo-train export RUN --out FOLDER",
    )
    plan = Plan(commands=commands, cost=lines, basis=basis)
    facts = CardFacts(name=row.name, input=row.input, record=record, license=row.license, row=row, plan=plan)
    return {**folder_texts(facts), RECIPE_FILE: json.dumps(record, indent=2) + "\n"}


def _published_texts(folder: Path, row: Weights) -> dict[str, str]:
    record = read_json(folder / RECIPE_FILE)
    if record[DIGEST_KEY] != row.sha256:
        raise UserError(
            f"{folder / RECIPE_FILE} is of weights {record[DIGEST_KEY][:12]}…, the row {row.name} of "
            f"{str(row.sha256)[:12]}…; install the exported folder again"
        )
    facts = CardFacts(name=row.name, input=row.input, record=record, license=row.license, row=row)
    return folder_texts(facts, read_rows(folder), size_bytes=row.size_bytes)
