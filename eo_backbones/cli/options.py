"""What the commands share: options that take several values after one name, and how results are printed.

The command line library knows only ``--models random --models stats``. :class:`ListOptionsCommand` also takes
``--models random stats --bands B02 B03``, and :func:`split_commas` ``--bands B02,B03``.
"""

import io
import json
import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from eo_backbones.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eo_backbones.results import Section

MODEL_HELP = "a row of [bold]eo-backbones list[/bold], hf-hub:ORG/NAME\\[@REVISION] or local-dir:PATH"
UNIT_HELP = (
    "dn, reflectance, db, linear or uint8; one for all bands, one per band, or B04=UNIT. Default: uint8 for 8-bit "
    "files, else dn (Sentinel-2) and db (Sentinel-1). Values that cannot be in it are refused."
)

NUMBERS = "[BAND=]NUMBER..."
SCALE_HELP = (
    "Factor of the stored numbers: value = stored x scale + offset, in --unit. One for all bands (the optical ones, "
    "if there are radar bands too), or B04=2.75e-5. Scale and offset win over what the files say about themselves."
)
OFFSET_HELP = (
    "Added after --scale, in --unit: -1000 with --unit dn for Sentinel-2 of baseline 04.00 and later (since January "
    "2022), where the files do not say it; 0 if they do and it is gone already. One for all bands (the optical ones, "
    "if there are radar bands too), or B04=-1000."
)
NODATA_HELP = (
    "Stored number that means missing, often 0, besides what the files mark as missing (nodata, masks, alpha, NaN). "
    "One for all bands, or VV=-9999."
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
UnitOption = Annotated[list[str] | None, typer.Option(metavar="UNIT...", help=UNIT_HELP)]
ScaleOption = Annotated[list[str] | None, typer.Option(metavar=NUMBERS, help=SCALE_HELP)]
OffsetOption = Annotated[list[str] | None, typer.Option(metavar=NUMBERS, help=OFFSET_HELP)]
NodataOption = Annotated[list[str] | None, typer.Option(metavar=NUMBERS, help=NODATA_HELP)]
ModelArgument = Annotated[str, typer.Argument(help=f"{MODEL_HELP[0].upper()}{MODEL_HELP[1:]}.")]

_WIDTH_IN_FILES = 200
_NEGATIVE_NUMBER = re.compile(r"-(\d.*|\.\d.*|inf|nan)")


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
        if argument.startswith("-") and not _NEGATIVE_NUMBER.fullmatch(argument):
            option = argument if argument in repeatable else None
            result.append(argument)
        elif option is not None and result[-1] != option:
            result += [option, argument]
        else:
            result.append(argument)
    return result


def split_commas(values: Sequence[str] | None) -> tuple[str, ...]:
    """Return the values with ``a,b`` split at the comma; a folder name keeps its commas."""
    parts = [part for value in values or () for part in ([value] if "local-dir:" in value else value.split(","))]
    return tuple(part.strip() for part in parts if part.strip())


def numbers_of(text: str, count: int, option: str, example: str) -> tuple[float, ...]:
    """Return the finite numbers of a text that has commas between them.

    Raises:
        UserError: it holds something else, or another count of them.
    """
    words = {2: "two numbers with a comma", 4: "four numbers with commas"}[count]
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"{option} takes {words} between, such as {example}; got {text!r}") from error
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(f"{option} takes {words} between, such as {example}; got {text!r}")
    return numbers


def speak_any_name() -> None:
    """Let standard output show what its encoding lacks, such as a file name in another script, as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def error_line(error: Exception) -> str:
    """Return the line that says what the user can correct; a line break in a name does not break it."""
    return f"error: {' '.join(str(error).splitlines())}"


def was_typed(context: typer.Context, parameter: str) -> bool:
    """Return whether the user gave an option: typed it, be it the default value, or has another value in a file."""
    source = context.get_parameter_source(parameter)
    if source is None:
        return False
    if source.name == "DEFAULT_MAP":  # a run's own file names all options
        default = next(one.default for one in context.command.params if one.name == parameter)
        return bool(context.params[parameter] != default)
    return source.name in ("COMMANDLINE", "ENVIRONMENT")


def refuse_idle(context: typer.Context, parameter: str, option: str, why: str) -> None:
    """Refuse an option that was given although it has no effect.

    Args:
        context: of the command.
        parameter: name of the option's parameter.
        option: the option as it is typed.
        why: what makes it idle, and what to do: "only with --mode full; leave it out".

    Raises:
        UserError: it was given.
    """
    if was_typed(context, parameter):
        raise UserError(f"{option} has no effect here: {why}")


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json.dumps(value, indent=2))


def print_result(facts: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result on standard output: as one JSON object, or as lines for people."""
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines))


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return one line for each fact about a model, and one for each of its ``results``."""
    lines = []
    for key, value in facts.items():
        if key == "results":
            lines += [f"{key}: {_result_line(result)}" for result in value] or [f"{key}: none yet"]
        else:
            lines.append(f"{key}: {json.dumps(value) if isinstance(value, dict | list | tuple) else value}")
    return lines


def _result_line(result: Mapping[str, Any]) -> str:
    return (
        "{dataset} {band}, {protocol}, fraction {fraction}: weighted F1 {f1:.3f} [{f1_low:.3f}, {f1_high:.3f}], "
        "{n_train} training and {n_test} test images, split {split}, {size} px, seeds: {seeds}"
    ).format_map(result)


def results_table(section: "Section") -> "Table":
    """Return a table of one section of the results, for a terminal."""
    from rich.table import Table

    from eo_backbones.evaluation.report import format_estimate

    title = f"{section.dataset}, protocol {section.protocol}, labels {section.fraction}: weighted F1 [95 % interval]"
    table = Table(title=title, title_justify="left")
    table.add_column("model", no_wrap=True)
    for band in section.bands:
        table.add_column(band)
    for model in section.models:
        cells = [section.cells.get((model, band)) for band in section.bands]
        table.add_row(model, *("" if cell is None else format_estimate(cell) for cell in cells))
    return table


def text_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> "Table":
    """Return a plain table for a terminal; the first column is never shortened."""
    from rich.table import Table

    table = Table()
    for number, name in enumerate(header):
        table.add_column(name, no_wrap=number == 0)
    for line in lines:
        table.add_row(*line)
    return table


def output_console() -> "Console":
    """Return the console of standard output; a file gets whole lines, a terminal its own width."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_IN_FILES)
