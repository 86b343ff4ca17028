"""The command ``eo-train``: from GeoTIFF pairs to a trained encoder.

Each command imports what it needs when it runs, so that ``--help`` is quick. Results go to standard output (with
``--json`` as one JSON object), everything else to standard error. A mistake of the user is one line ``error: …`` and
exit status 2; a run that stopped early ends with the status that :mod:`eo_backbones_train.pretraining.stops` gives it.
"""

import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eo_backbones.cli.options import (
    DeviceOption,
    JsonOption,
    ListOptionsCommand,
    NodataOption,
    OffsetOption,
    ScaleOption,
    error_line,
    print_json,
    refuse_idle,
    speak_any_name,
    split_commas,
)
from eo_backbones.errors import UserError
from eo_backbones.files import as_user_error, refuse_unwritable
from eo_backbones.progress import shown_log
from eo_backbones_train.cli.config_file import ConfigOption, effective_options
from eo_backbones_train.cli.finetune import FINETUNE_EPILOG, finetune
from eo_backbones_train.cli.loggers import LoggerOption, TensorboardOption, named_loggers
from eo_backbones_train.pretraining.stops import RunStopped

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pretrain encoders for single satellite bands on Sentinel-1/2 pairs, with BYOL, SimSiam or distillation.",
    epilog="""The whole way:

[bold]eo-train prepare --layout sen12ms --root SEN12MS --out STORE[/bold]

[bold]eo-train pretrain byol-sen12ms-90k --store STORE --out RUN --resume[/bold]

[bold]eo-train export RUN --out FOLDER[/bold]""",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; user mistakes become one line and exit status 2.

    Args:
        arguments: after the name of the command; default: those of the process.
    """
    # Of several processes on a machine one speaks (torchrun numbers them).
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    speak_any_name()
    try:
        with shown_log(Console(stderr=True), logging.INFO if speaks else logging.CRITICAL):
            app(args=arguments, prog_name="eo-train")
    except UserError as error:
        _end(error_line(error), status=2, speaks=speaks)
    except OSError as error:
        said = as_user_error(error)
        if said is None:
            raise
        _end(error_line(said), status=2, speaks=speaks)
    except RunStopped as stop:
        _end(str(stop), status=stop.exit_status, speaks=speaks)


@app.command(
    cls=ListOptionsCommand,
    epilog="""Examples:

[bold]eo-train prepare --layout sen12ms --root SEN12MS --subset 90k --out STORE[/bold]

