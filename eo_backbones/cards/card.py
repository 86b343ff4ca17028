"""The model card of a weights folder: ``README.md``, with the front matter that the Hub reads.

The front matter follows the "Model Cards" documentation of the Hugging Face Hub; tests parse it back with
``huggingface_hub``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from eo_backbones.bands import BANDS, LAYOUTS
from eo_backbones.cards.facts import SEN12_SOURCES, CardFacts, Plan, licence_section, license_fields
from eo_backbones.cards.tables import (
    baseline_comparison,
    eval_results,
    evaluation_commands,
    imagenet_note,
    markdown_table,
    missed_aims,
    result_sections,
)
from eo_backbones.contract import BandInput, InputSpec
from eo_backbones.errors import UserError
from eo_backbones.files import dotted
from eo_backbones.hub.folder import DEFAULT_SIZE_PX
from eo_backbones.networks.initialisation import STAGES
from eo_backbones.results import Result, renamed, rows_of

CARD_FILE = "README.md"
"""The card in a folder of weights, where the Hub looks for it."""

_MINI = ("s1s2-mini", "s1s2-mini-all")  # data.sources of the recipes for small data

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
    "distill": "distillation from a frozen network (Hinton et al., 2015)",
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
        _introduction(facts, results),
        *([plan_section(facts.plan)] if facts.plan else []),
        _loading(facts),
        input_section(facts.input),
        training_section(facts),
        _results(facts, results),
        limits_section(facts),
        licence_section(facts),
        _citation(facts.recipe["method"]),
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
            *([] if facts.recipe["method"] == "distill" else ["self-supervised"]),  # its teacher has seen labels
            facts.recipe["method"],
        ],
        metrics=["f1"] if own else None,
        model_name=facts.name if own else None,
        eval_results=eval_results(own) or None,
    )


# The sections, in their order


def _introduction(facts: CardFacts, results: Sequence[Result]) -> str:
    method = facts.recipe["method"]
    left_out = "the projector and the predictor"
    if method == "byol":
        left_out = "the target network (a moving average of the encoder), the projector and the predictor"
    if method == "distill":
        left_out = "the frozen teacher"
    parts = [f"# {facts.name}"]
    if not facts.made:
        parts.append(
            "> **No weights are published yet.** This name is declared together with the recipe below, but it has not "
            "been trained. Loading it raises an error that says so; there is never a fallback to random values."
        )
    parts += below_aim(facts, results)
    parts.append(
        f"{_article(facts.network.title)} encoder for satellite images that takes **one band of any sensor**: "
        f"{_sensors(facts.input)}. It turns an image of one channel into {facts.network.num_features:,} features. "
        f"It {'was' if facts.made else 'is to be'} pretrained "
        f"without labels with {_method_in_words(method)} on pairs of co-registered images: {_views(method)}."
    )
    parts += _start(facts)
    if others := facts.averaged_with:
        parts.append(
            f"The weights are the mean of the weights of {len(others) + 1} runs from this start ({_shares(facts)}), "
            "tensor by tensor "
            "(Wortsman et al., [arXiv 2203.05482](https://arxiv.org/abs/2203.05482)); [how they differ](#training)."
        )
    parts.append("\n".join([_trained_on(facts), "", *_source_lines(facts)]))
    if facts.made:
        record = facts.record
        parts.append(
            f"The file holds the {record['network']} encoder in {_DTYPES[record['dtype']]}, with the tensor names of "
            f"timm's `{facts.network.name}`; {left_out} {'was' if method == 'distill' else 'were'} needed for training "
            f"only and {'is' if method == 'distill' else 'are'} not included."
        )
        if not record["finished"]:
            parts.append(
                f"> **Unfinished.** Training had completed {record['steps']:,} steps when these weights were exported; "
                f"the recipe asks for {facts.recipe['epochs']} epochs."
            )
    return "\n\n".join(parts)


def below_aim(facts: CardFacts, results: Sequence[Result]) -> list[str]:
    """Return a note on the aims that the weights miss, with the reason; nothing where there is none."""
    if not facts.made or not is_mini(facts):
        return []
    missed = missed_aims(rows_of(results, facts.name, facts.record["weights_sha256"]), results)
    reason = facts.row.shortfall if facts.row and facts.row.shortfall else ""
    said = " ".join(part for part in (missed, reason) if part)
    return [f"> **Below its aim.** {said}"] if said else []


def _method_in_words(method: str) -> str:
    if method not in _METHODS:
        raise UserError(f"method {method!r} is not described; say in eo_backbones/cards/card.py (_METHODS) what it is")
    return _METHODS[method]


def _views(method: str) -> str:
    if method == "distill":
        return (
            "the frozen network sees an optical view, and the encoder learns to give its features for that view and "
            "for another band, or radar, of the same ground"
        )
    return "one view is a band of one sensor, the other a band of the other sensor at the same location"


def _article(title: str) -> str:
    return f"{'An' if title[0] in 'AEIOU' else 'A'} {title}"


def _start(facts: CardFacts) -> list[str]:
    """Return a sentence on the weights that training starts from, unless it starts at random."""
    init = facts.record.get("init")
    start = facts.row.init if facts.row else None
    if init is not None:
        start = start or f"weights of timm's `{init['architecture']}` (licence `{init['license']}`)"
        start += f"; digest of the tensors: `{init['tensors']}`"
    if start is None:
        return []
    teacher = " The frozen teacher has these weights too." if facts.recipe["method"] == "distill" else ""
    labels = " Whatever labels those weights were made with are part of what it knows."
    return [f"It {'started' if facts.made else 'starts'} from {start}.{labels}{teacher}"]


def _trained_on(facts: CardFacts) -> str:
    total = sum(source.scenes for source in facts.sources)
    of_sensors = " of Sentinel-1 and Sentinel-2" if len(facts.terms) == len(facts.sources) else ""
    return f"{'Trained' if facts.made else 'To be trained'} on {total:,} pairs{of_sensors} images:"


def _source_lines(facts: CardFacts) -> list[str]:
    return [
        f"- {scenes:,} of {known.title}: {known.content}." if known else f"- {scenes:,} of `{name}`."
        for name, scenes, known in facts.sources
    ]


def _sensors(contract: InputSpec) -> str:
    names = {"s2": "Sentinel-2 band", "s1": "Sentinel-1 polarisation"}
    parts = []
    for sensor, text in names.items():
        bands = [band for band in contract.band_names if BANDS[band].sensor == sensor]
        if bands:
            parts.append(f"a {text} ({', '.join(bands)})")
    return " or ".join(parts)


def plan_section(plan: Plan) -> str:
    """Return the section on how to make weights that do not exist yet, and what it would cost."""
    return "\n".join(
        [
            "## How to make the weights",
            "",
            "```",
            *plan.commands,
            "```",
            "",
            "Expected cost (none of this has been run):",
            "",
            markdown_table(["what", "how much"], plan.cost),
            "",
            plan.basis,
        ]
    )


def _loading(facts: CardFacts) -> str:
    band = facts.input.bands[0]
    unit, meaning = ("db", "decibels") if band.unit == "db" else ("dn", "digital numbers")
    ours = f"""import eo_backbones

