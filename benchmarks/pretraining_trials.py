"""Short trials of how an encoder is drawn from photographs to satellite bands: pretrain, export, score, one table.

    python benchmarks/pretraining_trials.py STORE EUROSAT LABELLED INIT OUT [--trials NAME...] [--seeds N...]

STORE holds all pairs (``training/README.md``, "Small data of your own"), EUROSAT is EuroSAT RGB, LABELLED the folder
``s1`` of labelled radar images, a folder for each class, INIT a folder of ImageNet's EfficientNet-Lite0. OUT gets the
runs, ``results.csv`` and ``trials.md``. Every trial is ``distill-mini`` for five epochs, about 11,000 pairs, and the
settings below, told as changes of where the search began. Scored are validation images: of EuroSAT as
``mini_validation.py`` says, of radar the validation parts of five seeds. What is in OUT already is not done again;
the first line of the table is the start itself.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mini_validation import BANDS, validation_part

from eo_backbones.cards.tables import markdown_table
from eo_backbones.datasets import open_dataset
from eo_backbones.datasets.splits import Split, seeded_split, subset_of
from eo_backbones.evaluation import run
from eo_backbones.evaluation.columns import choose_columns
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones.results import ResultsFile

EPOCHS = 5
RADAR_SEEDS = 5
SIZES = (64, 128)

_START = (
    "views.size_px=64",
    "views.encoder_sizes_px=",
    "views.crop_scale=0.0625,0.25",
    "optim.base_lr=0.0001",
    "data.many_band_repeats=1",
)
_VIEW = (*_START, "teacher.sees=view", "teacher.sizes_px=64")
_COLOUR = (*_START, "teacher.sees=colour", "teacher.sizes_px=128")
_FAST = (*_COLOUR, "optim.base_lr=0.0003")
_FASTEST = (*_COLOUR, "optim.base_lr=0.001")
_BOTH = (*_FASTEST, "views.size_px=128", "views.encoder_sizes_px=64,128")
_WIDE = (*_BOTH, "views.crop_scale=0.0625,1")
_MANY = (*_WIDE, "data.many_band_repeats=8", "epochs=4")

TRIALS: Mapping[str, tuple[str, ...]] = {
    "base": _VIEW,
    "colour at 128 pixels": _COLOUR,
    "colour at 128 pixels, rate 3e-4": _FAST,
    "colour at 128 pixels, rate 1e-3": _FASTEST,
    "crops of 32 to 128 pixels": (*_FAST, "views.crop_scale=0.0156,0.25"),
    "views of 96 pixels": (*_FAST, "views.size_px=96"),
    "half at 64 pixels, half at 128, rate 1e-3": _BOTH,
    "the same, crops of 48 to 128 pixels": (*_BOTH, "views.crop_scale=0.0352,0.25"),
    "the same, crops of 64 to 256 pixels": _WIDE,
    "crops of 64 to 256 pixels, scenes of many bands eight times": _MANY,
    "the same, both views on the same ground": (*_MANY, "views.co_registered=true"),
    "the same, with a contrastive loss": (*_MANY, "views.co_registered=true", "teacher.contrast=0.3"),
    "half of the pairs optical": (*_FAST, "data.s2_s2_share=0.5"),
    "not standardised": (*_FAST, "teacher.standardize=false"),
    "statistics trained": (*_FAST, "model.batch_norm_statistics=trained"),
    "crops anywhere": (*_FAST, "views.spread=1"),
    "view at 128 pixels": (*_FAST, "teacher.sees=view"),
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("store", "eurosat", "labelled", "init", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--trials", nargs="*", choices=TRIALS, default=list(TRIALS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    validation = Validation(options.eurosat, options.labelled, options.out)
    rows = [["ImageNet", "the start itself", "", *validation.row(f"imagenet=local-dir:{options.init}")]]
    for name in options.trials:
        for seed in options.seeds:
            out = options.out / f"{name.replace(' ', '-').replace(',', '')}-seed{seed}"
            folder = out.with_name(f"{out.name}-folder")
            if not (folder / "config.json").exists():
                train(TRIALS[name], seed, options.store, options.init, out, folder)
            rows.append([name, " ".join(TRIALS[name]), str(seed), *validation.row(f"local-dir:{folder}")])
            table = markdown_table(["trial", "settings", "seed", *COLUMNS], rows)
            (options.out / "trials.md").write_text(f"{table}\n", encoding="utf-8")
            print(table, flush=True)


def train(settings: tuple[str, ...], seed: int, store: Path, init: Path, out: Path, folder: Path) -> None:
    """Pretrain one trial, or resume it, and export it."""
    trainer = [sys.executable, "-m", "eo_backbones_train"]
    sets = [word for setting in (f"seed={seed}", *settings) for word in ("--set", setting)]
    # Depthwise convolutions in bf16 are several times slower than in fp32 on a CPU.
    machine = ["--threads", "1", "--precision", "fp32", "--no-stop-on-collapse", "--no-tensorboard"]
    start = ["--init", f"local-dir:{init}"]
    epochs = [] if any(setting.startswith("epochs=") for setting in settings) else ["--epochs", str(EPOCHS)]
    what = ["pretrain", "distill-mini", "--store", store, "--out", out, "--resume"]
    subprocess.run([*trainer, *what, *epochs, *start, *sets, *machine], check=True)
    subprocess.run([*trainer, "export", out, "--out", folder], check=True)


COLUMNS = tuple(f"{band}, {size} px" for size in SIZES for band in (*BANDS, "VV"))


class Validation:
    """Scores on validation images, measured once and kept in ``OUT/results-*.csv``."""

    def __init__(self, eurosat: Path, labelled: Path, out: Path) -> None:
        """Open the images and choose those that are scored."""
        self._out = out
        visible, split = validation_part(eurosat)
        radar = open_dataset("folder", labelled, positions={"VV": 1}, reading=ReadingOptions(units=("uint8",)))
        splits = {seed: radar_split(radar.labels, seed) for seed in range(RADAR_SEEDS)}
        self._parts = {"eurosat": (visible, BANDS, {0: split}), "radar": (radar, ("VV",), splits)}

    def row(self, model: str) -> list[str]:
        """Return the figures of :data:`COLUMNS`: weighted F1 of the protocol ``logistic``, mean over seeds.

        Of a network with two scalings, the standardised one.
        """
        found: dict[tuple[int, str], list[float]] = {}
        for name, (data, bands, splits) in self._parts.items():
            plan = run.Plan(
                models=(model,),
                columns=choose_columns(data, bands),
                protocols=("logistic",),
                splits=splits,
                sizes=SIZES,
            )
            results = ResultsFile(self._out / f"results-{name}.csv", data_digest=data.digest)
            run.evaluate(data, plan, results, cache=self._out / "cache", device=torch.device("cpu"))
            for row in results.rows:
                if row.model == model and row.input_scaling != "div10000":
                    found.setdefault((row.size, row.band), []).append(row.f1_weighted)
        return [f"{np.mean(found[size, band]):.3f}" for size in SIZES for band in (*BANDS, "VV")]


def radar_split(labels: np.ndarray, seed: int) -> Split:
    """Return a split whose test part is the validation part of a seed; a fifth of its training part validates."""
    whole = seeded_split(labels, seed=seed)
    validating = subset_of(labels, whole.train, fraction=0.2, seed=seed)
    return Split(name="validation", train=np.setdiff1d(whole.train, validating), val=validating, test=whole.val)


if __name__ == "__main__":
    main()
