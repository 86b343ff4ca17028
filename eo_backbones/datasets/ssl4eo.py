"""SSL4EO-S12: places seen by Sentinel-2 and Sentinel-1 in four seasons, 264 x 264 pixels at 10 m, without labels.

Wang et al., "SSL4EO-S12: A Large-Scale Multi-Modal, Multi-Temporal Dataset for Self-Supervised Learning in Earth
Observation" (2023), CC-BY-4.0. Layout of the published archives, one file a band: ``s2c/<place>/<product>/B1.tif`` (13
bands of **Level 1C**), ``s2a/<place>/<product>/B1.tif`` (12 bands of **Level 2A**, no B10) and
``s1/<place>/<product>/VV.tif`` (dB). Coarser bands have 132 or 44 pixels and are enlarged by repeating pixels.

Of each place there is one image: the optical and the radar product that were taken with the least time between them.
Another season of a place would be the same place, which retrieval cannot tell from a mistake.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS
from eo_backbones.datasets.labelled import UNLABELLED, LabelledImages, heads
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import read_bands

logger = logging.getLogger(__name__)

_NAME = "ssl4eo-s12"
_SIDE_PX = 264
_LEVELS = {"s2c": ("L1C", "ssl4eo-s2c"), "s2a": ("L2A", "ssl4eo-s2a")}  # the first that is there is read
_DATE = re.compile(r"(?:S1[ABC]_\w+?_|)(\d{8})T\d{6}_.+")


def ssl4eo_s12(root: Path) -> LabelledImages:
    """Open SSL4EO-S12; all images have the class :data:`eo_backbones.datasets.labelled.UNLABELLED`.

    Level 1C (``s2c``) is read where it is there, otherwise level 2A (``s2a``). Places that one of the sensors lacks are
    left out, with a warning.

    Args:
        root: holds ``s1`` and ``s2c`` or ``s2a``.

    Raises:
        UserError: a folder is missing, no place has both sensors, or a product lacks a band.
    """
    root = Path(root)
    optical_folder = next((root / name for name in _LEVELS if (root / name).is_dir()), None)
    if optical_folder is None or not (root / "s1").is_dir():
        raise UserError(f"no SSL4EO-S12 in {root}; pass the folder that holds s1 and s2c (or s2a), each with places")
    level, layout = _LEVELS[optical_folder.name]
    optical, radar = _products(optical_folder), _products(root / "s1")
    twins = dict(_nearest(optical[place], radar[place]) for place in sorted(optical.keys() & radar.keys()))
    if not twins:
        raise UserError(
            f"no place in {optical_folder} has radar in {root / 's1'}; both hold folders of the same places, with "
            "products in them"
        )
    alone = len(optical.keys() ^ radar.keys())
    if alone:
        logger.warning("%s: %d places without %s or s1 are left out", root, alone, optical_folder.name)
    bands = (*LAYOUTS[layout], *S1_BANDS)
    for path in twins:
        _check_complete(path, twins, bands)
    return LabelledImages(
        name=_NAME,
        classes=(UNLABELLED,),
        paths=tuple(twins),
        labels=np.zeros(len(twins), dtype=np.int64),
        bands=bands,
        units=tuple(BANDS[name].unit for name in bands),
        reader=partial(_read, twins),
        load_bytes=lambda path: heads(_file(path, twins, band) for band in bands),
        levels=(level,),
    )


def _products(folder: Path) -> dict[str, list[tuple[date, Path]]]:
    """Return place -> its products with their dates, sorted; places without any are left out."""
    found: dict[str, list[tuple[date, Path]]] = {}
    for place in sorted(folder.iterdir()):
        for product in sorted(place.iterdir()) if place.is_dir() else ():
            if (match := _DATE.fullmatch(product.name)) and product.is_dir():
                found.setdefault(place.name, []).append((_day(match[1], product), product))
    return found


def _day(digits: str, product: Path) -> date:
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError as error:
        raise UserError(f"{product} names no date ({digits}); restore its name from the archive") from error


def _nearest(optical: Sequence[tuple[date, Path]], radar: Sequence[tuple[date, Path]]) -> tuple[Path, Path]:
    """Return the two products that lie closest in time; of several such, the earliest."""
    (_, path), (_, twin) = min(
        ((one, other) for one in optical for other in radar), key=lambda pair: abs(pair[0][0] - pair[1][0])
    )
    return path, twin


def _file(path: Path, twins: Mapping[Path, Path], band: str) -> Path:
    """Return the file of a band; ``B02`` lies in ``B2.tif``."""
    return (twins[path] if band in S1_BANDS else path) / f"{re.sub('^B0', 'B', band)}.tif"


def _check_complete(path: Path, twins: Mapping[Path, Path], bands: Sequence[str]) -> None:
    there = {file.name for folder in (path, twins[path]) for file in folder.iterdir()}
    for band in bands:
        file = _file(path, twins, band)
        if file.name not in there:
            raise UserError(f"{file} is missing; restore it from the archive, or remove the place {path.parent.name}")


def _read(twins: Mapping[Path, Path], path: Path, bands: Sequence[str]) -> np.ndarray:
    """Return bands of both sensors, in the given order."""
    images = []
    for band in bands:
        file = _file(path, twins, band)
        values = read_bands(file, [f"{band}=1"])[0]
        height, width = values.shape
        if height != width or _SIDE_PX % height:
            raise UserError(
                f"{file} has {width} x {height} pixels; bands of SSL4EO-S12 have {_SIDE_PX}, 132 or 44 a side: restore "
                "it from the archive"
            )
        times = _SIDE_PX // height
        images.append(values.repeat(times, axis=0).repeat(times, axis=1))
    return np.stack(images)
