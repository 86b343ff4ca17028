"""The model card of a weights folder: ``README.md`` with the front matter that the Hub reads.

Everything in a card comes from three places: the input contract, the record of how the weights were made
(``recipe.json``) and rows of ``results.csv``. A number that no row holds does not appear.

The record, as ``eo-train export`` writes it, has the keys ``name``, ``recipe`` (all values), ``recipe_digest``,
``weights_sha256``, ``dtype``, ``network``, ``seed``, ``steps``, ``finished``, ``data`` (``manifest_digest``,
``sources``), ``machine``, ``versions`` and ``git_commit``.

Front matter: Hugging Face Hub, "Model Cards" documentation, checked by parsing it back with ``huggingface_hub``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCardData

from eo_backbones.bands import BANDS, LAYOUTS
from eo_backbones.contract import BandInput, InputSpec
from eo_backbones.result_tables import (
    Row,
    eval_results,
    evaluation_commands,
    markdown_table,
    renamed,
    result_sections,
    rows_of,
)
from eo_backbones.weights import Weights

CARD_FILE = "README.md"

PAPER_CITATION = """@inproceedings{jain2021multimodal,
  title     = {Multi-Modal Self-Supervised Representation Learning for Earth Observation},
  author    = {Jain, Pallavi and Schoen-Phelan, Bianca and Ross, Robert},
  booktitle = {IEEE International Geoscience and Remote Sensing Symposium (IGARSS)},
  year      = {2021},
  doi       = {10.1109/IGARSS47720.2021.9553741}
}"""

_DTYPES = {"fp32": "float32", "fp16": "float16 (BatchNorm in float32)"}
_METHODS = {
    "byol": "BYOL (Grill et al., 2020)",
    "simsiam": "SimSiam (Chen and He, 2021)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card is made from, besides results.

    Attributes:
        name: title of the card; a row's name, or ``"<recipe> run"``.
        input: the input contract.
        record: content of ``recipe.json`` (module docstring).
        license: SPDX identifier of the weights in lower case, or ``"other"``.
        row: the declared row these weights belong to, if there is one.
    """

    name: str
    input: InputSpec
    record: Mapping[str, Any]
    license: str = "other"
    row: Weights | None = None

    @property
    def published(self) -> Weights | None:
        """The row, if anybody can load it by its name."""
        return self.row if self.row and self.row.published else None

    @property
    def source(self) -> str:
        """What to type where a model name is asked for."""
        return self.published.name if self.published else "local-dir:FOLDER"


def model_card(facts: CardFacts, results: Sequence[Row] = ()) -> str:
    """Return the text of ``README.md``.

    Args:
        facts: what is known about the weights.
        results: rows of ``results.csv``; those of other models (baselines) appear in the tables, not in the
            ``model-index``.

    Raises:
        UserError: a row for this model was measured with other weights.
    """
    sections = (
        _introduction(facts),
        _loading(facts),
        _input_contract(facts.input),
        _training(facts.record),
        _results(facts, results),
        _limits(facts),
        _licence(facts),
        _citation(),
    )
    body = "\n\n".join(sections)
    return f"---\n{front_matter(facts, results).to_yaml()}\n---\n\n{body}\n"


def front_matter(facts: CardFacts, results: Sequence[Row] = ()) -> ModelCardData:
    """Return the card's metadata; ``model-index`` has one entry per band, and is left out without results."""
    own = rows_of(results, facts.name, facts.record["weights_sha256"])
    sensors = {BANDS[band].sensor for band in facts.input.band_names}
    return ModelCardData(
        license=facts.license,
        license_name="see-licence-section" if facts.license == "other" else None,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=[
            "timm",
            "earth-observation",
            "remote-sensing",
            *(tag for tag, sensor in (("sentinel-1", "s1"), ("sentinel-2", "s2")) if sensor in sensors),
            "self-supervised",
            facts.record["recipe"]["method"],
        ],
        metrics=["f1"] if own else None,
        model_name=facts.name if own else None,
        eval_results=eval_results(own) or None,
    )


