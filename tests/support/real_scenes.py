"""Every image of the real data, band by band, with the unit it is truly in; and the ways to hand it over wrongly."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from PIL import Image
from rasterio.io import MemoryFile

from eo_backbones.bands import BANDS, LAYOUTS
from eo_backbones.contract import OPTICAL_DISPLAY, RADAR_DISPLAY

Array = np.ndarray[Any, Any]


class RealImage(NamedTuple):
    """One band of one image: source, band, true unit, values ``(H, W)``."""

    source: str
    band: str
    unit: str
    values: Array


def real_images(shared: Path, every: int = 1) -> Iterator[RealImage]:
    """Yield all images of the shared data; of the collections with thousands of 8-bit pictures one in ``every``."""
    for path in sorted(shared.glob("eurosat_ms/*/*.tif")):
        yield from _bands("eurosat_ms", path, LAYOUTS["eurosat-ms"])
    for path in sorted(shared.glob("sen12ms_layout/**/*.tif")):
        yield from _bands("sen12ms", path, LAYOUTS["sen12ms-s1" if "_s1_" in path.name else "sen12ms-s2"])
    for folder in ("bigearthnet_sample", "ssl4eo_s12_sample"):
        for path in sorted(shared.glob(f"{folder}/**/*.tif")):
            name = path.stem.rpartition("_")[2]
            name = f"B0{name[1]}" if len(name) == 2 and name[0] == "B" and name[1].isdigit() else name
            if name in BANDS:
                yield from _bands(folder, path, (name,))
    for archive in ("multiband_pairs", "ombria_pairs", "sen12_rgb_pairs"):
        step = 1 if archive == "multiband_pairs" else every
        for content in members(shared / f"{archive}.tar", ".tif", step):
            with MemoryFile(content) as memory, memory.open() as image:
                yield from _bands_of(archive, image, image.descriptions)
    for name, content in _named_members(shared / "sen12_five.tar", ".jpg", every):
        # a mix of the visible bands, nearest to B03
        yield RealImage("sen12_five", "VV" if "/s1/" in name else "B03", "uint8", _picture(content))
    for part in ("eurosat_rgb_part0", "eurosat_rgb_part1"):
        for content in members(shared / f"{part}.tar", ".jpg", every):
            for band, values in zip(("B04", "B03", "B02"), np.moveaxis(_picture(content), -1, 0), strict=True):
                yield RealImage("eurosat_rgb", band, "uint8", values)


def _bands(source: str, path: Path, names: tuple[str, ...]) -> Iterator[RealImage]:
    with rasterio.open(path) as image:
        yield from _bands_of(source, image, names)


def _bands_of(source: str, image: Any, names: tuple[str, ...]) -> Iterator[RealImage]:
    for index, name in enumerate(names, start=1):
        values = image.read(index)
        yield RealImage(source, name, "uint8" if values.dtype == np.uint8 else BANDS[name].unit, values)


def members(archive: Path, suffix: str, every: int = 1) -> Iterator[bytes]:
    """Yield the contents of one in ``every`` of an archive's files with a suffix."""
    return (content for _, content in _named_members(archive, suffix, every))


def _named_members(archive: Path, suffix: str, every: int) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as files:
        for number, member in enumerate(m for m in files if m.name.endswith(suffix)):
            if number % every == 0:
                content = files.extractfile(member)
                assert content is not None
                yield f"/{member.name}", content.read()


def _picture(content: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(content)))


class Mistake(NamedTuple):
    """A wrong representation of true values, and the unit it is declared in."""

    name: str
    declared: str
    convert: Callable[[Array, str], Array]

    def __str__(self) -> str:
        return f"{self.name} as {self.declared}"


def _display(values: Array, low: float, high: float) -> Array:
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)


