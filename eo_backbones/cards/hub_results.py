"""Results in the form that the Hub reads beside the card: ``.eval_results/<data set>.yaml``.

Format: huggingface.co/docs/hub/eval-results, as ``huggingface_hub.parse_eval_result_entries`` reads it. An entry names
a data set on the Hub; data sets without a known place there get no file.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from eo_backbones.result_tables import Row, scores
from eo_backbones.weights import Score

RESULTS_FOLDER = ".eval_results"

DATASET_IDS: Mapping[str, str] = MappingProxyType(
    {
        "eurosat-rgb": "blanchon/EuroSAT_RGB",
        "eurosat-ms": "torchgeo/eurosat",  # where torchgeo downloads it from
    }
)
"""Our data set -> its repository on the Hub."""


def hub_results(rows: Sequence[Row]) -> dict[str, str]:
    """Return file name -> text, one file per data set, for rows of one model."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for score in scores(rows):
        if score.dataset in DATASET_IDS:
            entries.setdefault(score.dataset, []).append(_entry(score))
    texts = {dataset: yaml.safe_dump(found, sort_keys=False) for dataset, found in entries.items()}
    return {f"{RESULTS_FOLDER}/{dataset}.yaml": text for dataset, text in texts.items()}


def _entry(score: Score) -> dict[str, Any]:
    return {
        "dataset": {"id": DATASET_IDS[score.dataset], "task_id": f"{score.band}_{score.protocol}_{score.fraction}"},
        "value": score.f1,
        "notes": (
            f"weighted F1, 95 % interval {score.f1_low} to {score.f1_high}, of protocol {score.protocol} on frozen "
            f"features of band {score.band} alone; {score.size} px, split {score.split}, {score.n_train} training and "
            f"{score.n_test} test images, mean of {score.seeds} seed{'s' if score.seeds > 1 else ''}"
        ),
    }
