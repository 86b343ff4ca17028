"""The card of a fine-tuned network: what it does, how to load it, its results, how it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from eo_backbones.cards.card import display_defaults, input_section
from eo_backbones.cards.tables import markdown_table
from eo_backbones.contract import InputSpec

_PARTS = {
    "val": "Validation images: they decided which epoch was kept, so these results are optimistic",
    "test": "Test images: they decided nothing",
}
_FUSED = {
    "concat": "One encoder reads each band; {} gets the {} of all bands side by side.",
    "mean": "One encoder reads each band; {} gets the mean of the bands' {}.",
    "early": "The first convolution reads all bands at once.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskTexts:
    """What differs in the card of a task.

    Attributes:
        pipeline: the Hub's name of the task.
        introduction: what the network does.
        head: what takes the encoder's output, and what that output is.
        key: of the main metric in the results; ``low`` and ``high`` are the keys of its interval.
        hub_metric: the Hub's name of the main metric; ``name`` is ours.
        columns: heading and key of the metrics of each class.
        counted: what a class's support counts.
    """

    pipeline: str
    introduction: str
    head: tuple[str, str]
    key: str
    low: str
    high: str
    hub_metric: str
    name: str
    columns: Mapping[str, str]
    counted: str


_IN_PIPELINE = {
    1: "; `prepare.val_transforms.transforms.insert(0, torchvision.transforms.Grayscale())` turns them back into one",
    3: ", red, green and blue, which must be the bands in this order",
}
"""What the pipeline of transformers means for a network of that many channels."""

_SHARED = {"precision": "precision", "recall": "recall", "F1": "f1"}
_TASK_TEXTS: Mapping[str, _TaskTexts] = MappingProxyType(
    {
        "classification": _TaskTexts(
            pipeline="image-classification",
            introduction="Tells {number} classes apart in images of band {bands}: {classes}.",
            head=("a linear layer", "features"),
            key="f1_weighted",
            low="f1_low",
            high="f1_high",
            hub_metric="f1",
            name="weighted F1",
            columns=_SHARED,
            counted="images",
        ),
        "segmentation": _TaskTexts(
            pipeline="image-segmentation",
            introduction="Gives every pixel of an image of band {bands} one of {number} classes: {classes}.",
            head=("the decoder", "feature maps"),
            key="miou",
            low="miou_low",
            high="miou_high",
            hub_metric="mean_iou",
            name="mIoU",
            columns={"IoU": "iou", **_SHARED},
            counted="pixels",
        ),
    }
)


def finetuned_card(record: Mapping[str, Any], spec: InputSpec, *, license: str) -> str:  # noqa: A002
    """Return ``README.md``.

    Args:
        record: content of ``recipe.json``.
        spec: the input contract.
        license: SPDX identifier of the weights in lower case, or ``"other"``.
    """
    texts = _TASK_TEXTS[record["recipe"]["task"]]
    header = ModelCardData(
        license=license,
        library_name="timm" if _is_plain(record) else "eo-backbones",
        pipeline_tag=texts.pipeline,
        tags=[*(["timm"] if _is_plain(record) else []), "earth-observation", "remote-sensing", texts.pipeline],
        metrics=[texts.hub_metric],
        model_name=record["name"],
        eval_results=[_result(record, texts, "test" if "test" in record["results"] else "val")],
    )
    sections = [
        _introduction(record, texts, spec),
        _segmenting(record, spec) if record["recipe"]["task"] == "segmentation" else _classifying(record, spec),
        input_section(spec, together=True),
        *(_results(part, texts, record["results"][part]) for part in record["results"]),
        _training(record),
        f"## Licence\n\nWeights: `{license}`. Check that the terms of the encoder it started from and of the images "
        "allow it.",
    ]
    body = "\n\n".join(sections)
    return f"---\n{header.to_yaml()}\n---\n\n{body}\n"


def _result(record: Mapping[str, Any], texts: _TaskTexts, part: str) -> EvalResult:
    results = record["results"][part]
    return EvalResult(
        task_type=texts.pipeline,
        dataset_type="own",
        dataset_name=record["data"]["name"],
        dataset_config="+".join(record["data"]["bands"]),
        dataset_split=part,
        metric_type=texts.hub_metric,
        metric_name=texts.name,
        metric_value=round(results[texts.key], 4),
        metric_args={
            "interval": [round(results[texts.low], 4), round(results[texts.high], 4)],
            "images": results["images"],
            "data_digest": record["data"]["digest"],
        },
    )


def _introduction(record: Mapping[str, Any], texts: _TaskTexts, spec: InputSpec) -> str:
    data, settings = record["data"], record["recipe"]
    start = f"`{record['base']['name']}`"
    if not settings["pretrained"]:
        start = f"random values (the architecture of {start})"
    does = texts.introduction.format(
        number=len(data["classes"]), bands=", ".join(spec.band_names), classes=", ".join(data["classes"])
    )
    made = f"Fine-tuned (`{settings['mode']}`) from {start} on {data['train']} labelled images."
    text = f"# {record['name']}\n\n{does} {made}"
    return f"{text} {_FUSED[settings['fuse']].format(*texts.head)}" if len(spec.bands) > 1 else text


def _contract_lines(record: Mapping[str, Any], spec: InputSpec) -> str:
    bands = ", ".join(f'"{name}"' for name in spec.band_names)
    units = ", ".join(f'"{unit}"' for unit in record["data"]["units"])
    kept, numbers = record["data"].get("reading", {}), ""
    for option, otherwise in (("scale", 1.0), ("offset", 0.0), ("nodata", None)):
        if option in kept:
            by_band = [kept[option].get(name, otherwise) for name in spec.band_names]
            numbers += f", {option}=[{', '.join(map(str, by_band))}]"
    return f"""model = eo_backbones.create_model("local-dir:FOLDER").eval()
