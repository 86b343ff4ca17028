"""Sentinel-1 and Sentinel-2 bands: names, physics, statistics, and the band order of every supported data set.

A band is always addressed by name. Integer positions appear once, in :data:`LAYOUTS`, because the layouts differ and
are easily confused: EuroSAT stores B8A last, BigEarthNet has no B10.

Sources
-------
* Wavelengths and bandwidths: ESA, Sentinel-2 MSI, "Spatial and Spectral Resolutions" (SentiWiki), values of
  Sentinel-2A; ground sampling distance from the same table.
* Sentinel-1: ESA, Sentinel-1 C-SAR, centre frequency 5.405 GHz; IW GRDH pixel spacing 10 m.
* Statistics: DFC2020 validation part, 986 patches (public repository Chavoshh/sar-optical-fusion-dfc2020,
  ``dataset_stats.json``), digital numbers for Sentinel-2 L1C, dB for Sentinel-1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from eo_backbones.errors import UserError, unknown_name

Sensor = Literal["s1", "s2"]

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
SENTINEL1_FREQUENCY_HZ = 5.405e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One band of one sensor.

    Attributes:
        name: canonical name, e.g. ``"B04"`` or ``"VV"``.
        sensor: ``"s2"`` (optical, Sentinel-2 MSI) or ``"s1"`` (radar, Sentinel-1 C-SAR).
        aliases: other spellings that :func:`band` accepts, in lower case and without separators.
        wavelength_nm: centre wavelength in nanometres.
        bandwidth_nm: optical band width in nanometres; ``None`` for radar, whose chirp is not an optical pass band.
        gsd_m: native ground sampling distance in metres.
        unit: unit of the files that the space agencies distribute and this project reads: ``"dn"``
            (reflectance x 10000) or ``"db"``.
        mean, std: DFC2020 statistics in ``unit`` (source: module docstring).
    """

    name: str
    sensor: Sensor
    aliases: tuple[str, ...]
    wavelength_nm: float
    bandwidth_nm: float | None
    gsd_m: int
    unit: Literal["dn", "db"]
    mean: float
    std: float


def _s2(name: str, aliases: str, wavelength: float, width: float, gsd: int, mean: float, std: float) -> Band:
    return Band(
        name=name,
        sensor="s2",
        aliases=tuple(aliases.split()),
        wavelength_nm=wavelength,
        bandwidth_nm=width,
        gsd_m=gsd,
        unit="dn",
        mean=mean,
        std=std,
    )


def _s1(name: str, mean: float, std: float) -> Band:
    return Band(
        name=name,
        sensor="s1",
        aliases=(name.lower(), f"s1{name.lower()}", f"sigma0{name.lower()}"),
        wavelength_nm=SPEED_OF_LIGHT_M_PER_S / SENTINEL1_FREQUENCY_HZ * 1e9,
        bandwidth_nm=None,
        gsd_m=10,
        unit="db",
        mean=mean,
        std=std,
    )


_ROWS = (
    #   name   aliases                                    nm      width  m   mean     std  (DFC2020, DN)
    _s2("B01", "b1 b01 coastal aerosol coastalaerosol", 442.7, 20, 60, 1353.90, 170.23),
    _s2("B02", "b2 b02 blue", 492.7, 65, 10, 1094.35, 245.99),
    _s2("B03", "b3 b03 green", 559.8, 35, 10, 999.55, 299.42),
    _s2("B04", "b4 b04 red", 664.6, 30, 10, 810.86, 476.77),
    _s2("B05", "b5 b05 re5 rededge1", 704.1, 14, 20, 1072.21, 499.00),
    _s2("B06", "b6 b06 re6 rededge2", 740.5, 14, 20, 1894.12, 1056.65),
    _s2("B07", "b7 b07 re7 rededge3", 782.8, 19, 20, 2211.50, 1336.27),
    _s2("B08", "b8 b08 nir", 832.8, 105, 10, 2111.84, 1299.56),
    _s2("B8A", "b8a b08a nnir narrownir nir08 rededge4", 864.7, 21, 20, 2370.31, 1490.03),
    _s2("B09", "b9 b09 watervapour watervapor nir09", 945.1, 19, 60, 637.73, 397.64),
    _s2("B10", "b10 cirrus", 1373.5, 29, 60, 10.84, 4.60),
    _s2("B11", "b11 swir1 swir16 swir11", 1613.7, 90, 20, 1611.09, 1095.08),
    _s2("B12", "b12 swir2 swir22 swir12", 2202.4, 174, 20, 962.28, 803.68),
    _s1("VV", -13.9458, 4.3292),
    _s1("VH", -21.5380, 6.0012),
)

