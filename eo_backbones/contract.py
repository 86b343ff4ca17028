"""The input contract as data: which raw values a model was trained on, band by band.

It travels with the weights: in the row of :mod:`eo_backbones.weights`, in ``config.json`` under the root key
``"eo_backbones"`` and on the model as ``model.eo_input``. :mod:`eo_backbones.inputs` turns it into a transform.

Each band has one native unit, in which clip, mean and standard deviation are written:

* optical: ``reflectance`` (top of atmosphere or surface, 1.0 = white). ``dn`` is reflectance x 10000.
* radar: ``db`` (sigma nought in decibel). ``linear`` is 10 ** (dB / 10).
* ``uint8``: an 8-bit display value of either, stretched linearly over ``display`` (a range in the native unit).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast, get_args

from eo_backbones.bands import BANDS, PAPER_BANDS, S1_BANDS, band
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.files import JsonFields

Unit = Literal["dn", "reflectance", "db", "linear", "uint8"]
NativeUnit = Literal["reflectance", "db"]
Normalization = Literal["band", "image"]

UNITS: tuple[str, ...] = get_args(Unit)
DN_PER_REFLECTANCE = 10_000.0  # Sentinel-2 products before processing baseline 04.00 (ESA S2 PSD)

# EuroSAT RGB was stretched from 0...2750 digital numbers to 0...255 (phelber/EuroSAT); OMBRIA looks the same.
OPTICAL_DISPLAY = (0.0, 0.275)
# The range that SEN12MS users clip Sentinel-1 to (schmitt-muc/SEN12MS classification/dataset.py).
RADAR_DISPLAY = (-25.0, 0.0)


def default_unit(band_name: str, dtype: str) -> Unit:
    """Return the unit that a file's values have unless the user says otherwise.

    Args:
        band_name: canonical name.
        dtype: of the file. 8-bit values are display values; others are taken to be what the space agencies distribute,
            digital numbers or dB.
    """
    return "uint8" if dtype == "uint8" else BANDS[band_name].unit


def parse_unit(option: str) -> tuple[str | None, Unit]:
    """Read one value of ``--unit``: ``UNIT`` (of all bands) or ``BAND=UNIT``.

    Returns:
        Canonical band name, ``None`` for all bands; and the unit.

    Raises:
        UserError: an unknown unit or band.
    """
    name, equals, text = option.rpartition("=")
    typed = text.strip().lower()
    unit: Unit | None = next((known for known in get_args(Unit) if known == typed), None)
    if unit is None:
        raise unknown_name("unit", typed, UNITS)
    return (band(name).name if equals else None), unit


def declared_units(options: Sequence[str], bands: Sequence[str]) -> dict[str, Unit]:
    """Return the units that the user gives bands with ``--unit``: one for all, one per band in order, or ``BAND=UNIT``.

    Args:
        options: as typed; ``BAND=UNIT`` wins over a unit for all.
        bands: canonical names of the bands in use.

    Returns:
        Band -> unit, without those that have none; :func:`default_unit` holds for them.

    Raises:
        UserError: an unknown unit or band, a band that is not in use, or neither one unit nor one per band.
    """
    parsed = [parse_unit(option) for option in options]
    unnamed = [unit for name, unit in parsed if name is None]
    if len(unnamed) not in {0, 1, len(bands)}:
        raise UserError(f"{len(unnamed)} units for {len(bands)} bands; pass one unit for all, or one per band")
    units = dict(zip(bands, unnamed * len(bands) if len(unnamed) == 1 else unnamed, strict=False))
    for option, (name, unit) in zip(options, parsed, strict=True):
        if name is not None and name not in bands:
            raise UserError(f"--unit {option}: there is no band {name} here; the bands are {', '.join(bands)}")
        if name is not None:
            units[name] = unit
    return units


@dataclass(frozen=True, slots=True, kw_only=True)
class BandInput:
    """The contract of one band.

    Attributes:
        band: canonical band name.
        unit: native unit of ``clip``, ``mean``, ``std`` and ``display``.
        clip: values outside are set to the nearer end before normalisation.
        mean, std: the model sees ``(value - mean) / std`` (only if the contract normalises by ``"band"``).
        display: native values that the 8-bit display values 0 and 255 stand for.
    """

    band: str
    unit: NativeUnit
    clip: tuple[float, float]
    mean: float
    std: float
    display: tuple[float, float]

    @property
    def gsd_m(self) -> int:
        """Native ground sampling distance of the sensor in metres."""
        return BANDS[self.band].gsd_m

    @property
    def wavelength_nm(self) -> float:
        """Centre wavelength in nanometres."""
        return BANDS[self.band].wavelength_nm

    @property
    def display_mean(self) -> float:
        """``mean`` as an 8-bit display value divided by 255."""
        low, high = self.display
        return (self.mean - low) / (high - low)

    @property
    def display_std(self) -> float:
        """``std`` in steps of 8-bit display values, divided by 255."""
        low, high = self.display
        return self.std / (high - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The contract of one model: its bands, and how values are normalised.

    ``normalization="band"`` uses the fixed statistics of each band; ``"image"`` standardises each image by its own mean
    and standard deviation, which discards brightness (docs/decisions/0010).

    ``processing_levels`` are those of the Sentinel-2 images it was trained on (``"L1C"`` top of atmosphere, ``"L2A"``
    surface reflectance), empty if they are not known. They do not change what is done to values, therefore contracts
    that differ in them alone are equal.
    """

    bands: tuple[BandInput, ...]
    normalization: Normalization = "band"
    processing_levels: tuple[str, ...] = field(default=(), compare=False)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Canonical names of the bands the model was trained on."""
        return tuple(entry.band for entry in self.bands)

    @property
    def reference_band(self) -> BandInput:
        """The band that stands for all of them where a reader takes one mean and one deviation: red, or the first."""
        return next((entry for entry in self.bands if entry.band == "B04"), self.bands[0])

    def for_band(self, name: str) -> BandInput:
        """Return the entry of a band, by any of its names.

        Raises:
            UserError: the band is unknown, or the model was not trained on it.
        """
        canonical = band(name).name
        for entry in self.bands:
            if entry.band == canonical:
                return entry
        raise UserError(
            f"this model has no input statistics for band {canonical}; it takes {', '.join(self.band_names)}"
        )

    def narrowed(self, names: Iterable[str]) -> "InputSpec":
        """Return the contract of some of its bands, by any of their names, in the given order.

        Raises:
            UserError: as :meth:`for_band`.
        """
        return replace(self, bands=tuple(self.for_band(name) for name in names))

    def to_dict(self, *, with_levels: bool = True) -> dict[str, Any]:
        """Return the JSON form: also lists sampling distance and wavelength, so that a reader needs no other table.

        Args:
            with_levels: name the processing levels if there are some; without them, the form holds what is done to
                values and nothing else, for digests.
        """
        entries = [asdict(entry) | {"gsd_m": entry.gsd_m, "wavelength_nm": entry.wavelength_nm} for entry in self.bands]
        for entry in entries:
            entry["clip"], entry["display"] = list(entry["clip"]), list(entry["display"])
        levels = {"processing_levels": list(self.processing_levels)} if with_levels and self.processing_levels else {}
        return {"normalization": self.normalization, "bands": entries, **levels}

    @classmethod
    def from_dict(cls, data: Any, where: str = "the input contract in config.json") -> "InputSpec":
        """Read the JSON form back.

        Args:
            data: as :meth:`to_dict` gives it.
            where: what it is, for messages.

        Raises:
            UserError: a field is missing, or holds what it cannot mean; the message names it.
        """
        fields = JsonFields(data, where)
        bands = tuple(_band_input(entry, where) for entry in fields.values("bands", dict))
        if not bands or len({entry.band for entry in bands}) < len(bands):
            raise fields.error("bands holds no band" if not bands else "bands holds one band twice")
        levels = fields.values("processing_levels", str) if "processing_levels" in fields else ()
        return cls(
            normalization=cast("Normalization", fields.text("normalization", get_args(Normalization))),
            bands=bands,
            processing_levels=levels,
        )


def _band_input(data: Mapping[str, Any], where: str) -> BandInput:
    """Read one band of a contract."""
    name = JsonFields(data, where).text("band")
    if name not in BANDS:
        raise JsonFields(data, where).error(f"band is {name!r}, not one of {', '.join(BANDS)}")
    fields = JsonFields(data, f"{where}: band {name}")
    native: NativeUnit = "reflectance" if BANDS[name].sensor == "s2" else "db"
    fields.text("unit", (native,))
    std = fields.number("std")
    if std <= 0:
        raise fields.error(f"std is {std:g}, not above 0")
    return BandInput(
        band=name,
        unit=native,
        clip=fields.interval("clip"),
        mean=fields.number("mean"),
        std=std,
        display=fields.interval("display"),
    )


def unit_range(bands: Iterable[str] = (*PAPER_BANDS, *S1_BANDS)) -> InputSpec:
    """Return the simplest common contract: every band in [0, 1].

    Reflectance clipped to [0, 1]; sigma nought clipped to [-25, 0] dB, divided by 25, plus 1. As in
    lukasliebel/dfc2020_baseline ``code/datasets.py`` and schmitt-muc/SEN12MS ``classification/dataset.py``.
    """

    def entry(name: str) -> BandInput:
        if BANDS[name].sensor == "s2":
            return BandInput(band=name, unit="reflectance", clip=(0.0, 1.0), mean=0.0, std=1.0, display=OPTICAL_DISPLAY)
        return BandInput(band=name, unit="db", clip=(-25.0, 0.0), mean=-25.0, std=25.0, display=RADAR_DISPLAY)

    return InputSpec(bands=tuple(entry(band(name).name) for name in bands))


def standardized(bands: Iterable[str] = (*PAPER_BANDS, *S1_BANDS)) -> InputSpec:
    """Return a contract that scales every band to about zero mean and unit standard deviation.

    Mean and standard deviation: the DFC2020 statistics of :data:`eo_backbones.bands.BANDS`. Clip: reflectance [0, 1],
    sigma nought [-40, 10] dB, the range that the training store codes (docs/decisions/0009).
    """

    def entry(name: str) -> BandInput:
        row = BANDS[name]
        if row.sensor == "s2":
            return BandInput(
                band=name,
                unit="reflectance",
                clip=(0.0, 1.0),
                mean=row.mean / DN_PER_REFLECTANCE,
                std=row.std / DN_PER_REFLECTANCE,
                display=OPTICAL_DISPLAY,
            )
        return BandInput(band=name, unit="db", clip=(-40.0, 10.0), mean=row.mean, std=row.std, display=RADAR_DISPLAY)

    return InputSpec(bands=tuple(entry(band(name).name) for name in bands))
