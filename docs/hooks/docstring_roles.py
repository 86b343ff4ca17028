"""Extension of griffe: references in docstrings, such as ``:func:`create_model```, become links.

A name is looked up where the docstring stands, then in the packages around it. A name of ours that does not exist is a
warning, and so an error of ``mkdocs build --strict``. Names that no page shows stay code.
"""

import contextlib
import html
import re
from collections.abc import Iterator

import griffe
from mkdocstrings import get_logger

_ROLE = re.compile(r":(?:func|class|mod|data|meth|attr|exc):`~?([\w.]+)`")
_logger = get_logger("docstring_roles")


class DocstringRoles(griffe.Extension):
    """Rewrite all docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: object) -> None:
        """Walk through the package."""
        for thing in _all_of(pkg):
            if thing.docstring is not None:
                thing.docstring.value = _ROLE.sub(lambda role: _link(thing, role[1], loader), thing.docstring.value)  # noqa: B023


def _all_of(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if not isinstance(member, griffe.Alias):
            yield from _all_of(member)


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
