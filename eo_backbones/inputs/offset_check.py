"""Whether digital numbers of Sentinel-2 carry an offset of +1000, by the darkest pixels of the images.

Digital numbers of products before processing baseline 04.00 are reflectance x 10000; later ones carry +1000. Where
nothing says which, shadow and water do: in old products some band reaches far below 1000 in nearly every image, in new
ones hardly any pixel does. One band of one small image proves little (vegetation in the near infrared and hazy blue
never reach 1000), several bands or many images do. Thresholds: benchmarks/2026-11-25-offset-test.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eo_backbones.inputs.unit_check import Finding

OFFSET_DN = 1000.0
SMALL_SHARE = 0.01
"""Share of an image's pixels that may lie below the offset: noise, and negative reflectance."""

_DARK_END = 1400.0  # of an image with the offset, some band has this share of pixels below it
_CIRRUS_END = 1150.0  # band 10 holds about 10 without cirrus clouds
_TELLING = frozenset({"B04", "B10"})  # reach below 1000 at either level; at level 2A blue and green do as well
_TELLING_L2A = frozenset({"B01", "B02", "B03", "B04"})
_HAZY = frozenset({"B01", "B02", "B03"})  # at level 1C the sky alone can keep them above 1000
_SEVERAL_BANDS = 3
_SEVERAL_PIXELS = 10_000
_SURE_IMAGES, _MANY_IMAGES = 8, 64
_MOST_EXCEPTIONS = 0.02  # share of the images that may look otherwise
_BLOCK = 256
_FEWEST_PIXELS = 256


@dataclass(frozen=True, slots=True)
class DarkEnd:
    """The darkest pixels of one band of one image.

    Attributes:
        band: canonical name.
        pixels: number of valid pixels.
        lifted: hardly a pixel lies below 1000.
        dark: some lie just above.
    """

    band: str
    pixels: int
    lifted: bool
    dark: bool


def blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an image ``(bands, ...)`` as ``(bands, pixels)``, a large one in parts: they count as several images."""
    if values.ndim != 3:
        flat = values.reshape(values.shape[0], -1)
        for start in range(0, flat.shape[1], _BLOCK * _BLOCK):
            yield flat[:, start : start + _BLOCK * _BLOCK]
        return
    for top in range(0, max(values.shape[1] - _BLOCK // 2, 1), _BLOCK):
        for left in range(0, max(values.shape[2] - _BLOCK // 2, 1), _BLOCK):
            yield values[:, top : top + _BLOCK, left : left + _BLOCK].reshape(values.shape[0], -1)


def dark_end(values: np.ndarray, band: str) -> DarkEnd | None:
    """Return what the darkest pixels of an image look like; ``None`` if it has too few pixels, or one value only.

    Args:
        values: digital numbers of the valid pixels ``(n,)``.
        band: canonical name.
    """
    if values.size < _FEWEST_PIXELS or values.min() == values.max():
        return None
    end = _CIRRUS_END if band == "B10" else _DARK_END
    return DarkEnd(
        band=band,
        pixels=values.size,
        lifted=bool((values < OFFSET_DN).mean() < SMALL_SHARE),
        dark=bool((values <= end).mean() >= SMALL_SHARE),
    )


def offset_finding(images: Sequence[Sequence[DarkEnd]], *, level: str | None = None, hint: str = "") -> Finding | None:
    """Return whether images look as if they carried the offset, with both remedies in the message.

    Args:
        images: the bands of each that can be judged.
        level: processing level of the images, ``"L1C"`` or ``"L2A"``, where it is known.
        hint: what says that they come from a product with the offset, without saying that it is still in.
    """
    images = [image for image in images if image]
    if not images:
        return None
    bands = list(dict.fromkeys(band.band for image in images for band in image))
    lifted = [image for image in images if all(band.lifted for band in image)]
    dark = [image for image in lifted if any(band.dark for band in image)]
    if hint:
        return _looks_shifted(bands, hint, certain=True) if 2 * len(lifted) > len(images) else None
    few = _MOST_EXCEPTIONS * len(images)
    if len(images) - len(lifted) > few or len(dark) <= few:
        return None
    strong = bool((_TELLING_L2A if level == "L2A" else _TELLING).intersection(bands))
    pixels = sum(max(band.pixels for band in image) for image in images)
    if strong and len(images) >= _SURE_IMAGES:
        return _looks_shifted(bands, "", certain=True)
    several = strong and len(bands) >= _SEVERAL_BANDS and pixels >= _SEVERAL_PIXELS
    many = len(images) >= _MANY_IMAGES and not _HAZY.issuperset(bands)
    if several or many or "B10" in bands:
        return _looks_shifted(bands, "", certain=False)
    return None


def _looks_shifted(bands: Sequence[str], hint: str, *, certain: bool) -> Finding:
    named = ", ".join(bands) if len(bands) <= _SEVERAL_BANDS else f"{bands[0]} to {bands[-1]}"
    because = f"; the files come from a product with it ({hint})" if hint else ""
    return Finding(
        f"band{'s' if len(bands) > 1 else ''} {named}: hardly a pixel lies below 1000, the darkest just above: this "
        f"looks like +1000 (Sentinel-2 processing baseline 04.00 and later){because}; pass offset=-1000 or offset=0",
        certain=certain,
    )
