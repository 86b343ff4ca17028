"""Declared weights, one frozen row each; a weight is declared here and nowhere else.

Everything else (``create_model``, timm's registry, ``hubconf.py``, cards, the README table) reads these rows. A row
whose ``sha256`` is ``None`` is declared but not published: asking for its weights is an error that names the recipe
which makes them, never a fallback to random values. This module does not import torch.

What is known only after training (digest, size, results) is written by a command, not by hand: it is stored in
``published/<name>.json`` and becomes fields of the row. A row without that file is not published.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from eo_backbones.contract import InputSpec, standardized, unit_range
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.results import Score

Method = Literal["byol", "simsiam", "distill"]

NAMESPACE = "eo-backbones"
"""Hub organisation of the published rows; the environment variable below overrides it."""
NAMESPACE_VARIABLE = "EO_BACKBONES_NAMESPACE"

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
"""Weights that ship inside the package, as package data."""

PUBLISHED_FOLDER = Path(__file__).parent / "published"
"""Facts about published weights, one file per row, written by ``python -m publish install``."""

PAPER = (
    "Jain, Schoen-Phelan, Ross: Multi-Modal Self-Supervised Representation Learning for Earth Observation, IGARSS 2021"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One weight file and all that is declared about it.

    Attributes:
        name: ``<family>.<method>_<data>``, such as ``eo_efficientnet_lite0.distill_s1s2_mini``.
        method: how it was pretrained.
        data: what it was trained on, in words.
        recipe: name of the ``eo-train`` recipe that makes it.
        input: the input contract (bands, units, clip, normalisation).
        license: SPDX identifier or ``"other"`` for the weights; ``data_license`` likewise for the training images.
        architecture: timm's own name of the network, which the files on the Hub have too (docs/decisions/0002).
        num_features: length of the pooled feature vector.
        num_params: parameters of the encoder with one input channel and no classifier.
        init: the weights that the training started from, with their author and licence, in words; ``None``: random.
        shortfall: what these weights do less well than they should and why, for the first lines of the card.
        revision: commit of the Hub repository (40 hex digits), for published rows on the Hub.
        sha256, size_bytes: of ``model.safetensors``; ``None`` while the row is not published.
        recipe_digest: of the recipe that made the published weights.
        results: what was measured with them; baselines and single seeds are in the card's ``results.csv``.
        embedded: file inside :data:`EMBEDDED_FOLDER` if the weights ship with the package. Its ``golden.safetensors``
            lies beside it, so no two rows may share a folder: take ``<name>/model.safetensors``.
    """

    name: str
    method: Method
    data: str
    recipe: str
    input: InputSpec
    license: str
    data_license: str
    architecture: str = "resnet50"
    num_features: int = 2048
    num_params: int = 23_501_760
    init: str | None = None
    shortfall: str | None = None
    revision: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    recipe_digest: str | None = None
    results: tuple[Score, ...] = ()
    embedded: str | None = None

    @property
    def family(self) -> str:
        """The part of the name before the dot: our name in timm's registry, shared by all rows of an architecture."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The part of the name after the dot, as in timm."""
        return self.name.partition(".")[2]

    @property
    def hub_entry(self) -> tuple[str, str]:
        """Entry point of ``hubconf.py`` and its argument ``weights``: ``("byol_resnet50", "s1s2_mini")``."""
        return f"{self.method}_{self.family.removeprefix('eo_')}", self.tag.removeprefix(f"{self.method}_")

    @property
    def published(self) -> bool:
        """Whether the weights can be loaded by their name."""
        return self.sha256 is not None

    @property
    def repo_id(self) -> str:
        """Hub repository; the namespace can be set with ``EO_BACKBONES_NAMESPACE``."""
        return f"{os.environ.get(NAMESPACE_VARIABLE) or NAMESPACE}/{self.name}"

    @property
    def embedded_path(self) -> Path | None:
        """Path of the file inside the installed package, if this row has one."""
        return EMBEDDED_FOLDER / self.embedded if self.embedded else None

    def unpublished_error(self) -> UserError:
        """Return the error for weights that are declared but not made yet: how to make and load them."""
        return UserError(
            f"{self.name} is declared, but no weights are published yet; make them with "
            f"'eo-train pretrain {self.recipe} --store STORE --out RUN' and 'eo-train export RUN --out FOLDER', "
            f"then load 'local-dir:FOLDER' (or pass pretrained=False for random weights)"
        )


_SEN12MS = "90,331 Sentinel-1/2 pairs of SEN12MS (half of the patches outside the official hold-out scenes)"
_DFC2020 = "6,114 unique Sentinel-1/2 pairs of DFC2020"
_MINI = "Sentinel-1/2 pairs of OMBRIA (8-bit display values), SEN12MS-CR, BigEarthNet and TerraMesh samples"
_MINI_ALL = (
    "Sentinel-1/2 pairs of OMBRIA and SEN1-2 (8-bit display values), SEN12MS-CR, BigEarthNet and TerraMesh samples"
)

# SEN12MS and DFC2020 are level 1C; of the mini data SEN12MS-CR and TerraMesh are level 1C, BigEarthNet is level 2A, and
# the level of the 8-bit pictures is not known.
_L1C, _BOTH_LEVELS = ("L1C",), ("L1C", "L2A")

