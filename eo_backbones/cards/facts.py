"""Facts that a card is made from, besides results: the record of the training, sources of images, licences.

The record, as ``eo-train export`` writes it into ``recipe.json``, has the keys ``name``, ``recipe`` (all values),
``recipe_digest``, ``weights_sha256``, ``dtype``, ``network``, ``seed``, ``steps``, ``finished``, ``data``
(``manifest_digest``, ``sources``), ``machine``, ``versions`` and ``git_commit``, and ``init`` (``source``,
``architecture``, ``license``, ``tensors``) unless the training started at random. Of a mean of several runs,
``averaged_with`` lists the others, each with the keys from ``recipe`` on, and ``share``, as in the record itself, is
how much a run counts. Of weights that do not exist yet only the first three are known.

A source of training images is known by what a store of ``eo-train prepare`` records about it: the name of its folder,
its layout, its subset, and as many scenes as the whole source has. Of any other, also of a part of a known one, nothing
is said but what the record holds. A planned set of sources is known by the field ``data.sources`` of a recipe. Numbers
of scenes come from records, except in words about subsets.

``license: other`` needs ``license_name`` and ``license_link`` in the front matter (Hugging Face Hub documentation,
"Licenses"); the link is then a file of the same repository.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.hub.folder import STOCK_ARCHITECTURE, Architecture, describe_architecture
from eo_backbones.weights import Weights

# Sources of training images


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTerms:
    """One source of training images.

    Attributes:
        title: its usual name.
        content: what its images are.
        origin: where it was published.
        terms: its licence.
        scenes: how many the whole source has in a store, as found and, where some cannot be used, as stored.
        layout: that it is prepared with.
        subset: that is drawn from it.
        any_name: whether its folder may have any name, because the layout says what it is.
    """

    title: str
    content: str
    origin: str
    terms: str
    scenes: tuple[int, ...]
    layout: str = "pairs"
    subset: str | None = None
    any_name: bool = False

    def describes(self, name: str, recorded: Mapping[str, Any]) -> bool:
        """Return whether a source that a store records is the whole of this one, which is called ``name``."""
        return (
            (self.any_name or recorded["name"] == name)
            and (recorded.get("layout"), recorded.get("subset")) == (self.layout, self.subset)
            and recorded["scenes"] in self.scenes
        )


class TrainingSource(NamedTuple):
    """A source of training images: its name, its number of scenes, and what is known about it, if anything is."""

    name: str
    scenes: int
    terms: SourceTerms | None


_SEN12_ORIGIN = "SEN1-2 (Schmitt, Hughes, Zhu, ISPRS Annals IV-1, 2018), as published in"
_PATCHES_ORIGIN = (
    "SEN12MS-CR (Ebel et al., IEEE TGRS 2021), BigEarthNet v2 (Clasen et al., 2024), TerraMesh example files of "
    "github.com/IBM/terramind"
)
_PATCHES_TERMS = (
    "SEN12MS-CR: CC-BY-4.0; BigEarthNet: CDLA-Permissive-1.0; TerraMesh example files: as published with IBM/terramind"
)
_SEN12MS_ORIGIN = "Schmitt, Hughes, Qiu, Zhu: SEN12MS, ISPRS Annals IV-2/W7, 2019, mediaTUM 1474000"

SOURCES: Mapping[str, SourceTerms] = MappingProxyType(
    {
        "ombria": SourceTerms(
            title="OMBRIA",
            content=(
                "locations of floods, each before and after, 256 pixels of 10 m: radar VV, and B03, B08, B11. All are "
                "8-bit display values, compressed as JPEG: each radar image is stretched between its own extremes, so "
                "that absolute backscatter is lost, and the optical bands are not in reflectance. Some of the images "
                "after a flood are cloudy or under water"
            ),
            origin="OMBRIA, IEEE JSTARS 2022, github.com/geodrak/OMBRIA",
            terms="its repository states no licence",
            scenes=(1650,),
        ),
        "multiband_pairs": SourceTerms(
            title="patches of SEN12MS-CR, BigEarthNet and TerraMesh",
            content=(
                "20 patches of SEN12MS-CR (256 pixels, level 1C), 45 of BigEarthNet (120 pixels, level 2A) and 3 of "
                "TerraMesh (224 pixels, level 1C): VV and VH in decibels and all the bands used here as digital numbers"
            ),
            origin=_PATCHES_ORIGIN,
            terms=_PATCHES_TERMS,
            scenes=(68, 66),
        ),
        "multiband_pretrain": SourceTerms(
            title="patches of SEN12MS-CR, BigEarthNet and TerraMesh",
            content=(
                "13 patches of SEN12MS-CR (256 pixels, level 1C), 31 of BigEarthNet (120 pixels, level 2A) and 3 of "
                "TerraMesh (224 pixels, level 1C): VV and VH in decibels and all the bands used here as digital "
                "numbers; the other 20 patches of this collection are kept back for the protocol `retrieval`"
            ),
            origin=_PATCHES_ORIGIN,
            terms=_PATCHES_TERMS,
            scenes=(47,),
        ),
        "sen12_five_pretrain": SourceTerms(
            title="a random sample of SEN1-2",
            content=(
                "256 pixels of 10 m, 8-bit display values, compressed as JPEG: radar VV, each image stretched between "
                "its own extremes, and grey pictures that mix the visible bands, taken for B03, which they resemble "
                "most. Of 901 images, those are left out that share ground with images that the evaluation of "
                "radar uses"
            ),
            origin=f"{_SEN12_ORIGIN} github.com/JessieZ96/SAR-to-Optical",
            terms="SEN1-2: CC-BY-4.0; the repository of the sample states no licence for its images",
            scenes=(327,),
        ),
        "sen12_rgb_pairs": SourceTerms(
            title="patches of six scenes of SEN1-2",
            content=(
                "256 pixels of 10 m, 8-bit display values, compressed as JPEG: radar VV, and B04, B03, B02; neighbours "
                "may overlap by half"
            ),
            origin=f"{_SEN12_ORIGIN} github.com/meivelan/SAR-EO-Translation and github.com/vivekdhankar/sar-optical",
            terms="SEN1-2: CC-BY-4.0; both repositories: MIT",
            scenes=(189,),
        ),
        "sen12ms_layout": SourceTerms(
            title="original patches of SEN12MS-CR",
            content="256 pixels, level 1C, VV and VH in decibels, bands as digital numbers; three of five are open sea",
            origin="SEN12MS-CR (Ebel et al., IEEE TGRS 2021)",
            terms="CC-BY-4.0",
            scenes=(5,),
            layout="sen12ms",
        ),
        "dfc2020": SourceTerms(
            title="DFC2020, validation and test part",
            content="256 pixels of 10 m, level 1C, VV and VH in decibels, 13 bands as digital numbers",
            origin="IEEE GRSS Data Fusion Contest 2020, IEEE DataPort; imagery as in SEN12MS",
            terms="CC-BY-4.0",
            scenes=(6114,),
            layout="dfc2020",
            any_name=True,
        ),
        "sen12ms": SourceTerms(
            title="SEN12MS, half of the patches outside the official hold-out scenes",
            content="256 pixels of 10 m, level 1C, VV and VH in decibels, 13 bands as digital numbers",
            origin=_SEN12MS_ORIGIN,
            terms="CC-BY-4.0",
            scenes=(90_331,),
            layout="sen12ms",
            subset="90k",
            any_name=True,
        ),
    }
)

SEN12_SOURCES = ("sen12_five_pretrain", "sen12_rgb_pairs")
"""Sources that are display values of SEN1-2."""

_PLANNED: Mapping[str, tuple[tuple[str, int], ...]] = MappingProxyType(
    {
        "s1s2-mini": (("ombria", 1650), ("multiband_pairs", 68), ("sen12ms_layout", 5)),
        "s1s2-mini-all": (
            ("ombria", 1650),
            ("sen12_five_pretrain", 327),
            ("sen12_rgb_pairs", 189),
            ("multiband_pretrain", 47),
            ("sen12ms_layout", 5),
        ),
        "dfc2020": (("dfc2020", 6114),),
        "sen12ms-90k": (("sen12ms", 90_331),),
    }
)


def planned_sources(sources: str) -> list[TrainingSource]:
    """Return the sources that a recipe asks for in ``data.sources``.

    Raises:
        UserError: nothing says what these are.
    """
    if sources not in _PLANNED:
        raise UserError(
            f"data.sources {sources!r} names no known sources; say in eo_backbones/cards/facts.py (_PLANNED) which"
        )
    return [TrainingSource(name, scenes, SOURCES[name]) for name, scenes in _PLANNED[sources]]


def known_source(recorded: Mapping[str, Any]) -> str | None:
    """Return the name in :data:`SOURCES` of a source that a store records, if it is the whole of a known one."""
    return next((name for name, terms in SOURCES.items() if terms.describes(name, recorded)), None)


def as_planned(sources: str, recorded: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether the sources that a store records are those that a recipe asks for in ``data.sources``, whole."""
    if sources not in _PLANNED:
        return False
    return sorted(known_source(source) or "" for source in recorded) == sorted(name for name, _ in _PLANNED[sources])


