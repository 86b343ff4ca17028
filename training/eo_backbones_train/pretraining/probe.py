"""A quick measure of the encoder while it trains: nearest neighbours on a labelled data set.

The protocol is ``knn`` of ``eo-backbones evaluate`` on at most ``IMAGES`` images, split with seed 0, so that it costs
seconds. It shows a trend; the results on a card come from ``evaluate``. The probe does not influence the training.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from eo_backbones.contract import InputSpec
from eo_backbones.datasets import DATASETS, open_dataset
from eo_backbones.datasets.splits import seeded_split
from eo_backbones.errors import UserError
from eo_backbones.evaluation import features
from eo_backbones.evaluation.columns import BandChoice
from eo_backbones.evaluation.encoders import Setting
from eo_backbones.evaluation.features import ModelInput
from eo_backbones.evaluation.metrics import confusion_matrix, weighted_f1
from eo_backbones.evaluation.probes import knn
from eo_backbones.evaluation.probes.protocols import NEIGHBOURS
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.evaluation.request import limited

IMAGES = 2000
SIZE_PX = 64  # EuroSAT's own


class Probe:
    """Weighted F1 of an encoder's frozen features, for each band that the data and the recipe share."""

    def __init__(self, source: str, *, spec: InputSpec, device: torch.device) -> None:
        """Open the data.

        Args:
            source: ``KIND=DIR``, kinds as ``eo-backbones evaluate --dataset`` takes them.
            spec: the input contract that the encoder is trained on.
            device: where the encoder is.

        Raises:
            UserError: unknown kind, no such data, or no band in common.
        """
        kind, separator, root = source.partition("=")
        if not separator:
            raise UserError(f"--probe-data {source!r}: write KIND=DIR, with KIND one of {', '.join(DATASETS)}")
        self._data = limited(open_dataset(kind, Path(root)), IMAGES)
        if self._data.multilabel:
            raise UserError(f"--probe-data {source}: its images have several labels; use data with one class per image")
        self._bands = [name for name in self._data.bands if name in spec.band_names]
        if not self._bands:
            raise UserError(f"{root} has the bands {', '.join(self._data.bands)}, the recipe uses none of them")
        self._split = seeded_split(self._data.labels, seed=0, classes=self._data.classes)
        self._inputs = {
            name: ModelInput(
                self._data,
                Setting(size=SIZE_PX, scaling="contract", spec=spec),
                BandChoice(label=name, source=name, treated_as=name),
            )
            for name in self._bands
        }
        self._device = device

    def __call__(self, encoder: nn.Module) -> Mapping[str, float]:
        """Return ``probe_f1`` (mean of the bands) and ``probe_f1_<band>``; the encoder is left as it was."""
        training = encoder.training
        encoder.eval()
        try:
            scores = {f"probe_f1_{name}": score for name, score in self._scores(encoder).items()}
        finally:
            encoder.train(training)
        return {"probe_f1": sum(scores.values()) / len(scores), **scores}

    @torch.no_grad()
    def _scores(self, encoder: nn.Module) -> dict[str, float]:
        """Return the weighted F1 of each band."""
        data, labels = self._data, torch.from_numpy(self._data.labels).to(self._device)
        embedded: dict[str, list[torch.Tensor]] = {name: [] for name in self._bands}
        for _, raw in features.read_batches(data, self._bands, torch.arange(len(data)).numpy()):
            values = raw.to(self._device)
            for column, name in enumerate(self._bands):
                embedded[name].append(encoder(self._inputs[name](values[:, column])).float())
        test, classes = self._split.test, len(data.classes)
        scores = {}
        for name, parts in embedded.items():
            task = Task(features=torch.cat(parts), labels=labels, split=self._split, num_classes=classes, seed=0)
            (predictions,) = knn.fit_predict(task, neighbours=[NEIGHBOURS["knn"]])
            scores[name] = float(weighted_f1(confusion_matrix(data.labels[test], predictions, classes)))
        return scores
