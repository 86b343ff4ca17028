"""Options that take several values after one name: ``--models random stats --bands B02 B03``.

The command line library knows only ``--models random --models stats``. Repeating the option works too, and so do
commas.
"""

from collections.abc import Collection, Sequence
from typing import Any

from typer.core import TyperCommand


class ListOptionsCommand(TyperCommand):
    """A command whose repeatable options take every value up to the next option; arguments come first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spread lists over repeated options, then parse as usual."""
        repeatable = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        return super().parse_args(ctx, spread(args, repeatable))


def spread(args: Sequence[str], repeatable: Collection[str]) -> list[str]:
    """Return the arguments with ``--option a b`` written as ``--option a --option b``."""
    result: list[str] = []
    option: str | None = None
    for argument in args:
        if argument.startswith("-"):
            option = argument if argument in repeatable else None
            result.append(argument)
        elif option is not None and result[-1] != option:
            result += [option, argument]
        else:
            result.append(argument)
    return result


def split_commas(values: Sequence[str] | None) -> tuple[str, ...]:
    """Return the values with ``a,b`` taken apart; a folder name keeps its commas."""
    parts = [part for value in values or () for part in ([value] if "local-dir:" in value else value.split(","))]
    return tuple(part.strip() for part in parts if part.strip())
