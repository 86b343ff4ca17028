"""The options that say where the curves of a run go."""

from collections.abc import Sequence
from typing import Annotated

import typer

from eo_backbones.cli.options import split_commas, was_typed
from eo_backbones.errors import UserError

LoggerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--logger",
        metavar="NAME",
        help="Where curves go besides metrics.jsonl and loss.png: tensorboard, wandb (Weights & Biases), mlflow, or "
        "none; several: repeat it. Unless given: tensorboard, if it is installed.",
        show_default=False,
    ),
]
TensorboardOption = Annotated[bool, typer.Option(help="Short for --logger tensorboard, or --logger none.")]


def named_loggers(context: typer.Context, names: Sequence[str] | None, *, tensorboard: bool) -> tuple[str, ...] | None:
    """Return the loggers that the user named with either option; ``None`` without any.

    Raises:
        UserError: both options were given.
    """
    short = was_typed(context, "tensorboard")
    if names and short:
        raise UserError(
            "--logger and --tensorboard (or --no-tensorboard) both say where curves go; pass --logger alone"
        )
    if short:
        return ("tensorboard",) if tensorboard else ("none",)
    return split_commas(names) or None
