"""The evaluation itself: models x bands x label budgets x protocols x seeds, each row of ``results.csv`` measured once.

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
from eo_backbones.evaluation.features import (
    FeatureFile,
    FeatureJob,
    adapt_batch_norm,
    adapted_digest,
    extract_features,
    feature_key,
)
from eo_backbones.evaluation.metrics import THRESHOLD, Metrics, class_metrics, label_metrics, pixel_metrics
from eo_backbones.evaluation.predictions import NO_PROJECTION, Predictions, principal_components, write_predictions
from eo_backbones.evaluation.probes import protocols, segmentation
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.progress import SILENT, Progress
from eo_backbones.results import Key, Result, ResultsFile, versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured.

    Attributes:
        models: names as typed.
        columns: of the table: one band or several.
        protocols: those of :mod:`eo_backbones.evaluation.probes.protocols`, by name.
        splits: seed -> split; its keys are the seeds.
        budgets: how many labels.
        sizes: height and width in pixels of the images that networks get.
    """

    models: Sequence[str]
    columns: Sequence[Column]
    protocols: Sequence[str]
    splits: Mapping[int, Split]
    budgets: Sequence[Budget] = (Budget(),)
    sizes: Sequence[int] = (64,)

    @property
    def bands(self) -> list[BandChoice]:
        """The single bands of all columns, each once: their features are what is computed and kept."""
        return list(dict.fromkeys(band for column in self.columns for band in column.parts))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        results: all rows, old and new.
        added: how many are new.
        unmeasured: model -> why its weights could not be loaded.
        notes: what the user should know about rows that are not there.
    """

    results: ResultsFile
    added: int = 0
    unmeasured: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def evaluate(
    data: LabelledImages,
    plan: Plan,
    results: ResultsFile,
    *,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    memory_bytes: int | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Measure what is missing in the results.

    Args:
        data: the images.
        plan: what to measure.
        results: rows that are there; new ones are added, and written, as they come.
        cache: folder for features.
        device: where to compute.
        dtype: of networks and features; default: what is fast on the device.
        memory_bytes: what the features of columns that are worked on together may take; default: what the device has
            to spare. One column is always worked on, whatever it takes.
        progress: told how far it is.

    Raises:
        UserError: a model cannot be loaded or does not take a band, a file cannot be read, values of another unit, no
            class maps for protocol ``segmentation``.
    """
    evaluation = _Evaluation(
        data=data,
        plan=plan,
        results=results,
        cache=cache,
        device=device,
        dtype=dtype or fast_dtype(device),
        memory_bytes=bytes_for_columns(device) if memory_bytes is None else memory_bytes,
        progress=progress,
    )
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
        progress.note(note)
    for model in models:  # before anything is computed
        for setting in model.settings:
            for band in plan.bands:
                setting.spec.for_band(band.treated_as)
    before = len(results.rows)
    for model in models:
        for setting in model.settings:
            evaluation.measure(model, setting)
    outcome.added = len(results.rows) - before
    return outcome


@dataclass(frozen=True, slots=True)
class _MissingRow:
    """One row that is still to be measured."""

    seed: int
    column: Column
    protocol: str
    budget: Budget
    key: Key


