"""How often the unit check refuses what is right, and what is wrong, on all real images; and what it costs.

    python benchmarks/unit_check.py SHARED [--every N] [--out FILE]

SHARED holds the real images that the tests use. Every band of every image goes through ``check_values`` in its true
unit (digital numbers also as reflectance, dB also as linear backscatter), then every Sentinel-2 band in digital numbers
and every Sentinel-1 band in dB in each wrong representation of ``tests/support/real_scenes.py``. ``--every N`` takes
one in N of the 8-bit pictures, of which there are thousands.

The cost is that of ``create_transform(check="error")`` over ``check="off"`` on a batch of 4,096 images of 64 pixels, in
turns, on one thread: the median of the ratios of the rounds.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from eo_backbones.bands import BANDS
from eo_backbones.contract import standardized
from eo_backbones.inputs import InputTransform, check_values

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.real_scenes import OPTICAL_MISTAKES, RADAR_MISTAKES, mistaken, real_images

SPEC = standardized(BANDS)
IMAGES, SIZE, ROUNDS = 4096, 64, 7


def main() -> None:
    """Measure and print the report; ``--out`` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds, ratio = _cost()
    print(f"cost {ratio:.2%}", file=sys.stderr)
    right: Counter[tuple[str, str]] = Counter()
    alarms: Counter[tuple[str, str]] = Counter()
    wrong: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for image in real_images(arguments.shared, arguments.every):
        true = {"dn": ("reflectance", 1e-4), "db": ("linear", None)}.get(image.unit)
        units = {image.unit: image.values}
        if true is not None:
            unit, factor = true
            units[unit] = image.values * np.float32(factor) if factor else 10 ** (image.values / 10)
        for unit, values in units.items():
            right[image.source, unit] += 1
            alarms[image.source, unit] += _finding(values, image.band, unit) is not None
        for mistake in {"dn": OPTICAL_MISTAKES, "db": RADAR_MISTAKES}.get(image.unit, ()):
            finding = _finding(mistaken(image, mistake), image.band, mistake.declared)
            wrong[str(mistake)] += 1
            found[str(mistake)] += bool(finding)
    text = _report(seconds, ratio, right, alarms, wrong, found)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def _finding(values: np.ndarray, band: str, unit: str) -> bool | None:
    """Return whether values are refused; ``None`` if nothing is said about them."""
    tensor = torch.from_numpy(np.array(values.astype(np.int32) if values.dtype == np.uint16 else values))
    finding = check_values(tensor, SPEC.for_band(band), unit)  # type: ignore[arg-type]  # from a table of units
    return None if finding is None else finding.certain


def _cost() -> tuple[float, float]:
    """Return the seconds of the transform without the check, and the share that the check adds."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(200, 3000, (IMAGES, 1, SIZE, SIZE), generator=generator).float()
    checked, plain = (InputTransform(SPEC, band="B04", unit="dn", check=kind) for kind in ("error", "off"))
    _time(lambda: checked(batch))  # warms up
    rounds = [(_time(lambda: plain(batch)), _time(lambda: checked(batch))) for _ in range(ROUNDS)]
    return float(np.median([off for off, _ in rounds])), float(np.median([on / off - 1 for off, on in rounds]))


def _time(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _report(
    seconds: float,
    ratio: float,
    right: Counter[tuple[str, str]],
    alarms: Counter[tuple[str, str]],
    wrong: Counter[str],
    found: Counter[str],
) -> str:
    lines = [
        "# The unit check on all real images",
        "",
        f"{datetime.now(UTC):%d %B %Y}, torch {torch.__version__}, CPU ({os.cpu_count()} cores, one used). Command:",
        "",
        "```",
        f"python benchmarks/unit_check.py {' '.join(['SHARED', *sys.argv[2:]])}",
        "```",
        "",
        f"Cost: {ratio:.1%} of the transform of {IMAGES:,} images of {SIZE} pixels ({seconds:.2f} s of processor time "
        "without it).",
        "",
        "## In the true unit",
        "",
        "| source | unit | bands of images | refused or doubted |",
        "| --- | --- | --- | --- |",
        *(f"| {source} | {unit} | {number:,} | {alarms[source, unit]} |" for (source, unit), number in right.items()),
        "",
        "## In a wrong one",
        "",
        "| what they are, and what they are declared as | bands of images | refused |",
        "| --- | --- | --- |",
        *(f"| {name} | {number:,} | {found[name] / number:.1%} |" for name, number in wrong.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
