"""The card of a fine-tuned classifier: what it does, how to load it, how good it is, how it was made."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from eo_backbones.cards.input_section import input_section
from eo_backbones.contract import InputSpec
from eo_backbones.result_tables import markdown_table

_PARTS = {
    "val": "Validation images: they decided which epoch was kept, so these figures flatter",
    "test": "Test images: nothing was decided by them",
}
_FUSED = {
    "concat": "One encoder reads each band; a linear layer gets the features of all bands side by side.",
    "mean": "One encoder reads each band; a linear layer gets the mean of the bands' features.",
    "early": "The first convolution reads all bands at once.",
}


def finetuned_card(record: Mapping[str, Any], spec: InputSpec, *, license: str) -> str:  # noqa: A002
    """Return ``README.md``.

    Args:
        record: content of ``recipe.json``.
        spec: the input contract.
        license: SPDX identifier of the weights in lower case, or ``"other"``.
    """
    header = ModelCardData(
        license=license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["timm", "earth-observation", "remote-sensing", "image-classification"],
        metrics=["f1"],
        model_name=record["name"],
        eval_results=[_result(record, "test" if "test" in record["results"] else "val")],
    )
    sections = [
        _introduction(record, spec),
        _loading(record, spec),
        input_section(spec, together=True),
        *(_results(part, record["results"][part]) for part in record["results"]),
        _training(record),
        f"## Licence\n\nWeights: `{license}`. Check that the terms of the encoder it started from and of the images "
        "allow it.",
    ]
    body = "\n\n".join(sections)
    return f"---\n{header.to_yaml()}\n---\n\n{body}\n"


def _result(record: Mapping[str, Any], part: str) -> EvalResult:
    figures = record["results"][part]
    return EvalResult(
        task_type="image-classification",
        dataset_type="own",
        dataset_name=record["data"]["name"],
        dataset_config="+".join(record["data"]["bands"]),
        dataset_split=part,
        metric_type="f1",
        metric_name="weighted F1",
        metric_value=round(figures["f1_weighted"], 4),
        metric_args={
            "interval": [round(figures["f1_low"], 4), round(figures["f1_high"], 4)],
            "images": figures["images"],
            "data_digest": record["data"]["digest"],
        },
    )


def _introduction(record: Mapping[str, Any], spec: InputSpec) -> str:
    data, settings = record["data"], record["recipe"]
    begin = f"`{record['base']['name']}`"
    if not settings["pretrained"]:
        begin = f"random values (the architecture of {begin})"
    text = (
        f"# {record['name']}\n\nTells {len(data['classes'])} classes apart in images of band "
        f"{', '.join(spec.band_names)}: {', '.join(data['classes'])}. Fine-tuned (`{settings['mode']}`) from "
        f"{begin} on {data['train']} labelled images."
    )
    return f"{text} {_FUSED[settings['fuse']]}" if len(spec.bands) > 1 else text


def _loading(record: Mapping[str, Any], spec: InputSpec) -> str:
    size = record["recipe"]["size_px"]
    bands = ", ".join(f'"{name}"' for name in spec.band_names)
    units = ", ".join(f'"{unit}"' for unit in record["data"]["units"])
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

model = eo_backbones.create_model("local-dir:FOLDER").eval()
prepare = eo_backbones.create_transform(model, band=[{bands}], unit=[{units}])
scores = model(prepare(images))  # (B, {len(spec.bands)}, H, W) raw values -> (B, {len(record["data"]["classes"])})
```

It was trained on images of {size} x {size} pixels. {plain}"""


def _results(part: str, figures: Mapping[str, Any]) -> str:
    rows = [
        [name, _figure(row["precision"]), _figure(row["recall"]), _figure(row["f1"]), str(row["support"])]
        for name, row in figures["per_class"].items()
    ]
    confusion = [[name, *map(str, row)] for name, row in zip(figures["per_class"], figures["confusion"], strict=True)]
    return "\n\n".join(
        [
            f"## Results, {part}",
            f"{_PARTS[part]}. {figures['images']} images, weighted F1 {figures['f1_weighted']:.3f} "
            f"[{figures['f1_low']:.3f}, {figures['f1_high']:.3f}] (95 % bootstrap over the images, one training), "
            f"accuracy {figures['accuracy']:.3f}.",
            markdown_table(["class", "precision", "recall", "F1", "images"], rows),
            "Rows: true class; columns: answer.",
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
