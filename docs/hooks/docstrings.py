"""Extension of griffe: references in docstrings become links; a name without a docstring is a warning.

References are written as ``:func:`create_model```. A name is looked up where the docstring stands, then in the packages
around it; one that does not exist is a warning too. ``mkdocs build --strict`` fails on warnings. Names that no page
shows stay code. Entries for several names, ``height, width: pixels``, become one for each, as griffe expects.
"""

import contextlib
import html
import re
from collections.abc import Iterator

import griffe
from mkdocstrings import get_logger

_ROLE = re.compile(r":(?:func|class|mod|data|meth|attr|exc):`~?([\w.]+)`")
_SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)
_logger = get_logger("docstrings")


class Docstrings(griffe.Extension):
    """Check and rewrite all docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: object) -> None:
        """Walk through the package."""
        for thing in _all_of(pkg):
            if thing.docstring is not None:
                text = _ROLE.sub(lambda role: _link(thing, role[1], loader), thing.docstring.value)  # noqa: B023
                thing.docstring.value = _SEVERAL.sub(_one_for_each, text)
            elif _needs_docstring(thing):
                _logger.warning("%s has no docstring", thing.path)
            for name in getattr(thing, "exports", None) or ():
                if thing[name].docstring is None:
                    _logger.warning("%s.%s, which is in __all__, has no docstring", thing.path, name)


def _all_of(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if not isinstance(member, griffe.Alias):
            yield from _all_of(member)


def _one_for_each(entry: re.Match[str]) -> str:
    return "\n".join(f"{entry[1]}{name}: {entry[3]}" for name in entry[2].split(", "))


def _needs_docstring(thing: griffe.Object) -> bool:
    """Whether it is a function or class that can be reached by public names."""
    return (thing.is_function or thing.is_class) and not any(part.startswith("_") for part in thing.path.split("."))


def _link(thing: griffe.Object, name: str, loader: griffe.GriffeLoader) -> str:
    scope = thing.path
    while True:
        path = f"{scope}.{name}" if scope else name
        with contextlib.suppress(KeyError, griffe.AliasResolutionError):
            identifier = loader.modules_collection[path].canonical_path
            return f'<autoref identifier="{html.escape(identifier)}" optional><code>{name}</code></autoref>'
        if not scope:
            break
        scope = scope.rpartition(".")[0]
    if "." not in name or name.startswith("eo_backbones"):
        _logger.warning("%s refers to %s, which does not exist", thing.path, name)
    return f"`{name}`"
