"""How the stored values of a band become values of a unit: what the user declared, what the product says, or both.

Everywhere ``value = stored * scale + offset``, in the unit of the reading; nodata compares with the stored value. What
the user declares wins. What several sources say must agree; where they do not, reading stops with the commands that
decide it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast, get_args

from eo_backbones.bands import BANDS, band
from eo_backbones.contract import DN_PER_REFLECTANCE, Unit, declared_units, default_unit
from eo_backbones.errors import UserError, unknown_name

_SAME = 1e-6  # relative: 2.75e-5 and 0.0000275 as text, float32 and float64
_LARGEST_REFLECTANCE_SCALE = 0.01  # 1/10000 (Sentinel-2), 2.75e-5 (Landsat), 0.004 (8 bit); 1 is no scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one source says about the stored values of one band; ``None`` where it says nothing.

    Attributes:
        source: in words, such as ``"MTD_MSIL2A.xml"`` or ``"GDAL scale and offset"``.
        scale, offset: ``value = stored * scale + offset``, in reflectance (Sentinel-2) or dB (Sentinel-1).
        nodata: stored value that means "missing".
        level: ``"L1C"`` or ``"L2A"``.
        baseline: processing baseline of a Sentinel-2 product, such as ``"04.00"``.
        refusal: why values of this product cannot be used as they are, and what to do.
    """

    source: str
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    level: str | None = None
    baseline: str | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredReading:
    """What the user says about the stored values: canonical band name -> unit or number, without bands left open."""

    units: Mapping[str, Unit] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    nodata: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandReading:
    """How the stored values of one band become values of a unit: ``value = stored * scale + offset``.

    Attributes:
        band: canonical band name.
        unit: of the values.
        scale, offset: 1 and 0 where the stored values are those of the unit.
        nodata: stored value that means "missing", besides what GDAL reports for the file.
        source: what the product says, as one line for the log; empty where it says nothing.
        level: ``"L1C"`` or ``"L2A"`` where the product says it.
        known: whether scale and offset were declared by the user or said by the product, rather than assumed.
        declared: whether the user declared a scale or an offset.
    """

    band: str
    unit: Unit
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    source: str = ""
    level: str | None = None
    known: bool = False
    declared: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BandReading":
        """Read the JSON form back.

        Raises:
            UserError: a field is missing, unknown or of a wrong type.
        """
        try:
            unit = data["unit"]
            if unit not in get_args(Unit):
                raise unknown_name("unit", str(unit), get_args(Unit))
            nodata = data.get("nodata")
            return cls(
                band=band(data["band"]).name,
                unit=cast("Unit", unit),
                scale=_number(data.get("scale", 1.0)),
                offset=_number(data.get("offset", 0.0)),
                nodata=None if nodata is None else _number(nodata, finite=False),
                source=str(data.get("source", "")),
                level=None if data.get("level") is None else str(data["level"]),
                known=bool(data.get("known", False)),
                declared=bool(data.get("declared", False)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the reading of the bands is damaged: {error!r}; write the folder again") from error


def _number(value: Any, *, finite: bool = True) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if finite and not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def parse_reading(
    units: Sequence[str],
    scales: Sequence[str | float],
    offsets: Sequence[str | float],
    nodata: Sequence[str | float],
    bands: Sequence[str],
) -> DeclaredReading:
    """Read ``--unit``, ``--scale``, ``--offset`` and ``--nodata`` as typed: one for all bands, or ``BAND=NUMBER``.

    Args:
        units: as :func:`eo_backbones.contract.declared_units` takes them.
        scales: numbers, or texts ``NUMBER`` or ``BAND=NUMBER``; a band's own wins.
        offsets: as ``scales``.
        nodata: as ``scales``; NaN and infinity are allowed.
        bands: canonical names of the bands in use.

    Raises:
        UserError: not a number, a scale of 0, a band that is not in use, more than one value for a band.
    """
    declared = DeclaredReading(
        units=declared_units(units, bands),
        scales=_numbers("--scale", scales, bands),
        offsets=_numbers("--offset", offsets, bands),
        nodata=_numbers("--nodata", nodata, bands, finite=False),
    )
    for name, scale in declared.scales.items():
        if scale == 0:
            raise UserError(f"--scale {name}=0 makes every value the same; pass the factor, such as 0.0001")
    return declared


def _numbers(
    option: str, values: Sequence[str | float], bands: Sequence[str], *, finite: bool = True
) -> dict[str, float]:
    """Return band -> number for one option."""
    for_all: dict[str, float] = {}
    for_one: dict[str, float] = {}
    for typed in values:
        name, equals, text = str(typed).rpartition("=")
        try:
            number = float(text)
        except ValueError:
            raise UserError(f"{option} {typed}: {text!r} is no number; pass {option} NUMBER or BAND=NUMBER") from None
        if finite and not math.isfinite(number):
            raise UserError(f"{option} {typed}: pass a finite number")
        named = [band(name).name] if equals else list(bands)
        if equals and named[0] not in bands:
            raise UserError(f"{option} {typed}: there is no band {named[0]} here; the bands are {', '.join(bands)}")
        target = for_one if equals else for_all
        if any(known in target for known in named):
            which = f"for band {named[0]}" if equals else "for all bands"
            raise UserError(f"{option} is given more than once {which}; pass it once, or BAND=NUMBER for each band")
        target |= dict.fromkeys(named, number)
    return for_all | for_one


def resolve_reading(
    name: str, dtype: str, statements: Sequence[Statement] = (), declared: DeclaredReading | None = None
) -> BandReading:
    """Return how the values of one band are read.

    Args:
        name: canonical band name.
        dtype: of the file.
        statements: what the product says about this band.
        declared: what the user says; it wins.

    Raises:
        UserError: the statements contradict each other or the declared unit, and the user declared no scale or offset.
    """
    declared = declared or DeclaredReading()
    unit = declared.units.get(name)
    nodata = declared.nodata.get(name, next((s.nodata for s in statements if s.nodata is not None), None))
    level = next((said.level for said in statements if said.level is not None), None)
    if name in declared.scales or name in declared.offsets:
        return BandReading(
            band=name,
            unit=unit or default_unit(name, dtype),
            scale=declared.scales.get(name, 1.0),
            offset=declared.offsets.get(name, 0.0),
            nodata=nodata,
            level=level,
            known=True,
            declared=True,
        )
    scaled = [said for said in statements if said.scale is not None or said.offset is not None]
    if not scaled:
        return BandReading(band=name, unit=unit or default_unit(name, dtype), nodata=nodata, level=level)
    said = scaled[0]
    scale = 1.0 if said.scale is None else said.scale
    offset = 0.0 if said.offset is None else said.offset
    optical = BANDS[name].sensor == "s2"
    if optical and abs(scale) > _LARGEST_REFLECTANCE_SCALE:
        unit = unit or default_unit(name, dtype)
    elif optical and unit in {None, "dn"} and math.isclose(scale * DN_PER_REFLECTANCE, 1.0, rel_tol=_SAME):
        unit, scale, offset = "dn", 1.0, round(offset * DN_PER_REFLECTANCE, 6)
    else:
        unit = unit or ("reflectance" if optical else "db")
    return BandReading(
        band=name,
        unit=unit,
        scale=scale,
        offset=offset,
        nodata=nodata,
        source=said.source,
        level=level,
        known=True,
    )
