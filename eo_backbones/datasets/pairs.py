"""Pairs of a Sentinel-2 and a Sentinel-1 file without labels: for what can be measured without them.

Layout: folders ``s1`` and ``s2`` below one root, files of equal names. The bands are those that all files of a sensor
have, by their band descriptions. Files of one dtype a sensor: 8-bit files hold display values, others digital numbers
and dB, unless the files say their scale and offset. The pairs may differ in size.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eo_backbones.bands import S1_BANDS, S2_BANDS, band_named_in
from eo_backbones.contract import Unit
from eo_backbones.datasets.image_files import hidden
from eo_backbones.datasets.labelled import UNLABELLED, LabelledImages
from eo_backbones.datasets.stored_files import StoredFile, common_units, reading_of_values
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import (
    RasterFacts,
    facts_of,
    opened,
    order_in,
    read_declared,
    readings_of,
    tell_sources,
)
from eo_backbones.rasters.scaling import DeclaredReading

_SUFFIXES = (".tif", ".tiff")
_SENSORS = {"s2": S2_BANDS, "s1": S1_BANDS}


def sensor_pairs(root: Path) -> LabelledImages:
    """Open pairs; all of them have the class :data:`eo_backbones.datasets.labelled.UNLABELLED`.

    Args:
        root: holds folders ``s1`` and ``s2``.

    Raises:
        UserError: a folder is missing or empty, a file has no twin, a sensor's files have no band in common, or differ
            in dtype.
    """
    root = Path(root)
    names = _names(root)
    bands: list[str] = []
    units: list[Unit] = []
    stored: list[dict[Path, StoredFile]] = []
    for sensor, known in _SENSORS.items():
        files = [root / sensor / name for name in names]
        found = _bands_in_common(files, known)
        stored.append({path: _stored_file(path, found) for path in files})
        bands += found
        units += common_units(stored[-1])
    tell_sources(reading for of_sensor in stored for file in of_sensor.values() for reading in file.readings)
    return LabelledImages(
        name="pairs",
        classes=(UNLABELLED,),
        paths=tuple(root / "s2" / name for name in names),
        labels=np.zeros(len(names), dtype=np.int64),
        bands=tuple(bands),
        units=tuple(units),
        reader=_read,
        load_bytes=lambda path: b"".join(_twin(path, sensor).read_bytes() for sensor in _SENSORS),
        reading="".join(map(reading_of_values, stored)),
    )


def _names(root: Path) -> list[str]:
    by_sensor = {}
    for sensor in _SENSORS:
        folder = root / sensor
        files = folder.iterdir() if folder.is_dir() else ()
        found = {path.name for path in files if path.suffix.lower() in _SUFFIXES and not hidden(Path(path.name))}
        if not found:
            raise UserError(f"no GeoTIFF in {folder}; pass the folder that holds s1 and s2 with files of equal names")
        by_sensor[sensor] = found
    alone = sorted(by_sensor["s2"] ^ by_sensor["s1"])
    if alone:
        has, lacks = ("s2", "s1") if alone[0] in by_sensor["s2"] else ("s1", "s2")
        raise UserError(
            f"{root / has / alone[0]} has no twin in {root / lacks} ({len(alone)} files like it); add or remove them"
        )
    return sorted(by_sensor["s2"])


def _bands_in_common(files: Sequence[Path], known: Sequence[str]) -> list[str]:
    """Return the known bands that the descriptions of all files name; the files have one dtype."""
    first = facts_of(files[0])
    shared = set(known)
    for path in files:
        facts = facts_of(path)
        if facts.dtype != first.dtype:
            raise UserError(
                f"{path} holds {facts.dtype}, {files[0]} {first.dtype}; put pairs of one kind into a folder"
            )
        shared &= {band_named_in(text) for text in facts.descriptions}
        if not shared:
            described = ", ".join(text for text in facts.descriptions if text) or "nothing"
            raise UserError(
                f"{path} shares no band with the files before it; its band descriptions name {described}, and those of "
                f"all files must name some of {', '.join(known)} alike"
            )
    return [name for name in known if name in shared]


def _stored_file(path: Path, bands: Sequence[str]) -> StoredFile:
    with opened(path) as dataset:
        order = order_in(dataset, path)
        positions = {name: order.index(name) + 1 for name in bands}
        return StoredFile(readings_of(path, dataset, positions, DeclaredReading()), RasterFacts.of(dataset).may_miss)


def _twin(path: Path, sensor: str) -> Path:
    return path.parent.parent / sensor / path.name


def _read(path: Path, bands: Sequence[str]) -> np.ndarray:
    """Return bands of both sensors, in the given order; each file is opened once."""
    planes: dict[str, np.ndarray] = {}
    for sensor, known in _SENSORS.items():
        wanted = [name for name in bands if name in known]
        if wanted:
            values, _ = read_declared(_twin(path, sensor), wanted, DeclaredReading())
            planes |= dict(zip(wanted, values, strict=True))
    shapes = {values.shape for values in planes.values()}
    if len(shapes) > 1:
        raise UserError(f"{path} and its Sentinel-1 twin differ in size; cut both to the same ground")
    return np.stack([planes[name] for name in bands])
