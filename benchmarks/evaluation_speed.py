"""How long a whole evaluation takes, cold and from the cache, and how much memory it needs.

    python benchmarks/evaluation_speed.py DIR [--limit N] [--model NAME] [--bands NAME...] [--device cuda] [--out FILE]

DIR holds EuroSAT RGB (21,531 images; with ``--dataset eurosat-ms`` the 27,000 of 13 bands). Runs ``eo-backbones
evaluate`` twice as a user would, in a process of its own: once with nothing kept, once with the features kept but all
probes to train again. Both times include reading and digesting all images and writing the reports.

Aims on two quiet cores: 3 bands x 21,531 images x (paper + logistic + knn) x 3 seeds in less than 8 minutes, less than
2 minutes from the cache, in less than 4 GiB. On a GPU, the ten bands of ``--dataset eurosat-ms --bands paper --seeds
5`` in less than a minute.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from stand_in import write_stand_in

from eo_backbones.device import fast_dtype, pick_device
from eo_backbones.progress import ProgressBars
from eo_backbones.results import versions


def main() -> None:
    """Measure and print the report; ``--out`` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--dataset", default="eurosat-rgb")
    parser.add_argument("--bands", nargs="+", default=["B02", "B03", "B04"])
    parser.add_argument("--protocols", nargs="+", default=["paper", "logistic", "knn"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="about this many images; the aims hold for all of them")
    parser.add_argument("--model", help="an encoder; default: one with random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = options.model or write_stand_in(place / "random")
        shared = ["--dataset", options.dataset, "--models", model, "--bands", *options.bands]
        shared += ["--protocol", *options.protocols, "--seeds", str(options.seeds), "--device", options.device]
        shared += ["--limit", str(options.limit)] if options.limit else []
        runs = {}
        with ProgressBars() as progress, progress.stage("evaluate: cold, then from the cache", 2) as tick:
            for name in ("cold", "from the cache"):
                own = ["--root", str(options.root), "--cache", str(place / "cache"), "--out", str(place / name)]
                runs[name] = measured([*shared, *own])
                tick(1)
    device = pick_device(options.device)
    number_format = f"{str(fast_dtype(device)).removeprefix('torch.')} on {device.type}"
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{processor()}, {os.cpu_count()} threads"
    folders = {str(options.root): "DIR", str(options.out): "FILE"}
    shown = [folders.get(word, word) for word in sys.argv[1:]]
    lines = [
        f"# Speed of `eo-backbones evaluate`, {datetime.now(tz=UTC):%Y-%m-%d}, {device.type}",
        "",
        f"- Command: `python benchmarks/evaluation_speed.py {' '.join(shown)}`",
        f"- Machine: {where}",
        f"- Versions: {versions(number_format)}",
        f"- Encoder: {options.model or 'ResNet50 with random weights'}, features of {', '.join(options.bands)}; "
        f"{', '.join(options.protocols)}; {options.seeds} seeds; {options.limit or 'all'} images",
        "",
        "| | wall time | processor time | peak memory |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {name} | {wall:.0f} s | {processors:.0f} s | {memory / 2**30:.2f} GiB |"
            for name, (wall, processors, memory) in runs.items()
        ),
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measured(arguments: list[str]) -> tuple[float, float, int]:
    """Run ``evaluate`` once; return seconds, seconds of all processors, and the largest resident memory in bytes."""
    command = [sys.executable, "-c", "from eo_backbones.cli.main import main; main()", "evaluate", *arguments]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(said.decode())
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024  # Linux counts in KiB


def processor() -> str:
    """Return the name of the processor, as the system tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
