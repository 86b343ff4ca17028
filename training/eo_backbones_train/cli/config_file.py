"""``--config FILE.yaml``: the options of a command in a file, and the options of a run as such a file.

The file's values become the defaults of the command line library (click's ``default_map``), so what is typed wins and
both are read alike. Its keys are the names of options, without dashes in front, and of arguments.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
import yaml

from eo_backbones.errors import UserError, unknown_name

_NOT_IN_A_FILE = ("config", "help")
_NOT_REPEATED = ("resume", "json")  # of one start, not of the run
_MEANT = {int: "a whole number", float: "a number", bool: "true or false"}


def use_config(context: typer.Context, parameter: Any, path: Path | None) -> Path | None:
    """Take the defaults of a command from a file; a callback of the library, called before other options are read.

    Raises:
        UserError: the file cannot be read, or names an option that does not exist or cannot have its value.
    """
    del parameter
    if path is not None:
        parameters = {key: one for one in context.command.params if (key := _key(one)) not in _NOT_IN_A_FILE}
        hints = get_type_hints(inspect.unwrap(context.command.callback)) if context.command.callback else {}
        defaults: dict[str, Any] = {}
        for name, value in _read(path).items():
            key = name.replace("_", "-")
            if key not in parameters:
                raise UserError(f"{path}: {unknown_name('option', name, parameters)}")
            if value is not None:
                defaults[parameters[key].name] = _checked(f"{path}: {name}", hints[parameters[key].name], value)
        context.default_map = defaults
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        is_eager=True,
        callback=use_config,
        help="Take options from a file: their names with values. What is typed wins. Each run keeps its own in "
        "config.yaml.",
    ),
]


def effective_options(context: typer.Context) -> dict[str, Any]:
    """Return name -> value of all options that a command runs with, as ``--config`` reads them; those with one only."""
    options: dict[str, Any] = {}
    for parameter in context.command.params:
        key, value = _key(parameter), context.params.get(parameter.name)
        if key in (*_NOT_IN_A_FILE, *_NOT_REPEATED) or value is None:
            continue
        several: list[str] | None = [str(part) for part in value] if isinstance(value, list | tuple) else None
        if several is None:
            options[key] = str(value) if isinstance(value, Path) else value
        elif several:
            options[key] = several
    return options


def _key(parameter: Any) -> str:
    """Return what a parameter is called in a file."""
    names = [str(name) for name in parameter.opts]
    longest = next((name for name in names if name.startswith("--")), names[0])
    return longest.lstrip("-")


def _read(path: Path) -> Mapping[str, Any]:
    """Return the keys and values of a file, each key once."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}; name a YAML file of options") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path} is not text in UTF-8; name a YAML file of options") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(
            f"--config {path}{where} is not YAML ({reason}); write one option a line, say epochs: 50"
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise UserError(f"--config {path} holds no options by name; write one a line, say epochs: 50")
    names = [key.value.replace("_", "-") for key, _ in node.value]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: {twice} is there twice; keep one")
    return data


def _kind(hint: Any) -> tuple[type, bool]:
    """Return the type of an option's value from its annotation, and whether it takes several."""
    inner = next((part for part in get_args(hint) if part is not NoneType), hint) if _is_union(hint) else hint
    return (get_args(inner)[0], True) if get_origin(inner) is list else (inner, False)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _checked(where: str, hint: Any, value: Any) -> Any:
    """Return a value as it would be typed, of the type that the option takes."""
    kind, several = _kind(hint)
    if several:
        return [_one(where, kind, part) for part in (value if isinstance(value, list) else [value])]
    return _one(where, kind, value)


def _one(where: str, kind: type, value: Any) -> Any:
    taken = _number(value) if kind is float else value
    if kind in (bool, int, float):
        fits = type(taken) is kind
    else:
        fits = type(value) in (str, int, float)
        taken = str(Path(str(value)).expanduser()) if kind is Path else str(value)
    if not fits:
        raise UserError(f"{where} is {_shown(value)}, not {_MEANT.get(kind, 'a text')}")
    return taken


def _number(value: Any) -> Any:
    """Return a number as float: YAML 1.1, which PyYAML reads, takes 1e-3 for a text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).removesuffix("\n...\n").strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
