"""Whether the values of images agree with how they are read: an offset that nothing states, scales applied already.

The offset of +1000 of newer Sentinel-2 products is looked for in the darkest pixels
(:mod:`eo_backbones.inputs.offset_check`); a stated scale or offset must not be in the values already.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_backbones.bands import BANDS
from eo_backbones.contract import DN_PER_REFLECTANCE
from eo_backbones.inputs import Finding, UnitError, as_options
from eo_backbones.inputs.offset_check import SMALL_SHARE, DarkEnd, blocks, dark_end, offset_finding
from eo_backbones.rasters.scaling import BandReading

logger = logging.getLogger(__name__)

_FRACTION = 1e-3

_FAR_BELOW, _BELOW = -0.05, -0.02  # reflectance; below is no noise of the correction of the atmosphere
_MOST_BELOW = 0.2
_HIGHEST_AS_REFLECTANCE = 2.0  # the median of values that already are reflectance


@dataclass(frozen=True, slots=True)
class _Band:
    """What one band of one image looks like: shares of its valid pixels that are not stored as 0."""

    reading: BandReading
    end: DarkEnd
    far_below: float
    below: float
    applied: bool  # scaled already, before what the product states
    low: float
    high: float


def is_open_to_doubt(reading: BandReading) -> bool:
    """Return whether values can speak against a reading: what the user declared holds, whatever they look like."""
    return not reading.declared and (bool(reading.source) or not reading.known)


class ValueTest:
    """What the values of images say against how they are read; images are added one by one."""

    def __init__(self) -> None:
        self._images: list[tuple[_Band, ...]] = []

    def add(self, values: np.ndarray, readings: Sequence[BandReading]) -> None:
        """Look at an image.

        Args:
            values: ``(bands, ...)``, in the unit of the readings, NaN where missing.
            readings: one for each band.
        """
        for block in blocks(values):
            self._images.append(
                tuple(
                    band
                    for row, reading in zip(block, readings, strict=True)
                    if is_open_to_doubt(reading) and (band := _look_at(row, reading)) is not None
                )
            )

    def finding(self) -> Finding | None:
        """Return what is wrong, with both options in the message; certain where the values speak clearly."""
        for name in dict.fromkeys(band.reading.band for image in self._images for band in image):
            found = _contradiction([band for image in self._images for band in image if band.reading.band == name])
            if found is not None:
                return found
        return self._offset()

    def _offset(self) -> Finding | None:
        open_bands = [
            [
                band
                for band in image
                if band.reading.unit == "dn" and not band.reading.known and BANDS[band.reading.band].sensor == "s2"
            ]
            for image in self._images
        ]
        readings = [band.reading for image in open_bands for band in image]
        return offset_finding(
            [[band.end for band in image] for image in open_bands],
            level=readings[0].level if readings else None,
            hint=next((reading.hint for reading in readings if reading.hint), ""),
        )


def refuse_shifted(images: Iterable[tuple[np.ndarray, Sequence[BandReading]]], where: Path | str) -> None:
    """Check how images are read against their values; a doubt is logged.

    Args:
        images: values ``(bands, ...)`` of each, NaN where missing, and one reading for each band.
        where: they are, for the message.

    Raises:
        UnitError: the values speak clearly; the message names both options of the command line.
    """
    test = ValueTest()
    bands: dict[str, None] = {}
    for values, readings in images:
        test.add(values, readings)
        bands |= dict.fromkeys(reading.band for reading in readings)
    finding = test.finding()
    if finding is None:
        return
    optical = [name for name in bands if BANDS[name].sensor == "s2"]
    mixed = len(optical) < len(bands)  # an offset of digital numbers is none of dB
    message = f"{where}: {as_options(finding.message, *(optical if mixed and optical else ()))}"
    if finding.certain:
        raise UnitError(message)
    logger.warning("%s", message)


def shifted_finding(samples: Iterable[np.ndarray], readings: Sequence[BandReading]) -> Finding | None:
    """Return what the values of some images or windows say against how they are read, or ``None``.

    Args:
        samples: ``(bands, ...)``, one array for each image or window of one scene or set; values in the unit of the
            readings, NaN where missing.
        readings: one for each band.
    """
    test = ValueTest()
    for sample in samples:
        test.add(sample, readings)
    return test.finding()


def _look_at(row: np.ndarray, reading: BandReading) -> _Band | None:
    """Return the shares of one band of an image; ``None`` if it has too few valid pixels, or one value only."""
    values = row[np.isfinite(row)].astype(np.float64)
    stored = (values - reading.offset) / reading.scale
    values, stored = values[stored != 0], stored[stored != 0]
    end = dark_end(values, reading.band)
    if end is None:
        return None
    reflectance = values / DN_PER_REFLECTANCE if reading.unit == "dn" else values
    fractional = bool((np.abs(stored - np.round(stored)) > _FRACTION).mean() > 0.5)
    if BANDS[reading.band].sensor == "s1":
        applied = reading.unit == "db" and reading.scale < 0.5 and bool(np.median(np.abs(values)) < 1)
    else:
        applied = bool(np.median(np.abs(stored)) <= _HIGHEST_AS_REFLECTANCE)
    return _Band(
        reading=reading,
        end=end,
        far_below=float((reflectance < _FAR_BELOW).mean()),
        below=float((reflectance < _BELOW).mean()),
        applied=applied and fractional,
        low=float(stored.min()),
        high=float(stored.max()),
    )


def _contradiction(images: Sequence[_Band]) -> Finding | None:
    """Return a finding if what the product states was applied already to the values of one band."""
    stated = [image for image in images if image.reading.source]
    if not stated:
        return None
    reading = stated[0].reading
    name, unit = reading.band, "db" if BANDS[reading.band].sensor == "s1" else "reflectance"
    as_stated = f"scale={reading.scale:.10g} offset={reading.offset:.10g} unit='{reading.unit}'"
    if 2 * sum(image.applied for image in stated) > len(stated):
        low, high = min(image.low for image in stated), max(image.high for image in stated)
        return Finding(
            f"band {name}: values {low:.4g} to {high:.4g} look like {unit} already, although the file says "
            f"{reading.source}; pass scale=1 offset=0 unit='{unit}', or {as_stated}",
            certain=True,
        )
    pixels = sum(image.end.pixels for image in stated)
    far_below = sum(image.far_below * image.end.pixels for image in stated) / pixels
    below = sum(image.below * image.end.pixels for image in stated) / pixels
    if unit == "db" or reading.offset >= 0 or (far_below < SMALL_SHARE and below < _MOST_BELOW):
        return None
    if reading.unit == "dn":
        return Finding(
            f"band {name}: {below:.0%} of the pixels lie far below {-reading.offset:g}, although the file says "
            f"{reading.source}; the offset looks removed already: pass offset=0 or offset={reading.offset:g}",
            certain=True,
        )
    return Finding(
        f"band {name}: {below:.0%} of the reflectance would be below {_BELOW:g}, although the file says "
        f"{reading.source}; it looks applied already: pass scale=0.0001 offset=0 unit='{unit}', or {as_stated}",
        certain=True,
    )