def _with_collar(values: Array, mark: float) -> Array:
    """A tenth of the columns without values, as at the edge of an orbit."""
    marked = values.astype(np.float32)
    marked[:, : max(values.shape[1] // 10, 1)] = mark
    return marked


def _reflectance(v: Array, band: str) -> Array:
    del band
    return v / 10_000


def _optical_display(v: Array, band: str) -> Array:
    del band
    return _display(v / 10_000, *OPTICAL_DISPLAY)


def _radar_display(v: Array, band: str) -> Array:
    del band
    return _display(v, *RADAR_DISPLAY)


def _linear(v: Array, band: str) -> Array:
    del band
    return 10.0 ** (v / 10)


def _amplitude(v: Array, band: str) -> Array:
    return np.sqrt(_linear(v, band))


def _amplitude_numbers(v: Array, band: str) -> Array:
    """Digital numbers of Sentinel-1 GRD: the calibration of IW products divides by about 500."""
    return np.rint(500 * _amplitude(v, band)).clip(0, 65_535).astype(np.uint16)


def _unit_scaled(v: Array, band: str) -> Array:
    del band
    return (v.clip(-25, 0) + 25) / 25


def _standardised(v: Array, band: str) -> Array:
    del band
    return (v - v.mean()) / max(float(v.std()), 1e-6)


def _standardised_by_band(v: Array, band: str) -> Array:
    return (v - BANDS[band].mean) / BANDS[band].std


OPTICAL_MISTAKES = (
    Mistake("reflectance", "dn", _reflectance),
    Mistake("reflectance", "uint8", _reflectance),
    Mistake("digital numbers", "reflectance", lambda v, _: v),
    Mistake("digital numbers", "uint8", lambda v, _: v),
    Mistake("percent", "dn", lambda v, _: v / 100),
    Mistake("percent", "reflectance", lambda v, _: v / 100),
    Mistake("standardised by image", "dn", _standardised),
    Mistake("standardised by image", "reflectance", _standardised),
    Mistake("standardised by image", "uint8", _standardised),
    Mistake("standardised by band", "dn", _standardised_by_band),
    Mistake("standardised by band", "reflectance", _standardised_by_band),
    Mistake("tag 1e-4 applied twice", "reflectance", lambda v, _: v * 1e-8),
    Mistake("Landsat numbers, tag not applied", "dn", lambda v, _: np.rint((v / 1e4 + 0.2) / 2.75e-5)),
    Mistake("offset -1000 taken off an old product", "dn", lambda v, _: v - 1000.0),
    Mistake("8 bits", "dn", lambda v, b: _optical_display(v, b).astype(np.uint8)),
    Mistake("8 bits", "reflectance", lambda v, b: _optical_display(v, b).astype(np.uint8)),
    Mistake("8 bits as floats", "reflectance", _optical_display),
    Mistake("8 bits as floats", "dn", _optical_display),
    Mistake("8 bits / 255", "dn", lambda v, b: _optical_display(v, b) / 255),
    Mistake("8 bits / 255", "reflectance", lambda v, b: _optical_display(v, b) / 255),
    Mistake("8 bits / 255", "uint8", lambda v, b: _optical_display(v, b) / 255),
    Mistake("-9999 in a collar", "dn", lambda v, _: _with_collar(v, -9999)),
    Mistake("65535 in a collar", "dn", lambda v, _: _with_collar(v, 65_535)),
    Mistake("-9999 in a collar", "reflectance", lambda v, _: _with_collar(v / 1e4, -9999)),
)
RADAR_MISTAKES = (
    Mistake("linear", "db", _linear),
    Mistake("linear", "uint8", _linear),
    Mistake("dB", "linear", lambda v, _: v),
    Mistake("dB", "uint8", lambda v, _: v),
    Mistake("amplitude", "db", _amplitude),
    Mistake("amplitude", "linear", _amplitude),
    Mistake("uncalibrated amplitude", "db", _amplitude_numbers),
    Mistake("uncalibrated amplitude", "linear", _amplitude_numbers),
    Mistake("uncalibrated amplitude", "uint8", _amplitude_numbers),
    Mistake("dB scaled to 0...1", "db", _unit_scaled),
    Mistake("dB scaled to 0...1", "linear", _unit_scaled),
    Mistake("standardised by image", "db", _standardised),
    Mistake("standardised by image", "linear", _standardised),
    Mistake("standardised by image", "uint8", _standardised),
    Mistake("standardised by band", "db", _standardised_by_band),
    Mistake("standardised by band", "linear", _standardised_by_band),
    Mistake("hundredths of dB", "db", lambda v, _: np.rint(100 * v).astype(np.int16)),
    Mistake("hundredths of dB", "linear", lambda v, _: np.rint(100 * v).astype(np.int16)),
    Mistake("tag 0.01 applied twice", "db", lambda v, _: v / 100),
    Mistake("dB without sign", "db", lambda v, _: np.abs(v)),
    Mistake("8 bits", "db", lambda v, b: _radar_display(v, b).astype(np.uint8)),
    Mistake("8 bits", "linear", lambda v, b: _radar_display(v, b).astype(np.uint8)),
    Mistake("8 bits as floats", "db", _radar_display),
    Mistake("8 bits as floats", "linear", _radar_display),
    Mistake("8 bits / 255", "db", lambda v, b: _radar_display(v, b) / 255),
    Mistake("8 bits / 255", "linear", lambda v, b: _radar_display(v, b) / 255),
    Mistake("8 bits / 255", "uint8", lambda v, b: _radar_display(v, b) / 255),
    Mistake("0 in a collar", "db", lambda v, _: _with_collar(v, 0)),
    Mistake("-9999 in a collar", "db", lambda v, _: _with_collar(v, -9999)),
    Mistake("1e20 in a collar", "linear", lambda v, b: _with_collar(_linear(v, b), 1e20)),
)


def mistaken(image: RealImage, mistake: Mistake) -> Array:
    """Return the image as the mistake has it, float32 unless the mistake is about another type."""
    values = mistake.convert(image.values.astype(np.float64), image.band)
    return values.astype(np.float32) if values.dtype == np.float64 else values
