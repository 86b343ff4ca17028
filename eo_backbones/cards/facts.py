"""What a card is made from, besides results.

The record, as ``eo-train export`` writes it into ``recipe.json``, has the keys ``name``, ``recipe`` (all values),
``recipe_digest``, ``weights_sha256``, ``dtype``, ``network``, ``seed``, ``steps``, ``finished``, ``data``
(``manifest_digest``, ``sources``), ``machine``, ``versions`` and ``git_commit``, and ``init`` (``source``,
``architecture``, ``license``, ``tensors``) unless the training started at random. Of weights that nobody has made yet
only the first three are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eo_backbones.architectures import Architecture, architecture
from eo_backbones.cards.sources import SOURCES, SourceTerms, planned_sources
from eo_backbones.contract import InputSpec
from eo_backbones.folder import STOCK_ARCHITECTURE
from eo_backbones.weights import Weights

OTHER = "other"
LICENSE_FILE = "LICENSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How weights that do not exist yet would be made.

    Attributes:
        commands: what to type, from images to folder.
        cost: what it would cost, as pairs of what and how much.
        basis: one sentence that says where the figures come from.
    """

    commands: Sequence[str]
    cost: Sequence[tuple[str, str]]
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What is known about weights.

    Attributes:
        name: title of the card; a row's name, or ``"<recipe> run"``.
        input: the input contract.
        record: content of ``recipe.json`` (module docstring).
        license: SPDX identifier of the weights in lower case, or ``"other"``.
        row: the declared row these weights belong to, if there is one.
        plan: for a row whose weights nobody has made yet.
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
    def network(self) -> Architecture:
        """The network that the recipe trains."""
        return architecture(self.recipe.get("model", {}).get("architecture", STOCK_ARCHITECTURE))

    @property
    def made(self) -> bool:
        """Whether the weights exist."""
        return "weights_sha256" in self.record

    @property
    def published(self) -> Weights | None:
        """The row, if anybody can load it by its name."""
        return self.row if self.row and self.row.published else None

    @property
    def source(self) -> str:
        """What to type where a model name is asked for."""
        return self.published.name if self.published else "local-dir:FOLDER"

    @property
    def sources(self) -> list[tuple[str, int]]:
        """Name and number of scenes of each source of training images; as planned, if there are no weights yet."""
        if self.made:
            return [(source["name"], source["scenes"]) for source in self.record["data"]["sources"]]
        return planned_sources(self.recipe["data"]["sources"])

    @property
    def terms(self) -> list[SourceTerms]:
        """What is known about the sources' origin and licence, for those that are known."""
        return [SOURCES[name] for name, _ in self.sources if name in SOURCES]

    @property
    def has_licence_file(self) -> bool:
        """Whether the terms of the weights are written out in a file of their own, as ``license: other`` needs."""
        return self.license == OTHER and self.row is not None and len(self.terms) == len(self.sources)
