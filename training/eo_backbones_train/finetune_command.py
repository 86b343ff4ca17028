"""The command ``eo-train finetune``."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from eo_backbones.errors import UserError
from eo_backbones.list_options import split_commas

FINETUNE_EPILOG = """Examples:

[bold]eo-train finetune --data FIELDS --model eo_resnet50.byol_s1s2_mini --bands B04 --mode linear --out FOLDER[/bold]

[bold]eo-train finetune --data labels.csv --model local-dir:ENCODER --bands B04=3 B08=4 --unit reflectance --mode full
--out FOLDER[/bold]

[bold]eo-backbones predict new/*.tif --model FOLDER[/bold]

FIELDS holds one folder of images for each class; labels.csv has the columns path,label and, if you want, split (train,
val or test). Else 60 % of each class train, 20 % validate, 20 % test. Which mode: linear for a first answer in minutes
and for few labels; full with hundreds of images a class; partial in between. After Ctrl-C or a crash the same command
with --resume goes on from the last whole epoch."""


def finetune(
    data: Annotated[Path, typer.Option(help="Folder with a folder of images for each class, or a CSV file.")],
    model: Annotated[
        str,
        typer.Option(help="Encoder: a row of [bold]eo-backbones list[/bold], hf-hub:ORG/NAME or local-dir:PATH."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make: weights, config, card, metrics.")],
    bands: Annotated[
        list[str] | None,
        typer.Option(metavar="BAND...", help="Bands to use, by name; B04=4: the file's fourth band is B04."),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UNIT...",
            help="dn, reflectance, db, linear or uint8, or B04=UNIT for one band. Default: uint8 for 8-bit files, else "
            "dn (Sentinel-2) and db (Sentinel-1); every image is checked.",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="classification: one class an image.")] = "classification",
    mode: Annotated[
        str, typer.Option(help="linear: encoder frozen; partial: its last stages too; full: everything.")
    ] = "linear",
    fuse: Annotated[
        str,
        typer.Option(
            help="Several bands: concat or mean of each band's features (one pass a band); early: one pass for all, "
            "loads in plain timm, wants --mode full."
        ),
    ] = "concat",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the training images, at most.")] = 50,
    patience: Annotated[
        int, typer.Option(metavar="EPOCHS", help="End when so many brought no better F1 on the validation images.")
    ] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate at its peak.")] = 1e-3,
    layer_decay: Annotated[
        float, typer.Option(help="full: a block's rate is that of the next one times this; 1: all alike.")
    ] = 0.85,
    stages: Annotated[int, typer.Option(help="partial: how many of the encoder's last stages are trained.")] = 1,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 32,
    size: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Side that images are brought to; their own, up to 224, unless given."),
    ] = None,
    shots: Annotated[int | None, typer.Option(metavar="N", help="Use N training images of each class.")] = None,
    class_weights: Annotated[str, typer.Option(help="none, or balanced: rare classes count more.")] = "none",
    pretrained: Annotated[
        bool, typer.Option(help="Off: start from random values instead of the model's weights, to compare.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of split, subset, order, augmentation and initial values.")] = 0,
    license_id: Annotated[
        str, typer.Option("--license", help="Of the weights, for the card, say cc-by-4.0.")
    ] = "other",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard events.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")
    ] = False,
) -> None:
    """Train a classifier on your own images, from an encoder; needs no code and few labels."""
    from eo_backbones.progress import ProgressWatcher
    from eo_backbones_train.finetuning.finetune import RUN_FOLDER
    from eo_backbones_train.finetuning.finetune import finetune as run

    if task != "classification":
        raise UserError(f"--task {task!r} is unknown; allowed: classification")
    logging.getLogger("eo_backbones").handlers.clear()  # the watcher shows them, above its bars
    with ProgressWatcher() as watcher:
        result = run(
            data,
            out,
            bands=split_commas(bands),
            units=split_commas(unit),
            size_px=size,
            resume=resume,
            license=license_id,
            device=device,
            tensorboard=tensorboard,
            stage=watcher.stage,
            model=model,
            pretrained=pretrained,
            mode=mode,
            fuse=fuse,
            stages=stages,
            epochs=epochs,
            patience=patience,
            learning_rate=lr,
            layer_decay=layer_decay,
            batch=batch,
            class_weights=class_weights,
            shots=shots,
            seed=seed,
        )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    _show(result, out / RUN_FOLDER)


def _show(result: dict[str, Any], run: Path) -> None:
    part = "test" if "test" in result["results"] else "val"
    figures = result["results"][part]
    typer.echo(f"{'class':<24} precision  recall      F1  images  ({part})")
    for name, row in figures["per_class"].items():
        values = "  ".join(
            f"{'none' if row[key] is None else format(row[key], '.3f'):>{width}}"
            for key, width in (("precision", 9), ("recall", 6), ("f1", 6))
        )
        typer.echo(f"{name:<24} {values}  {row['support']:>6}")
    typer.echo(
        f"{result['folder']}: weighted F1 {figures['f1_weighted']:.3f} [{figures['f1_low']:.3f}, "
        f"{figures['f1_high']:.3f}] on {figures['images']} {part} images; epoch {result['best_epoch']} of "
        f"{result['epochs']} kept; answers for each image: {run / 'predictions.csv'}"
    )
