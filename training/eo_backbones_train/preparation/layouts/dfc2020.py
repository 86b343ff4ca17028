"""DFC2020: the contest's folders (validation, test), its seasonal folders, or both.

Source: lukasliebel/dfc2020_baseline ``code/datasets.py``. ``ROIs0000_validation/s2_validation`` holds 986 patches,
``ROIs0000_test/s2_0`` 5,128. The seasonal folders ``ROIs0000_{spring,summer,autumn,winter}`` hold the same 6,114
patches under other numbers, so that counting files gives 11,242 or more. Where both are present, a patch is recognised
by its pixels and the contest's name is kept.
"""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rasterio

from eo_backbones.datasets.raster import gdal_environment
from eo_backbones_train.preparation.georeference_warnings import without_georeference_warnings
from eo_backbones_train.preparation.layouts.scene_files import Layout, Scan, SceneFiles
from eo_backbones_train.preparation.layouts.sen12ms import pair_up, patches

_CONTEST = ("ROIs0000_validation", "ROIs0000_test")
_COLLECTIONS = re.compile(r"(ROIs0000_(?:validation|test|spring|summer|autumn|winter))")
_FOLDERS = re.compile(r"s([12])_(\w+)")


def _scan(root: Path, include_hold_out: bool) -> Scan:
    scenes, skipped = pair_up(patches(root, _COLLECTIONS, _FOLDERS))
    contest = [scene for scene in scenes if scene.roi.startswith(_CONTEST)]
    seasonal = [scene for scene in scenes if not scene.roi.startswith(_CONTEST)]
    if contest and seasonal:
        known = dict(zip(_pixel_digests(root, contest), (scene.scene for scene in contest), strict=True))
        digests = _pixel_digests(root, seasonal)
        skipped += [
            (scene.scene, f"duplicate: the same patch as {known[digest]}")
            for scene, digest in zip(seasonal, digests, strict=True)
            if digest in known
        ]
        seasonal = [scene for scene, digest in zip(seasonal, digests, strict=True) if digest not in known]
    return Scan(scenes=(*contest, *seasonal), skipped=tuple(skipped))


def _pixel_digests(root: Path, scenes: list[SceneFiles]) -> list[str]:
    """Digest of each scene's Sentinel-2 pixels; its name where the file cannot be read (conversion lists it)."""

    def digest(scene: SceneFiles) -> str:
        try:
            with gdal_environment(), rasterio.open(root / scene.files[0].path) as source:
                return hashlib.sha256(source.read().tobytes()).hexdigest()
        except rasterio.errors.RasterioError:
            return scene.scene

    with without_georeference_warnings(), ThreadPoolExecutor() as pool:
        return list(pool.map(digest, scenes))


DFC2020 = Layout(name="dfc2020", scan=_scan, s2_order="dfc2020-s2", s1_order="dfc2020-s1")