model = eo_backbones.create_model("{facts.source}").eval()
prepare = eo_backbones.create_transform(model, band="{band.band}", unit="{unit}")
features = model(prepare(image)[None])  # image: (H, W) {meaning} -> (1, {facts.network.num_features})"""
    parts = ["## How to load it", "With the input contract, which checks and normalises the values:", _python(ours)]
    row = facts.published
    if row is not None:
        registered = f'import eo_backbones, timm\n\nmodel = timm.create_model("{row.name}", pretrained=True)'
        entry, short = row.hub_entry
        hub = (
            f'import torch\n\nmodel = torch.hub.load("OWNER/REPOSITORY", "{entry}", weights="{short}", trust_repo=True)'
        )
        parts += ["By its registered name in timm, or through torch.hub:", _python(registered), _python(hub)]
    elif facts.made:
        parts += ["`FOLDER` is the folder of this file; once it is pushed to the Hub, `hf-hub:ORG/NAME` works as well."]
    else:
        parts += ["`FOLDER` is what `eo-train export` writes at the end of the commands above."]
    stock = facts.source
    if row is not None:  # embedded weights are on the Hub only after a push
        stock = f"hf-hub:ORG/{row.name}" if row.embedded else f"hf-hub:{row.repo_id}"
    parts += [
        f"With timm (1.0.31 or newer) alone{', from the Hub' if row else ''}; you then "
        "have to scale the values yourself, as in the table below:",
        _python(f'import timm\n\nmodel = timm.create_model("{stock}", pretrained=True)'),
        "Several input channels (`in_chans=N`), a classifier (`num_classes=N`) and feature maps (`features_only=True`) "
        "work as in timm.",
        *_transformers(stock.removeprefix("hf-hub:").removeprefix("local-dir:"), facts),
    ]
    return "\n\n".join(parts)


