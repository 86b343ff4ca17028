"""The model card of a weights folder: ``README.md``, with the front matter that the Hub reads.

Front matter: Hugging Face Hub, "Model Cards" documentation, checked by parsing it back with ``huggingface_hub``.
"""

from collections.abc import Sequence

from huggingface_hub import ModelCardData

from eo_backbones.bands import BANDS, LAYOUTS
from eo_backbones.cards.bar import bar_section
from eo_backbones.cards.facts import CardFacts
from eo_backbones.cards.input_section import input_section
from eo_backbones.cards.licences import licence_section, license_fields
from eo_backbones.cards.limits import is_mini, limits_section
from eo_backbones.cards.sources import SOURCES
from eo_backbones.cards.training_section import plan_section, training_section
from eo_backbones.contract import InputSpec
from eo_backbones.result_tables import (
    Row,
    eval_results,
    evaluation_commands,
    imagenet_note,
    renamed,
    result_sections,
    rows_of,
)

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
    "distill": "distillation of a frozen network (Hinton et al., 2015)",
}


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
        *([plan_section(facts.plan)] if facts.plan else []),
        _loading(facts),
        input_section(facts.input),
        training_section(facts),
        _results(facts, results),
        limits_section(facts),
        licence_section(facts),
        _citation(),
    )
    body = "\n\n".join(sections)
    return f"---\n{front_matter(facts, results).to_yaml()}\n---\n\n{body}\n"


def front_matter(facts: CardFacts, results: Sequence[Row] = ()) -> ModelCardData:
    """Return the card's metadata; ``model-index`` has one entry per band, and is left out without results."""
    own = rows_of(results, facts.name, facts.record["weights_sha256"]) if facts.made else []
    sensors = {BANDS[band].sensor for band in facts.input.band_names}
    licence = license_fields(facts)
    return ModelCardData(
        license=licence["license"],
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=[
            "timm",
            "earth-observation",
            "remote-sensing",
            *(tag for tag, sensor in (("sentinel-1", "s1"), ("sentinel-2", "s2")) if sensor in sensors),
            "self-supervised" if "init" not in facts.record else "knowledge-distillation",
            facts.recipe["method"],
        ],
        metrics=["f1"] if own else None,
        model_name=facts.name if own else None,
        eval_results=eval_results(own) or None,
    )


def _introduction(facts: CardFacts) -> str:
    method = facts.recipe["method"]
    thrown_away = "the projector and the predictor"
    if method == "byol":
        thrown_away = "the target network (a moving average of the encoder), the projector and the predictor"
    if method == "distill":
        thrown_away = "the frozen teacher"
    parts = [f"# {facts.name}"]
    if not facts.made:
        parts.append(
            "> **No weights are published yet.** This name is declared, with the recipe below; nobody has trained it. "
            "Loading it fails with a message that says so, never with random values in place of weights."
        )
    parts.append(
        f"{_article(facts.network.title)} encoder for satellite images that takes **one band of any sensor**: "
        f"{_sensors(facts.input)}. It turns an image of one channel into {facts.network.num_features:,} features. "
        f"It {'was' if facts.made else 'is to be'} pretrained without labels by {_METHODS[method]}, on pairs of "
        f"co-registered images: one view is a band of one sensor, the other a band of the other sensor at the same "
        f"place."
    )
    parts += _start(facts)
    if facts.terms:
        parts.append("\n".join([_trained_on(facts), "", *_source_lines(facts)]))
    if facts.made:
        record = facts.record
        parts.append(
            f"The file holds the {record['network']} encoder in {_DTYPES[record['dtype']]}, under the names of timm's "
            f"`{facts.network.name}`; {thrown_away} served the training only and "
            f"{'is' if method == 'distill' else 'are'} not part of it."
        )
        if not record["finished"]:
            parts.append(
                f"> **Unfinished.** The training had done {record['steps']:,} steps when these weights were exported; "
                f"its recipe asks for {facts.recipe['epochs']} epochs."
            )
    return "\n\n".join(parts)


def _article(title: str) -> str:
    return f"{'An' if title[0] in 'AEIOU' else 'A'} {title}"


def _start(facts: CardFacts) -> list[str]:
    """Say what the encoder was before training, where that was not random."""
    init = facts.record.get("init")
    if init is None:
        return []
    teacher = " They are also the frozen teacher, whose features it learned." if facts.recipe.get("teacher") else ""
    return [
        f"It started from weights of timm's `{init['architecture']}` (licence `{init['license']}`; digest of the "
        f"tensors `{init['tensors']}`).{teacher} Whatever labels those were made with are part of what it knows."
    ]


def _trained_on(facts: CardFacts) -> str:
    total = sum(count for _, count in facts.sources)
    return f"{'Trained' if facts.made else 'To be trained'} on {total:,} pairs of Sentinel-1 and Sentinel-2 images:"


def _source_lines(facts: CardFacts) -> list[str]:
    lines = []
    for name, count in facts.sources:
        known = SOURCES.get(name)
        lines.append(f"- {count:,} of {known.title}: {known.content}." if known else f"- {count:,} of `{name}`.")
    return lines


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
features = model(prepare(image)[None])  # image: (H, W) {meaning} -> (1, {facts.network.num_features})"""
    parts = ["## How to load it", "With the input contract, and values checked against it:", _python(ours)]
    row = facts.published
    if row is not None:
        registered = f'import eo_backbones, timm\n\nmodel = timm.create_model("{row.name}", pretrained=True)'
        entry, short = f"{row.method}_resnet50", row.tag.removeprefix(f"{row.method}_")
        hub = (
            f'import torch\n\nmodel = torch.hub.load("OWNER/REPOSITORY", "{entry}", weights="{short}", trust_repo=True)'
        )
        parts += ["By our name in timm, or through torch.hub:", _python(registered), _python(hub)]
    elif facts.made:
        parts += ["`FOLDER` is the folder of this file; once it is pushed to the Hub, `hf-hub:ORG/NAME` works as well."]
    else:
        parts += ["`FOLDER` is what `eo-train export` writes at the end of the commands above."]
    stock = facts.source
    if row is not None:  # embedded weights are on the Hub only once somebody pushed them
        stock = f"hf-hub:ORG/{row.name}" if row.embedded else f"hf-hub:{row.repo_id}"
    parts += [
        f"With timm (1.0.31 or newer) alone{', from the Hub' if row else ''}; scaling the values as in the table below "
        "is then up to you:",
        _python(f'import timm\n\nmodel = timm.create_model("{stock}", pretrained=True)'),
        "Several channels (`in_chans=N`), a classifier (`num_classes=N`) and feature maps (`features_only=True`) work "
        "as in timm.",
    ]
    return "\n\n".join(parts)


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _results(facts: CardFacts, results: Sequence[Row]) -> str:
    if not results or not facts.made:
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
            *_comparison(facts, results),
            "Measured by:",
            _shell(evaluation_commands(renamed(results, facts.source, facts.record["weights_sha256"]))),
        ]
    )


def _comparison(facts: CardFacts, results: Sequence[Row]) -> list[str]:
    own = rows_of(results, facts.name, facts.record["weights_sha256"])
    parts = [bar_section(own, results)] if is_mini(facts) else []
    return [*filter(None, parts), *filter(None, [imagenet_note(results)])]


def _shell(commands: Sequence[str]) -> str:
    return "\n".join(["```", *commands, "```"])


def _citation() -> str:
    return "\n".join(["## Citation", "", "The method is that of:", "", "```bibtex", PAPER_CITATION, "```"])
