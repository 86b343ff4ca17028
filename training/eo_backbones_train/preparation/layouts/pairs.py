"""Anybody's own pairs: two folders ``s2`` and ``s1`` whose files have equal names.

GeoTIFF, or JPEG and PNG for 8-bit display values. Bands are found by the files' band descriptions, by
``--bands B03=1 ...``, or, in files of 13, 12 or 2 bands without descriptions, by the orders of SEN12MS and BigEarthNet.
"""

from pathlib import Path

from eo_backbones.errors import UserError
from eo_backbones_train.preparation.layouts.scene_files import Layout, RasterFile, Scan, SceneFiles

_SUFFIXES = {".tif", ".tiff", ".jpg", ".jpeg", ".png"}


def _scan(root: Path, include_hold_out: bool) -> Scan:
    found: dict[str, dict[str, str]] = {}
    for sensor in ("s2", "s1"):
        folder = root / sensor
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; --root holds two folders, s1 and s2, with equal file names")
        for file in folder.iterdir():
            if file.suffix.lower() in _SUFFIXES:
                found.setdefault(file.stem, {})[sensor] = f"{sensor}/{file.name}"
    if not found:
        raise UserError(
            f"no GeoTIFF, JPEG or PNG files in {root / 's2'} and {root / 's1'}; --root holds pairs of equal names"
        )
    scenes: list[SceneFiles] = []
    skipped: list[tuple[str, str]] = []
    for stem in sorted(found):
        missing = {"s1", "s2"} - found[stem].keys()
        if missing:
            skipped.append((stem, f"missing partner: no {missing.pop()} file"))
            continue
        files = tuple(RasterFile(path=found[stem][sensor], sensor=sensor) for sensor in ("s2", "s1"))
        scenes.append(SceneFiles(scene=stem, roi="", files=files))
    return Scan(scenes=tuple(scenes), skipped=tuple(skipped))


PAIRS = Layout(name="pairs", scan=_scan)