BANDS: Mapping[str, Band] = MappingProxyType({row.name: row for row in _ROWS})
"""Canonical name -> band, Sentinel-2 in order of the spectrum, then VV and VH."""

_SEPARATORS = str.maketrans("", "", " -_")
_ALIASES = {alias: row.name for row in _ROWS for alias in (row.name.lower(), *row.aliases)}

S2_BANDS = tuple(row.name for row in _ROWS if row.sensor == "s2")
S1_BANDS = tuple(row.name for row in _ROWS if row.sensor == "s1")

PAPER_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""The ten Sentinel-2 bands of the paper (Jain et al., IGARSS 2021, section 3), in order of wavelength."""

_S2_WITHOUT_B10 = tuple(name for name in S2_BANDS if name != "B10")

LAYOUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # schmitt-muc/SEN12MS README; DFC2020 (lukasliebel/dfc2020_baseline) has the same files.
        "sen12ms-s2": S2_BANDS,
        "sen12ms-s1": S1_BANDS,
        "dfc2020-s2": S2_BANDS,
        "dfc2020-s1": S1_BANDS,
        # torchgeo/datasets/eurosat.py and phelber/EuroSAT#7: B8A comes last.
        "eurosat-ms": (*(name for name in S2_BANDS if name != "B8A"), "B8A"),
        "eurosat-rgb": ("B04", "B03", "B02"),
        # BigEarthNet is Level 2A, which has no cirrus band; one file a band, listed here by name.
        "bigearthnet-s2": _S2_WITHOUT_B10,
        "bigearthnet-s1": S1_BANDS,
        # One file a band: 13 of Level 1C, 12 of Level 2A.
        "ssl4eo-s2c": S2_BANDS,
        "ssl4eo-s2a": _S2_WITHOUT_B10,
    }
)
"""Data set -> its bands in file order. Position ``i`` here is GeoTIFF band ``i + 1``."""


def band(name: str) -> Band:
    """Return the band of a name or alias, whatever its case and separators (``"B4"``, ``"b04"``, ``"Narrow NIR"``).

    Raises:
        UserError: the name is not known; the message lists the nearest names.
    """
    key = name.lower().translate(_SEPARATORS)
    if key not in _ALIASES:
        raise unknown_name("band", name, BANDS)
    return BANDS[_ALIASES[key]]


def band_named_in(text: str | None) -> str | None:
    """Return the canonical band name in a file's own description, or ``None`` if it does not name a band."""
    try:
        return band(text).name if text else None
    except UserError:
        return None


def band_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical names of several bands, in the given order.

    Raises:
        UserError: a name is unknown, or one band is named twice.
    """
    canonical = tuple(band(name).name for name in names)
    repeated = {name for name in canonical if canonical.count(name) > 1}
    if repeated:
        raise UserError(f"band {', '.join(sorted(repeated))} is named more than once; name each band once")
    return canonical


def band_index(layout: str, name: str) -> int:
    """Return the 0-based position of a band in a known layout.

    Raises:
        UserError: the layout is unknown or has no such band.
    """
    if layout not in LAYOUTS:
        raise unknown_name("band layout", layout, LAYOUTS)
    canonical = band(name).name
    if canonical not in LAYOUTS[layout]:
        raise UserError(f"{layout} has no band {canonical}; it has {', '.join(LAYOUTS[layout])}")
    return LAYOUTS[layout].index(canonical)
