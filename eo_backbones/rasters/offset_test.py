"""Whether values agree with what is known about their scale: the offset of +1000 above all, by the darkest pixels.

Digital numbers of Sentinel-2 products before processing baseline 04.00 are reflectance x 10000; later ones carry +1000.
Where no product says which, shadow and water do: in old products some band reaches far below 1000 in nearly every
image, in new ones hardly any pixel does. One band of one small image proves little (vegetation in the near infrared
and hazy blue never reach 1000), several bands or many images do. Thresholds: benchmarks/2026-11-25-offset-test.md.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_backbones.bands import BANDS
from eo_backbones.contract import DN_PER_REFLECTANCE
from eo_backbones.inputs import Finding, UnitError, as_options
from eo_backbones.rasters.scaling import BandReading

logger = logging.getLogger(__name__)

OFFSET_DN = 1000.0
_FEW = 0.01  # share of an image's pixels that may lie below the offset: noise, and negative reflectance
_DARK_END = 1400.0  # of an image with the offset, some band has this share of pixels below it
_CIRRUS_END = 1150.0  # band 10 holds about 10 without cirrus clouds
_TELLING = frozenset({"B04", "B10"})  # reach below 1000 at either level; at level 2A blue and green do as well
_TELLING_L2A = frozenset({"B01", "B02", "B03", "B04"})
_HAZY = frozenset({"B01", "B02", "B03"})  # at level 1C the sky alone can keep them above 1000
_SEVERAL_BANDS = 3
_SEVERAL_PIXELS = 10_000
_SURE_IMAGES, _MANY_IMAGES = 8, 64
_MOST_EXCEPTIONS = 0.02  # share of the images that may look otherwise
_BLOCK = 256  # larger images count as several
_FEWEST_PIXELS = 256
_FRACTION = 1e-3

_FAR_BELOW, _BELOW = -0.05, -0.02  # reflectance; below is no noise of the correction of the atmosphere
_MOST_BELOW = 0.2
_HIGHEST_AS_REFLECTANCE = 2.0  # the median of values that already are reflectance


@dataclass(frozen=True, slots=True)
class _Band:
    """What one band of one image looks like: shares of its valid pixels that are not stored as 0."""

    reading: BandReading
    pixels: int
    lifted: bool  # hardly a pixel below 1000
    dark: bool  # some just above
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
        for block in _blocks(values):
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
            tuple(
                b
                for b in image
                if b.reading.unit == "dn" and not b.reading.known and BANDS[b.reading.band].sensor == "s2"
            )
            for image in self._images
        ]
        images = [image for image in open_bands if image]
        if not images:
            return None
        bands = list(dict.fromkeys(band.reading.band for image in images for band in image))
        lifted = [image for image in images if all(band.lifted for band in image)]
        dark = [image for image in lifted if any(band.dark for band in image)]
        hint = next((band.reading.hint for image in images for band in image if band.reading.hint), "")
        if hint:
            return _looks_shifted(bands, hint, certain=True) if 2 * len(lifted) > len(images) else None
        few = _MOST_EXCEPTIONS * len(images)
        if len(images) - len(lifted) > few or len(dark) <= few:
            return None
        level = images[0][0].reading.level
        strong = bool((_TELLING_L2A if level == "L2A" else _TELLING).intersection(bands))
        pixels = sum(max(band.pixels for band in image) for image in images)
        if strong and len(images) >= _SURE_IMAGES:
            return _looks_shifted(bands, "", certain=True)
        several = strong and len(bands) >= _SEVERAL_BANDS and pixels >= _SEVERAL_PIXELS
        many = len(images) >= _MANY_IMAGES and not _HAZY.issuperset(bands)
        if several or many or "B10" in bands:
            return _looks_shifted(bands, "", certain=False)
        return None


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


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an image as ``(bands, pixels)``, a large one in parts."""
    if values.ndim != 3:
        flat = values.reshape(values.shape[0], -1)
        for start in range(0, flat.shape[1], _BLOCK * _BLOCK):
            yield flat[:, start : start + _BLOCK * _BLOCK]
        return
    for top in range(0, max(values.shape[1] - _BLOCK // 2, 1), _BLOCK):
        for left in range(0, max(values.shape[2] - _BLOCK // 2, 1), _BLOCK):
            yield values[:, top : top + _BLOCK, left : left + _BLOCK].reshape(values.shape[0], -1)


def _look_at(row: np.ndarray, reading: BandReading) -> _Band | None:
    """Return the shares of one band of an image; ``None`` if it has too few valid pixels, or one value only."""
    values = row[np.isfinite(row)].astype(np.float64)
    stored = (values - reading.offset) / reading.scale
    values, stored = values[stored != 0], stored[stored != 0]
    if values.size < _FEWEST_PIXELS or values.min() == values.max():
        return None
    reflectance = values / DN_PER_REFLECTANCE if reading.unit == "dn" else values
    fractional = bool((np.abs(stored - np.round(stored)) > _FRACTION).mean() > 0.5)
    if BANDS[reading.band].sensor == "s1":
        applied = reading.unit == "db" and reading.scale < 0.5 and bool(np.median(np.abs(values)) < 1)
    else:
        applied = bool(np.median(np.abs(stored)) <= _HIGHEST_AS_REFLECTANCE)
    return _Band(
        reading=reading,
        pixels=values.size,
        lifted=bool((values < OFFSET_DN).mean() < _FEW),
        dark=bool((values <= (_CIRRUS_END if reading.band == "B10" else _DARK_END)).mean() >= _FEW),
        far_below=float((reflectance < _FAR_BELOW).mean()),
        below=float((reflectance < _BELOW).mean()),
        applied=applied and fractional,
        low=float(stored.min()),
        high=float(stored.max()),
    )


def _looks_shifted(bands: Sequence[str], hint: str, *, certain: bool) -> Finding:
    named = ", ".join(bands) if len(bands) <= _SEVERAL_BANDS else f"{bands[0]} to {bands[-1]}"
    because = f"; the files come from a product with it ({hint})" if hint else ""
    return Finding(
        f"band{'s' if len(bands) > 1 else ''} {named}: hardly a pixel lies below 1000, the darkest just above: this "
        f"looks like +1000 (Sentinel-2 processing baseline 04.00 and later){because}; pass offset=-1000 or offset=0",
        certain=certain,
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
    pixels = sum(image.pixels for image in stated)
    far_below = sum(image.far_below * image.pixels for image in stated) / pixels
    below = sum(image.below * image.pixels for image in stated) / pixels
    if unit == "db" or reading.offset >= 0 or (far_below < _FEW and below < _MOST_BELOW):
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
