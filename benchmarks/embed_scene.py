"""How fast ``eo-backbones embed`` is and how much memory it needs, on a made-up scene of any size.

    python benchmarks/embed_scene.py [--side 20000] [--stride 32] [--model NAME] [--device cuda] [--out FILE]

Writes a cloud-optimised GeoTIFF of one band (uint16, 512 px tiles, deflate, overviews; 10 m pixels) into ``TMPDIR`` and
embeds it in a process of its own, as a user would: all features in float32, then principal components of them. At the
default side the scene has 389,376 cells, whose features take 3.2 GB on disk while it runs. Reading all pixels
once with plain rasterio, a row of tiles at a time, is timed beside it.

Aim: a side of 20,000 px in less than 2 GiB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from evaluation_speed import processor
from rasterio.shutil import copy as raster_copy
from rasterio.windows import Window
from stand_in import write_stand_in

from eo_backbones.device import fast_dtype, pick_device
from eo_backbones.results import versions

_TILE = 512


def main() -> None:
    """Measure and print the report; ``--out`` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20_000, help="pixels a side; the aim holds for 20,000")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--stride", type=int, default=32)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--model", help="an encoder; default: a ResNet50 with random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scene = write_cog(place, options.side)
        started = time.monotonic()
        read_once(scene)
        reading = time.monotonic() - started
        model = options.model or write_stand_in(place / "random")
        shared = [str(scene), "--model", model, "--bands", "B04=1", "--unit", "dn", "--json"]
        shared += ["--size", str(options.size), "--stride", str(options.stride), "--preview"]
        shared += ["--device", options.device]
        runs = {
            "all features": measured([*shared, "--out", str(place / "features.tif")]),
            f"--components {options.components}": measured(
                [*shared, "--components", str(options.components), "--out", str(place / "components.tif")]
            ),
        }
        sizes = [path.stat().st_size for path in (place / "features.tif", place / "components.tif")]
    device = pick_device(options.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{processor()}, {os.cpu_count()} threads"
    number_format = f"{str(fast_dtype(device)).removeprefix('torch.')} on {device.type}"
    shown = " ".join(word if word != str(options.out) else "FILE" for word in sys.argv[1:])
    lines = [
        f"# Speed and memory of `eo-backbones embed`, {datetime.now(tz=UTC):%Y-%m-%d}, {device.type}",
        "",
        f"- Command: `python benchmarks/embed_scene.py {shown}`".rstrip(),
        f"- Machine: {where}",
        f"- Versions: {versions(number_format)}",
        f"- Scene: {options.side:,} x {options.side:,} px, one band, 10 m; windows of {options.size} px, stride "
        f"{options.stride}; {options.model or 'ResNet50 with random weights'}",
        f"- Reading all pixels once with rasterio: {reading:.1f} s",
        "",
        "| | cells | km2/s | wall time | peak memory | output |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {made['rows'] * made['cols']:,} | {made['km2_per_s']:.3g} | {made['seconds']:.0f} s | "
            f"{memory / 2**30:.2f} GiB | {size / 1e6:,.1f} MB |"
            for (name, (made, memory)), size in zip(runs.items(), sizes, strict=True)
        ),
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_cog(folder: Path, side: int) -> Path:
    """Write the scene, tile by tile: fields of different brightness, with noise."""
    plain, path = folder / "plain.tif", folder / "scene.tif"
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint16", "tiled": True}
    profile |= {"blockxsize": _TILE, "blockysize": _TILE, "crs": "EPSG:32632", "bigtiff": "if_safer"}
    with rasterio.open(plain, "w", transform=Affine(10, 0, 300_000, 0, -10, 5_000_000), **profile) as target:
        for top in range(0, side, _TILE):
            for left in range(0, side, _TILE):
                height, width = min(_TILE, side - top), min(_TILE, side - left)
                fields = rng.integers(300, 3000, (_TILE // 32, _TILE // 32)).repeat(32, axis=0).repeat(32, axis=1)
                noise = rng.integers(0, 200, (height, width))
                values = (fields[:height, :width] + noise).astype(np.uint16)
                target.write(values, 1, window=Window(left, top, width, height))
    raster_copy(plain, path, driver="COG", compress="DEFLATE", blocksize=_TILE, bigtiff="IF_SAFER")
    plain.unlink()
    return path


def read_once(path: Path) -> None:
    """Read every pixel, one row of tiles after the other."""
    with rasterio.open(path) as source:
        for top in range(0, source.height, _TILE):
            source.read(1, window=Window(0, top, source.width, min(_TILE, source.height - top)))


def measured(arguments: list[str]) -> tuple[dict[str, float], int]:
    """Run ``embed`` once; return what it says of itself, and the largest resident memory in bytes."""
    command = [sys.executable, "-c", "from eo_backbones.cli.main import main; main()", "embed", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(said), usage.ru_maxrss * 1024  # Linux counts in KiB


if __name__ == "__main__":
    main()
