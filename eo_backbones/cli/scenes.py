"""The commands ``eo-backbones embed`` and ``eo-backbones similar``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eo_backbones.cli.options import (
    MODEL_HELP,
    DeviceOption,
    JsonOption,
    NodataOption,
    OffsetOption,
    ScaleOption,
    UnitOption,
    numbers_of,
    print_result,
    refuse_idle,
    split_commas,
    was_typed,
)
from eo_backbones.cli.regions import Settings, embed_many
from eo_backbones.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from eo_backbones.scenes import Embedded, EmbedRequest

_LARGE_BYTES = 10**9

EMBED_EPILOG = """[bold]One scene[/bold]: --out names a file (.tif, .parquet). SCENE comes before the options:

[bold]eo-backbones embed SCENE.tif --model NAME --bands B04 --components 16 --out OUT.tif --preview[/bold]

[bold]eo-backbones embed SCENE.tif --model NAME --bands B04=1 B08=4 --unit reflectance --out OUT.tif[/bold]

[bold]eo-backbones embed B02.tif B03.tif B04.tif --model NAME --bands B02 B03 B04 --fuse mean --out OUT.tif[/bold]

[bold]eo-backbones embed PATCH_FOLDER --model NAME --bands VV VH --unit db --out OUT.parquet[/bold]

