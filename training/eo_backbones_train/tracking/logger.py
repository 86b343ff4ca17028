"""The interface that every destination of curves has, which ones a run uses, and opening them.

``metrics.jsonl`` and ``loss.png`` are written by every run, whatever is chosen here
(:mod:`eo_backbones_train.pretraining.runlog`).
"""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from eo_backbones.errors import UserError, unknown_name
from eo_backbones.files import read_json, write_json

IDS_FILE = "loggers.json"
"""In the run folder: name of a logger -> id of the run there, so that a resumed run goes on in the same one."""
NONE = "none"

Outcome = Literal["finished", "interrupted", "failed"]

logger = logging.getLogger(__name__)


class Logger(Protocol):
    """One destination of curves, open for one run.

    Attributes:
        run_id: what the run is called there, if a later process needs it to go on; else ``None``.
    """

    run_id: str | None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the values after ``step`` completed steps. A resumed run repeats steps: they have the same values."""

    def flush(self) -> None:
        """Bring to the disk what was taken, before a checkpoint is saved."""

    def close(self, outcome: Outcome) -> None:
        """End the run as it ended here; an interrupted one may go on later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """What is told about a run, and to whom.

    Attributes:
        loggers: names in :data:`LOGGERS`.
        name: of the run.
        config: all that decides the result, as JSON types; nested.
    """

    loggers: Sequence[str] = ()
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a logger is opened with: folder of the run, completed steps, the id an earlier process got, what to tell."""

    folder: Path
    step: int
    run_id: str | None
    tracking: Tracking


class _Kind(NamedTuple):
    title: str
    needs: str  # package
    extra: str
    module: str  # with a function ``open_logger``


_HERE = "eo_backbones_train.tracking"
LOGGERS: Mapping[str, _Kind] = MappingProxyType(
    {
        "tensorboard": _Kind("TensorBoard", "tensorboard", "train", f"{_HERE}.tensorboard"),
        "wandb": _Kind("Weights & Biases", "wandb", "wandb", f"{_HERE}.weights_and_biases"),
        "mlflow": _Kind("MLflow", "mlflow", "mlflow", f"{_HERE}.mlflow"),
    }
)


def choose_loggers(names: Sequence[str] | None, *, tensorboard: bool = True) -> tuple[str, ...]:
    """Return the loggers of a run, before anything is written.

    Args:
        names: of :data:`LOGGERS`, or ``"none"`` alone; ``None``: TensorBoard if it is installed.
        tensorboard: whether that default is wanted.

    Raises:
        UserError: an unknown name, or a logger that was named and is not installed.
    """
    if names is None:
        if tensorboard and not _installed("tensorboard"):
            logger.info(
                'no TensorBoard curves: it is not installed (pip install "eo-backbones[train]"); metrics.jsonl and '
                "loss.png are written all the same"
            )
        return ("tensorboard",) if tensorboard and _installed("tensorboard") else ()
    for name in names:
        if name not in (*LOGGERS, NONE):
            raise unknown_name("--logger", name, (*LOGGERS, NONE))
    if NONE in names:
        if set(names) != {NONE}:
            raise UserError(f"--logger {NONE} contradicts the other --logger; leave one of them out")
        return ()
    for name in names:
        if not _installed(name):
            raise UserError(
                f'{LOGGERS[name].title} is not installed; run pip install "eo-backbones[{LOGGERS[name].extra}]", or '
                f"leave --logger {name} out"
            )
    return tuple(dict.fromkeys(names))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(LOGGERS[name].needs) is not None
    except ValueError:  # in sys.modules, but without a specification
        return False


def open_loggers(folder: Path, *, step: int, tracking: Tracking) -> list[Logger]:
    """Open all loggers of a run that continues after ``step`` completed steps.

    Args:
        folder: of the run; the ids of its runs elsewhere are kept in it.
        step: completed steps.
        tracking: what to open, and what to tell.

    Raises:
        UserError: one cannot be opened, say for want of a login; the others are closed again.
    """
    path = folder / IDS_FILE
    ids = read_json(path, kind="run folder of eo-train") if path.is_file() else {}
    opened: list[Logger] = []
    try:
        for name in tracking.loggers:
            open_one: Callable[[Opening], Logger] = importlib.import_module(LOGGERS[name].module).open_logger
            opened.append(open_one(Opening(folder=folder, step=step, run_id=ids.get(name), tracking=tracking)))
            if opened[-1].run_id is not None and ids.get(name) != opened[-1].run_id:
                ids[name] = opened[-1].run_id
                write_json(path, ids)
    except BaseException:
        for one in opened:
            one.close("failed")
        raise
    return opened
