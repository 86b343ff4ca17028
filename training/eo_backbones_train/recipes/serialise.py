"""Recipes as plain data: JSON, digest, and the ``--set key=value`` of the command line.

Types are read from the annotations of :mod:`eo_backbones_train.recipes.recipe`, so that a field is declared once. A
field that came later than the first published recipes has a default, which means what was done before; JSON and digest
leave it out where it has that value, so a published recipe keeps its digest.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from eo_backbones.errors import UserError, unknown_name
from eo_backbones_train.recipes.recipe import Recipe

MODIFIED = "+modified"
_FIXED_FIELDS = ("name", "method")  # another method is another recipe


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-compatible values, without fields that have their default."""
    return cast("dict[str, Any]", json.loads(_canonical(recipe)))


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """Read a recipe back from :func:`to_dict`.

    Raises:
        UserError: a field is missing, unknown, of the wrong type or out of range; the message names it.
    """
    return cast("Recipe", _read(Recipe, data, ""))


def digest(recipe: Recipe) -> str:
    """Return the identity of a recipe: 12 hex digits of the SHA-256 of its canonical JSON, name included."""
    return hashlib.sha256(_canonical(recipe).encode()).hexdigest()[:12]


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return dotted field name -> JSON-compatible value: the names that :func:`override` takes."""
    flat: dict[str, Any] = {}
    for name, value in _all_values(recipe).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": part for inner, part in value.items()}
        else:
            flat[name] = value
    return flat


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return a recipe with some fields changed and its name marked, so that it cannot be mistaken for the original.

    Args:
        recipe: where to start.
        settings: ``"dotted.field=value"``; several values of one field with commas (``"views.crop_scale=0.2,1"``).

    Raises:
        UserError: no such field, a value of the wrong type, or one out of range.
    """
    data = _all_values(recipe)
    fields = [name for name, value in flatten(recipe).items() if name not in _FIXED_FIELDS and value is not None]
    changed = False
    for setting in settings:
        path, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"cannot read the setting {setting!r}; write it as field=value, e.g. optim.base_lr=0.001")
        if path in _FIXED_FIELDS:
            raise UserError(
                f"{path} belongs to the recipe and cannot be set; choose another recipe ('eo-train recipes')"
            )
        if path.startswith("target.") and recipe.target is None:
            raise UserError(f"{recipe.method} has no moving-average target, so {path} cannot be set; leave it out")
        if path.startswith("teacher.") and recipe.teacher is None:
            raise UserError(f"{recipe.method} has no teacher, so {path} cannot be set; leave it out")
        if path not in fields:
            raise unknown_name("recipe field", path, fields)
        *parents, leaf = path.split(".")
        part = data[parents[0]] if parents else data
        part[leaf] = _parse(text, part[leaf])
        changed = True
    if changed:
        data["name"] = recipe.name.removesuffix(MODIFIED) + MODIFIED
    return from_dict(data)


def _all_values(recipe: Recipe) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(recipe))))


def _canonical(recipe: Recipe) -> str:
    return json.dumps(_without_defaults(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _without_defaults(part: Any) -> dict[str, Any]:
    values = {field.name: (getattr(part, field.name), field.default) for field in dataclasses.fields(part)}
    return {
        name: _without_defaults(value) if dataclasses.is_dataclass(value) else value
        for name, (value, default) in values.items()
        if value != default
    }


def _parse(text: str, current: object) -> object:
    """Turn the text of a setting into the JSON value that it stands for, given the present value of the field."""
    if isinstance(current, list):
        example = current[0] if current else 0  # the lists that may be empty hold numbers
        return [_parse(part.strip(), example) for part in text.strip("[]()").split(",") if part.strip()]
    if isinstance(current, str):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # refused by _read, with what is allowed instead


def _read(kind: Any, value: Any, path: str) -> Any:
    """Check a JSON value against an annotation and return it as that type."""
    if dataclasses.is_dataclass(kind):
        return _read_part(cast("type", kind), value, path)
    if get_origin(kind) is UnionType:  # TargetPart or TeacherPart, or None
        part = next(argument for argument in get_args(kind) if argument is not NoneType)
        return None if value is None else _read(part, value, path)
    if get_origin(kind) is tuple:
        return _read_tuple(get_args(kind), value, path)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{path} is {value!r}; allowed: {', '.join(map(str, get_args(kind)))}")
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if type(value) is not kind or kind is float:
        names = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}
        raise UserError(f"{path} is {value!r}; it must be {names[kind]}")
    return value


def _read_part(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise UserError(f"{path or 'the recipe'} is {value!r}; it must be a JSON object")
    hints = get_type_hints(kind)
    prefix = f"{path}." if path else ""
    for name in value:
        if name not in hints:
            raise unknown_name("recipe field", f"{prefix}{name}", [f"{prefix}{known}" for known in hints])
    for field in dataclasses.fields(kind):
        if field.name not in value and field.default is dataclasses.MISSING:
            raise UserError(f"the recipe lacks the field {prefix}{field.name}; it was written by another version")
    return kind(**{name: _read(hints[name], entry, f"{prefix}{name}") for name, entry in value.items()})


def _read_tuple(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    open_ended = arguments[-1] is Ellipsis
    if not isinstance(value, list | tuple) or not (open_ended or len(value) == len(arguments)):
        wanted = "a list" if open_ended else f"{len(arguments)} values"
        raise UserError(f"{path} is {value!r}; it must be {wanted}, e.g. {path}=a,b")
    return tuple(_read(arguments[0], entry, path) for entry in value)
