"""How far missing pixels move the features of a window, by what they are filled with.

    python benchmarks/missing_fill.py SHARED [--windows N] [--out FILE]

SHARED holds ``multiband_pairs.tar`` (real Sentinel-1 and Sentinel-2 images of SEN12MS-CR, BigEarthNet and TerraMesh).
Windows of 64 pixels from their middle, complete, go through the embedded default weights; then the same windows with
holes: a collar (columns at one edge), a block somewhere, pixels scattered at random. Reported is the cosine of the
features with those of the complete window, as median and as 5 % quantile over windows and bands, and beside it what it
is to be compared with: the cosine of windows of different places.

Fills, in native units after clipping: ``lowest`` (lower end of the clip range), ``contract`` (mean of the contract),
``mean`` and ``median`` (of the valid pixels of the window), ``inpainted`` (GDAL's FillNodata: inverse distances to the
nearest valid pixels).
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.fill import fillnodata
from rasterio.io import MemoryFile
from torch import Tensor

from eo_backbones import create_model
from eo_backbones.contract import BandInput, InputSpec
from eo_backbones.inputs import InputTransform
from eo_backbones.weights import DEFAULT

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.real_scenes import members

BANDS = ("B04", "B08", "B11", "VV", "VH")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
FILLS = ("lowest", "contract", "mean", "median", "inpainted")
HOLES = ("collar", "block", "scattered")
SIZE = 64


def main() -> None:
    """Measure and print the tables; ``--out`` also writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--windows", type=int, default=68, help="of each band, at most")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    network = create_model(DEFAULT.name).eval()
    spec = DEFAULT.input
    rng = np.random.default_rng(0)
    cosines: dict[tuple[str, str, float], list[Tensor]] = {}
    others = []
    for band in BANDS:
        complete = _windows(arguments.shared, spec, band)[: arguments.windows]
        entry = spec.for_band(band)
        reference = _features(network, entry, complete)
        apart = torch.nn.functional.cosine_similarity(reference, reference.roll(1, 0))
        others.append(apart)
        for hole in HOLES:
            for share in SHARES:
                missing = np.stack([_hole(hole, share, rng) for _ in complete])
                for fill in FILLS:
                    filled = np.stack([_filled(*pair, fill, entry) for pair in zip(complete, missing, strict=True)])
                    found = torch.nn.functional.cosine_similarity(_features(network, entry, filled), reference)
                    cosines.setdefault((fill, hole, share), []).append(found)
        print(f"{band}: {len(complete)} windows", file=sys.stderr)
    text = _report(cosines, torch.cat(others))
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def _windows(shared: Path, spec: InputSpec, band: str) -> np.ndarray:
    """Middles of all images that have the band, in native units, clipped."""
    entry = spec.for_band(band)
    plain = InputTransform(spec, band=band, unit="dn" if entry.unit == "reflectance" else "db")
    found = []
    for content in members(shared / "multiband_pairs.tar", ".tif"):
        with MemoryFile(content) as memory, memory.open() as image:
            if band not in image.descriptions:
                continue
            top, left = (image.height - SIZE) // 2, (image.width - SIZE) // 2
            window = rasterio.windows.Window(left, top, SIZE, SIZE)
            prepared = plain(image.read(image.descriptions.index(band) + 1, window=window))[0]
            found.append(prepared.numpy() * entry.std + entry.mean)
    return np.stack(found)


def _hole(kind: str, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mask of missing pixels; a collar and a block are as near to the share as whole columns and squares can be."""
    mask = np.zeros((SIZE, SIZE), bool)
    if kind == "collar":
        mask[:, : max(round(share * SIZE), 1)] = True
        return np.rot90(mask, rng.integers(4))
    if kind == "block":
        side = max(round(share**0.5 * SIZE), 1)
        top, left = rng.integers(0, SIZE - side + 1, 2)
        mask[top : top + side, left : left + side] = True
        return mask
    mask.reshape(-1)[rng.permutation(SIZE * SIZE)[: round(share * SIZE * SIZE)]] = True
    return mask


def _filled(values: np.ndarray, missing: np.ndarray, fill: str, entry: BandInput) -> np.ndarray:
    valid = values[~missing]
    if fill == "inpainted":
        return fillnodata(values.copy(), mask=(~missing).astype(np.uint8), max_search_distance=2 * SIZE)
    by = {"lowest": entry.clip[0], "contract": entry.mean, "mean": valid.mean(), "median": np.median(valid)}
    return np.where(missing, np.float32(by[fill]), values)


@torch.inference_mode()
def _features(network: torch.nn.Module, entry: BandInput, values: np.ndarray) -> Tensor:
    images = torch.from_numpy((values.astype(np.float32) - entry.mean) / entry.std).float()[:, None]
    return torch.cat([network(part) for part in images.split(32)])


def _report(cosines: dict[tuple[str, str, float], list[Tensor]], others: Tensor) -> str:
    lines = [
        "# Filling missing pixels",
        "",
        f"{datetime.now(UTC):%d %B %Y}, weights `{DEFAULT.name}`, torch {torch.__version__}, CPU. Command:",
        "",
        "```",
        f"python benchmarks/missing_fill.py {' '.join(['SHARED', *sys.argv[2:]])}",
        "```",
        "",
        f"Cosine of the features with those of the complete window of {SIZE} pixels: median, and in brackets the 5 % "
        f"quantile, over {', '.join(BANDS)}. Windows of different places: median {others.median():.3f}.",
    ]
    for hole in HOLES:
        lines += ["", f"## {hole.capitalize()}", "", "| missing | " + " | ".join(FILLS) + " |"]
        lines.append("| --- |" + " --- |" * len(FILLS))
        for share in SHARES:
            cells = []
            for fill in FILLS:
                found = torch.cat(cosines[fill, hole, share])
                cells.append(f"{found.median():.3f} ({found.quantile(0.05):.3f})")
            lines.append(f"| {share:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
