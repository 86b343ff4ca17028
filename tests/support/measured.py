"""``eo-backbones evaluate`` in this process: what a request leaves in ``results.csv``."""

from dataclasses import replace
from pathlib import Path

from eo_backbones.evaluation.request import Request, run_evaluation
from eo_backbones.progress import SILENT, Progress
from eo_backbones.results import Result, read_results


def measured(
    request: Request, *, root: Path, folder: Path, progress: Progress = SILENT, **changes: object
) -> list[Result]:
    """Evaluate a request, with some fields changed, into ``folder/out`` on the CPU; return all rows that are there."""
    run_evaluation(
        replace(request, **changes),  # type: ignore[arg-type]
        root=root,
        out=folder / "out",
        cache=folder / "cache",
        device="cpu",
        progress=progress,
    )
    return read_results(folder / "out" / "results.csv")
