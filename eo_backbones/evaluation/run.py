"""The evaluation itself: models x bands x label budgets x protocols x seeds, each figure once.

Order of work: for each model and setting, the features of all bands in one pass over the files (kept in the cache),
then every probe on them. Rows are written as soon as they exist, so an interrupted run goes on where it stopped.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eo_backbones.datasets import LabelledImages
from eo_backbones.datasets.splits import Split
from eo_backbones.device import bytes_for_columns, fast_dtype
from eo_backbones.evaluation import metrics, predictions
from eo_backbones.evaluation.budgets import Budget
from eo_backbones.evaluation.columns import BandChoice, Column
from eo_backbones.evaluation.encoders import (
    WITHOUT_MAPS,
    Encoder,
    EvaluatedModel,
    NotMeasuredHereError,
    Setting,
    open_model,
)
from eo_backbones.evaluation.features import FeatureFile, Job, adapt, adapted_digest, extract, key_of
from eo_backbones.evaluation.probes import protocols, segmentation
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.progress import SILENT, Progress
from eo_backbones.results import Key, Result, ResultsFile, versions

# FOLDED eo_backbones/evaluation/run.py: 'What an evaluation is to measure, and what came of it.'


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured.

    Attributes:
        models: names as typed.
        bands: columns of the table, of one band or several.
        protocols: those of :mod:`eo_backbones.evaluation.probes.protocols`, by name.
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


@dataclass(frozen=True, slots=True)
class _Cell:
    """One figure that is still missing."""

    seed: int
    band: Column
    protocol: str
    budget: Budget
    key: Key


_Place = tuple[Column, int]
"""A column and a seed."""


def evaluate(
    data: LabelledImages,
    plan: Plan,
    results: ResultsFile,
    *,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    watcher: Progress = SILENT,
) -> Outcome:
    """Measure what is missing in the results.

    Args:
        data: the images.
        plan: what to measure.
        results: rows that are there; new ones are added, and written, as they come.
        cache: folder for features.
        device: where to compute.
        dtype: number format of networks and features; default: what is fast on the device.
        watcher: told of progress.

    Raises:
        UserError: a model cannot be loaded or does not take a band, a file cannot be read, values of another unit, no
            class maps for protocol ``segmentation``.
    """
    run = _Run(data, plan, results, cache, device, dtype or fast_dtype(device), watcher)
    outcome = Outcome(results=results)
    models = []
    for name in dict.fromkeys(plan.models):
        try:
            models.append(open_model(name, plan.sizes))
        except NotMeasuredHereError as error:
            outcome.unmeasured[name] = str(error)
            outcome.notes.append(str(error))
    if protocols.SEGMENTATION in plan.protocols:
        outcome.notes += segmentation.notes_on_models(data, [model.name for model in models])
    for note in outcome.notes:
        run.watcher.note(note)
    for model in models:  # before anything is computed
        for setting in model.settings:
            for part in _parts(plan.bands):
                setting.spec.for_band(part.treated_as)
    before = len(results.rows)
    for model in models:
        for setting in model.settings:
            run.measure(model, setting)
    outcome.added = len(results.rows) - before
    return outcome


@dataclass(frozen=True, eq=False, slots=True)
class _Run:
    data: LabelledImages
    plan: Plan
    results: ResultsFile
    cache: Path
    device: torch.device
    dtype: torch.dtype
    watcher: Progress

    def measure(self, model: EvaluatedModel, setting: Setting) -> None:
        """Fill in the missing rows of one model in one setting."""
        encoders = {seed: model.build(seed if model.seeded else 0) for seed in self.plan.splits}
        parts = _parts(self.plan.bands)
        digests = {
            (seed, part.label): self._digest(model, encoder, seed, part)
            for seed, encoder in encoders.items()
            for part in parts
        }
        wanted = [cell for cell in self._cells(model, setting, digests) if not self.results.has(cell.key)]
        self._segment(model, setting, encoders, [cell for cell in wanted if cell.protocol == protocols.SEGMENTATION])
        missing = [cell for cell in wanted if cell.protocol != protocols.SEGMENTATION]
        files = {
            (cell.seed, part.label): FeatureFile(
                self.cache,
                key_of(self.data, digests[cell.seed, part.label], setting, part),
                encoders[cell.seed].stored_as or self.dtype,
            )
            for cell in missing
            for part in cell.band.parts
        }
        for seed, encoder in encoders.items():
            needed = {part: files[seed, part.label] for part in parts if (seed, part.label) in files}
            absent = {part: file for part, file in needed.items() if not file.exists()}
            if absent:
                self._extract(model, setting, seed, encoder, absent)
        encoders.clear()
        with self.watcher.stage(f"{model.name} {_shown(setting)}: probes", len(missing)) as tick:
            for cells in self._at_once(missing, files):
                features = self._read(cells, files)
                for group in _alike(cells):
                    self.results.add(self._probe(group, features))
                    tick(len(group))

    def _cells(
        self, model: EvaluatedModel, setting: Setting, digests: Mapping[tuple[int, str], str]
    ) -> Iterator[_Cell]:
        for band in self.plan.bands:
            for budget in self.plan.budgets:
                for protocol in self.plan.protocols:
                    if protocol == protocols.SEGMENTATION and model.name in WITHOUT_MAPS:
                        continue
                    for seed, split in self.plan.splits.items():
                        key = Key(
                            model=model.name,
                            dataset=self.data.name,
                            band=band.label,
                            protocol=protocol,
                            split=split.name,
                            fraction=str(budget),
                            size=setting.size,
                            input_scaling=setting.scaling,
                            seed=seed,
                            weights_digest=_digest_of_all([digests[seed, part.label] for part in band.parts]),
                        )
                        yield _Cell(seed, band, protocol, budget, key)

    def _digest(self, model: EvaluatedModel, encoder: Encoder, seed: int, band: BandChoice) -> str:
        if not model.adapted:
            return encoder.digest
        return adapted_digest(self.data, encoder, band.label, self.plan.splits[seed].train)

    def _extract(
        self,
        model: EvaluatedModel,
        setting: Setting,
        seed: int,
        encoder: Encoder,
        files: Mapping[BandChoice, FeatureFile],
    ) -> None:
        encoder_of = self._encoder_of(model, setting, seed, encoder, list(files))
        jobs = [
            Job(encoder=encoder_of[band.label], setting=setting, band=band, file=file) for band, file in files.items()
        ]
        named = ", ".join(encoder_of)
        with self.watcher.stage(f"{_what(model, setting, seed)}: features of {named}", len(self.data)) as tick:
            extract(self.data, jobs, device=self.device, dtype=self.dtype, tick=tick)

    def _encoder_of(
        self, model: EvaluatedModel, setting: Setting, seed: int, encoder: Encoder, bands: Sequence[BandChoice]
    ) -> Mapping[str, Encoder]:
        """Return the encoder of each band, by its label: the same, or adapted to each."""
        if not model.adapted:
            return {band.label: encoder for band in bands}
        train, named = self.plan.splits[seed].train, ", ".join(band.label for band in bands)
        with self.watcher.stage(f"{_what(model, setting, seed)}: BatchNorm on {named}", len(train)) as tick:
            return adapt(self.data, encoder, setting, bands, train, device=self.device, dtype=self.dtype, tick=tick)

    def _segment(
        self, model: EvaluatedModel, setting: Setting, encoders: Mapping[int, Encoder], cells: Sequence[_Cell]
    ) -> None:
        """Train and judge a head for each cell, one after the other: what is kept in memory is bounded."""
        for cell in cells:
            assert self.data.maps is not None, "checked at the beginning"
            found = self._encoder_of(model, setting, cell.seed, encoders[cell.seed], cell.band.parts)
            task = segmentation.PixelTask(
                data=self.data,
                maps=self.data.maps,
                column=cell.band,
                setting=setting,
                networks={label: own.network.to(self.device) for label, own in found.items()},
                split=cell.budget.apply(self.plan.splits[cell.seed], self.data.strata, cell.seed),
                seed=cell.seed,
                device=self.device,
                dtype=self.dtype,
            )
            test, seen = task.split.test, len(task.labelled) + len(task.split.test)
            with self.watcher.stage(f"{_what(model, setting, cell.seed)}: pixels of {cell.band.label}", seen) as tick:
                answers = segmentation.fit_predict(task, tick)
            kept = predictions.Predictions(test, answers.confusions, predictions.NO_PROJECTION, answers.shown)
            predictions.write_predictions(self.results.path.parent, cell.key, kept)
            figured = metrics.pixel_metrics(answers.confusions, task.maps.classes)
            self.results.add([self._row(cell.key, figured, n_train=len(task.labelled), n_test=len(test))])

    def _at_once(self, missing: Sequence[_Cell], files: Mapping[tuple[int, str], FeatureFile]) -> list[list[_Cell]]:
        """Group cells whose features are in memory together: those of a column, or of as many columns as may be."""
        room = bytes_for_columns(self.device)
        groups: list[list[_Cell]] = []
        taken = 0
        for band in self.plan.bands:
            cells = [cell for cell in missing if cell.band is band]
            paths = {files[cell.seed, part.label].path for cell in cells for part in band.parts}
            needed = sum(path.stat().st_size for path in paths)
            if groups and taken + needed <= room:
                groups[-1] += cells
            elif cells:
                groups.append(cells)
                taken = 0
            taken += needed
        return groups

    def _read(self, cells: Sequence[_Cell], files: Mapping[tuple[int, str], FeatureFile]) -> dict[_Place, Tensor]:
        """Return the features of each column and seed, on the device; what serves several seeds is there once."""
        once: dict[tuple[Column, tuple[Path, ...]], Tensor] = {}
        found = {}
        for band, seed in dict.fromkeys((cell.band, cell.seed) for cell in cells):
            own = [files[seed, part.label] for part in band.parts]
            key = (band, tuple(file.path for file in own))
            if key not in once:
                once[key] = band.join([file.read().to(self.device) for file in own])
            found[band, seed] = once[key]
        return found

    def _probe(self, cells: Sequence[_Cell], features: Mapping[_Place, Tensor]) -> list[Result]:
        """Train the probes of cells that differ in seed, column or number of neighbours only."""
        labels = torch.from_numpy(self.data.labels).to(self.device)
        budget = cells[0].budget
        tasks = {
            (band, seed): Task(
                features=features[band, seed],
                labels=labels,
                split=budget.apply(self.plan.splits[seed], self.data.strata, seed),
                num_classes=len(self.data.classes),
                seed=seed,
            )
            for band, seed in dict.fromkeys((cell.band, cell.seed) for cell in cells)
        }
        names = list(dict.fromkeys(cell.protocol for cell in cells))
        answers = protocols.fit_predict(names, list(tasks.values()), self.dtype)
        found = {name: dict(zip(tasks, answers[name], strict=True)) for name in names}
        places = [(cell, (cell.band, cell.seed)) for cell in cells]
        return [self._result(cell, tasks[place], found[cell.protocol][place]) for cell, place in places]

    def _projection(self, cell: _Cell, task: Task) -> np.ndarray:
        """Two principal components for the report: once a model and band, they are the same for every protocol."""
        shown = (self.plan.protocols[0], self.plan.budgets[0], min(self.plan.splits))
        if (cell.protocol, cell.budget, cell.seed) != shown:
            return predictions.NO_PROJECTION
        features = task.standardised(torch.float32)[task.index(task.split.test)]
        return predictions.principal_components(features)

    def _result(self, cell: _Cell, task: Task, answers: np.ndarray) -> Result:
        test, classes = task.split.test, self.data.classes
        true = self.data.labels[test]
        found = (
            metrics.label_metrics(true, answers, classes)
            if task.multilabel
            else metrics.class_metrics(true, answers, classes)
        )
        predicted = answers > metrics.THRESHOLD if task.multilabel else answers
        kept = predictions.Predictions(test, predicted, self._projection(cell, task))
        predictions.write_predictions(self.results.path.parent, cell.key, kept)
        return self._row(cell.key, found, n_train=len(task.labelled), n_test=len(test))

    def _row(self, key: Key, found: metrics.Metrics, *, n_train: int, n_test: int) -> Result:
        return Result(
            **asdict(key),
            f1_weighted=found.f1.value,
            f1_low=found.f1.low,
            f1_high=found.f1.high,
            accuracy=found.accuracy,
            f1_micro=found.f1_micro,
            map_macro=found.map_macro,
            map_micro=found.map_micro,
            miou=found.miou,
            per_class=found.per_class,
            n_train=n_train,
            n_test=n_test,
            data_digest=self.data.digest,
            versions=versions(f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}"),
        )


def _parts(columns: Sequence[Column]) -> list[BandChoice]:
    """Return the single bands of all columns, each once: their features are what is computed and kept."""
    return list(dict.fromkeys(part for column in columns for part in column.parts))


def _digest_of_all(digests: Sequence[str]) -> str:
    """Return one digest for the weights behind several bands: their own where all bands share one network."""
    if len(set(digests)) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _alike(cells: Sequence[_Cell]) -> list[list[_Cell]]:
    """Group cells whose probes are trained or searched for together."""
    groups: dict[tuple[str, Budget], list[_Cell]] = {}
    for cell in cells:
        groups.setdefault((protocols.family(cell.protocol), cell.budget), []).append(cell)
    return list(groups.values())


def _what(model: EvaluatedModel, setting: Setting, seed: int) -> str:
    return f"{model.name} {_shown(setting)}{f' seed {seed}' if model.seeded else ''}"


def _shown(setting: Setting) -> str:
    return f"{setting.size} px" if setting.scaling == "contract" else f"{setting.size} px {setting.scaling}"