def _transformers(source: str, facts: CardFacts) -> list[str]:
    """Return how to load the folder with transformers, and what its image processor cannot know."""
    auto = f"""from transformers import AutoImageProcessor, AutoModel

source = "{source}"
prepare = AutoImageProcessor.from_pretrained(source)
model = AutoModel.from_pretrained(source).eval()
features = model(**prepare(picture)).pooler_output  # PIL, mode L -> (1, {facts.network.num_features})"""
    pipeline = f"""from torchvision.transforms import Grayscale
from transformers import AutoImageProcessor, pipeline

source = "{source}"
prepare = AutoImageProcessor.from_pretrained(source)
prepare.val_transforms.transforms.insert(0, Grayscale())
extract = pipeline("image-feature-extraction", model=source, image_processor=prepare)
features = extract("band.png", pool=True)"""
    return [
        "With transformers (5 or newer), for pictures of one band in 8 bits; "
        "`AutoModelForImageClassification.from_pretrained(..., num_labels=N)` adds a classifier to train:",
        _python(auto),
        "Its pipeline turns every picture into three channels, of which this network takes one. Turned back into grey, "
        "a picture of one band is what it was:",
        _python(pipeline),
        display_defaults(facts.input, size_px=DEFAULT_SIZE_PX),
    ]


def display_defaults(contract: InputSpec, *, size_px: int, together: bool = False) -> str:
    """Return a paragraph on what other libraries do to a picture with the numbers in ``config.json``.

    Args:
        contract: of the model.
        size_px: nominal height and width of an image.
        together: whether the model takes all bands at once, so that each has numbers of its own.
    """
    exact = together or len(contract.bands) == 1
    bands = contract.bands if exact else (contract.reference_band,)
    meant = ", ".join(f"{_range(entry.display)} {_unit(entry)} ({entry.band})" for entry in bands)
    limits = [
        "" if exact else "all bands are treated as this one",
        "images are not standardised one by one" if contract.normalization == "image" else "",
        "pictures with another stretch come out too bright or too dark",
        "16-bit values and physical units are not understood",
        f"pictures are resized and cropped to {size_px} x {size_px} pixels",
        "and nothing is checked",
    ]
    return (
        "What stays approximate there: the transforms of timm, transformers and segmentation-models-pytorch know one "
        "mean and one standard deviation per channel and no unit. Those in `config.json` are of 8-bit values whose "
        f"0 … 255 means {meant}. So {', '.join(limit for limit in limits if limit)}. "
        "`eo_backbones.create_transform` has none of these limits."
    )


def input_section(contract: InputSpec, *, together: bool = False) -> str:
    """Return the section on the values that the model takes: clip, normalisation and display range of each band.

    Args:
        contract: of the model.
        together: whether the model takes all bands at once, instead of any single one.
    """
    channels = "One channel"
    if together and len(contract.bands) > 1:
        channels = f"{len(contract.bands)} channels, the bands in the order of the table"
    how = (
        "Values are clipped, then the model sees `(value - mean) / std`."
        if contract.normalization == "band"
        else "Values are clipped, then each image is standardised by its own mean and standard deviation."
    )
    by_band = contract.normalization == "band"
    header = ["band", "wavelength", "GSD", "unit", "clip", *(["mean", "std"] if by_band else []), "8-bit 0 … 255 means"]
    rows = [
        [
            entry.band,
            _wavelength(entry),
            f"{entry.gsd_m} m",
            _unit(entry),
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
            "10 log10 of the backscatter. Missing values become the mean of the valid ones of their image and band."
            + _levels(contract),
            "",
            markdown_table(header, rows),
            "",
            "GSD is the ground sampling distance of the sensor.",
        ]
    )


