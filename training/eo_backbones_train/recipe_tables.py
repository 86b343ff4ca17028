"""Recipes as tables for the terminal: all of them side by side, or every field of one under the name --set takes."""

from collections.abc import Mapping

from rich.table import Table

from eo_backbones_train.recipe import Recipe
from eo_backbones_train.recipe_json import digest, flatten
from eo_backbones_train.recipes import describe

# What fits 80 columns and tells recipes apart; a wide terminal shows all that `describe` says.
_NARROW = ("recipe", "data", "loss", "optimizer", "epochs", "batch")
_NUMBERS = ("epochs", "batch")
_WIDE_FROM = 190  # characters


def recipe_list(recipes: Mapping[str, Recipe], *, width: int) -> Table:
    """Return one row per recipe, for a terminal of so many characters."""
    rows = [describe(recipe) for recipe in recipes.values()]
    columns = tuple(rows[0]) if width >= _WIDE_FROM else _NARROW
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption="one in full: eo-train recipes NAME",
    )
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in _NUMBERS else "left")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    return table


def recipe_fields(recipe: Recipe) -> Table:
    """Return one row per field, and the digest that identifies the whole."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in flatten(recipe).items():
        table.add_row(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    table.add_row("digest", digest(recipe), style="dim")
    return table
