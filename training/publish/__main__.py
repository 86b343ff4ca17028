"""``python -m publish``: the command with which maintainers publish weights in the repository."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from eo_backbones.errors import UserError
from publish.generated import differences, require_checkout, write
from publish.install import install as install_folder

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Write the generated text of the repository, and install published weights. For maintainers.",
)
CheckoutOption = Annotated[Path, typer.Option(help="Root of the repository.")]


@app.command()
def cards(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; status 1 if something would change.")] = False,
    checkout: CheckoutOption = Path(),
) -> None:
    """Write model_cards/, the generated parts of the README and docs/results.md from rows, recipes and results."""
    require_checkout(checkout)
    if not check:
        changed = write(checkout)
        typer.echo("\n".join(map(str, changed)) if changed else "everything was up to date")
        return
    lines = differences(checkout)
    typer.echo("\n".join(lines) if lines else "everything is up to date")
    if lines:
        raise typer.Exit(1)


@app.command(epilog="Example: python -m publish install folders/byol_s1s2_mini --results results/eurosat-rgb")
def install(
    folder: Annotated[Path, typer.Argument(help="What eo-train export wrote (--dtype fp16 for embedded weights).")],
    results: Annotated[Path, typer.Option(help="results.csv of eo-backbones evaluate for FOLDER, or its folder.")],
    revision: Annotated[
        str | None, typer.Option(help="Commit on the Hub, for weights that do not ship in the package.")
    ] = None,
    checkout: CheckoutOption = Path(),
) -> None:
    """Make an exported folder the published weights of its row: package data, card, README, recipe lock."""
    require_checkout(checkout)
    for path in install_folder(folder, results, checkout, revision=revision):
        typer.echo(path)
    # in a new process: this one has read the rows as they were before
    command = [sys.executable, "-m", "publish", "cards", "--checkout", str(checkout)]
    if subprocess.run(command, check=False).returncode:
        raise typer.Exit(1)


def main() -> None:
    """Run the command; user mistakes become one line and exit status 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
