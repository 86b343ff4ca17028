"""What Dask's processes gain and cost when a region is embedded: time against one process, and memory of a worker.

    python benchmarks/embed_region.py [--scenes 6] [--side 1120] [--repeat 3] [--model NAME] [--out FILE]

Writes made-up scenes (one band, uint16, deflate, 10 m; at the default side 1,156 cells each) into ``TMPDIR`` and embeds
them with 16 components each time in a process of its own, as a user would: in a plain loop with all cores, with one
worker that has all cores, and with two workers that share them; in turn, so that all meet the same load of the machine.
Given are the smallest and the median time of the work (without starting processes and loading the model), the CPU
time of all processes, and the largest resident memory of any worker.

Aims: two workers 1.6 times as fast as the loop, which is possible only where the loop leaves cores idle; one worker at
most 5 % slower than the loop.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
from embed_scene import write_cog
from evaluation_speed import processor
from stand_in import write_stand_in

from eo_backbones.results import versions

MODES = {"loop": [], "one worker": ["--workers", "1"], "two workers": ["--workers", "2"]}


def main() -> None:
    """Measure and print the report; ``--out`` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--side", type=int, default=1120, help="pixels a side")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", help="an encoder; default: a ResNet50 with random weights")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scenes = place / "scenes"
        scenes.mkdir()
        for number in range(options.scenes):
            write_cog(scenes, options.side).rename(scenes / f"s{number}_B04.tif")
        model = options.model or write_stand_in(place / "random")
        runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
        for turn in range(options.repeat):
            for mode in list(MODES) if turn % 2 == 0 else list(MODES)[::-1]:
                out = place / f"{mode.replace(' ', '_')}_{turn}"
                shared = [str(scenes), "--model", model, "--bands", "B04", "--unit", "dn", "--components", "16"]
                runs[mode].append(measured([*shared, "--out", str(out), "--json", *MODES[mode]]))
                print(mode, runs[mode][-1], file=sys.stderr, flush=True)
    print("\n".join(report(runs, options)))
    if options.out:
        options.out.write_text("\n".join(report(runs, options)) + "\n", encoding="utf-8")


def report(runs: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> list[str]:
    """Return the report as lines of Markdown."""
    shown = " ".join(word if word != str(options.out) else "FILE" for word in sys.argv[1:])
    best = {mode: min(run["seconds"] for run in found) for mode, found in runs.items()}
    cpu = {mode: min(run["cpu"] for run in found) for mode, found in runs.items()}
    lines = [
        f"# Regions with and without Dask, {datetime.now(tz=UTC):%Y-%m-%d}",
        "",
        f"- Command: `python benchmarks/embed_region.py {shown}`".rstrip(),
        f"- Machine: {processor()}, {os.cpu_count()} threads; load average {os.getloadavg()[1]:.1f}",
        f"- Versions: {versions('')}",
        f"- Scenes: {options.scenes} of {options.side:,} x {options.side:,} px, one band; windows of 64 px, stride 32, "
        f"{int(runs['loop'][0]['cells']):,} cells in all; {options.model or 'ResNet50 with random weights'}; "
        f"{options.repeat} runs each, in turn",
        "",
        "| | shortest | median | CPU time | cores used | with start | memory of a worker |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mode, found in runs.items():
        median = statistics.median(run["seconds"] for run in found)
        start = min(run["wall"] for run in found)
        memory = max(run["memory"] for run in found)
        used = statistics.median(run["cpu"] / run["wall"] for run in found)
        lines.append(
            f"| {mode} | {best[mode]:.1f} s | {median:.1f} s | {cpu[mode]:.1f} s | {used:.2f} | {start:.1f} s | "
            f"{memory / 2**30:.2f} GiB |"
        )
    return [
        *lines,
        "",
        f"Two workers are {best['loop'] / best['two workers']:.2f} times as fast as the loop (shortest runs), with "
        f"{cpu['two workers'] / cpu['loop'] - 1:+.1%} CPU time. One worker takes "
        f"{best['one worker'] / best['loop'] - 1:+.1%} time and {cpu['one worker'] / cpu['loop'] - 1:+.1%} CPU time. "
        "CPU time includes starting Python in each process, and the scheduler.",
    ]


def measured(arguments: list[str]) -> dict[str, float]:
    """Run ``embed`` once; return seconds of the work and of all, CPU time, cells, and memory of a worker."""
    command = [sys.executable, "-c", "from eo_backbones.cli.main import main; main()", "embed", *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    watch = Watch(process.pid)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    if process.returncode:
        raise SystemExit(process.returncode)
    made = json.loads(said)
    return {
        "seconds": made["seconds"],
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "cells": made["cells"],
        "memory": watch.largest(),
    }


class Watch(threading.Thread):
    """Looks twice a second how much memory the processes below one have needed at most.

    Args:
        pid: the process; it counts itself where it has no others.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root, self._own, self._children = psutil.Process(pid), 0, 0
        self.start()

    def run(self) -> None:
        """Look until the process has ended."""
        while True:
            try:
                self._own = max(self._own, self._root.memory_info().rss)
                children = [child.memory_info().rss for child in self._root.children(recursive=True)]
                self._children = max([self._children, *children])
            except psutil.NoSuchProcess:
                if not self._root.is_running():
                    return
            time.sleep(0.5)

    def largest(self) -> int:
        """Return the largest resident memory of a worker, or of the process without workers, in bytes."""
        self.join(timeout=5)
        return self._children or self._own


if __name__ == "__main__":
    main()
