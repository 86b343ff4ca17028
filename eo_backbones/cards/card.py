"""The model card of a weights folder: ``README.md``, with the front matter that the Hub reads.

Front matter: Hugging Face Hub, "Model Cards" documentation, checked by parsing it back with ``huggingface_hub``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from eo_backbones.bands import BANDS, LAYOUTS
from eo_backbones.cards.facts import SOURCES, CardFacts, Plan, licence_section, license_fields
from eo_backbones.cards.tables import (
    eval_results,
    evaluation_commands,
    imagenet_note,
    markdown_table,
    result_sections,
)
from eo_backbones.contract import BandInput, InputSpec
from eo_backbones.networks.initialisation import STAGES
from eo_backbones.results import Result, Score, renamed, rows_of, scores

# FOLDED eo_backbones/cards/card.py: 'What weights made from small data have to beat, and whether they do: computed from the results, not claimed.\n\nThe bar (set before the training): on the test part, protocols ``logistic`` and ``paper``, at least 10 points of\nweighted F1 above the best of random initialisation and image statistics, for each band, the intervals apart.'

BASELINES = ("random", "random-bn", "stats")
PROTOCOLS = ("logistic", "paper")
POINTS = 10.0
UNTRAINED = "random-averaging"
"""What the weights were before training; no baseline of the bar, which names ``random`` as everybody knows it."""


def bar_section(own: Sequence[Result], results: Sequence[Result]) -> str:
    """Return a table of gains over the best baseline and a verdict, or ``""`` where no baseline was measured.

    Args:
        own: rows of the weights.
        results: all rows, those of baselines among them.
    """
    baselines = {name: _measured(name, results) for name in BASELINES}
    lines, missed = [], 0
    for score in scores(own):
        others = {name: found[score.setting] for name, found in baselines.items() if score.setting in found}
        if score.protocol not in PROTOCOLS or not others:
            continue
        name, best = max(others.items(), key=lambda item: item[1].f1.value)
        gain = round(100 * (score.f1.value - best.f1.value), 2)  # scores have four decimals
        reached = gain >= POINTS and score.f1.low > best.f1.high
        missed += not reached
        verdict = "reached" if reached else "missed"
        lines.append([_setting(score), score.band, str(score.f1), f"{name} {best.f1}", f"{gain:+.1f}", verdict])
    if not lines:
        return ""
    verdict = "Bar reached everywhere." if not missed else f"**Bar missed** in {missed} of {len(lines)} comparisons."
    unmeasured = [f"`{name}`" for name in BASELINES if not baselines[name]]
    if unmeasured:
        verdict += f" Not measured, so not compared with: {', '.join(unmeasured)}."
    return "\n\n".join(
        [
            "### Against the best baseline",
            f"The bar was set before the training: {POINTS:g} points of weighted F1 above the best of "
            f"{', '.join(BASELINES)}, intervals apart, for each band. {verdict}",
            markdown_table(["setting", "band", "these weights", "best baseline", "points", "bar"], lines),
            *_training_part(own, results),
        ]
    )


def _training_part(own: Sequence[Result], results: Sequence[Result]) -> Iterator[str]:
    """Yield what of the gain came from training, where the network before training was measured too."""
    before = _measured(UNTRAINED, results)
    pairs = [
        (score, before[score.setting])
        for score in scores(own)
        if score.protocol in PROTOCOLS and score.setting in before
    ]
    if not pairs:
        return
    yield (
        f"`{UNTRAINED}` is the network as its training began. It is no baseline of the bar; what these weights have on "
        "it is what training brought, the rest is the initialisation."
    )
    lines = [
        [_setting(own), own.band, str(own.f1), str(untrained.f1), f"{100 * (own.f1.value - untrained.f1.value):+.1f}"]
        for own, untrained in pairs
    ]
    yield markdown_table(["setting", "band", "these weights", f"`{UNTRAINED}`", "points"], lines)


def _measured(model: str, results: Sequence[Result]) -> dict[tuple[object, ...], Score]:
    return {score.setting: score for score in scores([row for row in results if row.model == model])}


def _setting(score: Score) -> str:
    return f"{score.dataset}, {score.protocol}, {score.n_train:,} training images"


# FOLDED eo_backbones/cards/card.py: 'The section of a card that says which values the model takes, band by band.'


def input_section(contract: InputSpec, *, together: bool = False) -> str:
    """Describe clip, normalisation and display range; figures in the unit of each band.

    Args:
        contract: of the model.
        together: whether the model takes all bands at once, instead of any one of them.
    """
    channels = "One channel"
    if together and len(contract.bands) > 1:
        channels = f"{len(contract.bands)} channels, the bands in the order of the table"
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
            f"{channels}, float32, any height and width. {how} Reflectance is the digital number divided by 10,000 "
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


# FOLDED eo_backbones/cards/card.py: 'What weights are good for and what not, in plain words.'

_MINI = "s1s2-mini"  # data.sources of the recipes for small data


def limits_section(facts: CardFacts) -> str:
    """Return the section of the card."""
    lines = [
        "- One band at a time: relations between bands (an index such as NDVI) are not in the features. "
        "`eo_backbones.MultiBand` joins the features of several bands afterwards.",
        f"- Trained at {_resolutions(facts.input)} ground sampling distance; very high resolution images, and bands "
        "that are not in the table above, lie outside of what it has seen.",
        "- Features follow what the training images show: other regions, seasons and sensors need a check on "
        "labelled images of your own before anything depends on it.",
    ]
    if facts.recipe["method"] == "byol" and facts.recipe["loss"] == "one-directional":
        lines.append(
            "- The loss was one-directional: this encoder learned from Sentinel-2 bands only; Sentinel-1 went through "
            "the target network."
        )
    lines += _untrained_stages(facts)
    parts = ["\n".join(lines)]
    if is_mini(facts):
        parts = [_mini_in_plain_words(facts), *parts]
    return "\n\n".join(["## What it is good for, and what not" if is_mini(facts) else "## Limits", *parts])


def _untrained_stages(facts: CardFacts) -> list[str]:
    trained = facts.recipe.get("model", {}).get("trained_stages", STAGES)
    stages = " and ".join(str(number) for number in range(trained + 1, STAGES + 1))
    if not stages:
        return []
    return [
        f"- Of the four stages of the network, {stages} were not trained: they pass on what the stages before see, "
        "averaged over space and mixed at random. Whoever has labels enough should train them (`--mode full`). Compare "
        "frozen features with the baseline `random-averaging` of `eo-backbones evaluate`, which is such a network "
        "before training.",
    ]


def is_mini(facts: CardFacts) -> bool:
    """Return whether the weights come from the recipes for small data."""
    return bool(facts.recipe.get("data", {}).get("sources") == _MINI)


def _mini_in_plain_words(facts: CardFacts) -> str:
    counts = dict(facts.sources)
    total = sum(counts.values())
    floods = counts.get("ombria", 0)
    bands = [entry.band for entry in facts.input.bands]
    seldom = [band for band in bands if band not in ("VV", "B03", "B08", "B11")]
    return "\n".join(
        [
            f"Trained on {total:,} pairs of images, which is very little: SEN12MS has a hundred times as many. "
            f"{floods:,} of them ({floods / total:.0%}) are from OMBRIA: about 830 places that were flooded once, as "
            f"8-bit display values that have lost their absolute scale. The bands {', '.join(seldom)} occur only in "
            f"the other {total - floods} pairs.",
            "",
            "Good for:",
            "",
            "- trying everything out, offline: loading, embedding, probing, fine-tuning, export;",
            "- features of 8-bit display images of one band at about 10 m, where there are few labels;",
            "- a start for your own pretraining or fine-tuning, to be compared with random initialisation.",
            "",
            "Not good for:",
            "",
            "- anything where a wrong answer costs something: it has seen about nine hundred places;",
            "- physical quantities (water content, biomass, absolute backscatter): most training values had no units;",
            "- land where no flood was mapped (mountains, deserts, ice), without a check on labelled images of yours;",
            "- a claim about the method: for that, train on SEN12MS (`eo_resnet50.byol_sen12ms_90k`).",
        ]
    )


def _resolutions(contract: InputSpec) -> str:
    distances = sorted({BANDS[entry.band].gsd_m for entry in contract.bands})
    return f"{distances[0]} m" if len(distances) == 1 else f"{distances[0]} to {distances[-1]} m"


# FOLDED eo_backbones/cards/card.py: 'The sections of a card that say how weights were made, or how they would be made.'


def plan_section(plan: Plan) -> str:
    """Return how to make weights that do not exist yet, and what it would cost."""
    return "\n".join(
        [
            "## How to make the weights",
            "",
            "```",
            *plan.commands,
            "```",
            "",
            "Expected cost (nothing of this was run):",
            "",
            markdown_table(["what", "how much"], plan.cost),
            "",
            plan.basis,
        ]
    )


def training_section(facts: CardFacts) -> str:
    """Return what was done, from the record, or the recipe alone if there are no weights yet."""
    recipe = facts.recipe
    values = [
        "All values of the recipe (`recipe.json` has the same for programs):",
        "",
        markdown_table(["field", "value"], [[f"`{name}`", f"`{value}`"] for name, value in _flat(recipe)]),
    ]
    if not facts.made:
        named = f"Recipe `{recipe['name']}`, digest `{facts.record['recipe_digest']}`."
        return "\n".join(["## Training", "", named, "", *values])
    record = facts.record
    data = record["data"]
    made = [
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
            markdown_table(["what", "value"], made),
            "",
            sources,
            "",
            *values,
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


def model_card(facts: CardFacts, results: Sequence[Result] = ()) -> str:
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


def front_matter(facts: CardFacts, results: Sequence[Result] = ()) -> ModelCardData:
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
            "self-supervised",
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
        f"tensors `{init['tensors']}`).{teacher}"
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


def _results(facts: CardFacts, results: Sequence[Result]) -> str:
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


def _comparison(facts: CardFacts, results: Sequence[Result]) -> list[str]:
    own = rows_of(results, facts.name, facts.record["weights_sha256"])
    parts = [bar_section(own, results)] if is_mini(facts) else []
    return [*filter(None, parts), *filter(None, [imagenet_note(results)])]


def _shell(commands: Sequence[str]) -> str:
    return "\n".join(["```", *commands, "```"])


def _citation() -> str:
    return "\n".join(["## Citation", "", "The method is that of:", "", "```bibtex", PAPER_CITATION, "```"])
