"""``eo-backbones evaluate``: frozen features of one band or several against baselines, with intervals."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eo_backbones.cli.options import (
    NODATA_HELP,
    NUMBERS,
    OFFSET_HELP,
    SCALE_HELP,
    UNIT_HELP,
    DeviceOption,
    JsonOption,
    output_console,
    print_json,
    results_table,
    split_commas,
    text_table,
)
from eo_backbones.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from eo_backbones.evaluation.request import Request

EVALUATE_EPILOG = """Examples:

[bold]eo-backbones evaluate --dataset eurosat-rgb --root DIR --models stats --limit 2000 --out OUT[/bold]

[bold]eo-backbones evaluate --dataset eurosat-rgb --root DIR --models random stats --bands B02 B03 B04 --seeds 3 \
--out OUT[/bold]

[bold]eo-backbones evaluate --dataset eurosat-ms --root DIR --models local-dir:FOLDER imagenet --bands paper \
--protocol paper logistic --out OUT[/bold]

[bold]eo-backbones evaluate --dataset eurosat-rgb --root DIR --models stats --bands B04 B02+B03+B04 --fuse concat mean \
--out OUT[/bold]

[bold]eo-backbones evaluate --dataset folder --root DIR --models random stats --bands B04=3 B08=4 --unit reflectance \
--out OUT[/bold]

[bold]eo-backbones evaluate --dataset sen12ms --root DIR --models stats local-dir:FOLDER --protocol retrieval \
--out OUT[/bold]

OUT gets results.csv, report.md, report.html and bands.png; with retrieval: retrieval.csv, retrieval.md, \
recall-at-1.png and recall-at-5.png. The same command again measures only what is missing, also \
after Ctrl-C. Features are kept in --cache, else EO_BACKBONES_CACHE, else ~/.cache/eo_backbones; any file there may be \
deleted."""


def evaluate(
    dataset: Annotated[
        str,
        typer.Option(
            help="eurosat-ms (13 bands), eurosat-rgb (B04, B03, B02), bigearthnet (19 labels, S2 and S1), dfc2020 or "
            "sen12ms (class of most pixels, S2 and S1), or folder: your images, a folder for each class; for retrieval "
            "also pairs (GeoTIFFs of equal names in s1 and s2) and ssl4eo-s12."
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
        typer.Option(metavar="UNIT...", help=f"For folder: {UNIT_HELP}"),
    ] = None,
    scale: Annotated[list[str] | None, typer.Option(metavar=NUMBERS, help=f"For folder: {SCALE_HELP}")] = None,
    offset: Annotated[list[str] | None, typer.Option(metavar=NUMBERS, help=f"For folder: {OFFSET_HELP}")] = None,
    nodata: Annotated[list[str] | None, typer.Option(metavar=NUMBERS, help=f"For folder: {NODATA_HELP}")] = None,
    fuse: Annotated[
        list[str] | None,
        typer.Option(metavar="WAY...", help="How several bands at once are used: concat (default), mean, or both."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="logistic (default), paper, knn (5 and 20 neighbours); segmentation (dfc2020); retrieval (a place "
            "found again by another band; needs no labels).",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="seeded (default); standard: the data set's own (EuroSAT: the published lists in --root; folder: the "
            "folders train, val, test above the classes or in them, used unless told otherwise); spatial (EuroSAT)."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1: each redraws split, labels and initialisation.")] = 1,
    fraction: Annotated[
        list[float] | None, typer.Option(metavar="F...", help="Shares of the labels, say 0.01 0.1 1.")
    ] = None,
    shots: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Labelled images per class, instead of --fraction.")
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(metavar="PX...", help="Image size in pixels that networks get (64; with segmentation 256)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use about N images, the same share of every class.")] = None,
    device: DeviceOption = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder for features.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare frozen encoders and baselines band by band on labelled images, with intervals."""
    from dataclasses import asdict

    from eo_backbones.evaluation.features import default_cache_folder
    from eo_backbones.evaluation.probes.protocols import RETRIEVAL
    from eo_backbones.evaluation.request import Request, default_sizes, run_evaluation
    from eo_backbones.progress import ProgressBars

    if fraction and shots:
        raise UserError("--fraction and --shots both limit the labels; pass one of them")
    protocols = split_commas(protocol) or ("logistic",)
    request = Request(
        dataset=dataset,
        models=split_commas(models),
        bands=split_commas(bands),
        units=split_commas(unit),
        scale=split_commas(scale),
        offset=split_commas(offset),
        nodata=split_commas(nodata),
        fuses=split_commas(fuse),
        protocols=protocols,
        split=split,
        fractions=tuple(fraction or (1.0,)),
        shots=tuple(shots or ()),
        seeds=seeds,
        sizes=tuple(size or default_sizes(protocols)),
        limit=limit,
    )
    if protocols == (RETRIEVAL,):
        _retrieve(request, root, out, cache or default_cache_folder(), device, as_json=as_json)
        return
    try:
        with ProgressBars() as progress:
            outcome, written = run_evaluation(
                request, root=root, out=out, cache=cache or default_cache_folder(), device=device, progress=progress
            )
    except KeyboardInterrupt:
        raise _stopped(out) from None
    files = {
        "results": outcome.results.path,
        "report": written.report,
        "page": written.html,
        "figure": written.chart,
    }
    if as_json:
        rows = [asdict(row) for row in outcome.results.rows]
        paths = {name: str(path) for name, path in files.items()}
        print_json({**paths, "added": outcome.added, "not_measured": outcome.unmeasured, "rows": rows})
        return
    from eo_backbones.results import sections

    for section in sections(outcome.results.rows):
        output_console().print(results_table(section))
    for name, path in files.items():
        typer.echo(f"{name}: {path}")


def _retrieve(request: "Request", root: Path, out: Path, cache: Path, device: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    from eo_backbones.evaluation.retrieval.measure import run_retrieval
    from eo_backbones.evaluation.retrieval.recall import RANKS
    from eo_backbones.evaluation.retrieval.report import picture_file, summary
    from eo_backbones.progress import ProgressBars

    try:
        with ProgressBars() as progress:
            outcome = run_retrieval(request, root=root, out=out, cache=cache, device=device, progress=progress)
    except KeyboardInterrupt:
        raise _stopped(out) from None
    pictures = {f"figure_{rank}": str(out / picture_file(rank)) for rank in RANKS}
    files = {"results": str(outcome.results.path), "report": str(outcome.report), **pictures}
    if as_json:
        rows = [asdict(row) for row in outcome.results.rows]
        print_json({**files, "added": outcome.added, "not_measured": outcome.unmeasured, "rows": rows})
        return
    output_console().print(text_table(*summary(outcome.results.rows)))
    for name, path in files.items():
        typer.echo(f"{name}: {path}")


def _stopped(out: Path) -> typer.Exit:
    typer.echo(f"stopped; the finished rows are in {out}, the same command continues from there", err=True)
    return typer.Exit(INTERRUPTED)
