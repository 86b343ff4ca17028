"""The command ``eo-train finetune``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from eo_backbones.cli.options import (
    DeviceOption,
    JsonOption,
    NodataOption,
    OffsetOption,
    ScaleOption,
    UnitOption,
    print_json,
    refuse_idle,
    split_commas,
)
from eo_backbones_train.cli.config_file import ConfigOption, effective_options
from eo_backbones_train.cli.loggers import LoggerOption, TensorboardOption, named_loggers

if TYPE_CHECKING:
    from eo_backbones_train.finetuning.settings import Task

FINETUNE_EPILOG = """Examples:

[bold]eo-train finetune --data FIELDS --model eo_efficientnet_lite0.distill_s1s2_mini --bands B04 --mode linear \
--out FOLDER[/bold]

[bold]eo-train finetune --data labels.csv --model local-dir:ENCODER --bands B04=3 B08=4 --unit reflectance --mode full \
--out FOLDER[/bold]

[bold]eo-train finetune --task segmentation --data LAND --model eo_efficientnet_lite0.distill_s1s2_mini --bands B04 \
--out FOLDER[/bold]

[bold]eo-backbones predict new/*.tif --model FOLDER[/bold]

FIELDS holds one folder of images per class; labels.csv has the columns path,label and, if you want, split (train, \
val or test). Folders train, val and test above the classes, or in them, are the split too. Otherwise 60 % of each \
class train, 20 % validate, 20 % test. LAND holds the folders images and masks, \
with files of the same names (or a table has path,mask). A mask has one band with the number of each pixel's class, \
255 where there is none; LAND/classes.csv (value,name) names them. Images to segment are never resized: squares of \
--size are cut out of them. It needs: pip install 'eo-backbones\\[segmentation]'.

Which mode: linear for a first result in minutes and for few labels; full with hundreds of images per class; partial \
in between. After Ctrl-C or a crash the same command with --resume continues from the last whole epoch. Once more: \
eo-train finetune --config FOLDER/.finetuning/config.yaml --out AGAIN."""


def finetune(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(help="Folder with one folder of images per class (or with images and masks), or a CSV file."),
    ],
    model: Annotated[
        str,
        typer.Option(help="Encoder: a row of [bold]eo-backbones list[/bold], hf-hub:ORG/NAME or local-dir:PATH."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to create: weights, config, card, metrics.")],
    bands: Annotated[
        list[str] | None,
        typer.Option(metavar="BAND...", help="Bands to use, by name; B04=4: the file's fourth band is B04."),
    ] = None,
    unit: UnitOption = None,
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    task: Annotated[
        str, typer.Option(help="classification: a class for each image; segmentation: for each pixel.")
    ] = "classification",
    mode: Annotated[
        str, typer.Option(help="linear: encoder frozen; partial: its last stages too; full: everything.")
    ] = "linear",
    fuse: Annotated[
        str,
        typer.Option(
            help="Several bands: concat or mean of each band's features (one pass per band); early: one pass for all, "
            "needs --mode full; such a classifier loads in plain timm."
        ),
    ] = "concat",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or start it.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the training images, at most.")] = 50,
    patience: Annotated[
        int,
        typer.Option(
            metavar="EPOCHS", help="Stop after so many without a better F1, or mIoU, on the validation images."
        ),
    ] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate at its peak.")] = 1e-3,
    layer_decay: Annotated[
        float, typer.Option(help="full: a block's learning rate is that of the next one times this; 1: equal for all.")
    ] = 0.85,
    stages: Annotated[int, typer.Option(help="partial: how many of the encoder's last stages are trained.")] = 1,
    batch: Annotated[
        int | None, typer.Option(help="Images per step; 32, for segmentation 8, unless given.", show_default=False)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Height and width that images are resized to; their own, up to 224, unless given. Segmentation: size "
            "of the squares to train on; up to 256 unless given.",
        ),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(metavar="N", help="Use N training images of each class (not with segmentation).")
    ] = None,
    class_weights: Annotated[
        str, typer.Option(help="none, or balanced: rare classes (by images, or by pixels) count more.")
    ] = "none",
    pretrained: Annotated[
        bool, typer.Option(help="Off: start from random weights instead of the model's, for comparison.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of split, subset, order, augmentation and initialisation.")] = 0,
    license_id: Annotated[
        str, typer.Option("--license", help="Of the weights, for the card, say cc-by-4.0.")
    ] = "other",
    device: DeviceOption = "auto",
    logger: LoggerOption = None,
    tensorboard: TensorboardOption = True,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier or a segmentation network on your own images, from an encoder: no code, few labels."""
    from eo_backbones.progress import ProgressBars
    from eo_backbones_train.finetuning.finetune import RUN_FOLDER
    from eo_backbones_train.finetuning.finetune import finetune as run
    from eo_backbones_train.finetuning.settings import IDLE_UNLESS

    del config  # its values are in the others
    for parameter, (option, needed) in IDLE_UNLESS.items():
        if mode != needed:
            refuse_idle(context, parameter, option, f"it is for --mode {needed}; pass that, or leave it out")
    if len(split_commas(bands)) < 2:
        refuse_idle(context, "fuse", "--fuse", "it joins several --bands; name them, or leave it out")
    with ProgressBars() as progress:
        result = run(
            data,
            out,
            bands=split_commas(bands),
            units=split_commas(unit),
            scale=split_commas(scale),
            offset=split_commas(offset),
            nodata=split_commas(nodata),
            task=cast("Task", task),
            size_px=size,
            batch=batch,
            resume=resume,
            license=license_id,
            device=device,
            loggers=named_loggers(context, logger, tensorboard=tensorboard),
            config=effective_options(context),
            progress=progress,
            model=model,
            pretrained=pretrained,
            mode=mode,
            fuse=fuse,
            stages=stages,
            epochs=epochs,
            patience=patience,
            learning_rate=lr,
            layer_decay=layer_decay,
            class_weights=class_weights,
            shots=shots,
            seed=seed,
        )
    if as_json:
        print_json(result)
        return
    _show(result, out / RUN_FOLDER)


def _show(result: dict[str, Any], run: Path) -> None:
    part = "test" if "test" in result["results"] else "val"
    metrics = result["results"][part]
    counted, main = ("pixels", "miou") if "miou" in metrics else ("images", "f1")
    columns = [("precision", "precision"), ("recall", "recall"), ("F1", "f1")]
    columns = [("IoU", "iou"), *columns] if main == "miou" else columns
    header = "  ".join(f"{heading:>9}" for heading, _ in columns)
    typer.echo(f"{'class':<24} {header}  {counted:>9}  ({part})")
    for name, row in metrics["per_class"].items():
        values = "  ".join(f"{'none' if row[key] is None else format(row[key], '.3f'):>9}" for _, key in columns)
        typer.echo(f"{name:<24} {values}  {row['support']:>9}")
    value, title = (metrics["miou"], "mIoU") if main == "miou" else (metrics["f1_weighted"], "weighted F1")
    typer.echo(
        f"{result['folder']}: {title} {value:.3f} [{metrics[f'{main}_low']:.3f}, {metrics[f'{main}_high']:.3f}] on "
        f"{metrics['images']} {part} images; epoch {result['best_epoch']} of {result['epochs']} kept; image by "
        f"image: {run / 'predictions.csv'}"
    )