def _levels(contract: InputSpec) -> str:
    """Return a sentence on the processing levels of the images that were trained on; empty if they are not known."""
    meanings = {"L1C": "level 1C (top of the atmosphere)", "L2A": "level 2A (surface)"}
    levels = [meanings.get(level, level) for level in contract.processing_levels]
    return f" The Sentinel-2 images it was trained on have the reflectance of {' and '.join(levels)}." if levels else ""


def _wavelength(entry: BandInput) -> str:
    nm = entry.wavelength_nm
    return f"{nm / 1e7:.1f} cm" if nm > 1e7 else f"{nm:g} nm"


def _unit(entry: BandInput) -> str:
    return "dB" if entry.unit == "db" else entry.unit


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} … {bounds[1]:g}"


def training_section(facts: CardFacts) -> str:
    """Return the section on how the weights were made, or on the recipe alone if there are none yet."""
    recipe = facts.recipe
    values = [
        "All values of the recipe (also in `recipe.json`):",
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
            *_averaged(facts),
            sources,
            "",
            *values,
            "",
            "![Loss over the training steps](loss.png)",
            "",
            "`training_log.jsonl` holds the loss and the collapse monitors of the whole run.",
        ]
    )


def _flat(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, entry in dotted(value):
        yield name, ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry)


def _shares(facts: CardFacts) -> str:
    parts = [facts.record["share"], *(other["share"] for other in facts.averaged_with)]
    return " + ".join(f"{part:.3g}" for part in parts)


def _averaged(facts: CardFacts) -> list[str]:
    """Return a table of the other runs whose weights went into the mean, with what differs in their recipes."""
    others = facts.averaged_with
    if not others:
        return []
    own = dict(_flat(facts.recipe))
    rows = []
    for other in others:
        values = dict(_flat(other["recipe"]))
        changed = [
            f"`{name}`: `{values.get(name, 'not set')}` instead of `{own.get(name, 'not set')}`"
            for name in sorted(own.keys() | values.keys())
            if values.get(name) != own.get(name) and name not in ("name", "seed")
        ]
        rows.append(
            [
                f"{other['share']:.3g}",
                f"`{other['recipe']['name']}`, digest `{other['recipe_digest']}`",
                "; ".join(changed) or "the same values",
                f"{other['steps']:,}",
                str(other["seed"]),
                f"`{other['git_commit']}`" if other["git_commit"] else "not recorded",
            ]
        )
    head = ["share", "recipe", "values that differ", "steps", "seed", "commit of the code"]
    return ["Averaged with, on the same images:", "", markdown_table(head, rows), ""]


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
            "Weighted F1 of a classifier on the frozen features of one band, with the 95 % bootstrap interval over the "
            "test images; means over the seeds.",
            result_sections(renamed(results, facts.name, facts.record["weights_sha256"])),
            *_comparison(facts, results),
            "Measured by:",
            _shell(evaluation_commands(renamed(results, facts.source, facts.record["weights_sha256"]))),
        ]
    )


def _comparison(facts: CardFacts, results: Sequence[Result]) -> list[str]:
    own = rows_of(results, facts.name, facts.record["weights_sha256"])
    parts = [baseline_comparison(own, results) if is_mini(facts) else "", imagenet_note(results)]
    return [part for part in parts if part]


def limits_section(facts: CardFacts) -> str:
    """Return the section on what the weights are good for and what they are not."""
    lines = [
        "- One band at a time: relations between bands (an index such as NDVI) are not in the features. "
        "`eo_backbones.MultiBand` combines the features of several bands afterwards.",
        _seen(facts),
        "- The features reflect the training images: for other regions, seasons and sensors, check them on labelled "
        "images of your own before you rely on them.",
    ]
    if facts.recipe["method"] == "byol" and facts.recipe["loss"] == "one-directional":
        lines.append(
            "- The loss was one-directional: this encoder was trained on Sentinel-2 bands only; Sentinel-1 bands "
            "went through the target network."
        )
    lines += _untrained_stages(facts)
    parts = ["\n".join(lines)]
    if is_mini(facts) and facts.as_planned:
        return "\n\n".join(["## Intended use and limits", _mini_summary(facts), *parts])
    return "\n\n".join(["## Limits", *parts])


