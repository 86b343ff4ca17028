"""The command ``eo-backbones map``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eo_backbones.cli.options import JsonOption, print_result
from eo_backbones.errors import INTERRUPTED

if TYPE_CHECKING:
    from eo_backbones.mapping import Mapped

MAP_EPILOG = """Examples:

[bold]eo-backbones map REGION --points LABELS.geojson --class-field land --out MAP[/bold]

[bold]eo-backbones map REGION --points LABELS.csv --class-field land --error-rate 0.2 --out MAP[/bold]  (columns lon, \
lat and land)

[bold]Written:[/bold] for each scene ID_classes.tif (value of the most probable class, 255: none), ID_probability.tif \
(its calibrated probability) and ID_sets.tif (band 1: how many classes the set holds; then 1 or 0 for each class), all \
cloud-optimised GeoTIFF; map.png, report.md, report.json; left_out.csv with the points that are on no cell.

[bold]The set of a cell[/bold] holds the classes that it may have: at most --error-rate of such sets miss the true \
one, for cells like the points. One class: sure. Several: undecided between them. None: no class fits as well as the \
points fit theirs. report.md says how many sets of held-out points were right, and how often the map is.

[bold]How many points?[/bold] Every class in three blocks; at 0.1 at least twelve in all, at 0.05 twenty-four. \
Neighbouring points do not count as much: they are held out together, see --block.

[bold]Killed?[/bold] The same command goes on; finished scenes are kept."""


def map_command(
    region: Annotated[
        Path,
        typer.Argument(
            help="Folder that [bold]eo-backbones embed SCENE... --out FOLDER[/bold] has written, or an index of "
            "[bold]eo-backbones index[/bold] (whose cells have length 1)."
        ),
    ],
    points: Annotated[
        Path,
        typer.Option(help="Labelled points: GeoJSON (WGS 84, or with a crs member), or CSV with columns lon and lat."),
    ],
    class_field: Annotated[str, typer.Option(help="Property, or column, that holds the class: a name or number.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    error_rate: Annotated[
        float, typer.Option(help="Share of cells whose set may miss their class; smaller needs more points.")
    ] = 0.1,
    block: Annotated[
        float | None,
        typer.Option(
            metavar="METRES",
            help="Points in a square of this side are held out together. Default: four windows, less if the points "
            "are too few or too near each other for that.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another map in OUT.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Map a region from a few labelled points: classes, probabilities, and sets of classes at an error rate."""
    from eo_backbones.mapping import MapRequest, map_region
    from eo_backbones.progress import ProgressBars

    request = MapRequest(
        region=region,
        points=points,
        class_field=class_field,
        out=out,
        error_rate=error_rate,
        block_m=block,
        overwrite=overwrite,
    )
    try:
        with ProgressBars() as progress:
            made = map_region(request, progress=progress)
    except KeyboardInterrupt:
        typer.echo(f"stopped; the finished scenes are in {out}, the same command goes on from there", err=True)
        raise typer.Exit(INTERRUPTED) from None
    print_result(made.to_dict(), _lines(made), as_json=as_json)


def _lines(made: "Mapped") -> list[str]:
    """Return the result as lines for people."""
    kept = f", {made.kept} of them there before" if made.kept else ""
    areas = made.km2 or [None] * len(made.classes)
    shares = (
        f"{name} {cells:,} cells" if area is None else f"{name} {area:,.3g} km2"
        for name, cells, area in zip(made.classes, made.cells, areas, strict=True)
    )
    lines = [f"map: {made.out} ({made.scenes} scenes{kept})", f"picture: {Path(made.out) / 'map.png'}"]
    lines.append(f"classes: {', '.join(shares)}")
    if made.left_out:
        lines.append(f"points: {made.points}; {made.left_out} more are on no cell ({Path(made.out) / 'left_out.csv'})")
    f1, coverage = ("{:.3f} [{:.3f}, {:.3f}]".format(*measured) for measured in (made.f1, made.coverage))
    lines.append(f"weighted F1 of held-out points: {f1}, blocks of {made.block_m:,.0f} m")
    lines.append(f"their sets hold the true class: {coverage}, asked for {1 - made.error_rate:g}")
    lines.append(f"cells whose set is one class: {made.one_class:.0%}; report: {Path(made.out) / 'report.md'}")
    return lines
