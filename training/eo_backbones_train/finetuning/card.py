"""The card of a fine-tuned network: what it does, how to load it, how good it is, how it was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from eo_backbones.cards.card import input_section
from eo_backbones.cards.tables import markdown_table
from eo_backbones.contract import InputSpec

_PARTS = {
    "val": "Validation images: they decided which epoch was kept, so these figures flatter",
    "test": "Test images: nothing was decided by them",
}
_FUSED = {
    "concat": "One encoder reads each band; {} gets the {} of all bands side by side.",
    "mean": "One encoder reads each band; {} gets the mean of the bands' {}.",
    "early": "The first convolution reads all bands at once.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """What the card of one task says differently.

    Attributes:
        pipeline: the Hub's name of the task.
        introduction: what the network does.
        joint: what gets the encoder's output, and what that is.
        figure: key of the main figure; its interval is ``<low>`` and ``<high>``.
        low, high: keys.
        metric: the Hub's name of the main figure; ``name`` ours.
        columns: heading and key of the figures of each class.
        counted: what a class's support counts.
    """

    pipeline: str
    introduction: str
    joint: tuple[str, str]
    figure: str
    low: str
    high: str
    metric: str
    name: str
    columns: Mapping[str, str]
    counted: str


_SHARED = {"precision": "precision", "recall": "recall", "F1": "f1"}
_WORDS: Mapping[str, _Words] = MappingProxyType(
    {
        "classification": _Words(
            pipeline="image-classification",
            introduction="Tells {number} classes apart in images of band {bands}: {classes}.",
            joint=("a linear layer", "features"),
            figure="f1_weighted",
            low="f1_low",
            high="f1_high",
            metric="f1",
            name="weighted F1",
            columns=_SHARED,
            counted="images",
        ),
        "segmentation": _Words(
            pipeline="image-segmentation",
            introduction="Gives every pixel of an image of band {bands} one of {number} classes: {classes}.",
            joint=("the decoder", "feature maps"),
            figure="miou",
            low="miou_low",
            high="miou_high",
            metric="mean_iou",
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
    words = _WORDS[record["recipe"]["task"]]
    header = ModelCardData(
        license=license,
        library_name="timm",
        pipeline_tag=words.pipeline,
        tags=["timm", "earth-observation", "remote-sensing", words.pipeline],
        metrics=[words.metric],
        model_name=record["name"],
        eval_results=[_result(record, words, "test" if "test" in record["results"] else "val")],
    )
    sections = [
        _introduction(record, words, spec),
        _segmenting(record, spec) if record["recipe"]["task"] == "segmentation" else _classifying(record, spec),
        input_section(spec, together=True),
        *(_results(part, words, record["results"][part]) for part in record["results"]),
        _training(record),
        f"## Licence\n\nWeights: `{license}`. Check that the terms of the encoder it started from and of the images "
        "allow it.",
    ]
    body = "\n\n".join(sections)
    return f"---\n{header.to_yaml()}\n---\n\n{body}\n"


def _result(record: Mapping[str, Any], words: _Words, part: str) -> EvalResult:
    figures = record["results"][part]
    return EvalResult(
        task_type=words.pipeline,
        dataset_type="own",
        dataset_name=record["data"]["name"],
        dataset_config="+".join(record["data"]["bands"]),
        dataset_split=part,
        metric_type=words.metric,
        metric_name=words.name,
        metric_value=round(figures[words.figure], 4),
        metric_args={
            "interval": [round(figures[words.low], 4), round(figures[words.high], 4)],
            "images": figures["images"],
            "data_digest": record["data"]["digest"],
        },
    )


def _introduction(record: Mapping[str, Any], words: _Words, spec: InputSpec) -> str:
    data, settings = record["data"], record["recipe"]
    begin = f"`{record['base']['name']}`"
    if not settings["pretrained"]:
        begin = f"random values (the architecture of {begin})"
    does = words.introduction.format(
        number=len(data["classes"]), bands=", ".join(spec.band_names), classes=", ".join(data["classes"])
    )
    made = f"Fine-tuned (`{settings['mode']}`) from {begin} on {data['train']} labelled images."
    text = f"# {record['name']}\n\n{does} {made}"
    return f"{text} {_FUSED[settings['fuse']].format(*words.joint)}" if len(spec.bands) > 1 else text


def _contract_lines(record: Mapping[str, Any], spec: InputSpec) -> str:
    bands = ", ".join(f'"{name}"' for name in spec.band_names)
    units = ", ".join(f'"{unit}"' for unit in record["data"]["units"])
    return f"""model = eo_backbones.create_model("local-dir:FOLDER").eval()
prepare = eo_backbones.create_transform(model, band=[{bands}], unit=[{units}])"""


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
places = scores.argmax(dim=1)  # (B, H, W); the values in masks are {", ".join(map(str, values))}, in this order
```

{markdown_table(["class", "value in masks"], [[name, str(value)] for name, value in zip(classes, values, strict=True)])}

It was trained on squares of {size} x {size} pixels and takes images of any size. The decoder is the U-Net's of
segmentation-models-pytorch, half as wide. Plain timm cannot load it: timm has no such network.

![Examples](examples.png)"""


def _classifying(record: Mapping[str, Any], spec: InputSpec) -> str:
    size = record["recipe"]["size_px"]
    if record["recipe"]["fuse"] == "early" or len(spec.bands) == 1:
        plain = 'Plain timm loads it as well: `timm.create_model("local-dir:FOLDER", pretrained=True)`.'
    else:
        plain = "Plain timm cannot load it: timm has no network that reads each band by itself."
    return f"""## How to use it

```
eo-backbones predict FILES... --model FOLDER
```

```python
import eo_backbones

{_contract_lines(record, spec)}
scores = model(prepare(images))  # (B, {len(spec.bands)}, H, W) raw values -> (B, {len(record["data"]["classes"])})
```

It was trained on images of {size} x {size} pixels. {plain}"""


def _results(part: str, words: _Words, figures: Mapping[str, Any]) -> str:
    rows = [
        [name, *(_figure(row[key]) for key in words.columns.values()), str(row["support"])]
        for name, row in figures["per_class"].items()
    ]
    confusion = [[name, *map(str, row)] for name, row in zip(figures["per_class"], figures["confusion"], strict=True)]
    counted = f" ({figures['pixels']:,} pixels)" if "pixels" in figures else ""
    return "\n\n".join(
        [
            f"## Results, {part}",
            f"{_PARTS[part]}. {figures['images']} images{counted}, {words.name} {figures[words.figure]:.3f} "
            f"[{figures[words.low]:.3f}, {figures[words.high]:.3f}] (95 % bootstrap over the images, one training), "
            f"accuracy {figures['accuracy']:.3f}.",
            markdown_table(["class", *words.columns, words.counted], rows),
            f"Rows: true class; columns: answer; {words.counted}.",
            markdown_table(["", *figures["per_class"]], confusion),
        ]
    )


def _figure(value: float | None) -> str:
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
