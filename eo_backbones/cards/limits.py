"""What weights are good for and what not, in plain words."""

from eo_backbones.bands import BANDS
from eo_backbones.cards.facts import CardFacts
from eo_backbones.contract import InputSpec
from eo_backbones.initialisation import STAGES

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
