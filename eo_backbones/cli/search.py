"""The commands ``eo-backbones index`` and ``eo-backbones search``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eo_backbones.cli.options import (
    DeviceOption,
    JsonOption,
    NodataOption,
    OffsetOption,
    ScaleOption,
    numbers_of,
    print_result,
    refuse_idle,
    split_commas,
)
from eo_backbones.errors import INTERRUPTED

if TYPE_CHECKING:
    from eo_backbones.search import Found

INDEX_EPILOG = """Examples:

[bold]eo-backbones index REGION --out REGION.index[/bold]

REGION is a folder that [bold]eo-backbones embed SCENE... --out REGION[/bold] wrote, or any folder of embeddings of \
one model; with --components, of one set of them.

The index holds everything that a search needs, and may be moved. With 50,000 cells and more, approximate search needs \
faiss: pip install 'eo-backbones\\[search]'. Next: [bold]eo-backbones search REGION.index --at LON,LAT[/bold]"""

SEARCH_EPILOG = """Examples (INDEX comes before the options):

[bold]eo-backbones search INDEX --at 11.58,48.14 --top 20 --out hits.geojson hits.png[/bold]

[bold]eo-backbones search INDEX --geometry AREA.geojson --date 2022-06-01/2022-08-31 --max-cloud 20[/bold]

[bold]eo-backbones search INDEX --image PATCH.tif --bbox 11,48,12,49 --out hits.parquet[/bold]

[bold]What counts as a hit:[/bold] windows overlap, and scenes of several dates show the same place, so a hit is the \
best cell of its place: hits are at least a window's side apart, also from the place that was asked for. --apart \
METRES says otherwise; --apart 0 lists every cell.

[bold]Scores[/bold] are cosines. Features of a network are all positive, so even different places come near 1; \
components are centred and use the whole range from -1 to 1."""


def index(
    folder: Annotated[Path, typer.Argument(help="Folder of embeddings, or one file of them.")],
    out: Annotated[Path, typer.Option(help="Folder to write the index into.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an index of all cells of many embedded scenes, to search in."""
    from eo_backbones.progress import ProgressBars
    from eo_backbones.search import build_index

    try:
        with ProgressBars() as progress:
            made = build_index(folder, out, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    missing = f"; {made.missing:,} without a value left out" if made.missing else ""
    lines = [
        f"index: {made.out}, {made.bytes / 1e6:,.1f} MB",
        f"cells: {made.cells:,} of {made.scenes:,} scenes, {made.features:,} values each{missing}",
        f"approximate search: finds {made.recall:.1%} of the ten nearest cells, {made.lists:,} lists"
        if made.recall is not None
        else "searches scan all cells",
    ]
    print_result(made.to_dict(), lines, as_json=as_json)


def search(
    context: typer.Context,
    index: Annotated[Path, typer.Argument(help="Folder of [bold]eo-backbones index[/bold].")],
    at: Annotated[
        str | None, typer.Option(metavar="LON,LAT", help="Like the cell at this place: degrees, longitude first.")
    ] = None,
    scene: Annotated[
        str | None, typer.Option(metavar="ID", help="With --at: the scene to take; default: the latest there.")
    ] = None,
    geometry: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Like the cells in the polygons of a GeoJSON file (WGS 84).")
    ] = None,
    combine: Annotated[
        str, typer.Option(help="With --geometry: their mean, or best: the score with the nearest of them.")
    ] = "mean",
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE...", help="Like this image, which is embedded as the scenes were."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --image: where the model of the index is now.", show_default=False)
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(metavar="UNIT...", help="With --image: unit of its values; default: that of the scenes."),
    ] = None,
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    top: Annotated[int, typer.Option(help="How many hits.")] = 10,
    out: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE...", help="Write them: .geojson, .parquet (GeoParquet) or .png (a map)."),
    ] = None,
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="Only cells whose centre is in this box, degrees.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="START/END", help="Only scenes of these days (UTC); .. leaves an end open.")
    ] = None,
    max_cloud: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Only scenes with at most this share of clouds.")
    ] = None,
    apart: Annotated[
        float | None,
        typer.Option(metavar="METRES", help="Least distance of hits; default: a window's side.", show_default=False),
    ] = None,
    with_query: Annotated[bool, typer.Option("--with-query", help="Also find the cells that were asked for.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Scan all cells, also of a large index.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find where in all scenes of an index it looks like a place, an area or an image."""
    from eo_backbones.device import fast_dtype, pick_device
    from eo_backbones.rasters.options import ReadingOptions
    from eo_backbones.search import Filters, SearchRequest
    from eo_backbones.search import search as run
    from eo_backbones.search.filters import parse_dates

    if at is None:
        refuse_idle(context, "scene", "--scene", "it chooses the scene of --at; leave it out")
    if geometry is None:
        refuse_idle(context, "combine", "--combine", "it combines the cells of --geometry; leave it out")
    if not image:
        for name in ("model", "unit", "scale", "offset", "nodata"):
            refuse_idle(context, name, f"--{name}", "it is about the file of --image; leave it out")
    reading = ReadingOptions.of(
        split_commas(unit), scale=split_commas(scale), offset=split_commas(offset), nodata=split_commas(nodata)
    )
    place = None if at is None else numbers_of(at, 2, "--at LON,LAT", "11.58,48.14")
    box = None if bbox is None else numbers_of(bbox, 4, "--bbox WEST,SOUTH,EAST,NORTH", "11,48,12,49")
    request = SearchRequest(
        index=index,
        at=None if place is None else (place[0], place[1]),
        scene=scene,
        geometry=geometry,
        combine=combine,
        image=tuple(image or ()),
        model=model,
        reading=reading,
        count=top,
        out=tuple(out or ()),
        filters=Filters(
            bbox=None if box is None else (box[0], box[1], box[2], box[3]),
            dates=None if date is None else parse_dates(date),
            max_cloud=max_cloud,
        ),
        apart_m=apart,
        with_query=with_query,
        exact=exact,
    )
    chosen = pick_device(device)
    found = run(request, device=chosen, dtype=fast_dtype(chosen))
    print_result(found.to_dict(), _lines(found), as_json=as_json)


def _lines(found: "Found") -> list[str]:
    """Return hits as lines for people."""
    how = "exact" if found.exact else "approximate, --exact scans all"
    lines = [f"like the {found.query}", f"searched: {found.searched:,} cells ({how})"]
    for hit in found.hits:
        place = "" if hit.lon is None or hit.lat is None else f"  {hit.lon:.5f},{hit.lat:.5f}"
        day = "" if hit.datetime is None else f"  {hit.datetime[:10]}"
        lines.append(f"{hit.rank:>3}  {hit.score:.4f}{place}{day}  {hit.scene}  row {hit.row}, column {hit.col}")
    return lines + [f"written: {path}" for path in found.out]
