"""Scores of encoders on the validation part of EuroSAT RGB, for choosing the values of the mini recipes.

    python benchmarks/mini_validation.py DIR OUT MODEL...

DIR holds EuroSAT RGB, OUT gets ``results.csv``; models as ``eo-backbones evaluate`` takes them. Of the seeded split
with seed 0, 1,650 training images are learnt from (a fifth of them validates the probe's regularisation) and 2,400
validation images are scored: bands B02, B03, B04, protocol logistic. The test part is not touched.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.datasets.splits import Split, seeded_split, subset_of
from eo_backbones.evaluation import run
from eo_backbones.evaluation.columns import choose_columns
from eo_backbones.results import ResultsFile

LEARNT_FROM = 1650
SCORED = 2400
BANDS = ("B02", "B03", "B04")


def main() -> None:
    """Measure what is missing in OUT and print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    for model in options.models:
        found = scores(options.root, options.out, model)
        print(
            f"{model}:",
            *(f"{band} {score:.3f}" for band, score in found.items()),
            f"mean {np.mean([*found.values()]):.4f}",
        )


def scores(root: Path, out: Path, model: str) -> dict[str, float]:
    """Return band -> weighted F1 of a model; measured once, kept in ``results.csv`` below ``out``."""
    data, split = validation_part(root)
    plan = run.Plan(
        models=(model,),
        columns=choose_columns(data, BANDS),
        protocols=("logistic",),
        splits={0: split},
    )
    results = ResultsFile(out / "results.csv", data_digest=data.digest)
    run.evaluate(data, plan, results, cache=out / "cache", device=torch.device("cpu"))
    return {row.band: row.f1_weighted for row in results.rows if row.model == model}


def validation_part(root: Path) -> tuple[LabelledImages, Split]:
    """Return the images of :func:`validation_split` alone, and the split by their places among them."""
    whole = open_dataset("eurosat-rgb", root)
    split = validation_split(whole.labels)
    used = np.sort(np.concatenate([split.train, split.val, split.test]))
    train, val, test = (np.searchsorted(used, part) for part in (split.train, split.val, split.test))
    return whole.take(used), Split(name=split.name, train=train, val=val, test=test)


def validation_split(labels: np.ndarray) -> Split:
    """Return a split whose test part is drawn from the validation part of seed 0."""
    whole = seeded_split(labels, seed=0)
    learnt = subset_of(labels, whole.train, fraction=LEARNT_FROM / len(whole.train), seed=0)
    validating = subset_of(labels, learnt, fraction=0.2, seed=0)
    scored = subset_of(labels, whole.val, fraction=SCORED / len(whole.val), seed=0)
    return Split(name="validation", train=np.setdiff1d(learnt, validating), val=validating, test=scored)


if __name__ == "__main__":
    main()
