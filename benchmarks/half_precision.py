"""How much the metric moves when an evaluation runs in bfloat16 instead of float32.

    python benchmarks/half_precision.py DIR [--limit N] [--seeds N] [--protocols NAME...] [--model NAME]

DIR holds EuroSAT RGB. One encoder, band B04: by default one randomly initialised ResNet50, since an untrained network
has the smallest differences between images and rounding hurts it most. Aim: less than 0.2 points of weighted F1.

``logistic`` and ``knn`` see the dtype of the features only. ``paper`` also trains in it, and a training is a
chaotic sequence of steps: two of them end elsewhere however small their first difference was. What counts is
therefore the mean over seeds beside its standard error.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from stand_in import write_stand_in

from eo_backbones.datasets import open_dataset
from eo_backbones.evaluation import predictions, run
from eo_backbones.evaluation.budgets import make_splits
from eo_backbones.evaluation.columns import choose_columns
from eo_backbones.evaluation.probes.protocols import protocol_names
from eo_backbones.evaluation.request import limited
from eo_backbones.progress import ProgressBars
from eo_backbones.results import Key, ResultsFile

Measured = dict[Key, tuple[float, np.ndarray]]
"""For each row its weighted F1 and the predicted classes."""


def main() -> None:
    """Measure and print one line a protocol."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--limit", type=int, default=4000, help="about this many images (default: 4000)")
    parser.add_argument("--seeds", type=int, default=10, help="splits and initialisations (default: 10)")
    parser.add_argument("--protocols", nargs="+", default=["logistic", "knn", "paper"])
    parser.add_argument("--model", help="an encoder; default: one with random weights")
    options = parser.parse_args()
    data = limited(open_dataset("eurosat-rgb", options.root), options.limit)
    with tempfile.TemporaryDirectory() as folder:
        plan = run.Plan(
            models=(options.model or write_stand_in(Path(folder) / "random"),),
            columns=choose_columns(data, ["B04"]),
            protocols=protocol_names(options.protocols),
            splits=make_splits(data, "seeded", range(options.seeds), lists=None),
        )

        def measured(dtype: torch.dtype) -> Measured:
            results = ResultsFile(Path(folder) / str(dtype) / "results.csv", data_digest=data.digest)
            with ProgressBars() as progress:
                run.evaluate(
                    data,
                    plan,
                    results,
                    cache=Path(folder) / "cache",
                    device=torch.device("cpu"),
                    dtype=dtype,
                    progress=progress,
                )
            kept = {row.key: predictions.read_predictions(results.path.parent, row.key) for row in results.rows}
            return {row.key: (row.f1_weighted, kept[row.key].predicted) for row in results.rows}

        full = measured(torch.float32)
        half = measured(torch.bfloat16)
        print(f"{len(data)} images, {options.seeds} seeds, encoder: {options.model or 'random weights, one network'}\n")
        print("| protocol | float32 | bfloat16 | difference in points | standard error | predictions that differ |")
        print("| --- | --- | --- | --- | --- | --- |")
        for protocol in plan.protocols:
            print(line(protocol, full, half))


def line(protocol: str, first: Measured, second: Measured) -> str:
    """Return one line of the table: the mean over seeds of second minus first."""
    keys = [key for key in first if key.protocol == protocol]
    points = [100 * (second[key][0] - first[key][0]) for key in keys]
    error = stdev(points) / len(points) ** 0.5
    differing = fmean(float(np.mean(first[key][1] != second[key][1])) for key in keys)
    means = [fmean(measured[key][0] for key in keys) for measured in (first, second)]
    moved = f"{fmean(points):+.2f} | {error:.2f} | {100 * differing:.1f} %"
    return f"| {protocol} | {means[0]:.4f} | {means[1]:.4f} | {moved} |"


if __name__ == "__main__":
    main()