OTHER = "other"
LICENSE_FILE = "LICENSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How weights that do not exist yet would be made.

    Attributes:
        commands: what to type, from images to folder.
        cost: what it would cost, as pairs of what and how much.
        basis: one sentence that says where the numbers come from.
    """

    commands: Sequence[str]
    cost: Sequence[tuple[str, str]]
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What is known about weights.

    Attributes:
        name: title of the card; a row's name, or what the exporter calls the run.
        input: the input contract.
        record: content of ``recipe.json`` (module docstring).
        license: SPDX identifier of the weights in lower case, or ``"other"``.
        row: the declared row these weights belong to, if there is one.
        plan: for a row whose weights do not exist yet.
    """

    name: str
    input: InputSpec
    record: Mapping[str, Any]
    license: str = OTHER
    row: Weights | None = None
    plan: Plan | None = None

    @property
    def recipe(self) -> Mapping[str, Any]:
        """All values of the recipe."""
        recipe: Mapping[str, Any] = self.record["recipe"]
        return recipe

    @property
    def averaged_with(self) -> Sequence[Mapping[str, Any]]:
        """The other runs, if the weights are the mean of several."""
        others: Sequence[Mapping[str, Any]] = self.record.get("averaged_with", ())
        return others

    @property
    def network(self) -> Architecture:
        """The network that the recipe trains."""
        return describe_architecture(self.recipe.get("model", {}).get("architecture", STOCK_ARCHITECTURE))

    @property
    def made(self) -> bool:
        """Whether the weights exist."""
        return "weights_sha256" in self.record

    @property
    def published(self) -> Weights | None:
        """The row, if it can be loaded by its name."""
        return self.row if self.row and self.row.published else None

    @property
    def source(self) -> str:
        """The model name to use in commands and code."""
        return self.published.name if self.published else "local-dir:FOLDER"

    @property
    def sources(self) -> list[TrainingSource]:
        """The sources of the training images, as recorded; as planned, if there are no weights yet."""
        if not self.made:
            return planned_sources(self.recipe["data"]["sources"])
        found = []
        for source in self.record["data"]["sources"]:
            # a row's name says what its weights were trained on: that was compared when they were exported
            name = known_source(source) or (source["name"] if self.row else "")
            found.append(TrainingSource(source["name"], source["scenes"], SOURCES.get(name)))
        return found

    @property
    def as_planned(self) -> bool:
        """Whether the images are those that the recipe asks for."""
        planned = self.recipe.get("data", {}).get("sources", "")
        return not self.made or as_planned(planned, self.record["data"]["sources"])

    @property
    def terms(self) -> list[SourceTerms]:
        """Origin and licence of the sources, for those that are known."""
        return [source.terms for source in self.sources if source.terms]

    @property
    def has_licence_file(self) -> bool:
        """Whether the terms of the weights are written out in a file of their own, as ``license: other`` needs."""
        return self.license == OTHER and self.row is not None and len(self.terms) == len(self.sources)


