"""Real imagery as a region for the guide: SEN12MS-CR patches side by side, points labelled from their reflectances."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.io import MemoryFile
from rasterio.warp import transform

PATCH_PX, A_SIDE = 256, 2
_UTM, _WEST_M, _NORTH_M = "EPSG:32632", 600_000, 5_400_000  # made up: the patches have no coordinates


def write_real_region(root: Path, shared: Path, *, points: int = 80) -> None:
    """Write ``scenes/scene_0.tif`` and so on (B08, four patches each) and ``labels.geojson``.

    A point is water where the mean NDWI of its surroundings of 320 m is positive, else vegetated where the mean NDVI is
    above 0.35, else bare.
    """
    with tarfile.open(shared / "multiband_pairs.tar") as archive:
        names = sorted(name for name in archive.getnames() if "/s2/sen12mscr_" in name)
        patches = [_bands(archive.extractfile(name)) for name in names]  # green, red, near infrared
    side = PATCH_PX * A_SIDE
    scenes = np.zeros((len(patches) // A_SIDE**2, 3, side, side), np.uint16)
    for number, patch in enumerate(patches):
        scene, place = divmod(number, A_SIDE**2)
        row, col = (PATCH_PX * part for part in divmod(place, A_SIDE))
        scenes[scene, :, row : row + PATCH_PX, col : col + PATCH_PX] = patch
    (root / "scenes").mkdir(parents=True)
    for number, values in enumerate(scenes):
        profile = {"driver": "GTiff", "count": 1, "height": side, "width": side, "dtype": "uint16", "crs": _UTM}
        place = (10, 0, _WEST_M + 10 * side * number, 0, -10, _NORTH_M)
        with rasterio.open(root / "scenes" / f"scene_{number}.tif", "w", transform=place, **profile) as target:
            target.write(values[2], 1)
            target.descriptions = ("B08",)
    rng = np.random.default_rng(0)
    features = []
    for _ in range(points):
        scene = int(rng.integers(len(scenes)))
        row, col = rng.integers(32, side - 32, 2).tolist()
        green, red, infrared = scenes[scene, :, row - 16 : row + 16, col - 16 : col + 16].astype(np.float64)
        ndwi, ndvi = ((one - other) / (one + other) for one, other in ((green, infrared), (infrared, red)))
        land = "water" if ndwi.mean() > 0 else "vegetated" if ndvi.mean() > 0.35 else "bare"
        east = _WEST_M + 10 * (side * scene + col)
        lon, lat = transform(_UTM, "EPSG:4326", [east], [_NORTH_M - 10 * row])
        geometry = {"type": "Point", "coordinates": [lon[0], lat[0]]}
        features.append({"type": "Feature", "properties": {"land": land}, "geometry": geometry})
    (root / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _bands(file: "io.BufferedReader | None") -> np.ndarray:
    assert file is not None, "it is a file"
    with MemoryFile(file.read()) as memory, memory.open() as image:
        return np.asarray(image.read([image.descriptions.index(name) + 1 for name in ("B03", "B04", "B08")]))
