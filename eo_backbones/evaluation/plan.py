"""What an evaluation is to measure, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eo_backbones.datasets.splits import Split
from eo_backbones.evaluation.band_choice import Column
from eo_backbones.evaluation.labels import Budget
from eo_backbones.evaluation.results import ResultsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured.

    Attributes:
        models: names as typed.
        bands: columns of the table, of one band or several.
        protocols: those of :mod:`eo_backbones.evaluation.protocols`, by name.
        splits: seed -> split; its keys are the seeds.
        budgets: how many labels.
        sizes: sides in pixels of what networks get.
    """

    models: Sequence[str]
    bands: Sequence[Column]
    protocols: Sequence[str]
    splits: Mapping[int, Split]
    budgets: Sequence[Budget] = (Budget(),)
    sizes: Sequence[int] = (64,)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        results: all rows, old and new.
        added: how many are new.
        unmeasured: model -> why its weights were out of reach.
        notes: what the user should know about rows that are not there.
    """

    results: ResultsFile
    added: int = 0
    unmeasured: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
