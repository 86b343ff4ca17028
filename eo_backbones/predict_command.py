"""The command ``eo-backbones predict``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eo_backbones.list_options import split_commas

if TYPE_CHECKING:
    from torch import Tensor

PREDICT_EPILOG = """Examples:

[bold]eo-backbones predict new/*.tif --model FOLDER[/bold]

[bold]eo-backbones predict a.tif b.tif --model FOLDER --bands B04=3 --unit reflectance --out answers.csv[/bold]

The file gets one line an image: path, class, and the probability of each class. Images may have any size; each is
brought to the one that the model was trained on."""


def predict(
    files: Annotated[list[Path], typer.Argument(help="Images: GeoTIFF, PNG or JPEG.")],
    model: Annotated[str, typer.Option(help="Folder of [bold]eo-train finetune[/bold], or hf-hub:ORG/NAME.")],
    bands: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BAND=PLACE", help="Where the model's bands are, if the files do not say it: B04=4,B03=3."
        ),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UNIT",
            help="dn, reflectance, db, linear or uint8, or B04=UNIT for one band. Default: uint8 for 8-bit files, else "
            "dn (Sentinel-2) and db (Sentinel-1).",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("predictions.csv"),
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Classify new images with a fine-tuned model; writes a CSV file."""
    from eo_backbones.evaluation.precision import pick_device
    from eo_backbones.predict import open_classifier, write_predictions
    from eo_backbones.predict import predict as classify
    from eo_backbones.progress import ProgressWatcher

    with ProgressWatcher() as watcher:
        classifier = open_classifier(model, device=pick_device(device))
        rows = classify(classifier, files, bands=split_commas(bands), units=split_commas(unit), batch=batch)
        with watcher.stage("classify", len(files)) as tick:
            counts = write_predictions(out, classifier.classes, _counted(rows, tick))
    found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    typer.echo(f"{out}: {len(files)} images ({found})")


def _counted(rows: "Iterator[tuple[Path, Tensor]]", tick: Callable[[int], None]) -> "Iterator[tuple[Path, Tensor]]":
    for row in rows:
        yield row
        tick(1)
