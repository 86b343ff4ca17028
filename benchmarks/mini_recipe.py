"""Short proxies for the recipe of the mini weights: pretrain, export, score on validation images.

    python benchmarks/mini_recipe.py STORE DIR OUT [--trials NAME...] [--seeds N...] [--threads N]

STORE as ``training/README.md`` prepares it ("Small data of your own"), DIR holds EuroSAT RGB, OUT gets the runs and
``results.csv``. Every trial is ``byol-mini`` (or ``simsiam-mini``) for ten epochs, about 16,600 pairs, with one epoch
of warm-up, and the settings below. What is in OUT already is not done again.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mini_validation import scores
from rich import print as show
from rich.table import Table

EPOCHS = 10

# Where the search began, told as changes of today's recipe: all of the network trained, and blur.
_BEFORE = ("model.trained_stages=4", "views.blur_p=0.2")
_START = (*_BEFORE, "data.input=unit-range", "views.spread=1", "optim.base_lr=0.0005", "global_batch=64")
_STANDARDISED = (*_BEFORE, "views.spread=1", "optim.base_lr=0.0005", "global_batch=64")
_NEAR = (*_BEFORE, "optim.base_lr=0.0005", "global_batch=64")

TRIALS: Mapping[str, tuple[str, ...]] = {
    "start": _START,
    "standardised": _STANDARDISED,
    "standardised, half of the pairs optical": (*_STANDARDISED, "data.s2_s2_share=0.5"),
    "standardised, crops near each other": _NEAR,
    "the same, rate 1.5e-3": (*_BEFORE, "optim.base_lr=0.0015", "global_batch=64"),
    "the same, batch of 32": (*_BEFORE, "optim.base_lr=0.0005"),
    "the same, rate 1e-3": _BEFORE,
    "recipe": (),
    "one stage trained": ("model.trained_stages=1",),
    "three stages trained": ("model.trained_stages=3",),
    "half of the pairs optical": ("data.s2_s2_share=0.5",),
    "rate 3e-4": ("optim.base_lr=0.0003",),
    "separate batch norm": ("model.batch_norm=separate",),
    "one-directional": ("loss=one-directional",),
    "blur": ("views.blur_p=0.2",),
    "no rotation": ("views.rotation_p=0",),
    "crops of 48 to 128 pixels": ("views.crop_scale=0.0352,0.25",),
    "crops of 128 to 256 pixels": ("views.crop_scale=0.25,1",),
    "crops at the same place": ("views.spread=0",),
    "crops anywhere": ("views.spread=1",),
    "decay 0.996": ("target.decay=0.996",),
    "brightness and contrast": ("views.brightness=0.02", "views.contrast=0.2"),
    "simsiam": (),
}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1, help="two trials side by side with one thread each go best")
    options = parser.parse_args()
    table = Table("trial", "settings", "seed", "B02", "B03", "B04", "mean")
    for name in options.trials:
        for seed in options.seeds:
            run = options.out / f"{name.replace(' ', '-').replace(',', '')}-seed{seed}"
            folder = run.with_name(f"{run.name}-folder")
            if not (folder / "config.json").exists():
                train(name, seed, options.store, run, folder, options.threads)
            found = scores(options.root, options.out, f"local-dir:{folder}")
            mean = sum(found.values()) / len(found)
            table.add_row(
                name, " ".join(TRIALS[name]), str(seed), *(f"{found[band]:.3f}" for band in found), f"{mean:.3f}"
            )
    show(table)


def train(name: str, seed: int, store: Path, run: Path, folder: Path, threads: int) -> None:
    """Pretrain one trial, or resume it, and export it."""
    recipe = "simsiam-mini" if name == "simsiam" else "byol-mini"
    settings = (f"seed={seed}", "optim.warmup_epochs=1", *TRIALS[name])
    sets = [word for setting in settings for word in ("--set", setting)]
    trainer = [sys.executable, "-m", "eo_backbones_train"]
    machine = ["--threads", str(threads), "--no-stop-on-collapse"]
    subprocess.run(
        [
            *trainer,
            "pretrain",
            recipe,
            "--store",
            store,
            "--out",
            run,
            "--resume",
            "--epochs",
            str(EPOCHS),
            *sets,
            *machine,
        ],
        check=True,
    )
    subprocess.run([*trainer, "export", run, "--out", folder], check=True)


if __name__ == "__main__":
    main()
