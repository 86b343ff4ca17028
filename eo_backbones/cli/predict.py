"""The command ``eo-backbones predict``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eo_backbones.cli.options import (
    NODATA_HELP,
    OFFSET_HELP,
    SCALE_HELP,
    UNIT_HELP,
    DeviceOption,
    split_commas,
)
from eo_backbones.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from eo_backbones.prediction.classify import Classifier
    from eo_backbones.progress import Progress, Tick
    from eo_backbones.rasters.options import ReadingOptions

PREDICT_EPILOG = """Examples:

[bold]eo-backbones predict new/*.tif --model FOLDER[/bold]

[bold]eo-backbones predict a.tif b.tif --model FOLDER --bands B04=3 --unit reflectance --out predictions.csv[/bold]

[bold]eo-backbones predict scene.tif --model SEGMENTATION --out masks[/bold]

With a classifier the file gets one line per image: path, class, and the probability of each class. Images may have \
any size; each is resized to the size that the model was trained on.

A model of --task segmentation writes a mask for each image: a GeoTIFF of the class values it was trained with, \
georeferenced as the image, with colours and names of the classes, nodata where the image has no value; and \
predictions.csv with the share of each class. Whole scenes are read window by window. After an interruption the same \
command continues.

--bands, --unit, --scale, --offset and --nodata need not be repeated: the folder of a model keeps those that it was \
trained with. What is passed here wins; a band's unit, scale and offset belong together."""

_TABLE, _MASKS = Path("predictions.csv"), Path("predictions")
_BATCH = 32


def predict(
    files: Annotated[
        list[str],
        typer.Argument(help="Images, anything GDAL opens: GeoTIFF, JPEG 2000, PNG, JPEG, https://, GTIFF_DIR:1:a.tif."),
    ],
    model: Annotated[str, typer.Option(help="Folder of [bold]eo-train finetune[/bold], or hf-hub:ORG/NAME.")],
    bands: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BAND=POSITION",
            help="Positions of the model's bands, if the files do not say them: B04=4,B03=3. Default: those given when "
            "it was trained. B04,B03: found by name all the same.",
        ),
    ] = None,
    unit: Annotated[list[str] | None, typer.Option(metavar="UNIT", help=UNIT_HELP)] = None,
    scale: Annotated[list[str] | None, typer.Option(metavar="[BAND=]NUMBER", help=SCALE_HELP)] = None,
    offset: Annotated[list[str] | None, typer.Option(metavar="[BAND=]NUMBER", help=OFFSET_HELP)] = None,
    nodata: Annotated[list[str] | None, typer.Option(metavar="[BAND=]NUMBER", help=NODATA_HELP)] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The table to write, predictions.csv unless given; segmentation: the folder for the masks, "
            "predictions unless given.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images at once; 32 unless given (not for segmentation).", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Classify new images with a fine-tuned model, into a CSV file; or segment them, into masks."""
    from eo_backbones.device import pick_device
    from eo_backbones.prediction.classify import open_classifier
    from eo_backbones.progress import ProgressBars
    from eo_backbones.rasters.options import ReadingOptions

    with ProgressBars() as progress:
        opened = open_classifier(model, device=pick_device(device))
        typed = split_commas(bands)
        reading = ReadingOptions(
            units=split_commas(unit),
            scale=split_commas(scale),
            offset=split_commas(offset),
            nodata=split_commas(nodata),
        )
        if opened.mask_values:
            if batch is not None:
                raise UserError("--batch counts whole images; a segmentation reads window by window, so leave it out")
            line = _segment(opened, files, typed, reading, out or _MASKS, progress)
        else:
            line = _classify(opened, files, typed, reading, out or _TABLE, batch or _BATCH, progress)
    typer.echo(line)


def _classify(
    opened: "Classifier",
    files: Sequence[str],
    bands: Sequence[str],
    reading: "ReadingOptions",
    out: Path,
    batch: int,
    progress: "Progress",
) -> str:
    from eo_backbones.prediction.classify import predict as classify
    from eo_backbones.prediction.classify import write_predictions

    if out.resolve() in {Path(file).resolve() for file in files}:
        raise UserError(f"--out {out} is one of the images; name another file for the table")
    rows = classify(
        opened,
        files,
        bands=bands,
        units=reading.units,
        scale=reading.scale,
        offset=reading.offset,
        nodata=reading.nodata,
        batch=batch,
    )
    with progress.stage("classify", len(files)) as tick:
        counts = write_predictions(out, opened.classes, _with_ticks(rows, tick))
    found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{out}: {len(files)} images ({found})"


def _segment(
    opened: "Classifier",
    files: Sequence[str],
    bands: Sequence[str],
    reading: "ReadingOptions",
    out: Path,
    progress: "Progress",
) -> str:
    from eo_backbones.prediction.segment import segment, write_table

    if out.suffix.lower() == ".csv" or out.is_file():
        raise UserError(
            f"this model gives every pixel a class, so --out names a folder for the masks, not {out}; pass --out "
            f"{out.with_suffix('')}"
        )
    try:
        made = segment(
            opened,
            files,
            out,
            bands=bands,
            units=reading.units,
            scale=reading.scale,
            offset=reading.offset,
            nodata=reading.nodata,
            progress=progress,
        )
    except KeyboardInterrupt:
        typer.echo(f"stopped; the finished masks are in {out}, the same command continues from there", err=True)
        raise typer.Exit(INTERRUPTED) from None
    table = write_table(out, opened.classes, made)
    whole = [sum(counts) for counts in zip(*(one.pixels for one in made), strict=True)]
    shares = ", ".join(
        f"{name} {count / sum(whole):.1%}" for name, count in zip(opened.classes, whole, strict=True) if count
    )
    kept = sum(one.before for one in made)
    earlier = f", {kept} of them there before" if kept else ""
    return f"{out}: {len(made)} masks{earlier} ({shares or 'no pixel with a value'}); shares of each image: {table}"


def _with_ticks(rows: "Iterator[tuple[Path | str, Tensor]]", tick: "Tick") -> "Iterator[tuple[Path | str, Tensor]]":
    for row in rows:
        yield row
        tick(1)