def _introduction(facts: CardFacts) -> str:
    record = facts.record
    method = record["recipe"]["method"]
    thrown_away = "the projector and the predictor"
    if method == "byol":
        thrown_away = "the target network (a moving average of the encoder), the projector and the predictor"
    parts = [
        f"# {facts.name}",
        f"A ResNet50 encoder for satellite images that takes **one band of any sensor**: {_sensors(facts.input)}. "
        "It turns an image of one channel into 2,048 features. It was pretrained without labels by "
        f"{_METHODS[method]}, on pairs of co-registered images: one view is a band of one sensor, the other a band of "
        "the other sensor at the same place.",
        f"The file holds the {record['network']} encoder in {_DTYPES[record['dtype']]}, under the names of timm's "
        f"`resnet50`; {thrown_away} served the training only and are not part of it.",
    ]
    if not record["finished"]:
        parts.append(
            f"> **Unfinished.** The training had done {record['steps']:,} steps when these weights were exported; its "
            f"recipe asks for {record['recipe']['epochs']} epochs."
        )
    return "\n\n".join(parts)


def _sensors(contract: InputSpec) -> str:
    names = {"s2": "Sentinel-2 band", "s1": "Sentinel-1 polarisation"}
    parts = []
    for sensor, text in names.items():
        bands = [band for band in contract.band_names if BANDS[band].sensor == sensor]
        if bands:
            parts.append(f"a {text} ({', '.join(bands)})")
    return " or ".join(parts)


def _loading(facts: CardFacts) -> str:
    band = facts.input.bands[0]
    unit, meaning = ("db", "decibels") if band.unit == "db" else ("dn", "digital numbers")
    ours = f"""import eo_backbones

model = eo_backbones.create_model("{facts.source}").eval()
prepare = eo_backbones.create_transform(model, band="{band.band}", unit="{unit}")
features = model(prepare(image)[None])  # image: (H, W) {meaning} -> (1, 2048)"""
    parts = ["## How to load it", "With the input contract, and values checked against it:", _python(ours)]
    row = facts.published
    if row is not None:
        registered = f'import eo_backbones, timm\n\nmodel = timm.create_model("{row.name}", pretrained=True)'
        entry, short = f"{row.method}_resnet50", row.tag.removeprefix(f"{row.method}_")
        hub = (
            f'import torch\n\nmodel = torch.hub.load("OWNER/REPOSITORY", "{entry}", weights="{short}", trust_repo=True)'
        )
        parts += ["By our name in timm, or through torch.hub:", _python(registered), _python(hub)]
    else:
        parts += ["`FOLDER` is the folder of this file; once it is pushed to the Hub, `hf-hub:ORG/NAME` works as well."]
    stock = f"hf-hub:{row.repo_id}" if row is not None else facts.source
    parts += [
        "With timm (1.0.31 or newer) alone; scaling the values as in the table below is then up to you:",
        _python(f'import timm\n\nmodel = timm.create_model("{stock}", pretrained=True)'),
        "Several channels (`in_chans=N`), a classifier (`num_classes=N`) and feature maps (`features_only=True`) work "
        "as in timm.",
    ]
    return "\n\n".join(parts)


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _input_contract(contract: InputSpec) -> str:
    """Describe clip, normalisation and display range; figures in the unit of each band."""
    how = (
        "Values are clipped, then the model sees `(value - mean) / std`."
        if contract.normalization == "band"
        else "Values are clipped, then each image is standardised by its own mean and deviation."
    )
    by_band = contract.normalization == "band"
    header = ["band", "wavelength", "GSD", "unit", "clip", *(["mean", "std"] if by_band else []), "8-bit 0 … 255 means"]
    rows = [
        [
            entry.band,
            _wavelength(entry),
            f"{entry.gsd_m} m",
            "dB" if entry.unit == "db" else entry.unit,
            _range(entry.clip),
            *([f"{entry.mean:g}", f"{entry.std:g}"] if by_band else []),
            _range(entry.display),
        ]
        for entry in contract.bands
    ]
    return "\n".join(
        [
            "## Input",
            "",
            f"One channel, float32, any height and width. {how} Reflectance is the digital number divided by 10,000 "
            "(add -1,000 first for Sentinel-2 products of processing baseline 04.00 and later); dB is "
            "10 log10 of the backscatter. Missing values become the low end of the clip range.",
            "",
            markdown_table(header, rows),
            "",
            "GSD is the ground sampling distance of the sensor.",
        ]
    )


def _wavelength(entry: BandInput) -> str:
    nm = entry.wavelength_nm
    return f"{nm / 1e7:.1f} cm" if nm > 1e7 else f"{nm:g} nm"


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} … {bounds[1]:g}"