_SeedAndBand = tuple[int, str]
"""A seed and the label of a single band."""
_ColumnAndSeed = tuple[Column, int]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Evaluation:
    data: LabelledImages
    plan: Plan
    results: ResultsFile
    cache: Path
    device: torch.device
    dtype: torch.dtype
    memory_bytes: int
    progress: Progress

    def measure(self, model: EvaluatedModel, setting: Setting) -> None:
        """Fill in the missing rows of one model in one setting."""
        encoders = {seed: model.build(seed if model.seeded else 0) for seed in self.plan.splits}
        digests = {
            (seed, band.label): self._digest(model, encoder, seed, band)
            for seed, encoder in encoders.items()
            for band in self.plan.bands
        }
        missing = [row for row in self._all_rows(model, setting, digests) if not self.results.has(row.key)]
        of_pixels = [row for row in missing if row.protocol == protocols.SEGMENTATION]
        of_images = [row for row in missing if row.protocol != protocols.SEGMENTATION]
        for row in of_pixels:  # one after the other: what is kept in memory is bounded
            self._measure_segmentation(model, setting, encoders[row.seed], row)
        files = self._extract_features(model, setting, encoders, digests, of_images)
        encoders.clear()
        with self.progress.stage(f"{model.name} {_described(setting)}: probes", len(of_images)) as tick:
            for in_memory in self._group_by_memory(of_images, files):
                features = self._read_features(in_memory, files)
                for group in _group_by_protocol(in_memory):
                    self.results.add(self._fit_probes(group, features))
                    tick(len(group))

    def _digest(self, model: EvaluatedModel, encoder: Encoder, seed: int, band: BandChoice) -> str:
        if not model.adapted:
            return encoder.digest
        return adapted_digest(self.data, encoder, band.label, self.plan.splits[seed].train)

    def _all_rows(
        self, model: EvaluatedModel, setting: Setting, digests: Mapping[_SeedAndBand, str]
    ) -> Iterator[_MissingRow]:
        for column in self.plan.columns:
            for budget in self.plan.budgets:
                for protocol in self.plan.protocols:
                    if protocol == protocols.SEGMENTATION and model.name in WITHOUT_MAPS:
                        continue
                    for seed, split in self.plan.splits.items():
                        key = Key(
                            model=model.name,
                            dataset=self.data.name,
                            band=column.label,
                            protocol=protocol,
                            split=split.name,
                            fraction=str(budget),
                            size=setting.size,
                            input_scaling=setting.scaling,
                            seed=seed,
                            weights_digest=_joint_digest([digests[seed, band.label] for band in column.parts]),
                        )
                        yield _MissingRow(seed, column, protocol, budget, key)

    # Features

    def _extract_features(
        self,
        model: EvaluatedModel,
        setting: Setting,
        encoders: Mapping[int, Encoder],
        digests: Mapping[_SeedAndBand, str],
        rows: Sequence[_MissingRow],
    ) -> dict[_SeedAndBand, FeatureFile]:
        """Return the feature files that rows need; those that are not in the cache are made first."""
        needed = dict.fromkeys((row.seed, band) for row in rows for band in row.column.parts)
        files = {
            (seed, band.label): FeatureFile(
                self.cache,
                feature_key(self.data, digests[seed, band.label], setting, band),
                encoders[seed].stored_as or self.dtype,
            )
            for seed, band in needed
        }
        for seed, encoder in encoders.items():
            bands = [
                band
                for band in self.plan.bands
                if (seed, band) in needed and not files[seed, band.label].exists(len(self.data))
            ]
            if not bands:
                continue
            encoder_of = self._encoder_of_band(model, setting, seed, encoder, bands)
            jobs = [
                FeatureJob(encoder=encoder_of[band.label], setting=setting, band=band, file=files[seed, band.label])
                for band in bands
            ]
            text = f"{_stage_name(model, setting, seed)}: features of {', '.join(encoder_of)}"
            with self.progress.stage(text, len(self.data)) as tick:
                extract_features(self.data, jobs, device=self.device, dtype=self.dtype, tick=tick)
        return files

    def _encoder_of_band(
        self, model: EvaluatedModel, setting: Setting, seed: int, encoder: Encoder, bands: Sequence[BandChoice]
    ) -> Mapping[str, Encoder]:
        """Return the encoder of each band, by its label: the same, or adapted to each."""
        if not model.adapted:
            return {band.label: encoder for band in bands}
        train, labels = self.plan.splits[seed].train, ", ".join(band.label for band in bands)
        with self.progress.stage(f"{_stage_name(model, setting, seed)}: BatchNorm on {labels}", len(train)) as tick:
            return adapt_batch_norm(
                self.data, encoder, setting, bands, train, device=self.device, dtype=self.dtype, tick=tick
            )

    def _group_by_memory(
        self, rows: Sequence[_MissingRow], files: Mapping[_SeedAndBand, FeatureFile]
    ) -> list[list[_MissingRow]]:
        """Group rows whose features are in memory together: those of a column, or of as many columns as fit."""
        groups: list[list[_MissingRow]] = []
        taken = 0
        for column in self.plan.columns:
            of_column = [row for row in rows if row.column is column]
            paths = {files[row.seed, band.label].path for row in of_column for band in column.parts}
            needed = sum(path.stat().st_size for path in paths)
            if groups and taken + needed <= self.memory_bytes:
                groups[-1] += of_column
            elif of_column:
                groups.append(of_column)
                taken = 0
            taken += needed
        return groups

    def _read_features(
        self, rows: Sequence[_MissingRow], files: Mapping[_SeedAndBand, FeatureFile]
    ) -> dict[_ColumnAndSeed, Tensor]:
        """Return the features of each column and seed, on the device; what several seeds share is read once."""
        by_files: dict[tuple[Column, tuple[Path, ...]], Tensor] = {}
        features = {}
        for column, seed in dict.fromkeys((row.column, row.seed) for row in rows):
            of_bands = [files[seed, band.label] for band in column.parts]
            key = (column, tuple(file.path for file in of_bands))
            if key not in by_files:
                by_files[key] = column.join([file.read().to(self.device) for file in of_bands])
            features[column, seed] = by_files[key]
        return features

    # Probes

    def _fit_probes(self, rows: Sequence[_MissingRow], features: Mapping[_ColumnAndSeed, Tensor]) -> list[Result]:
        """Train the probes of rows that differ in seed, column or number of neighbours only."""
        labels = torch.from_numpy(self.data.labels).to(self.device)
        budget = rows[0].budget
        tasks = {
            (column, seed): Task(
                features=features[column, seed],
                labels=labels,
                split=budget.apply(self.plan.splits[seed], self.data.strata, seed),
                num_classes=len(self.data.classes),
                seed=seed,
            )
            for column, seed in dict.fromkeys((row.column, row.seed) for row in rows)
        }
        names = list(dict.fromkeys(row.protocol for row in rows))
        predicted = protocols.fit_predict(names, list(tasks.values()), self.dtype)
        by_task = {name: dict(zip(tasks, predicted[name], strict=True)) for name in names}
        return [
            self._result(row, tasks[row.column, row.seed], by_task[row.protocol][row.column, row.seed]) for row in rows
        ]

    def _result(self, row: _MissingRow, task: Task, predicted: np.ndarray) -> Result:
        """Keep the predictions (classes, or probabilities of several labels) and return the finished row."""
        test, classes = task.split.test, self.data.classes
        true = self.data.labels[test]
        if task.multilabel:
            metrics, predicted = label_metrics(true, predicted, classes), predicted > THRESHOLD
        else:
            metrics = class_metrics(true, predicted, classes)
        self._write_predictions(row, Predictions(test, predicted, self._projection(row, task)))
        return self._row(row.key, metrics, n_train=len(task.labelled), n_test=len(test))

    def _projection(self, row: _MissingRow, task: Task) -> np.ndarray:
        """Two principal components for the report: once a model and band, they are the same for every protocol."""
        first = (self.plan.protocols[0], self.plan.budgets[0], min(self.plan.splits))
        if (row.protocol, row.budget, row.seed) != first:
            return NO_PROJECTION
        return principal_components(task.standardised(torch.float32)[task.index(task.split.test)])

    def _measure_segmentation(
        self, model: EvaluatedModel, setting: Setting, encoder: Encoder, row: _MissingRow
    ) -> None:
        """Train and evaluate the head of one row, and add it to the results."""
        assert self.data.maps is not None, "checked at the beginning"
        encoder_of = self._encoder_of_band(model, setting, row.seed, encoder, row.column.parts)
        task = segmentation.PixelTask(
            data=self.data,
            maps=self.data.maps,
            column=row.column,
            setting=setting,
            networks={label: adapted.network.to(self.device) for label, adapted in encoder_of.items()},
            split=row.budget.apply(self.plan.splits[row.seed], self.data.strata, row.seed),
            seed=row.seed,
            device=self.device,
            dtype=self.dtype,
        )
        n_train, test = len(task.labelled), task.split.test
        text = f"{_stage_name(model, setting, row.seed)}: pixels of {row.column.label}"
        with self.progress.stage(text, n_train + len(test)) as tick:
            predicted = segmentation.fit_predict(task, tick)
        self._write_predictions(row, Predictions(test, predicted.confusions, NO_PROJECTION, predicted.maps))
        metrics = pixel_metrics(predicted.confusions, task.maps.classes)
        self.results.add([self._row(row.key, metrics, n_train=n_train, n_test=len(test))])

    def _write_predictions(self, row: _MissingRow, predictions: Predictions) -> None:
        write_predictions(self.results.path.parent, row.key, predictions)

    def _row(self, key: Key, metrics: Metrics, *, n_train: int, n_test: int) -> Result:
        return Result(
            **asdict(key),
            n_train=n_train,
            n_test=n_test,
            f1_weighted=metrics.f1.value,
            accuracy=metrics.accuracy,
            f1_low=metrics.f1.low,
            f1_high=metrics.f1.high,
            data_digest=self.data.digest,
            versions=versions(f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}"),
            f1_micro=metrics.f1_micro,
            map_macro=metrics.map_macro,
            map_micro=metrics.map_micro,
            miou=metrics.miou,
            per_class=metrics.per_class,
        )


def _joint_digest(digests: Sequence[str]) -> str:
    """Return one digest for the weights behind several bands; if all bands share one network, that network's."""
    if len(set(digests)) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _group_by_protocol(rows: Sequence[_MissingRow]) -> list[list[_MissingRow]]:
    """Group rows whose probes are trained, or searched for, together."""
    groups: dict[tuple[str, Budget], list[_MissingRow]] = {}
    for row in rows:
        groups.setdefault((protocols.family(row.protocol), row.budget), []).append(row)
    return list(groups.values())


def _stage_name(model: EvaluatedModel, setting: Setting, seed: int) -> str:
    return f"{model.name} {_described(setting)}{f' seed {seed}' if model.seeded else ''}"


def _described(setting: Setting) -> str:
    return f"{setting.size} px" if setting.scaling == "contract" else f"{setting.size} px {setting.scaling}"