def _seen(facts: CardFacts) -> str:
    """Return a line on what the network has not seen, as far as its images are known."""
    distances = _resolutions(facts.input)
    if len(facts.terms) < len(facts.sources):
        return (
            f"- Its bands have {distances} ground sampling distance; it has not seen bands that are not in the table "
            "above, and what its images show is known as far as this card says."
        )
    return (
        f"- Trained at {distances} ground sampling distance; it has not seen very high resolution images, nor bands "
        "that are not in the table above."
    )


def _untrained_stages(facts: CardFacts) -> list[str]:
    trained = facts.recipe.get("model", {}).get("trained_stages", STAGES)
    stages = " and ".join(str(number) for number in range(trained + 1, STAGES + 1))
    if not stages:
        return []
    return [
        f"- Of the four stages of the network, {stages} were not trained: they pass on the features of the earlier "
        "stages, averaged over space and mixed at random. With enough labels, fine-tune them (`--mode full`). Compare "
        "frozen features with the baseline `random-averaging` of `eo-backbones evaluate`, which is such a network "
        "before training.",
    ]


def _mini_summary(facts: CardFacts) -> str:
    counts = {source.name: source.scenes for source in facts.sources}
    total = sum(counts.values())
    sen12 = sum(counts.get(name, 0) for name in SEN12_SOURCES)
    display = counts.get("ombria", 0) + sen12
    in_display: tuple[str, ...]
    if sen12:
        times, locations, unseen = "sixty", "two thousand", "that these images hardly show"
        sources = "OMBRIA and SEN1-2: about 830 locations of floods, and samples of many scenes"
        in_display = ("VV", "B02", "B03", "B04", "B08", "B11")
    else:
        times, locations, unseen = "a hundred", "nine hundred", "where no flood was mapped"
        sources = "OMBRIA: about 830 locations of floods"
        in_display = ("VV", "B03", "B08", "B11")
    rare = [entry.band for entry in facts.input.bands if entry.band not in in_display]
    return "\n".join(
        [
            f"Trained on {total:,} pairs of images, which is very little: SEN12MS has {times} times as many. "
            f"{display:,} of them ({display / total:.0%}) are from {sources}, as 8-bit display values that have lost "
            f"their absolute scale. The bands {', '.join(rare)} occur only in the other {total - display} pairs.",
            "",
            "Good for:",
            "",
            "- trying out every feature offline: loading, embedding, probing, fine-tuning, export;",
            "- features of single-band 8-bit display images at about 10 m when labels are few;",
            "- a starting point for your own pretraining or fine-tuning, to be compared with random initialisation.",
            "",
            "Not good for:",
            "",
            f"- anything where errors are costly: it has seen about {locations} locations;",
            "- physical quantities (water content, biomass, absolute backscatter): most training values had no units;",
            f"- land {unseen} (mountains, deserts, ice), without a check on your own labelled images;",
            "- claims about the method: for those, train on SEN12MS (`eo_resnet50.byol_sen12ms_90k`).",
        ]
    )


def _resolutions(contract: InputSpec) -> str:
    distances = sorted({BANDS[entry.band].gsd_m for entry in contract.bands})
    return f"{distances[0]} m" if len(distances) == 1 else f"{distances[0]} to {distances[-1]} m"


def is_mini(facts: CardFacts) -> bool:
    """Return whether the weights come from the recipes for small data."""
    return bool(facts.recipe.get("data", {}).get("sources") in _MINI)


def _citation(method: str) -> str:
    what = "Training on pairs of sensors follows:" if method == "distill" else "The method was published in:"
    return "\n".join(["## Citation", "", what, "", "```bibtex", PAPER_CITATION, "```"])


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _shell(commands: Sequence[str]) -> str:
    return "\n".join(["```", *commands, "```"])
