"""The sections of a card that say how weights were made, or how they would be made."""

from collections.abc import Iterator, Mapping
from typing import Any

from eo_backbones.cards.facts import CardFacts, Plan
from eo_backbones.result_tables import markdown_table


def plan_section(plan: Plan) -> str:
    """Return how to make weights that do not exist yet, and what it would cost."""
    return "\n".join(
        [
            "## How to make the weights",
            "",
            "```",
            *plan.commands,
            "```",
            "",
            "Expected cost (nothing of this was run):",
            "",
            markdown_table(["what", "how much"], plan.cost),
            "",
            plan.basis,
        ]
    )


def training_section(facts: CardFacts) -> str:
    """Return what was done, from the record, or the recipe alone if there are no weights yet."""
    recipe = facts.recipe
    values = [
        "All values of the recipe (`recipe.json` has the same for programs):",
        "",
        markdown_table(["field", "value"], [[f"`{name}`", f"`{value}`"] for name, value in _flat(recipe)]),
    ]
    if not facts.made:
        named = f"Recipe `{recipe['name']}`, digest `{facts.record['recipe_digest']}`."
        return "\n".join(["## Training", "", named, "", *values])
    record = facts.record
    data = record["data"]
    made = [
        ["recipe", f"`{recipe['name']}`, digest `{record['recipe_digest']}`"],
        ["training data", f"store with manifest digest `{data['manifest_digest']}`"],
        ["steps", f"{record['steps']:,}{'' if record['finished'] else ' (unfinished)'}"],
        ["seed", str(record["seed"])],
        ["precision, processes", f"{record['machine']['precision']}, {record['machine']['world_size']}"],
        ["device", str(record["machine"]["device_name"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
        ["commit of the code", f"`{record['git_commit']}`" if record["git_commit"] else "not recorded"],
        ["sha256 of the weights", f"`{record['weights_sha256']}`"],
    ]
    sources = markdown_table(
        ["source", "layout", "scenes", "units"],
        [
            [source["name"], source["layout"], f"{source['scenes']:,}", ", ".join(sorted({*source["units"].values()}))]
            for source in data["sources"]
        ],
    )
    return "\n".join(
        [
            "## Training",
            "",
            markdown_table(["what", "value"], made),
            "",
            sources,
            "",
            *values,
            "",
            "![Loss over the training steps](loss.png)",
            "",
            "`training_log.jsonl` holds the loss and the collapse monitors of the whole run.",
        ]
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{key}.")
        elif isinstance(entry, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(map(str, entry))
        else:
            yield f"{prefix}{key}", str(entry)
