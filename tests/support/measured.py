"""``eo-backbones evaluate`` in this process: what a request leaves in ``results.csv``."""

from dataclasses import replace
from pathlib import Path

from eo_backbones.evaluation.request import Request, fulfil
from eo_backbones.progress import SILENT, Progress
from eo_backbones.results import Result, read_results


def measured(
    request: Request, *, root: Path, place: Path, progress: Progress = SILENT, **changes: object
) -> list[Result]:
    """Fulfil a request, with some fields changed, in ``place/out`` on the CPU; return all rows that are there then."""
    fulfil(
        replace(request, **changes),  # type: ignore[arg-type]
        root=root,
        out=place / "out",
        cache=place / "cache",
        device="cpu",
        watcher=progress,
    )
    return read_results(place / "out" / "results.csv")
