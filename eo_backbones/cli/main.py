"""The command ``eo-backbones``.

Each command imports what it needs when it runs, so that ``--help`` is quick. Results go to standard output (with
``--json`` as one JSON object), all else to standard error. A user's mistake is one line ``error: ...`` and status 2.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated

import typer

from eo_backbones.cli.evaluate import EVALUATE_EPILOG, evaluate
from eo_backbones.cli.export import EXPORT_EPILOG, PUSH_EPILOG, SAVE_EPILOG, export, push, save
from eo_backbones.cli.map import MAP_EPILOG, map_command
from eo_backbones.cli.options import (
    JsonOption,
    ListOptionsCommand,
    ModelArgument,
    error_line,
    fact_lines,
    output_console,
    print_json,
    print_result,
    results_table,
    speak_any_name,
)
from eo_backbones.cli.predict import PREDICT_EPILOG, predict
from eo_backbones.cli.scenes import EMBED_EPILOG, SIMILAR_EPILOG, embed, similar
from eo_backbones.cli.search import INDEX_EPILOG, SEARCH_EPILOG, index, search
from eo_backbones.errors import UserError
from eo_backbones.files import as_user_error, refuse_unwritable

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pretrained encoders for satellite images that take one band of any sensor.",
    epilog="""Begin with:

[bold]eo-backbones demo[/bold]  (a minute, offline)

[bold]eo-backbones list[/bold], then [bold]evaluate --help[/bold], [bold]embed --help[/bold]""",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; user mistakes become one line and exit status 2.

    Args:
        arguments: after the name of the command; default: those of the process.
    """
    speak_any_name()
    try:
        app(args=arguments, prog_name="eo-backbones")
    except UserError as error:
        typer.echo(error_line(error), err=True)
        sys.exit(2)
    except OSError as error:
        said = as_user_error(error)
        if said is None:
            raise
        typer.echo(error_line(said), err=True)
        sys.exit(2)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eo-backbones {package_version('eo-backbones')}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("eo-backbones-demo"),
) -> None:
    """Show the main job in about a minute, offline: one encoder against baselines, on synthetic scenes."""
    from eo_backbones import demo as show
    from eo_backbones.progress import ProgressBars

    refuse_unwritable(out, folder=True)
    encoder = show.load_encoder()
    typer.echo(encoder.note)
    typer.echo(
        "Synthetic: the scenes and their labels. Real: the networks, the input contract, the probes and the metrics."
    )
    with ProgressBars() as progress:
        made = show.run(encoder, progress)
    path = out / show.FIGURE_FILE
    show.draw(made, path)
    output_console().print(results_table(made.section))
    typer.echo(f"picture: {path}")
    typer.echo(
        "next, on real images: eo-backbones evaluate --dataset eurosat-rgb --root DIR --models "
        f"{' '.join([*encoder.models, 'random', 'stats'])} --bands B02 B03 B04 --out OUT"
    )


@app.command(name="list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, say '*byol*'.")] = "*",
    as_json: JsonOption = False,
) -> None:
    """List the declared models."""
    from rich.table import Table

    from eo_backbones.weights import get_weights, list_models

    rows = [get_weights(name) for name in list_models(pattern)]
    if not rows:
        raise UserError(f"no declared model matches {pattern!r}; declared: {', '.join(list_models())}")
    if as_json:
        print_json(
            {
                "models": [
                    {
                        "name": row.name,
                        "published": row.published,
                        "method": row.method,
                        "data": row.data,
                        "recipe": row.recipe,
                        "bands": row.input.band_names,
                        "license": row.license,
                        "sha256": row.sha256,
                    }
                    for row in rows
                ]
            }
        )
        return
    table = Table("model", "weights", "trained on", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.name, "published" if row.published else f"not yet (recipe {row.recipe})", row.data)
    output_console().print(table)
    typer.echo("details: eo-backbones info NAME", err=True)


@app.command(
    epilog="""Examples:

[bold]eo-backbones info eo_efficientnet_lite0.distill_s1s2_mini[/bold]

[bold]eo-backbones info local-dir:FOLDER --json[/bold]"""
)
def info(name: ModelArgument, as_json: JsonOption = False) -> None:
    """Show all that is declared about a model: input contract, licence, digests. Loads no weights."""
    from eo_backbones.info import info as declared
    from eo_backbones.progress import ProgressBars

    with ProgressBars():
        facts = declared(name)
    print_result(facts, fact_lines(facts), as_json=as_json)


@app.command(
    epilog="""Examples:

[bold]eo-backbones verify local-dir:FOLDER[/bold]

[bold]eo-backbones verify hf-hub:ORG/NAME@REVISION --json[/bold]"""
)
def verify(
    name: ModelArgument,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Digest that the weights must have, if you know it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model's weights, compare their sha256, build the model, repeat its recorded outputs."""
    from eo_backbones.info import verify as check
    from eo_backbones.progress import ProgressBars

    with ProgressBars():
        facts = check(name, sha256=sha256)
    print_result(facts, fact_lines(facts), as_json=as_json)


app.command(cls=ListOptionsCommand, epilog=EVALUATE_EPILOG)(evaluate)
app.command(cls=ListOptionsCommand, epilog=EMBED_EPILOG)(embed)
app.command(epilog=SIMILAR_EPILOG)(similar)
app.command(epilog=INDEX_EPILOG)(index)
app.command(cls=ListOptionsCommand, epilog=SEARCH_EPILOG)(search)
app.command(name="map", epilog=MAP_EPILOG)(map_command)
app.command(cls=ListOptionsCommand, epilog=EXPORT_EPILOG)(export)
app.command(epilog=PREDICT_EPILOG)(predict)
app.command(epilog=SAVE_EPILOG)(save)
app.command(epilog=PUSH_EPILOG)(push)
