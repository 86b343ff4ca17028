"""How much the metric moves when features are taken in bfloat16 instead of float32.

    python benchmarks/half_precision.py DIR [--limit N]

DIR holds EuroSAT RGB. One randomly initialised ResNet50 (an untrained network has the smallest differences between
images, so rounding hurts it most), band B04, protocols logistic and paper, seed 0. Aim: less than 0.2 points of F1.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from eo_backbones.datasets import open_dataset
from eo_backbones.evaluation import run
from eo_backbones.evaluation.band_choice import choose_bands
from eo_backbones.evaluation.labels import make_splits
from eo_backbones.evaluation.request import limited
from eo_backbones.evaluation.results import ResultsFile


def main() -> None:
    """Measure and print one line a protocol."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--model", default="random")
    options = parser.parse_args()
    data = limited(open_dataset("eurosat-rgb", options.root), options.limit)
    plan = run.Plan(
        models=(options.model,),
        bands=choose_bands(data, ["B04"]),
        protocols=("logistic", "paper"),
        splits=make_splits(data, "seeded", [0], lists=None),
    )
    figures: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as folder:
            results = ResultsFile(Path(folder) / "results.csv", data_digest=data.digest)
            run.evaluate(data, plan, results, cache=Path(folder) / "cache", device=torch.device("cpu"), dtype=dtype)
        for row in results.rows:
            figures.setdefault(row.protocol, []).append(row.f1_weighted)
    for protocol, (full, half) in figures.items():
        print(f"{protocol}: float32 {full:.4f}, bfloat16 {half:.4f}, difference {100 * (half - full):+.2f} points")


if __name__ == "__main__":
    main()
