"""How each file of a set is read: images of several products may be stored with different scales and offsets."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eo_backbones.bands import BANDS
from eo_backbones.contract import Unit
from eo_backbones.errors import UserError
from eo_backbones.rasters.scaling import BandReading


@dataclass(frozen=True, slots=True)
class StoredFile:
    """How a file's bands are read, and whether it can mark pixels as missing."""

    readings: tuple[BandReading, ...]
    may_miss: bool


def common_units(files: Mapping[Path, StoredFile]) -> tuple[Unit, ...]:
    """Return the unit of each band.

    Args:
        files: all of the set, with readings of the same bands.

    Raises:
        UserError: a band has not the same unit in all files.
    """
    first_path, first = next(iter(files.items()))
    for path, file in files.items():
        for one, other in zip(first.readings, file.readings, strict=True):
            if one.unit != other.unit:
                raise UserError(
                    f"images differ in the unit of band {one.band}: {path} is read as {other.unit}, {first_path} as "
                    f"{one.unit}; pass --unit {one.band}=UNIT, and --scale and --offset where files do not say them"
                )
    return tuple(reading.unit for reading in first.readings)


def levels_of(files: Mapping[Path, StoredFile]) -> tuple[str, ...]:
    """Return the processing levels of the Sentinel-2 bands; none unless that of every file is known."""
    optical = {
        reading.level for file in files.values() for reading in file.readings if BANDS[reading.band].sensor == "s2"
    }
    return () if None in optical else tuple(sorted(level for level in optical if level is not None))


def reading_of_values(files: Mapping[Path, StoredFile]) -> str:
    """Return what a digest says about scale, offset and missing pixels: nothing where there is none of it."""
    words = {file: _in_words(file) for file in dict.fromkeys(files.values())}
    ways = set(words.values())
    if len(ways) == 1:
        return ways.pop()
    listed = "\n".join(f"{path.name}{words[file]}" for path, file in files.items())
    return f"; in {len(ways)} ways {hashlib.sha256(listed.encode()).hexdigest()}"


def _in_words(file: StoredFile) -> str:
    words = [f"; {one.band} x {one.scale!r} + {one.offset!r}" for one in file.readings if not one.unchanged]
    words += [f"; {one.band} nodata {one.nodata!r}" for one in file.readings if one.nodata is not None]
    return "".join(words) + ("; missing pixels as marked" if file.may_miss else "")