# Licences


COPERNICUS = "Contains modified Copernicus Sentinel data."
"""The attribution that the legal notice on the use of Copernicus Sentinel data asks for; years as far as known."""

_UNNAMED = "see-licence-section"


def check_license(license: str) -> None:  # noqa: A002  named as the option
    """Check that the Hub would accept a licence identifier.

    Raises:
        UserError: it is not written like an SPDX identifier in lower case.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(
            f"--license {license!r} is not a licence identifier of the Hub; write it like cc-by-4.0, or other"
        )


def license_fields(facts: CardFacts) -> dict[str, str]:
    """Return the licence fields of the front matter."""
    if facts.license != OTHER:
        return {"license": facts.license}
    if not facts.has_licence_file:
        return {"license": OTHER, "license_name": _UNNAMED}
    assert facts.row is not None
    return {"license": OTHER, "license_name": facts.row.tag.replace("_", "-"), "license_link": LICENSE_FILE}


def licence_section(facts: CardFacts) -> str:
    """Return the section on licence and attribution."""
    two, states = _unlicensed(facts)
    text = f"Weights: `{facts.license}`."
    if facts.has_licence_file:
        text += (
            f" {'Two sources' if two else 'One source'} of the training images {states} no licence, so no standard "
            f"licence is declared for the weights; [{LICENSE_FILE}]({LICENSE_FILE}) says what is granted and what is "
            "not."
        )
    elif facts.license == OTHER:
        text += (
            " No standard licence was chosen for them; the terms of the training images apply where they extend to "
            "weights."
        )
    if facts.row:
        text += f" Training images: `{facts.row.data_license}`."
    if facts.row and facts.row.init:
        text += f" Training started from {facts.row.init}."
    sources = [f"- {entry.title}: {entry.terms} ({entry.origin})." for entry in facts.terms]
    attribution = COPERNICUS
    if len(facts.terms) < len(facts.sources):
        attribution = f"As far as the training images come from Sentinel-1 or Sentinel-2: {COPERNICUS}"
    return "\n".join(["## Licence and attribution", "", text, "", *sources, *([""] if sources else []), attribution])


def _unlicensed(facts: CardFacts) -> tuple[bool, str]:
    """Return whether two sources state no licence, not just one, and the verb for them."""
    two = sum("states no licence" in entry.terms for entry in facts.terms) == 2
    return two, "state" if two else "states"


def licence_text(facts: CardFacts) -> str:
    """Return the content of ``LICENSE`` for weights whose licence is ``other``."""
    two, states = _unlicensed(facts)
    sources = [
        f"* {source.terms.title} ({source.scenes:,} pairs of images)\n  {source.terms.origin}\n"
        f"  Terms: {source.terms.terms}."
        for source in facts.sources
        if source.terms
    ]
    return "\n\n".join(
        [
            f"Terms of the weights {facts.name}",
            f"The weights were computed from images of several sources. {'Two' if two else 'One'} of these {states} no "
            "licence, so no standard\n"
            "licence is declared for the weights as a whole.",
            "As far as the authors of eo_backbones hold rights in the weights, they grant their use under the Apache\n"
            "License, Version 2.0 (http://www.apache.org/licenses/LICENSE-2.0). They grant nothing that is not\n"
            "theirs, and give no warranty: whether rights in the training images reach the weights, and what that\n"
            "means for your use, is for you to judge. The images are not part of the weights, and are not\n"
            "distributed with them.",
            *([f"Training started from {facts.row.init}."] if facts.row and facts.row.init else []),
            "Sources of the training images:",
            *sources,
            COPERNICUS + "\n",
        ]
    )
