"""Rows of ``results.csv`` gathered into what a table or a chart shows: one cell per model and band, over all seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from eo_backbones.evaluation.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model on one band.

    Attributes:
        f1: weighted F1, mean over seeds.
        low: lower end of the 95 % interval over the test images, mean over seeds.
        high: its upper end.
        spread: standard deviation of the F1 over seeds; ``None`` for a single seed.
        accuracy: mean over seeds.
        seeds: how many.
    """

    f1: float
    low: float
    high: float
    spread: float | None
    accuracy: float
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table: everything that may be compared with each other.

    Attributes:
        dataset, split, fraction, protocol: as in the rows.
        n_train: labelled images.
        n_test: test images.
        bands: columns, in order of appearance.
        models: lines, in order of appearance; with size and scaling where these tell two lines apart.
        cells: (model line, band) -> cell, where measured.
        rows: model line -> the rows behind its cells.
    """

    dataset: str
    split: str
    fraction: str
    protocol: str
    n_train: int
    n_test: int
    bands: tuple[str, ...]
    models: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    rows: dict[str, list[Result]] = field(default_factory=dict)


def sections(rows: Sequence[Result]) -> list[Section]:
    """Return one section for each data set, split, label budget and protocol, in order of appearance."""
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.split, row.fraction, row.protocol), []).append(row)
    return [_section(key, group) for key, group in groups.items()]


def line_name(row: Result) -> str:
    """Return how a model is called in a table: its name, with size and scaling where it has several settings."""
    return row.model if row.input_scaling == "contract" else f"{row.model} ({row.size} px, {row.input_scaling})"


def _section(key: tuple[str, str, str, str], rows: Sequence[Result]) -> Section:
    dataset, split, fraction, protocol = key
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.model, set()).add(row.size)

    def named(row: Result) -> str:
        several = row.input_scaling == "contract" and len(sizes[row.model]) > 1
        return f"{row.model} ({row.size} px)" if several else line_name(row)

    lines: dict[str, list[Result]] = {}
    cells: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        lines.setdefault(named(row), []).append(row)
        cells.setdefault((named(row), row.band), []).append(row)
    return Section(
        dataset=dataset,
        split=split,
        fraction=fraction,
        protocol=protocol,
        n_train=rows[0].n_train,
        n_test=rows[0].n_test,
        bands=tuple(dict.fromkeys(row.band for row in rows)),
        models=tuple(lines),
        cells={place: _cell(group) for place, group in cells.items()},
        rows=lines,
    )


def _cell(rows: Iterable[Result]) -> Cell:
    rows = list(rows)
    figures = [row.f1_weighted for row in rows]
    return Cell(
        f1=fmean(figures),
        low=fmean(row.f1_low for row in rows),
        high=fmean(row.f1_high for row in rows),
        spread=stdev(figures) if len(figures) > 1 else None,
        accuracy=fmean(row.accuracy for row in rows),
        seeds=len(rows),
    )
