"""Which images without labels show ground that labelled images show too: those may not enter pretraining.

    python benchmarks/shared_ground.py LABELLED UNLABELLED > sen12_five_pretrain.txt

Tiles of SEN1-2 overlap by half. LABELLED holds a folder of images for each class, UNLABELLED images; both square, of
one side. Compared are halves and quarters that lie on each other if tiles are half a side apart, reduced to 32 x 32
pixels, by their correlation, which does not see how each image was stretched. Printed are the names of UNLABELLED that
share nothing; the counts go to standard error. Of sen12_five, 327 of 901 are left: 574 share ground with 488 of the 705
labelled images. No correlation of halves lies between 0.7 and 0.9.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = 0.9
_THUMBNAIL_PX = 32
# Part of one tile -> the part of its neighbour that shows the same ground: T(op), B(ottom), L(eft), R(ight).
_ON_EACH_OTHER = {"T": "B", "B": "T", "L": "R", "R": "L", "TL": "BR", "BR": "TL", "TR": "BL", "BL": "TR"}


def main() -> None:
    """Print the names of the images that share no ground."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labelled", type=Path)
    parser.add_argument("unlabelled", type=Path)
    options = parser.parse_args()
    labelled, unlabelled = sorted(options.labelled.glob("*/*")), sorted(options.unlabelled.iterdir())
    shared = shared_ground(labelled, unlabelled)
    print(
        f"{shared.any(axis=1).sum()} of {len(labelled)} labelled images share ground with "
        f"{shared.any(axis=0).sum()} of {len(unlabelled)} others",
        file=sys.stderr,
    )
    for path, found in zip(unlabelled, shared.any(axis=0), strict=True):
        if not found:
            print(path.stem)


def shared_ground(first: Sequence[Path], second: Sequence[Path]) -> np.ndarray:
    """Return for each image of the first list (row) and of the second (column) whether they show common ground."""
    parts, others = _thumbnails(first), _thumbnails(second)
    shared = np.zeros((len(first), len(second)), bool)
    for own, other in _ON_EACH_OTHER.items():
        shared |= parts[own] @ others[other].T > SHARED
    return shared


def _thumbnails(paths: Sequence[Path]) -> Mapping[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in _ON_EACH_OTHER}
    for path in paths:
        pixels = np.asarray(Image.open(path))
        middle = len(pixels) // 2
        halves = {"T": slice(middle), "B": slice(middle, None), "L": slice(middle), "R": slice(middle, None)}
        for name, thumbnails in found.items():
            rows = next((halves[letter] for letter in name if letter in "TB"), slice(None))
            columns = next((halves[letter] for letter in name if letter in "LR"), slice(None))
            thumbnails.append(_direction(pixels[rows, columns]))
    return {name: np.stack(thumbnails) for name, thumbnails in found.items()}


def _direction(pixels: np.ndarray) -> np.ndarray:
    """Return a reduced image about its mean as a vector of length 1, so that products are correlations."""
    small = np.asarray(Image.fromarray(pixels).resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX), float)
    deviations = (small - small.mean()).ravel()
    direction: np.ndarray = deviations / max(float(np.linalg.norm(deviations)), 1e-9)
    return direction


if __name__ == "__main__":
    main()