[bold]Many scenes[/bold]: --out names a folder. Every SCENE is one scene, a folder or list (.txt) of scenes, or a STAC \
item, item collection or catalogue (file or https://):

[bold]eo-backbones embed SCENES --model NAME --bands B04 --components 16 --out REGION --preview[/bold]

[bold]eo-backbones embed ITEMS.json --model NAME --bands B04 B08 --format parquet --out REGION --workers 4[/bold]

[bold]eo-backbones embed LIST.txt --model NAME --bands VV --out REGION --scheduler tcp://HOST:8786[/bold]

REGION gets one embedding for each scene (ID/ID.tif), components.npz, which all of them share, a STAC catalogue and \
failed.csv: scenes that could not be embedded, which do not stop the others; the status is 1 then. --workers and \
--scheduler need the extra scale; the workers of a scheduler must see the same folders.

[bold]How large is it?[/bold] A cell holds every feature of the encoder, 2,048 floats per band for a ResNet50: a \
Sentinel-2 tile of 10,980 x 10,980 pixels at stride 32 has 117,000 cells, 0.96 GB per band. [bold]--components \
16[/bold] keeps 128 times less, --dtype int8 four times; [bold]--budget MB[/bold] chooses by what both were measured \
to cost. While it runs, the features of one scene need their full size beside OUT; in a folder with --components only \
the components do.

[bold]The grid:[/bold] a window takes --size pixels a side, the next one begins --stride pixels on. A cell is stride x \
stride pixels and has the centre of its window; only whole windows count, from the upper left corner on.

[bold]Missing pixels[/bold] are those that the file's nodata value, mask or alpha marks, NaN, and --nodata. A window \
with more than --max-nodata of them in any band becomes a nodata cell; elsewhere they take the mean of the window's \
valid pixels.

[bold]Killed?[/bold] The same command continues, from OUT.part or in the folder. Next: [bold]eo-backbones similar \
OUT.tif --at LON,LAT[/bold]"""

SIMILAR_EPILOG = """Examples:

[bold]eo-backbones similar OUT.tif --at 11.58,48.14[/bold]

[bold]eo-backbones similar OUT.tif --cell 10,20 --out MAP.tif[/bold]  (a scene without coordinates)

Features of a network are all positive, so even different places come near 1; embeddings made with --components are \
centred and use the whole range from -1 to 1."""


def embed(
    context: typer.Context,
    scene: Annotated[
        list[str],
        typer.Argument(
            help="The raster; several files of one scene; or a folder with one file per band. Anything GDAL opens: "
            "GeoTIFF, JPEG 2000, https://, /vsizip/. With a folder for --out: many scenes, see below."
        ),
    ],
    model: Annotated[str, typer.Option(help=f"The encoder: {MODEL_HELP}.")],
    bands: Annotated[
        list[str],
        typer.Option(
            metavar="BAND...",
            help="Names (B04, red, VV), found by the file's descriptions, name or usual order; B04=3: its third band.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="One scene: what to write, .tif, .parquet (a table of cells) or .zarr. Many: the folder to write."
        ),
    ],
    unit: UnitOption = None,
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    size: Annotated[int, typer.Option(help="Side of a window in pixels.")] = 64,
    stride: Annotated[int, typer.Option(help="Pixels from window to window: the side of a cell.")] = 32,
    components: Annotated[
        int | None,
        typer.Option(
            help="[bold]Keep K principal components[/bold] instead of all features (2,048 floats per cell are large); "
            "mean and axes go into OUT.components.npz. Many scenes share those of a sample of all of them."
        ),
    ] = None,
    components_from: Annotated[
        Path | None,
        typer.Option(help="Use another scene's .components.npz, so that both can be compared.", metavar="FILE"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16, or int8 with a scale and offset per band.")] = "float32",
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="MB",
            help="[bold]Instead of --components and --dtype[/bold]: the most accurate of the measured settings whose "
            "files take MB megabytes at most, all scenes together.",
            show_default=False,
        ),
    ] = None,
    fuse: Annotated[str, typer.Option(help="Several bands: concat (features side by side) or mean.")] = "concat",
    max_nodata: Annotated[
        float, typer.Option(help="Share of missing pixels above which a window becomes a nodata cell.")
    ] = 0.05,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="One scene: geotiff, cog (cloud-optimised), parquet or zarr; default: by the suffix of OUT. Many: cog "
            "(default), parquet or zarr.",
            show_default=False,
        ),
    ] = None,
    geometry: Annotated[
        str, typer.Option(help="Of a cell in a Parquet table: point (its centre) or polygon (its outline).")
    ] = "point",
    preview: Annotated[
        bool, typer.Option("--preview", help="Also draw the first three components as OUT.png, or OUT/region.png.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace OUT if it is there; a folder whose run did not end goes on instead."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Many scenes: share them among N processes of this machine.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="tcp://HOST:PORT", help="Many scenes: use the workers of this Dask scheduler."),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Turn scenes of any size into georeferenced maps of embeddings: one into a file, many into a folder."""
    from eo_backbones.device import fast_dtype, pick_device
    from eo_backbones.progress import ProgressBars
    from eo_backbones.regions.sources import is_stac_name
    from eo_backbones.scenes import EmbedRequest, embed_scene, fit_budget
    from eo_backbones.scenes.request import is_one_file

    chosen = pick_device(device)
    if len(split_commas(bands)) == 1:
        refuse_idle(context, "fuse", "--fuse", "it joins several bands, and there is one; leave it out")
    if budget is not None:
        for parameter in ("components", "components_from", "dtype"):
            if was_typed(context, parameter):
                option = f"--{parameter.replace('_', '-')}"
                raise UserError(f"--budget chooses components and number format itself; leave it out, or {option}")
    settings: Settings = {
        "model": model,
        "bands": split_commas(bands),
        "units": split_commas(unit),
        "out": out,
        "size": size,
        "stride": stride,
        "fuse": fuse,
        "scale": split_commas(scale),
        "offset": split_commas(offset),
        "nodata": split_commas(nodata),
        "max_nodata": max_nodata,
        "components": components,
        "components_from": components_from,
        "dtype": dtype,
        "geometry": geometry,
        "preview": preview,
        "overwrite": overwrite,
    }
    if not is_one_file(out, format_):
        embed_many(
            tuple(scene),
            settings,
            format_=format_,
            device=device,
            workers=workers,
            scheduler=scheduler,
            budget=budget,
            as_json=as_json,
        )
        return
    stac = next(filter(is_stac_name, scene), None)
    if stac is not None:
        raise UserError(f"{stac} is a STAC file, and {out} holds one scene; name a folder with --out")
    for parameter in ("workers", "scheduler"):
        refuse_idle(context, parameter, f"--{parameter}", f"{out} holds one scene; name a folder with --out for many")
    request = EmbedRequest(scene=tuple(scene), format=format_, **settings)
    choice = None
    if budget is not None:
        request, choice = fit_budget(request, budget)
        typer.echo(f"budget: {choice}", err=True)
    try:
        with ProgressBars() as progress:
            made = embed_scene(request, device=chosen, dtype=fast_dtype(chosen), progress=progress)
    except KeyboardInterrupt:
        typer.echo(f"stopped; what is finished is in {out}.part, the same command continues from there", err=True)
        raise typer.Exit(INTERRUPTED) from None
    facts = made.to_dict() if choice is None else {**made.to_dict(), "budget": choice.to_dict()}
    print_result(facts, _lines(made, request), as_json=as_json)


def similar(
    embedding: Annotated[Path, typer.Argument(help="What [bold]eo-backbones embed[/bold] wrote.")],
    at: Annotated[
        str | None, typer.Option(metavar="LON,LAT", help="The place to compare with: degrees, longitude first.")
    ] = None,
    cell: Annotated[
        str | None, typer.Option(metavar="ROW,COL", help="Or its cell, counted from 0 at the upper left.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: EMBEDDING_similar.tif beside it.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Map where a scene looks like one place: cosine similarity of all cells with the cell of that place."""
    from eo_backbones.scenes import find_similar

    degrees = None if at is None else numbers_of(at, 2, "--at LON,LAT", "11.58,48.14")
    numbers = None if cell is None else numbers_of(cell, 2, "--cell ROW,COL", "10,20")
    row_and_column = None if numbers is None else (int(numbers[0]), int(numbers[1]))
    place = None if degrees is None else (degrees[0], degrees[1])
    made = find_similar(embedding, at=place, cell=row_and_column, out=out)
    lines = [
        f"similarity: {made.out}",
        f"picture: {made.preview}",
        f"compared with the cell at row {made.cell[0]}, column {made.cell[1]}; median {made.median:.3f}",
    ]
    print_result(made.to_dict(), lines, as_json=as_json)


def _lines(made: "Embedded", request: "EmbedRequest") -> list[str]:
    """Return the result as lines for people."""
    lines = [f"embeddings: {made.out}"]
    if made.preview:
        lines.append(f"picture: {made.preview}")
    if made.components_file and made.explained is not None:
        lines.append(f"components: {made.components_file}, {made.explained:.0%} of the variance")
    missing = f", {made.nodata_cells:,} of them nodata" if made.nodata_cells else ""
    lines.append(f"cells: {made.rows:,} x {made.cols:,}{missing}; {made.numbers:,} values per cell")
    lines.append(
        f"read as: {', '.join(f'{band} {unit}' for band, unit in zip(request.bands, made.units, strict=True))}"
    )
    if any(made.unused_px):
        right, below = made.unused_px
        lines.append(f"not reached by a window: {right} pixels at the right, {below} at the bottom")
    if made.km2_per_s is not None:
        lines.append(f"speed: {made.km2_per_s:,.3g} km2/s ({made.km2:,.4g} km2, {made.seconds:.1f} s)")
    if made.rows * made.cols * made.numbers * 4 > _LARGE_BYTES and not made.components_file:
        lines.append("smaller: --dtype int8, --components 64, or --budget MB, which says what it costs")
    return lines
