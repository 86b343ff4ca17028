"""How well the darkest pixels tell +1000 of Sentinel-2 baseline 04.00: false alarms and detection on real scenes.

    python benchmarks/offset_test.py DIR [--out FILE]

DIR holds the project's real imagery: ``multiband_pairs`` unpacked (SEN12MS-CR, BigEarthNet, TerraMesh), ``eurosat_ms``,
``sen12ms_layout``, ``ssl4eo_s12_sample`` and ``bigearthnet_sample``. All scenes are of older baselines, but for two of
TerraMesh; the same scenes with 1000 added stand for newer ones (without the few negative reflectances that those
hold). Nothing is known about the values, neither baseline nor level.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio

from eo_backbones.bands import LAYOUTS, PAPER_BANDS, S2_BANDS, band
from eo_backbones.cards.tables import markdown_table
from eo_backbones.inputs.offset_check import OFFSET_DN
from eo_backbones.rasters.offset_test import shifted_finding
from eo_backbones.rasters.scaling import BandReading

LIFTED = ("terramesh_282d_485l_3_3", "terramesh_433d_629l_3_1")  # their band 10 begins at 1004 and 1011
WINDOW = 64
SETS = (8, 64)
DRAWS = 8  # sets drawn of each size and source

CHOICES: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in S2_BANDS},
    "B04 B08": ("B04", "B08"),
    "B04 B03 B02": ("B04", "B03", "B02"),
    "B02 B03 B04 B08": ("B02", "B03", "B04", "B08"),
    "the paper's ten": PAPER_BANDS,
    "all but B10": tuple(name for name in S2_BANDS if name != "B10"),
    "all 13": S2_BANDS,
}

Scene = Mapping[str, np.ndarray]


def scenes(root: Path) -> Iterator[tuple[str, str, Scene]]:
    """Yield source with level, name, and band -> float32 ``(H, W)`` with NaN where 0, every band on one grid."""
    whole = [
        *((path, None) for path in sorted(root.glob("multiband_pairs/s2/*.tif"))),
        *((path, LAYOUTS["eurosat-ms"]) for path in sorted(root.glob("eurosat_ms/*/*.tif"))),
        *((path, LAYOUTS["sen12ms-s2"]) for path in sorted(root.glob("sen12ms_layout/*/s2*/*.tif"))),
    ]
    for path, order in whole:
        with rasterio.open(path) as file:
            names = order or file.descriptions
            yield _source(path), path.stem, dict(zip(names, map(_missing_as_nan, file.read()), strict=True))
    folders = [*root.glob("ssl4eo_s12_sample/s2?/*/*"), *root.glob("bigearthnet_sample/*S2*/*")]
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        bands = {}
        for path in sorted(folder.glob("*.tif")):
            with rasterio.open(path) as file:
                bands[band(path.stem.rpartition("_")[2]).name] = _missing_as_nan(file.read(1))
        side = max(values.shape[0] for values in bands.values())
        # pixels repeated, not resampled: the darkest stay what they are
        repeated = {
            name: np.kron(values, np.ones((side // len(values),) * 2, np.float32)) for name, values in bands.items()
        }
        common = min(values.shape[0] for values in repeated.values())
        yield _source(folder), folder.name, {name: v[:common, :common] for name, v in repeated.items()}


def _source(path: Path) -> str:
    text = str(path)
    known = {
        "sen12mscr": "SEN12MS-CR, L1C", "benv": "BigEarthNet, L2A", "terramesh": "TerraMesh, L1C",
        "eurosat_ms": "EuroSAT, L1C", "sen12ms_layout": "SEN12MS-CR, L1C", "s2a": "SSL4EO-S12, L2A",
        "s2c": "SSL4EO-S12, L1C", "bigearthnet_sample": "BigEarthNet, L2A",
    }  # fmt: skip
    return next(source for part, source in known.items() if part in text.split("/") or path.name.startswith(part))


def _missing_as_nan(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.float32("nan"), values.astype(np.float32))


def windows(image: np.ndarray) -> list[np.ndarray]:
    """Return an image ``(bands, H, W)`` in windows of 64 pixels; a smaller one whole."""
    across = max(1, image.shape[1] // WINDOW)
    edges = np.linspace(0, image.shape[1], across + 1).astype(int)
    return [image[:, top:below, left:right] for top, below in pairwise(edges) for left, right in pairwise(edges)]


def outcome(images: Sequence[np.ndarray], bands: Sequence[str]) -> str:
    """Return ``"refused"``, ``"warned"`` or ``"passed"``."""
    finding = shifted_finding(images, [BandReading(band=name, unit="dn") for name in bands])
    return "passed" if finding is None else "refused" if finding.certain else "warned"


def row(name: str, bands: Sequence[str], data: Sequence[tuple[str, str, Scene]]) -> list[str]:
    """Return one row: every image alone, its windows alone, and sets of images and windows of one source."""
    rng = np.random.default_rng(0)
    images = [
        (source, title, np.stack([scene[one] for one in bands]))
        for source, title, scene in data
        if all(one in scene for one in bands)
    ]
    old = [(source, image) for source, title, image in images if title not in LIFTED]
    new = [outcome([image], bands) for _, title, image in images if title in LIFTED]
    groups: dict[str, list[list[np.ndarray]]] = defaultdict(list)
    groups["images"] = [[image] for _, image in old]
    pieces = [(source, window) for source, image in old for window in windows(image)]
    groups["windows"] = [[window] for _, window in pieces]
    for pool in (old, pieces):
        for source in sorted({source for source, _ in pool}):
            members = [image for one, image in pool if one == source]
            for size in SETS:
                if len(members) >= size:
                    chosen = [rng.choice(len(members), size, replace=False) for _ in range(DRAWS)]
                    groups[f"sets of {size}"] += [[members[index] for index in part] for part in chosen]
    cells = [name]
    for kind in ("images", "windows", *(f"sets of {size}" for size in SETS)):
        tried = groups[kind]
        false = Counter(outcome(part, bands) for part in tried)
        found = Counter(outcome([image + OFFSET_DN for image in part], bands) for part in tried)
        cells.append(
            f"{false['refused']} + {false['warned']} of {len(tried)}; "
            f"{found['refused'] / len(tried):.0%} + {found['warned'] / len(tried):.0%}"
            if tried
            else ""
        )
    return [*cells, ", ".join(new)]


def main() -> None:
    """Print a table, and write it with ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    data = list(scenes(options.root))
    head = ["bands", "one image", "one window", *(f"{size} of one source" for size in SETS), "two real ones with +1000"]
    lines = markdown_table(head, [row(name, bands, data) for name, bands in CHOICES.items()])
    count = Counter(source for source, title, _ in data if title not in LIFTED)
    text = (
        f"# Test of the offset, {date.today().isoformat()}\n\n"
        "`python benchmarks/offset_test.py DIR`; scenes: "
        f"{'; '.join(f'{number} of {source}' for source, number in count.items())}.\n\n"
        "Each cell: false alarms on the scenes as they are (refused + warned, of how many); detection with 1000 added\n"
        "(share refused + share warned). Windows have 64 pixels; sets are drawn without replacement.\n\n"
    ) + lines
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
