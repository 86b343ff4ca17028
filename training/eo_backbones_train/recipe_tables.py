"""Recipes as tables for the terminal: all of them side by side, or every field of one under the name --set takes."""

from collections.abc import Mapping

from rich.table import Table

from eo_backbones_train.recipe import Recipe
from eo_backbones_train.recipe_json import digest, flatten
from eo_backbones_train.recipes import describe

# Fields as rows and recipes as columns would be as wide; of a row's cells these tell recipes apart at a glance.
_COLUMNS = ("recipe", "data", "views", "projector", "predictor", "batch_norm", "loss", "target", "optimizer")
_NUMBERS = ("epochs", "batch")


def recipe_list(recipes: Mapping[str, Recipe]) -> Table:
    """Return one row per recipe."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column == "recipe")
    for column in _NUMBERS:
        table.add_column(column, justify="right")
    for recipe in recipes.values():
        row = describe(recipe)
        table.add_row(*(str(row[column]) for column in (*_COLUMNS, *_NUMBERS)))
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