[bold]eo-train prepare --layout pairs --root MY_PAIRS --unit uint8 --out STORE[/bold]  (adds a source to STORE)""",
)
def prepare(
    layout: Annotated[
        str, typer.Option(help="How the files are arranged: sen12ms, dfc2020, sen12mscr, bigearthnet or pairs.")
    ],
    root: Annotated[Path, typer.Option(help="Folder with the source's files.")],
    out: Annotated[Path, typer.Option(help="The store; an existing one gets this source added.")],
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[BAND=]UNIT[:LOW:HIGH]",
            help="Unit of the raw values: dn, reflectance, db, linear or uint8; B03=uint8:0:1 also says which native "
            "values 0 and 255 stand for.",
        ),
    ] = None,
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    bands: Annotated[
        list[str] | None,
        typer.Option(metavar="BAND[=POSITION]", help="A band to keep, and its index in the file, from 1."),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="90k, or a number of scenes drawn proportionally.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Keep 16 bits a pixel instead of 8.")] = False,
    hold_out: Annotated[bool, typer.Option("--hold-out", help="Also use the official test scenes of SEN12MS.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core unless given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read GeoTIFF pairs once into a store that training reads at memory speed. Resumes; skips broken files."""
    from eo_backbones.progress import ProgressBars
    from eo_backbones_train.store.prepare import prepare as convert

    with ProgressBars() as progress:
        summary = convert(
            layout,
            root,
            out,
            units=unit or (),
            bands=bands or (),
            scale=split_commas(scale),
            offset=split_commas(offset),
            nodata=split_commas(nodata),
            subset=subset,
            exact=exact,
            hold_out=hold_out,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print_json(summary.to_dict())
        return
    for note in summary.notes:
        typer.echo(f"note: {note}", err=True)
    for reason, count in summary.reasons.items():
        typer.echo(f"skipped {count}: {reason}", err=True)
    done = "was already in" if summary.already_there else "is now in"
    typer.echo(
        f"{summary.source} ({summary.stored} scenes, {summary.skipped} skipped) {done} {summary.store}: "
        f"{summary.store_scenes} scenes, {summary.store_bytes / 2**20:.1f} MiB"
    )


@app.command(
    epilog="""Examples:

[bold]eo-train recipes[/bold]

[bold]eo-train recipes byol-full --json[/bold]"""
)
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe in full.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes, or show one in full: everything that decides the result."""
    from eo_backbones_train.recipes.published import RECIPES, get_recipe, recipe_fields, recipe_list
    from eo_backbones_train.recipes.serialise import to_dict

    if as_json:
        print_json(to_dict(get_recipe(name)) if name else {key: to_dict(value) for key, value in RECIPES.items()})
        return
    from rich.console import Console

    console = Console()
    console.print(recipe_fields(get_recipe(name)) if name else recipe_list(RECIPES, width=console.width))


@app.command(
    epilog="""Examples:

[bold]eo-train pretrain byol-mini --store STORE --out RUN[/bold]

[bold]eo-train pretrain byol-mini --store STORE --out RUN --resume[/bold]  (after Ctrl-C, a crash, or kill -9)

[bold]eo-train pretrain byol-full --store STORE --out RUN --set optim.base_lr=0.2 --epochs 50[/bold]

[bold]eo-train pretrain --config RUN/config.yaml --out AGAIN[/bold]  (the same run once more)

[bold]torchrun --standalone --nproc-per-node 8 -m eo_backbones_train pretrain byol-full --store STORE --out RUN[/bold]

Exit status: 0 finished, 2 wrong use, 3 collapsed, 4 loss not finite, 130 or 143 interrupted and saved."""
)
def pretrain(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; see [bold]eo-train recipes[/bold].")],
    store: Annotated[Path, typer.Option(help="Folder written by [bold]eo-train prepare[/bold].")],
    out: Annotated[Path, typer.Option(help="The run folder: checkpoints, metrics.jsonl, loss.png, result.json.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or start it; a finished one stays as it is.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's number of epochs.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Weights to start from: random, hf-hub:ORG/NAME, local-dir:PATH, or a row of eo-backbones list.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe, say optim.base_lr=0.1."),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try it out: one epoch of 32-pixel views in batches of 8.")
    ] = False,
    device: DeviceOption = "auto",
    data_device: Annotated[str, typer.Option(help="Where tiles are kept: auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    graph: Annotated[
        bool | None,
        typer.Option(
            "--graph/--no-graph", help="Replay the step as a CUDA graph [dim](one GPU, up to 128 pairs)[/dim]."
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option(help="Only algorithms that repeat bit for bit; off lets cuDNN choose the fastest.")
    ] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    checkpoint_every: Annotated[str, typer.Option(metavar="N(min|steps)", help="Say 10min or 500steps.")] = "10min",
    log_every: Annotated[int, typer.Option(help="Steps that one record of metrics.jsonl averages over.")] = 20,
    monitor_every: Annotated[int, typer.Option(help="Steps between two readings of the embeddings.")] = 100,
    stop_on_collapse: Annotated[bool, typer.Option(help="End the run when the embeddings collapse.")] = True,
    compress_gradients: Annotated[
        bool, typer.Option("--compress-gradients", help="Average gradients between GPUs in bf16.")
    ] = False,
    logger: LoggerOption = None,
    tensorboard: TensorboardOption = True,
    probe_data: Annotated[
        str | None,
        typer.Option(metavar="KIND=DIR", help="Labelled images to probe the encoder with, say eurosat-rgb=DIR."),
    ] = None,
    probe_every: Annotated[int, typer.Option(metavar="EPOCHS", help="Epochs between two probes.")] = 1,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on a store. Can be interrupted at any moment and resumed bit for bit."""
    from eo_backbones.files import read_json
    from eo_backbones.progress import ProgressBars
    from eo_backbones_train.methods.initial_weights import starting_from
    from eo_backbones_train.pretraining.loop import train
    from eo_backbones_train.pretraining.run_folder import RESULT_FILE
    from eo_backbones_train.pretraining.run_options import RunOptions
    from eo_backbones_train.recipes.published import get_recipe
    from eo_backbones_train.recipes.published import smoke as smoke_version
    from eo_backbones_train.recipes.serialise import override

    del config  # its values are in the others
    if probe_data is None:
        refuse_idle(context, "probe_every", "--probe-every", "it is for --probe-data; pass that, or leave it out")
    if epochs is not None and any(change.partition("=")[0].strip() == "epochs" for change in changes or ()):
        raise UserError("--epochs and --set epochs= both say how many; pass one of them")
    chosen = get_recipe(recipe)
    if smoke:
        chosen = smoke_version(chosen)
    wanted = [*(changes or ()), *([f"epochs={epochs}"] if epochs is not None else ())]
    if wanted:
        chosen = override(chosen, wanted)
    if init is not None:
        chosen = starting_from(chosen, init)
    minutes, steps = parse_interval(checkpoint_every)
    with ProgressBars() as progress:
        run = train(
            chosen,
            RunOptions(
                store=store,
                out=out,
                resume=resume,
                init=init,
                device=device,
                data_device=data_device,
                precision=precision,
                graph=graph,
                deterministic=deterministic,
                threads=threads,
                checkpoint_minutes=minutes,
                checkpoint_steps=steps,
                log_steps=log_every,
                monitor_steps=monitor_every,
                stop_on_collapse=stop_on_collapse,
                compress_gradients=compress_gradients,
                loggers=named_loggers(context, logger, tensorboard=tensorboard),
                probe_data=probe_data,
                probe_epochs=probe_every,
                config=effective_options(context),
            ),
            progress=progress,
        )
    if os.environ.get("RANK", "0") != "0":
        return
    result = read_json(run / RESULT_FILE, kind="run folder of eo-train")
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{run}: {result['steps']} steps, loss {result['loss']:.4f}, encoder {result['weights_digest']}")


@app.command(
    cls=ListOptionsCommand,
    epilog="""Examples:

[bold]eo-train export RUN --out FOLDER[/bold]

[bold]eo-train export RUN --average RUN2 --shares 3 1 --out FOLDER[/bold]

[bold]eo-train export RUN --out FOLDER --dtype fp16 --license cc-by-4.0 --overwrite[/bold]""",
)
def export(
    run: Annotated[Path, typer.Argument(help="Folder of [bold]eo-train pretrain[/bold]; it need not be finished.")],
    out: Annotated[Path, typer.Option(help="The folder to create.")],
    average: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN...",
            help="Other runs from the same initial weights: the folder gets the mean of all weights.",
        ),
    ] = None,
    shares: Annotated[
        list[float] | None,
        typer.Option(metavar="N...", help="How much RUN and those of --average count; equal unless given."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32, or fp16: convolutions in half precision.")] = "fp32",
    license_id: Annotated[
        str | None,
        typer.Option("--license", help="Of the weights, say cc-by-4.0; the declared one or other unless given."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="What [bold]eo-backbones evaluate[/bold] wrote for these weights, for the card."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's encoder as a folder that plain timm, eo_backbones and the Hub read."""
    from eo_backbones_train.export import export as write_folder

    result = write_folder(
        run,
        out,
        average=average or (),
        shares=shares or (),
        dtype=dtype,
        license=license_id,
        results=results,
        overwrite=overwrite,
    )
    if as_json:
        print_json(result)
        return
    unfinished = "" if result["finished"] else ", unfinished"
    typer.echo(
        f"{result['folder']}: {result['name']} ({result['steps']} steps{unfinished}), "
        f"{result['bytes'] / 2**20:.1f} MiB, sha256 {result['sha256']}"
    )


app.command(cls=ListOptionsCommand, epilog=FINETUNE_EPILOG)(finetune)


@app.command(
    epilog="""Examples:

[bold]eo-train bench[/bold]  (some minutes; nothing else should run meanwhile)

[bold]eo-train bench --device cuda --out benchmarks[/bold]"""
)
def bench(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where training steps run.")] = "auto",
    store: Annotated[
        Path | None,
        typer.Option(
            help="Measure on this store instead of made-up scenes; there is then no rasterio to compare with."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets the report, DATE-DEVICE.md.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="See in a minute whether it works; the results mean nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure loading, views and training steps beside references: rasterio, torchvision, lightly."""
    from eo_backbones.device import pick_device
    from eo_backbones.progress import ProgressBars
    from eo_backbones_train.bench.report import to_table, write_markdown
    from eo_backbones_train.bench.run import run_bench

    pick_device(device)  # a wrong one is said before anything is measured
    if out is not None:
        refuse_unwritable(out, folder=True)
    # Notes only and no bars: a live display would take time from what is measured.
    found = run_bench(device=device, store=store, quick=quick, progress=ProgressBars())
    if out is not None:
        options = f" --device {device}{' --store STORE' if store else ''}{' --quick' if quick else ''}"
        typer.echo(f"report: {write_markdown(found, out, f'eo-train bench{options}')}", err=True)
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    Console().print(to_table(found))
    for note in found["notes"]:
        typer.echo(f"note: {note}", err=True)


def parse_interval(text: str) -> tuple[float | None, int | None]:
    """Return (minutes, steps) of ``--checkpoint-every``, one of them None.

    Raises:
        UserError: neither ``10min`` nor ``500steps``.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|steps)", text.strip())
    if match is None or (match[2] == "steps" and "." in match[1]):
        raise UserError(f"--checkpoint-every {text!r}: write 10min or 500steps")
    return (float(match[1]), None) if match[2] == "min" else (None, int(match[1]))


def _end(message: str, *, status: int, speaks: bool) -> None:
    if speaks:
        typer.echo(message, err=True)
    sys.exit(status)
