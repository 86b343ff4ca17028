"""Synthetic Sentinel-1 and Sentinel-2 scenes with labels: for the demo, the tests and the benchmarks.

Nothing here is measured imagery, and whatever is made of it must be called synthetic. It imitates what matters to a
classifier of single bands: ten land-cover classes that overlap, spectra over all 13 bands, the native sampling of
each band (20 m and 60 m bands are smooth on the 10 m grid), seasons, illumination and haze, and radar backscatter
with speckle over the same structures.

A scene is a pure function of (seed, class, index, size): it does not depend on which other scenes or bands are asked
for.

Sources: the spectra of forest, grass, green crop, dry soil and clear water are rounded means of single original
EuroSAT patches, and the visible bands of the classes follow the class means of EuroSAT RGB; the other materials and
all radar values are plausible values chosen here. DFC2020 class codes: lukasliebel/dfc2020_baseline README.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from eo_backbones.bands import BANDS, S1_BANDS, S2_BANDS, band_names
from eo_backbones.datasets.eurosat import EUROSAT_CLASSES
from eo_backbones.datasets.synthetic_land import CODE, MATERIALS, Land, build_land
from eo_backbones.errors import unknown_name

EQUIVALENT_LOOKS = 4.4  # of Sentinel-1 IW GRDH (ESA, Sentinel-1 Product Definition: about 4.4 to 4.9)
HIGHEST_DN = 28_000  # highest digital number seen in EuroSAT (torchgeo-bench pull request 40)

# fmt: off
_TABLE = {
    # material       B01   B02   B03   B04   B05   B06   B07   B08   B8A   B09 B10   B11   B12     VV     VH  DFC
    "green crop":   (1190,  880,  770,  500,  800, 2500, 3550, 3450, 3900,  840,  9, 1100,  550, -11.5, -17.0,  6),
    "dry soil":     (1480, 1380, 1400, 1600, 1780, 2150, 2450, 2450, 2750,  640, 13, 3100, 2250, -12.5, -20.0,  6),
    "dark soil":    (1280, 1060,  970, 1000, 1120, 1380, 1550, 1560, 1750,  470, 12, 2200, 1700, -11.0, -18.5,  6),
    "stubble":      (1400, 1250, 1250, 1300, 1550, 2100, 2500, 2480, 2800,  640, 12, 2900, 1950, -12.0, -19.0,  6),
    "forest":       (1040,  770,  670,  400,  730, 2250, 2950, 2950, 3350,  900, 10, 1540,  600,  -9.8, -15.2,  1),
    "grass":        (1140,  880,  880,  560, 1040, 2700, 3400, 3300, 3750,  950,  9, 1880,  880, -11.8, -17.8,  4),
    "shrub":        (1250, 1040,  970,  900, 1220, 1900, 2250, 2250, 2500,  620, 10, 2300, 1450, -11.8, -17.2,  2),
    "bare ground":  (1440, 1300, 1270, 1400, 1600, 1850, 2020, 2060, 2270,  560, 12, 2850, 2250, -13.5, -20.5,  9),
    "orchard":      (1230, 1040, 1000,  860, 1180, 2050, 2480, 2420, 2720,  650, 10, 2120, 1280, -10.8, -16.2,  6),
    "asphalt":      (1340, 1130, 1040, 1010, 1080, 1180, 1240, 1260, 1330,  340, 11, 1400, 1180, -13.5, -21.0,  7),
    "red roof":     (1420, 1280, 1260, 1440, 1590, 1800, 1950, 2000, 2150,  510, 12, 2150, 1850,  -5.0, -12.5,  7),
    "bright roof":  (2150, 2150, 2150, 2200, 2260, 2360, 2460, 2520, 2580,  620, 15, 2600, 2300,  -2.5, -11.5,  7),
    "concrete":     (1570, 1460, 1430, 1470, 1540, 1660, 1750, 1800, 1880,  440, 12, 2000, 1800,  -8.0, -15.5,  7),
    "clear water":  (1090,  800,  600,  350,  290,  250,  235,  205,  195,   80,  8,   60,   40, -21.0, -26.5, 10),
    "turbid water": (1180, 1020,  960,  640,  600,  430,  390,  310,  280,  110,  8,   90,   60, -18.5, -25.0, 10),
    "sand":         (1650, 1620, 1680, 1850, 1980, 2120, 2250, 2300, 2420,  600, 14, 2900, 2480, -14.0, -21.5,  9),
}
# What the air alone sends back, by band: the digital numbers over a black surface (the water above bounds it).
_PATH_DN = np.array((950, 650, 400, 220, 180, 130, 110, 90, 80, 40, 7, 20, 10), np.float64)
# fmt: on
_SPECTRA = np.array([_TABLE[name][: len(S2_BANDS)] for name in MATERIALS], np.float64) - _PATH_DN
_BACKSCATTER_DB = np.array([_TABLE[name][len(S2_BANDS) : -1] for name in MATERIALS], np.float64)
_DFC_CLASS = np.array([_TABLE[name][-1] for name in MATERIALS], np.uint8)

_LIVING = np.array([name in {"green crop", "grass", "shrub", "orchard", "forest"} for name in MATERIALS], np.float64)
_LIVING[CODE["forest"]] = 0.3  # trees dry out less than the rest
_WAVELENGTH = np.array([BANDS[name].wavelength_nm for name in S2_BANDS])
_TILT = (np.log(_WAVELENGTH) - np.log(_WAVELENGTH).mean()) / np.log(_WAVELENGTH).std()

# Spread between images, in natural logarithms of brightness unless said. Set so that statistics of one band classify
# about as well as on the real EuroSAT RGB (accuracy 0.5 there).
_ILLUMINATION = 0.12
_HAZE = 0.12
_MATERIAL_BRIGHTNESS = 0.20
_MATERIAL_TILT = 0.08
_MATERIAL_BAND = 0.04
_BACKSCATTER_GAIN_DB = 1.0
_BACKSCATTER_MATERIAL_DB = 1.5

_SENSOR_NOISE_DN = 8.0
_DB_RANGE = (-60.0, 30.0)
_NOISE_FLOOR_DB = {"VV": -27.0, "VH": -29.0}
_POINT_SPREAD = 0.14  # share of a 10 m pixel's light that lands in the neighbour on each side, each way
# A 4-tap kernel gives speckle the correlation measured on SEN12MS: 0.8 and 0.4 at one and two pixels.
_SPECKLE_KERNEL = np.array((1, 2, 2, 1), np.float64) / 6


@dataclass(frozen=True, eq=False, kw_only=True)
class SyntheticScene:
    """One synthetic place, seen by both sensors.

    Attributes:
        name: class of the scene, a EuroSAT class name.
        s2: band -> float32 ``(size, size)``, whole digital numbers (reflectance x 10000).
        s1: band -> float32 ``(size, size)``, sigma nought in dB.
        classmap: uint8 ``(size, size)``, DFC2020 class of each pixel (1 forest ... 10 water).
    """

    name: str
    s2: dict[str, np.ndarray]
    s1: dict[str, np.ndarray]
    classmap: np.ndarray


def scene(
    seed: int,
    name: str,
    size: int = 64,
    *,
    index: int = 0,
    bands: Sequence[str] = (*S2_BANDS, *S1_BANDS),
    level: Literal["L1C", "L2A"] = "L1C",
    native: bool = False,
) -> SyntheticScene:
    """Make one scene.

    Args:
        seed: of the whole set of scenes.
        name: class, one of the ten EuroSAT class names.
        size: side in pixels of 10 m.
        index: number of the scene in its class.
        bands: the bands to make, under any alias; the values of a band do not depend on the others.
        level: with the light that the air scatters (``"L1C"``, as SEN12MS and EuroSAT) or without (``"L2A"``).
        native: leave each band at its native sampling (BigEarthNet) instead of resampling it to 10 m.

    Raises:
        UserError: unknown class or band.
    """
    if name not in EUROSAT_CLASSES:
        raise unknown_name("synthetic class", name, EUROSAT_CLASSES)
    key = (seed, EUROSAT_CLASSES.index(name), index, size)
    rng = np.random.default_rng(key)
    land = build_land(rng, name, size)
    spectra, path_dn = _season(rng)
    backscatter = (
        _BACKSCATTER_DB
        + rng.normal(0, _BACKSCATTER_GAIN_DB)
        + rng.normal(0, _BACKSCATTER_MATERIAL_DB, (len(MATERIALS), 1))
    )
    s2, s1 = {}, {}
    for band_name in band_names(bands):
        # A generator of its own, so that asking for other bands changes nothing.
        noise = np.random.default_rng((*key, list(BANDS).index(band_name)))
        if band_name in S2_BANDS:
            column = S2_BANDS.index(band_name)
            path = path_dn[column] if level == "L1C" else 0.0
            s2[band_name] = _optical(land, spectra[:, column], path, BANDS[band_name].gsd_m, noise, native=native)
        else:
            s1[band_name] = _radar(land, backscatter[:, S1_BANDS.index(band_name)], _NOISE_FLOOR_DB[band_name], noise)
    return SyntheticScene(name=name, s2=s2, s1=s1, classmap=_DFC_CLASS[land.material])


def synthetic_images(
    per_class: int, bands: Sequence[str], *, seed: int, size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Make labelled images in memory.

    Args:
        per_class: images of each of the ten classes.
        bands: band names under any alias, of either sensor.
        seed: another seed gives other images.
        size: side in pixels of 10 m.

    Returns:
        Images, float32 ``(10 * per_class, len(bands), size, size)``, digital numbers for Sentinel-2 bands and dB for
        Sentinel-1 bands; labels, int64 positions in :data:`~eo_backbones.datasets.eurosat.EUROSAT_CLASSES`. The
        classes take turns.

    Raises:
        UserError: unknown band.
    """
    names = band_names(bands)
    labels = np.tile(np.arange(len(EUROSAT_CLASSES), dtype=np.int64), per_class)
    images = np.empty((len(labels), len(names), size, size), np.float32)
    for position, label in enumerate(labels.tolist()):
        made = scene(seed, EUROSAT_CLASSES[label], size, index=position // len(EUROSAT_CLASSES), bands=names)
        for channel, name in enumerate(names):
            images[position, channel] = made.s2[name] if name in made.s2 else made.s1[name]
    return images, labels


def _season(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return this day's surface digital numbers, (materials, bands), and path digital numbers, (bands,)."""
    dryness = _LIVING[:, None] * rng.beta(1.0, 3.0)
    spectra = (1 - dryness) * _SPECTRA + dryness * _SPECTRA[CODE["stubble"]]
    shape = (len(MATERIALS), 1)
    spread = (
        rng.normal(0, _ILLUMINATION)
        + rng.normal(0, _MATERIAL_BRIGHTNESS, shape)
        + rng.normal(0, _MATERIAL_TILT, shape) * _TILT
        + rng.normal(0, _MATERIAL_BAND, spectra.shape)
    )
    return spectra * np.exp(spread), _PATH_DN * np.exp(rng.normal(0, _HAZE))


def _optical(
    land: Land, spectrum: np.ndarray, path_dn: float, gsd_m: int, rng: np.random.Generator, *, native: bool
) -> np.ndarray:
    """Image the land in one band: optics, the detector's own grid, noise, then the 10 m grid."""
    ground = spectrum[land.material] * (1 + land.tone) + path_dn
    sample, resample = _sampling(land.material.shape[0], gsd_m)
    seen = sample @ ground @ sample.T
    seen += rng.normal(0, _SENSOR_NOISE_DN if gsd_m < 60 else 1.0, seen.shape)
    if not native:
        seen = resample @ seen @ resample.T
    values: np.ndarray = np.rint(seen).clip(1, HIGHEST_DN).astype(np.float32)
    return values


def _radar(land: Land, backscatter_db: np.ndarray, floor_db: float, rng: np.random.Generator) -> np.ndarray:
    """Image the land in one polarisation: mean power of the surface plus the noise floor, times speckle."""
    power = 10 ** ((backscatter_db[land.material] + land.roughness) / 10)
    sample, _ = _sampling(power.shape[0], 10)
    power = sample @ power @ sample.T + 10 ** (floor_db / 10)
    db: np.ndarray = 10 * np.log10(power * speckle(power.shape, rng))
    return db.clip(*_DB_RANGE).astype(np.float32)


def speckle(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return correlated multiplicative speckle ``(height, width)`` of mean 1 and :data:`EQUIVALENT_LOOKS` looks.

    White gamma noise, smoothed; its shape is chosen so that the smoothed field has the wanted number of looks
    (mean squared over variance).
    """
    reach = len(_SPECKLE_KERNEL) - 1
    white_looks = EQUIVALENT_LOOKS * float(np.sum(_SPECKLE_KERNEL**2)) ** 2
    field = rng.standard_gamma(white_looks, (shape[0] + reach, shape[1] + reach)) / white_looks
    rows = sum(weight * field[tap : tap + shape[0]] for tap, weight in enumerate(_SPECKLE_KERNEL))
    return np.asarray(sum(weight * rows[:, tap : tap + shape[1]] for tap, weight in enumerate(_SPECKLE_KERNEL)))


@lru_cache(maxsize=32)
def _sampling(size: int, gsd_m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices 10 m ground -> native grid (optics and area mean) and native grid -> 10 m (bilinear)."""
    blur = (1 - 2 * _POINT_SPREAD) * np.eye(size) + _POINT_SPREAD * (np.eye(size, k=1) + np.eye(size, k=-1))
    blur /= blur.sum(axis=1, keepdims=True)
    step = gsd_m // 10
    cells = -(-size // step)
    cell_of = np.arange(size) // step
    mean = (cell_of[None, :] == np.arange(cells)[:, None]).astype(np.float64)
    mean /= mean.sum(axis=1, keepdims=True)
    position = ((np.arange(size) + 0.5) / step - 0.5).clip(0, cells - 1)
    resample = (1 - np.abs(position[:, None] - np.arange(cells)[None, :])).clip(0)
    return mean @ blur, resample