# benchmarks/2026-11-25-distill-mini has the figures.
_DISTILL_SHORTFALL = (
    "Places are found again by another band less often than with ImageNet among infrared bands and between VV and VH "
    "(recall@1 of 125 places at 64 and 128 px, against the better of its scalings): 0.545 and 0.567 against 0.561 and "
    "0.639, 0.292 and 0.304 against 0.320 and 0.320. Between optical bands and radar (0.101 and 0.096 against 0.081 "
    "and 0.082) and between visible and infrared bands (0.359 and 0.390 against 0.342 and 0.374) they are found more "
    "often, though not for every pair of bands. Why: red-edge bands and VH occur in 52 of the 2,218 training pairs, "
    "and bands of one scene are drawn together by what the teacher sees in it, which neighbouring places share."
)

_DECLARED = (
    Weights(
        name="eo_efficientnet_lite0.distill_s1s2_mini",
        method="distill",
        data=_MINI_ALL,
        recipe="distill-mini",
        input=replace(standardized(), processing_levels=_BOTH_LEVELS),
        license="other",
        data_license="other",
        architecture="tf_efficientnet_lite0",
        num_features=1280,
        num_params=3_370_432,
        init="ImageNet EfficientNet-Lite0 (Google, Apache-2.0)",
        shortfall=_DISTILL_SHORTFALL,
        embedded="eo_efficientnet_lite0.distill_s1s2_mini/model.safetensors",
    ),
    Weights(
        name="eo_resnet50.byol_s1s2_mini",
        method="byol",
        data=_MINI,
        recipe="byol-mini",
        input=replace(standardized(), processing_levels=_BOTH_LEVELS),
        license="other",
        data_license="other",
        embedded="byol_s1s2_mini.safetensors",
    ),
    Weights(
        name="eo_resnet50.simsiam_s1s2_mini",
        method="simsiam",
        data=_MINI,
        recipe="simsiam-mini",
        input=replace(standardized(), processing_levels=_BOTH_LEVELS),
        license="other",
        data_license="other",
    ),
    Weights(
        name="eo_resnet50.byol_sen12ms_90k",
        method="byol",
        data=_SEN12MS,
        recipe="byol-sen12ms-90k",
        input=replace(unit_range(), processing_levels=_L1C),
        license="cc-by-4.0",
        data_license="cc-by-4.0",
    ),
    Weights(
        name="eo_resnet50.simsiam_sen12ms_90k",
        method="simsiam",
        data=_SEN12MS,
        recipe="simsiam-sen12ms-90k",
        input=replace(unit_range(), processing_levels=_L1C),
        license="cc-by-4.0",
        data_license="cc-by-4.0",
    ),
    Weights(
        name="eo_resnet50.byol_dfc2020",
        method="byol",
        data=_DFC2020,
        recipe="byol-dfc2020",
        input=replace(unit_range(), processing_levels=_L1C),
        license="cc-by-4.0",
        data_license="cc-by-4.0",
    ),
    Weights(
        name="eo_resnet50.simsiam_dfc2020",
        method="simsiam",
        data=_DFC2020,
        recipe="simsiam-dfc2020",
        input=replace(unit_range(), processing_levels=_L1C),
        license="cc-by-4.0",
        data_license="cc-by-4.0",
    ),
)


def with_published_facts(row: Weights) -> Weights:
    """Return a row with the facts from its file in :data:`PUBLISHED_FOLDER`, or unchanged if there is none."""
    path = PUBLISHED_FOLDER / f"{row.name}.json"
    if not path.is_file():
        return row
    facts = json.loads(path.read_text(encoding="utf-8"))
    return replace(row, **facts | {"results": tuple(map(Score.from_dict, facts["results"]))})


_ROWS = tuple(map(with_published_facts, _DECLARED))
WEIGHTS: Mapping[str, Weights] = MappingProxyType({row.name: row for row in _ROWS})
DEFAULT = _ROWS[0]
"""The row that ``demo`` and the README show. What a family's name alone stands for: :func:`default_of_family`."""


def get_weights(name: str) -> Weights:
    """Return the row of a name such as ``"eo_efficientnet_lite0.distill_s1s2_mini"``.

    Raises:
        UserError: no such row; the message shows the nearest names.
    """
    if name not in WEIGHTS:
        raise unknown_name("model", name, WEIGHTS)
    return WEIGHTS[name]


def families() -> list[str]:
    """Return the first parts of the declared names, such as ``"eo_resnet50"``, in the order of declaration."""
    return list(dict.fromkeys(row.family for row in WEIGHTS.values()))


def default_of_family(family: str) -> Weights:
    """Return the row that a family's name without a tag stands for: the first that was declared."""
    return next(row for row in WEIGHTS.values() if row.family == family)


def list_models(pattern: str = "*", *, published: bool | None = None) -> list[str]:
    """Return the declared names that match a shell pattern, in the order of declaration.

    Args:
        pattern: e.g. ``"*byol*"``.
        published: ``True`` for those whose weights can be loaded, ``False`` for the others, ``None`` for all.
    """
    return [name for name, row in WEIGHTS.items() if fnmatchcase(name, pattern) and published in (None, row.published)]
