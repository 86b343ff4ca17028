"""The command ``eo-train bench``."""

from pathlib import Path
from typing import Annotated

import typer

from eo_backbones.cli.options import JsonOption, print_json
from eo_backbones.errors import UserError

BENCH_EPILOG = """Examples:

[bold]eo-train bench[/bold]  (some minutes; nothing else should run meanwhile)

[bold]eo-train bench --device cuda --out benchmarks[/bold]"""


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
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out}: {error.strerror}; name a folder that can be made") from error
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
