"""Write every season of the places of SSL4EO-S12 as pairs, for ``cross_band_retrieval.py``.

    python benchmarks/ssl4eo_pairs.py SSL4EO MULTIBAND

SSL4EO holds ``s1`` and ``s2c``, each with folders of places, and in these one folder a season. MULTIBAND gets
``s1/ssl4eo_<place>_<season>.tif`` and its twin in ``s2``, the seasons in the order of their dates; 20 and 60 m bands
are enlarged by repeating pixels. (``eo-backbones evaluate --dataset ssl4eo-s12`` takes one season of each place.)
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eo_backbones.bands import S1_BANDS, S2_BANDS
from eo_backbones.datasets.synthetic_files import write_geotiff
from eo_backbones.rasters.reader import read_bands

SIDE_PX = 264


def main() -> None:
    """Pair the seasons of each place by their order and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    for place in sorted((options.root / "s2c").iterdir()):
        optical = sorted(place.iterdir())
        radar = sorted((options.root / "s1" / place.name).iterdir(), key=lambda product: product.name[17:])  # by date
        for season, (one, other) in enumerate(zip(optical, radar, strict=True)):
            name = f"ssl4eo_{place.name}_{season}.tif"
            write_geotiff(options.out / "s2" / name, _stacked(one, S2_BANDS), descriptions=S2_BANDS)
            write_geotiff(options.out / "s1" / name, _stacked(other, S1_BANDS), descriptions=S1_BANDS)


def _stacked(product: Path, bands: Sequence[str]) -> np.ndarray:
    planes = [read_bands(product / f"{name.replace('B0', 'B')}.tif", [f"{name}=1"])[0] for name in bands]
    return np.stack([np.kron(plane, np.ones((SIDE_PX // len(plane),) * 2, plane.dtype)) for plane in planes])


if __name__ == "__main__":
    main()
