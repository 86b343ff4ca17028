"""The command ``eo-backbones``.

Each command imports what it needs when it runs, so that ``--help`` is quick. Results go to standard output (with
``--json`` as one JSON object), all else to standard error. A user's mistake is one line ``error: ...`` and status 2.
"""

import json
import sys
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eo_backbones.errors import INTERRUPTED, UserError
from eo_backbones.export_command import EXPORT_EPILOG, export
from eo_backbones.fact_lines import fact_lines
from eo_backbones.list_options import ListOptionsCommand, split_commas
from eo_backbones.predict_command import PREDICT_EPILOG, predict
from eo_backbones.push_command import PUSH_EPILOG, push
from eo_backbones.scene_commands import EMBED_EPILOG, SIMILAR_EPILOG, embed, similar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eo_backbones.evaluation.summary import Section
    from eo_backbones.progress import ProgressWatcher

_WIDTH_IN_FILES = 200

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pretrained encoders for satellite images that take one band of any sensor.",
    epilog="""Begin with:

[bold]eo-backbones demo[/bold]  (a minute, offline)

[bold]eo-backbones list[/bold], then [bold]evaluate --help[/bold], [bold]embed --help[/bold]""",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
NameArgument = Annotated[
    str, typer.Argument(help="A row of [bold]eo-backbones list[/bold], hf-hub:ORG/NAME[@REVISION] or local-dir:PATH.")
]


def main() -> None:
    """Run the command; user mistakes become one line and exit status 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
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

    encoder = show.load_encoder()
    typer.echo(encoder.note)
    typer.echo(
        "Synthetic: the scenes and their labels. Real: the networks, the input contract, the probes and the figures."
    )
    with _watcher() as watcher:
        made = show.run(encoder, watcher)
    path = out / show.FIGURE_FILE
    show.draw(made, path)
    _console().print(_table(made.section))
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
        _print_json(
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
    _console().print(table)
    typer.echo("details: eo-backbones info NAME", err=True)


@app.command(
    epilog="""Examples:

[bold]eo-backbones info eo_resnet50.byol_s1s2_mini[/bold]

[bold]eo-backbones info local-dir:FOLDER --json[/bold]"""
)
def info(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show all that is declared about a model: input contract, licence, digests. Loads no weights."""
    from eo_backbones.models import info as declared

    with _watcher():
        facts = declared(name)
    _print_facts(facts, as_json=as_json)


@app.command(
    epilog="""Examples:

[bold]eo-backbones verify local-dir:FOLDER[/bold]

[bold]eo-backbones verify hf-hub:ORG/NAME@REVISION --json[/bold]"""
)
def verify(name: NameArgument, as_json: JsonOption = False) -> None:
    """Fetch a model's weights, compare their sha256, build the model, repeat its recorded outputs."""
    from eo_backbones.models import verify as check

    with _watcher():
        facts = check(name)
    _print_facts(facts, as_json=as_json)