def _training(record: Mapping[str, Any]) -> str:
    data = record["data"]
    recipe = record["recipe"]
    facts = [
        ["recipe", f"`{recipe['name']}`, digest `{record['recipe_digest']}`"],
        ["training data", f"store with manifest digest `{data['manifest_digest']}`"],
        ["steps", f"{record['steps']:,}{'' if record['finished'] else ' (unfinished)'}"],
        ["seed", str(record["seed"])],
        ["precision, processes", f"{record['machine']['precision']}, {record['machine']['world_size']}"],
        ["device", str(record["machine"]["device_name"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
        ["commit of the code", f"`{record['git_commit']}`" if record["git_commit"] else "not recorded"],
        ["sha256 of the weights", f"`{record['weights_sha256']}`"],
    ]
    sources = markdown_table(
        ["source", "layout", "scenes", "units"],
        [
            [source["name"], source["layout"], f"{source['scenes']:,}", ", ".join(sorted({*source["units"].values()}))]
            for source in data["sources"]
        ],
    )
    return "\n".join(
        [
            "## Training",
            "",
            markdown_table(["what", "value"], facts),
            "",
            sources,
            "",
            "All values of the recipe (`recipe.json` has the same for programs):",
            "",
            markdown_table(["field", "value"], [[f"`{name}`", f"`{value}`"] for name, value in _flat(recipe)]),
            "",
            "![Loss over the training steps](loss.png)",
            "",
            "`training_log.jsonl` holds the loss and the collapse monitors of the whole run.",
        ]
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{key}.")
        elif isinstance(entry, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(map(str, entry))
        else:
            yield f"{prefix}{key}", str(entry)


def _results(facts: CardFacts, results: Sequence[Row]) -> str:
    if not results:
        bands = [band for band in LAYOUTS["eurosat-ms"] if band in facts.input.band_names]
        command = (
            f"eo-backbones evaluate --dataset eurosat-ms --root DIR --models {facts.source} random stats "
            f"--bands {' '.join(bands)} --protocol paper logistic knn --split seeded --out RESULTS"
        )
        return "\n\n".join(["## Results", "Not measured yet. This command measures them:", _shell([command])])
    return "\n\n".join(
        [
            "## Results",
            "Weighted F1 of a classifier on the frozen features, one band at a time, with the 95 % bootstrap interval "
            "of the test set; several seeds are averaged.",
            result_sections(renamed(results, facts.name, facts.record["weights_sha256"])),
            "Measured by:",
            _shell(evaluation_commands(renamed(results, facts.source, facts.record["weights_sha256"]))),
        ]
    )


def _shell(commands: Sequence[str]) -> str:
    return "\n".join(["```", *commands, "```"])


def _limits(facts: CardFacts) -> str:
    recipe = facts.record["recipe"]
    lines = [
        "- One band at a time: relations between bands (an index such as NDVI) are not in the features. "
        "`eo_backbones.MultiBand` joins the features of several bands afterwards.",
        f"- Trained at {_resolutions(facts.input)} ground sampling distance; very high resolution images, and bands "
        "that are not in the table above, lie outside of what it has seen.",
        "- Features follow what the training images show: other regions, seasons and sensors need a check on "
        "labelled images of your own before anything depends on it.",
    ]
    if recipe["method"] == "byol" and recipe["loss"] == "one-directional":
        lines.append(
            "- The loss was one-directional: this encoder learned from Sentinel-2 bands only; Sentinel-1 went through "
            "the target network."
        )
    return "\n".join(["## Limits", "", *lines])


def _resolutions(contract: InputSpec) -> str:
    distances = sorted({entry.gsd_m for entry in contract.bands})
    return f"{distances[0]} m" if len(distances) == 1 else f"{distances[0]} to {distances[-1]} m"


def _licence(facts: CardFacts) -> str:
    text = f"Weights: `{facts.license}`."
    if facts.license == "other":
        text += " No standard licence was chosen for them; the terms of the training images apply as far as they reach."
    if facts.row:
        text += f" Training images: `{facts.row.data_license}`."
    return "\n".join(["## Licence and attribution", "", text, "", "Contains modified Copernicus Sentinel data."])


def _citation() -> str:
    return "\n".join(["## Citation", "", "The method is that of:", "", "```bibtex", PAPER_CITATION, "```"])