prepare = eo_backbones.create_transform(model, band=[{bands}], unit=[{units}]{numbers})"""


def _segmenting(record: Mapping[str, Any], spec: InputSpec) -> str:
    classes, values, size = record["data"]["classes"], record["data"]["mask_values"], record["recipe"]["size_px"]
    return f"""## How to use it

```
pip install 'eo-backbones[segmentation]'
eo-backbones predict FILES... --model FOLDER --out MASKS
```

```python
import eo_backbones

{_contract_lines(record, spec)}
scores = model(prepare(images))  # (B, {len(spec.bands)}, H, W) raw values -> (B, {len(classes)}, H, W)
indices = scores.argmax(dim=1)  # (B, H, W); the classes' values in masks: {", ".join(map(str, values))}
```

{markdown_table(["class", "value in masks"], [[name, str(value)] for name, value in zip(classes, values, strict=True)])}

It was trained on squares of {size} x {size} pixels and takes images of any size. The decoder is the U-Net of
segmentation-models-pytorch, half as wide. Plain timm cannot load it: timm has no such network.

![Examples](examples.png)"""


def _classifying(record: Mapping[str, Any], spec: InputSpec) -> str:
    size, bands = record["recipe"]["size_px"], len(spec.bands)
    if _is_plain(record):
        plain = f"""Plain timm loads it as well: `timm.create_model("local-dir:FOLDER", pretrained=True)`. So does
transformers, for pictures in 8 bits whose {"only channel is the band" if bands == 1 else "channels are the bands"}:

```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

prepare = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()
scores = model(**prepare(picture)).logits  # {"PIL, mode L" if bands == 1 else f"tensor (B, {bands}, H, W) in 0 … 1"}
```

Its pipeline turns every picture into three channels{_IN_PIPELINE.get(bands, ", which this network does not take")}.

{display_defaults(spec, size_px=size, together=True)}"""
    else:
        plain = "Plain timm and transformers cannot load it: timm has no network that reads each band by itself."
    return f"""## How to use it

```
eo-backbones predict FILES... --model FOLDER
```

```python
import eo_backbones

{_contract_lines(record, spec)}
scores = model(prepare(images))  # (B, {bands}, H, W) raw values -> (B, {len(record["data"]["classes"])})
```

It was trained on images of {size} x {size} pixels. {plain}"""


def _is_plain(record: Mapping[str, Any]) -> bool:
    """Return whether timm has such a network, so that other libraries load the folder."""
    settings = record["recipe"]
    return settings["task"] == "classification" and (len(record["data"]["bands"]) == 1 or settings["fuse"] == "early")


def _results(part: str, texts: _TaskTexts, results: Mapping[str, Any]) -> str:
    rows = [
        [name, *(_formatted(row[key]) for key in texts.columns.values()), str(row["support"])]
        for name, row in results["per_class"].items()
    ]
    confusion = [[name, *map(str, row)] for name, row in zip(results["per_class"], results["confusion"], strict=True)]
    counted = f" ({results['pixels']:,} pixels)" if "pixels" in results else ""
    return "\n\n".join(
        [
            f"## Results, {part}",
            f"{_PARTS[part]}. {results['images']} images{counted}, {texts.name} {results[texts.key]:.3f} "
            f"[{results[texts.low]:.3f}, {results[texts.high]:.3f}] (95 % bootstrap over the images, one training), "
            f"accuracy {results['accuracy']:.3f}.",
            markdown_table(["class", *texts.columns, texts.counted], rows),
            f"Rows: true class; columns: predicted class; {texts.counted}.",
            markdown_table(["", *results["per_class"]], confusion),
        ]
    )


def _formatted(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _training(record: Mapping[str, Any]) -> str:
    data = record["data"]
    facts = [
        [
            "images",
            f"{data['train']} training, {data['val']} validation, {data['test']} test; digest `{data['digest']}`",
        ],
        ["epochs", f"{record['epochs']}, kept: {record['best_epoch']}"],
        ["encoder", f"sha256 `{record['base']['weights_sha256'] or 'none: random values'}`"],
        ["versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
        ["commit of the code", f"`{record['git_commit']}`" if record["git_commit"] else "not recorded"],
        ["sha256 of the weights", f"`{record['weights_sha256']}`"],
        *([f"`{name}`", f"`{value}`"] for name, value in record["recipe"].items()),
    ]
    return "\n\n".join(["## Training", markdown_table(["what", "value"], facts), "![Loss](loss.png)"])
