"""What pretraining is worth with few labels: fine-tuning from given weights against the same from random values.

    python benchmarks/finetune_few_labels.py DIR --model NAME [--shots 10 50 250] [--epochs 50 30 12]
        [--modes linear full] [--seeds 5] [--bands B03] [--fuse concat] [--device cuda] --work FOLDER [--out FILE]

DIR holds EuroSAT RGB, one folder a class. For each seed, N labelled images of each class are drawn (those of a smaller
N are among them); a fifth of them validates, i.e. decides which epoch is kept, the rest trains. The test images
(``--test`` of each class) are the same for all and decide nothing. Both starts get the same images, order, views and
options of ``eo-train finetune``; ``random`` is the same architecture with timm's initialisation, another one for each
seed.

A value is the mean over the seeds with a 95 % interval (Student's t). FOLDER keeps every finished training, so the
same command goes on after an interruption; one folder may hold those of several bands and fusions. Aim: ``linear`` from
the weights beats ``linear`` from random values; ``full`` is reported as it is.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import t

from eo_backbones.cards.tables import markdown_table
from eo_backbones.progress import Progress, ProgressBars
from eo_backbones_train.finetuning.finetune import finetune
from eo_backbones_train.pretraining.run_folder import versions

STARTS = ("pretrained", "random")
VALIDATING = 5  # one of so many labelled images
Scores = dict[tuple[str, str, int], list[float]]
"""(mode, start, shots) -> weighted F1 on the test images, one a seed."""


def main() -> None:
    """Train what is missing and print the table; ``--out`` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", required=True, help="a row, hf-hub:ORG/NAME or local-dir:PATH")
    parser.add_argument("--shots", nargs="+", type=int, default=[10, 50, 250], help="labelled images of each class")
    parser.add_argument("--modes", nargs="+", default=["linear", "full"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bands", nargs="+", default=["B03"])
    parser.add_argument("--fuse", default="concat", help="several bands: concat, mean or early")
    parser.add_argument("--test", type=int, default=200, help="test images of each class")
    parser.add_argument("--epochs", nargs="+", type=int, default=[50], help="at most; one for all, or one per --shots")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, required=True, help="keeps finished trainings")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if len(options.epochs) not in (1, len(options.shots)):
        parser.error(f"--epochs takes one number, or one for each of the {len(options.shots)} of --shots")
    scores: Scores = {}
    digests: set[str] = set()
    with ProgressBars() as progress:
        cases = [
            (seed, shots, mode, start)
            for seed in range(options.seeds)
            for shots in options.shots
            for mode in options.modes
            for start in STARTS
        ]
        with progress.stage("trainings", len(cases)) as tick:
            for seed, shots, mode, start in cases:
                record = train(options, progress, seed=seed, shots=shots, mode=mode, start=start)
                scores.setdefault((mode, start, shots), []).append(record["results"]["test"]["f1_weighted"])
                digests.add(str(record["base"]["weights_sha256"]))
                tick(1)
    text = report(options, scores, sorted(digests - {"None"}))
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def train(
    options: argparse.Namespace, progress: Progress, *, seed: int, shots: int, mode: str, start: str
) -> dict[str, Any]:
    """Return the record of one training, from the work folder if it is there."""
    inputs = "+".join(options.bands) + (f"-{options.fuse}" if len(options.bands) > 1 else "")
    out = options.work / f"{inputs}-{mode}-{start}-{shots}-{seed}"
    epochs = dict(zip(options.shots, options.epochs * len(options.shots), strict=False))
    record = finetune(
        write_table(options, seed=seed, shots=shots),
        out,
        bands=options.bands,
        resume=True,
        device=options.device,
        tensorboard=False,
        progress=progress,
        model=options.model,
        pretrained=start == "pretrained",
        mode=mode,
        fuse=options.fuse,
        epochs=epochs[shots],
        seed=seed,
    )
    for name in ("model.safetensors", "golden.safetensors"):  # a hundred MiB each time, and not needed
        (out / name).unlink(missing_ok=True)
    return record


def write_table(options: argparse.Namespace, *, seed: int, shots: int) -> Path:
    """Write which images train, validate and test."""
    table: Path = options.work / f"labels-{shots}-{seed}.csv"
    lines = ["path,label,split"]
    for number, folder in enumerate(sorted(entry for entry in options.root.iterdir() if entry.is_dir())):
        files = sorted(path.absolute() for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".png", ".tif"})
        order = np.random.default_rng(number).permutation(len(files))
        test, rest = order[: options.test], order[options.test :]
        labelled = np.random.default_rng([number, seed]).permutation(rest)[:shots]
        if len(labelled) < shots or shots < 2:
            sys.exit(f"error: {folder} has {len(rest)} images beside the test images; --shots takes 2 to so many")
        parts = {"test": test, "val": labelled[::VALIDATING], "train": np.delete(labelled, np.s_[::VALIDATING])}
        lines += [f"{files[i]},{folder.name},{part}" for part, rows in parts.items() for i in rows]
    options.work.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval (Student's t over the seeds); the mean alone of one seed."""
    mean = fmean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def report(options: argparse.Namespace, scores: Scores, digests: Sequence[str]) -> str:
    """Return the Markdown text."""
    rows = []
    for mode in options.modes:
        rows += [[mode, start, *(interval(scores[mode, start, shots]) for shots in options.shots)] for start in STARTS]
        pairs = [zip(*(scores[mode, start, shots] for start in STARTS), strict=True) for shots in options.shots]
        rows.append([mode, "difference", *(interval([first - second for first, second in pair]) for pair in pairs)])
    classes = sum(entry.is_dir() for entry in options.root.iterdir())
    several = len(options.bands) > 1
    fusion = f" --fuse {options.fuse}" if several else ""
    bands = f"bands {', '.join(options.bands)} ({options.fuse})" if several else f"band {options.bands[0]} alone"
    command = (
        f"python benchmarks/finetune_few_labels.py DIR --model {shown(options.model)} --shots "
        f"{' '.join(map(str, options.shots))} --epochs {' '.join(map(str, options.epochs))} --modes "
        f"{' '.join(options.modes)} --seeds {options.seeds} --bands {' '.join(options.bands)}{fusion} --test "
        f"{options.test} --work FOLDER"
    )
    return "\n".join(
        [
            f"# Fine-tuning with few labels ({datetime.now(UTC):%Y-%m-%d})",
            "",
            f"Weighted F1 on {options.test * classes:,} test images of {classes} classes of EuroSAT RGB, "
            f"{bands}: mean of {options.seeds} seeds with a 95 % interval over the seeds (Student's t). "
            "Columns: labelled images of each class, of which a fifth validates. `difference`: pretrained minus random "
            "on the same images, with the interval of the paired differences.",
            "",
            markdown_table(["mode", "start", *map(str, options.shots)], rows),
            "",
            f"- weights: `{shown(options.model)}`, sha256 `{', '.join(digests)}`",
            f"- versions: {', '.join(f'{name} {version}' for name, version in versions().items())}",
            f"- command: `{command}`",
            "",
        ]
    )


def shown(model: str) -> str:
    """Return a model's name without a path of this machine."""
    return "local-dir:ENCODER" if model.startswith("local-dir:") else model


if __name__ == "__main__":
    main()
