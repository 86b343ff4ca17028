"""The command ``eo-backbones embed`` with a folder to write: many scenes."""

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import typer

from eo_backbones.cli.options import print_result
from eo_backbones.errors import INTERRUPTED

if TYPE_CHECKING:
    from eo_backbones.regions import RegionSummary

_SHOWN_FAILURES = 5


class Settings(TypedDict):
    """What the command says about one scene and many alike."""

    model: str
    bands: tuple[str, ...]
    units: tuple[str, ...]
    out: Path
    size: int
    stride: int
    fuse: str
    scale: tuple[str, ...]
    offset: tuple[str, ...]
    nodata: tuple[str, ...]
    max_nodata: float
    components: int | None
    components_from: Path | None
    dtype: str
    geometry: str
    preview: bool
    overwrite: bool


def embed_many(
    scenes: tuple[str, ...],
    settings: Settings,
    *,
    format_: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    budget: float | None,
    as_json: bool,
) -> None:
    """Embed many scenes and say what became of them; the exit status is 1 if one could not be embedded."""
    from eo_backbones.progress import ProgressBars
    from eo_backbones.regions import RegionRequest, embed_region, find_scenes, fit_region_budget

    request = RegionRequest(scenes=scenes, format=format_ or "cog", **settings)
    choice = sources = None
    if budget is not None:
        request.checked()
        sources = find_scenes(request.scenes, request.bands)  # once: catalogues may be on the web
        request, choice = fit_region_budget(request, budget, sources)
        typer.echo(f"budget: {choice}", err=True)
    try:
        with ProgressBars() as progress:
            made = embed_region(
                request, sources=sources, device=device, workers=workers, scheduler=scheduler, progress=progress
            )
    except KeyboardInterrupt:
        typer.echo(f"stopped; what is finished is in {request.out}, the same command goes on from there", err=True)
        raise typer.Exit(INTERRUPTED) from None
    facts = made.to_dict() if choice is None else {**made.to_dict(), "budget": choice.to_dict()}
    print_result(facts, _lines(made), as_json=as_json)
    if made.failed:
        raise typer.Exit(1)


def _lines(made: "RegionSummary") -> list[str]:
    """Return the result as lines for people."""
    lines = [f"embeddings: {made.out}"]
    if made.catalog:
        lines.append(f"catalogue: {made.catalog}")
    if made.preview:
        lines.append(f"picture: {made.preview}")
    if made.components_file and made.explained is not None:
        lines.append(f"components: {made.components_file}, {made.explained:.0%} of the variance of a sample")
    earlier = f", {made.earlier:,} of them earlier" if made.earlier else ""
    lines.append(f"scenes: {made.embedded + made.earlier:,} of {made.scenes:,}{earlier}")
    missing = f", {made.nodata_cells:,} of them nodata" if made.nodata_cells else ""
    lines.append(f"cells: {made.cells:,}{missing}; {made.numbers:,} values per cell")
    if made.km2_per_s is not None:
        lines.append(f"speed: {made.km2_per_s:,.3g} km2/s ({made.seconds:.1f} s); in all {made.km2:,.4g} km2")
    lines += [f"left out: {one['path']}: {one['reason']}" for one in made.failed[:_SHOWN_FAILURES]]
    if made.failed:
        lines.append(
            f"left out in all: {len(made.failed):,}, see {made.failed_file}; the same command tries them again"
        )
    return lines
