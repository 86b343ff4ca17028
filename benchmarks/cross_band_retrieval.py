"""Cross-band retrieval of places that no training of ours has seen (protocol ``retrieval``).

    python benchmarks/cross_band_retrieval.py MULTIBAND OUT MODEL... [--size PX...] [--places FILE]

MULTIBAND holds folders ``s1`` and ``s2`` of GeoTIFF pairs with ten optical bands, VV and VH; used are those that
``retrieval_places.txt`` names, or FILE. OUT gets what ``eo-backbones evaluate --protocol retrieval`` writes. Networks
run in float32.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from eo_backbones.datasets import open_unlabelled
from eo_backbones.evaluation.features import default_cache_folder
from eo_backbones.evaluation.retrieval.measure import choose_bands, retrieve
from eo_backbones.evaluation.retrieval.places import PLACE_PX, cut_places
from eo_backbones.progress import ProgressBars


def main() -> None:
    """Measure all models and write rows, page and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--size", type=int, nargs="+", default=[PLACE_PX], help="side in pixels that networks get")
    parser.add_argument("--places", type=Path, default=Path(__file__).parent / "retrieval_places.txt", metavar="FILE")
    options = parser.parse_args()
    names = options.places.read_text(encoding="utf-8").split()
    whole = open_unlabelled("pairs", options.root)
    kept_back = whole.take(np.array([row for row, path in enumerate(whole.paths) if path.stem in names]))
    with ProgressBars() as progress:
        outcome = retrieve(
            cut_places(kept_back),
            choose_bands(kept_back, ()),
            options.models,
            sizes=options.size,
            out=options.out,
            cache=default_cache_folder(),
            device=torch.device("cpu"),
            dtype=torch.float32,
            command="python benchmarks/cross_band_retrieval.py MULTIBAND OUT MODEL...",
            progress=progress,
        )
    print(outcome.report.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