@app.command(
    cls=ListOptionsCommand,
    epilog="""Examples:

[bold]eo-backbones evaluate --dataset eurosat-rgb --root DIR --models stats --limit 2000 --out OUT[/bold]

[bold]eo-backbones evaluate --dataset eurosat-rgb --root DIR --models random stats --bands B02 B03 B04 --seeds 3
--out OUT[/bold]

[bold]eo-backbones evaluate --dataset eurosat-ms --root DIR --models local-dir:FOLDER imagenet --bands paper
--protocol paper logistic --out OUT[/bold]

[bold]eo-backbones evaluate --dataset eurosat-rgb --root DIR --models stats --bands B04 B02+B03+B04 --fuse concat mean
--out OUT[/bold]

[bold]eo-backbones evaluate --dataset folder --root DIR --models random stats --bands B04=3 B08=4 --unit reflectance
--out OUT[/bold]

OUT gets results.csv, report.md, report.html and bands.png. The same command again measures only what is missing, also
after Ctrl-C. Features are kept in --cache, else EO_BACKBONES_CACHE, else ~/.cache/eo_backbones; any file there may be
deleted.""",
)
def evaluate(
    dataset: Annotated[
        str,
        typer.Option(
            help="eurosat-ms (13 bands), eurosat-rgb (B04, B03, B02), bigearthnet (19 labels, S2 and S1), dfc2020 or "
            "sen12ms (class of most pixels, S2 and S1), or folder: your images, a folder for each class."
        ),
    ],
    root: Annotated[Path, typer.Option(help="Its folder; EuroSAT also as .zip.")],
    models: Annotated[
        list[str],
        typer.Option(
            metavar="NAME...",
            help="random, random-bn, random-averaging, stats, raw, imagenet, imagenet=SOURCE, a row of "
            "[bold]list[/bold], hf-hub:ORG/NAME or local-dir:PATH.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; completed if it has some.")],
    bands: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BAND...",
            help="Names; B02+B03+B04: several at once; paper: its ten; paper-order: the ten in the order the paper may "
            "have read them; B04=4 (folder): the file's fourth band. Default: those of the paper that the data has.",
        ),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UNIT...",
            help="For folder: dn, reflectance, db, linear or uint8, or B04=UNIT for one band. Default: uint8 for 8-bit "
            "files, else dn (Sentinel-2) and db (Sentinel-1).",
        ),
    ] = None,
    fuse: Annotated[
        list[str] | None,
        typer.Option(metavar="WAY...", help="How several bands at once are used: concat (default), mean, or both."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...", help="logistic (default), paper, knn (5 and 20 neighbours); segmentation (dfc2020)."
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="seeded; standard: the data set's own (EuroSAT: the published lists in --root); spatial (EuroSAT)."
        ),
    ] = "seeded",
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1: each redraws split, labels and initialisation.")] = 1,
    fraction: Annotated[
        list[float] | None, typer.Option(metavar="F...", help="Shares of the labels, say 0.01 0.1 1.")
    ] = None,
    shots: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Labelled images a class, instead of --fraction.")
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(metavar="PX...", help="Side that networks get (64; with segmentation 256)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use about N images, the same share of every class.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder for features.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare frozen encoders and baselines band by band on labelled images, with intervals."""
    from dataclasses import asdict

    from eo_backbones.evaluation.cache import default_folder
    from eo_backbones.evaluation.request import Request, default_sizes, fulfil

    if fraction and shots:
        raise UserError("--fraction and --shots both limit the labels; pass one of them")
    protocols = split_commas(protocol) or ("logistic",)
    request = Request(
        dataset=dataset,
        models=split_commas(models),
        bands=split_commas(bands),
        units=split_commas(unit),
        fuses=split_commas(fuse),
        protocols=protocols,
        split=split,
        fractions=tuple(fraction or (1.0,)),
        shots=tuple(shots or ()),
        seeds=seeds,
        sizes=tuple(size or default_sizes(protocols)),
        limit=limit,
    )
    try:
        with _watcher() as watcher:
            outcome, written = fulfil(
                request, root=root, out=out, cache=cache or default_folder(), device=device, watcher=watcher
            )
    except KeyboardInterrupt:
        typer.echo(f"stopped; the finished rows are in {out}, the same command goes on from there", err=True)
        raise typer.Exit(INTERRUPTED) from None
    files = {
        "results": outcome.results.path,
        "report": written.report,
        "page": written.html,
        "figure": written.figure,
    }
    if as_json:
        rows = [asdict(row) for row in outcome.results.rows]
        paths = {name: str(path) for name, path in files.items()}
        _print_json({**paths, "added": outcome.added, "not_measured": outcome.unmeasured, "rows": rows})
        return
    from eo_backbones.evaluation.summary import sections

    for section in sections(outcome.results.rows):
        _console().print(_table(section))
    for name, path in files.items():
        typer.echo(f"{name}: {path}")


app.command(cls=ListOptionsCommand, epilog=EMBED_EPILOG)(embed)
app.command(epilog=SIMILAR_EPILOG)(similar)
app.command(cls=ListOptionsCommand, epilog=EXPORT_EPILOG)(export)
app.command(epilog=PREDICT_EPILOG)(predict)
app.command(epilog=PUSH_EPILOG)(push)


def _table(section: "Section") -> "Table":
    """Return a table of one section for the terminal."""
    from rich.table import Table

    from eo_backbones.evaluation.contents import shown

    title = f"{section.dataset}, protocol {section.protocol}, labels {section.fraction}: weighted F1 [95 % interval]"
    table = Table(title=title, title_justify="left")
    table.add_column("model", no_wrap=True)
    for band in section.bands:
        table.add_column(band)
    for model in section.models:
        found = [section.cells.get((model, band)) for band in section.bands]
        table.add_row(model, *("" if cell is None else shown(cell) for cell in found))
    return table


def _console() -> "Console":
    """Return the console of standard output; a file gets whole lines, a terminal its own width."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_IN_FILES)


def _watcher() -> "ProgressWatcher":
    from eo_backbones.progress import ProgressWatcher

    return ProgressWatcher()


def _print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(fact_lines(facts)))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
