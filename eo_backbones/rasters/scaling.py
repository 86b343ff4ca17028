"""How the stored values of a band become values of a unit: what the user declared, what the product says, or both.

Everywhere ``value = stored * scale + offset``, in the unit of the reading; nodata compares with the stored value. What
the user declares wins. What several sources say must agree; where they do not, reading stops with the commands that
decide it.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast, get_args

from eo_backbones.bands import BANDS, band
from eo_backbones.contract import DN_PER_REFLECTANCE, Unit, declared_units, default_unit
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.rasters.statements import Statement

_SAME = 1e-6  # relative: 2.75e-5 and 0.0000275 as text, float32 and float64
_LARGEST_REFLECTANCE_SCALE = 0.01  # 1/10000 (Sentinel-2), 2.75e-5 (Landsat), 0.004 (8 bit); 1 is no scale


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredReading:
    """What the user says about the stored values: canonical band name -> unit or number, without bands left open."""

    units: Mapping[str, Unit] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    nodata: Mapping[str, float] = field(default_factory=dict)

    def narrowed(self, bands: Collection[str]) -> "DeclaredReading":
        """Return what is said about some of the bands."""
        return DeclaredReading(
            units={name: unit for name, unit in self.units.items() if name in bands},
            scales={name: number for name, number in self.scales.items() if name in bands},
            offsets={name: number for name, number in self.offsets.items() if name in bands},
            nodata={name: number for name, number in self.nodata.items() if name in bands},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BandReading:
    """How the stored values of one band become values of a unit: ``value = stored * scale + offset``.

    Attributes:
        band: canonical band name.
        unit: of the values.
        scale, offset: 1 and 0 where the stored values are those of the unit.
        nodata: stored value that means "missing", besides what GDAL reports for the file: declared, else said.
        said_nodata: the one that the product says, where the user declares another.
        source: what the product says, as one line for the log; empty where it says nothing.
        level: ``"L1C"`` or ``"L2A"`` where the product says it.
        known: whether scale and offset were declared by the user or said by the product, rather than assumed.
        declared: whether the user declared a scale or an offset.
        hint: why the values may still hold the offset of baseline 04.00, where the file was made from such a product.
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
    hint: str = ""
    said_nodata: float | None = None

    @property
    def missing_values(self) -> tuple[float, ...]:
        """Stored values that mean "missing", besides what GDAL reports for the file."""
        return tuple(value for value in (self.nodata, self.said_nodata) if value is not None)

    @property
    def unchanged(self) -> bool:
        """Whether the stored numbers are the values."""
        return (self.scale, self.offset) == (1.0, 0.0)

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
            nodata, said_nodata = data.get("nodata"), data.get("said_nodata")
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
                hint=str(data.get("hint", "")),
                said_nodata=None if said_nodata is None else _number(said_nodata, finite=False),
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
    name: str,
    dtype: str,
    statements: Sequence[Statement] = (),
    declared: DeclaredReading | None = None,
    *,
    path: str = "",
) -> BandReading:
    """Return how the values of one band are read.

    Args:
        name: canonical band name.
        dtype: of the file.
        statements: what the product says about this band.
        declared: what the user says; a scale or an offset wins over everything else.
        path: of the file, for messages.

    Raises:
        UserError: the statements contradict each other or the declared unit, or the product cannot be used as it is,
            and the user declared neither scale nor offset.
    """
    declared = declared or DeclaredReading()
    unit = declared.units.get(name)
    said_nodata = next((said.nodata for said in statements if said.nodata is not None), None)
    levels = [said.level for said in statements if said.level is not None]
    found = BandReading(
        band=name,
        unit=unit or default_unit(name, dtype),
        nodata=declared.nodata.get(name, said_nodata),
        said_nodata=said_nodata if name in declared.nodata and declared.nodata[name] != said_nodata else None,
        level=levels[0] if len(set(levels)) == 1 else None,
    )
    if name in declared.scales or name in declared.offsets:
        scale = declared.scales.get(name, 1.0)
        return replace(
            found,
            unit=unit or _unit_after(name, scale, dtype),
            scale=scale,
            offset=declared.offsets.get(name, 0.0),
            known=True,
            declared=True,
        )
    where = f"band {name}" + (f" of {path}" if path else "")
    refusal = next((said.refusal for said in statements if said.refusal is not None), None)
    scaled = any(said.scale is not None for said in statements)
    if refusal is not None and not (scaled and BANDS[name].sensor == "s1"):  # with a scale, radar was calibrated
        raise UserError(f"{where}: {refusal}; to read it all the same, {_override(name)}")
    if BANDS[name].sensor == "s2":
        return _optical(found, dtype, statements, unit, where)
    return _radar(found, dtype, statements, unit, where)


def levels_differ(levels: Iterable[str | None], trained_on: Collection[str]) -> str | None:
    """Return a line if images are of another processing level than a model was trained on, ``None`` if not known.

    Args:
        levels: of the images (:attr:`BandReading.level`).
        trained_on: :attr:`eo_backbones.contract.InputSpec.processing_levels`.
    """
    other = sorted({level for level in levels if level is not None}.difference(trained_on))
    if not trained_on or not other:
        return None
    meanings = {"L1C": "L1C (top of the atmosphere)", "L2A": "L2A (surface)"}
    is_of, was = (" and ".join(meanings.get(level, level) for level in some) for some in (other, sorted(trained_on)))
    return (
        f"images of level {is_of}, while the model was trained on level {was}: reflectance differs, above all in blue"
    )


def _either(one: str, other: str) -> str:
    return f"pass {one}, or {other}"


def _override(name: str) -> str:
    return (
        _either("--offset 0", "--offset -1000") if BANDS[name].sensor == "s2" else "pass --unit, --scale and --offset"
    )


def _unit_after(name: str, scale: float, dtype: str) -> Unit:
    """Return the unit of values that a scale makes, where none is declared."""
    if BANDS[name].sensor == "s2" and scale != 1.0:
        return "reflectance" if abs(scale) <= _LARGEST_REFLECTANCE_SCALE else "dn"
    return default_unit(name, dtype)


@dataclass(frozen=True, slots=True)
class _Rule:
    """``reflectance = stored * scale + offset`` by one source; ``None`` where it does not say the offset."""

    source: str
    baseline: str | None
    scale: float
    offset: float | None
    nominal: bool

    def agrees(self, other: "_Rule") -> bool:
        """Return whether another source says the same, as far as both say it.

        What holds for a baseline in general gives way to what the metadata list for the band, but not on whether there
        is an offset.
        """
        same_scale = math.isclose(self.scale, other.scale, rel_tol=_SAME)
        if self.offset is None or other.offset is None:
            return same_scale
        if self.nominal != other.nominal and self.offset and other.offset:
            return same_scale and self.offset * other.offset > 0
        return same_scale and math.isclose(self.offset, other.offset, rel_tol=_SAME, abs_tol=1e-9)

    @property
    def in_dn(self) -> bool:
        """Whether the stored values are digital numbers: reflectance x 10000, shifted or not."""
        return math.isclose(self.scale * DN_PER_REFLECTANCE, 1.0, rel_tol=_SAME)

    @property
    def offset_dn(self) -> float:
        """Offset in digital numbers."""
        return round((self.offset or 0.0) * DN_PER_REFLECTANCE, 6)

    def options(self) -> str:
        """Return what to type to read the values so."""
        if self.in_dn:
            return f"--offset {self.offset_dn:g}"
        return f"--scale {self.scale:.10g} --offset {self.offset or 0.0:.10g} --unit reflectance"

    def words(self) -> str:
        """Return the rule for people."""
        if self.in_dn:
            return "digital numbers" + (f" - {-self.offset_dn:g}" if self.offset_dn else " without an offset")
        shift = f" {'-' if self.offset < 0 else '+'} {abs(self.offset):.6g}" if self.offset else ""
        return f"reflectance = stored x {self.scale:.6g}{shift}"


def _optical(
    found: BandReading, dtype: str, statements: Sequence[Statement], unit: Unit | None, where: str
) -> BandReading:
    """Return the reading of an optical band of which the user declared no more than the unit."""
    pairs = [(said, rule) for said in statements if (rule := _rule(said, dtype, where)) is not None]
    if any(said.offset_removed for said in statements) or not _holds_digital_numbers(dtype):
        # of a provider's own numbers, floats or 8 bits, what holds for the original product holds no longer
        shifted = [rule for said, rule in pairs if said.of_product and rule.offset]
        pairs = [(said, rule) for said, rule in pairs if not said.of_product]
        if shifted and not pairs and dtype.startswith("float"):
            found = replace(found, hint=_sources(shifted))
    rules = [rule for _, rule in pairs]
    said_unit = next((said.unit for said in statements if said.unit in {"dn", "reflectance"}), None)
    if not rules:
        if unit is None and said_unit is not None and dtype.startswith("float"):
            return replace(found, unit=cast("Unit", said_unit))
        return found
    for rule in rules:
        if not rule.agrees(rules[0]):
            first, second = (f"{_sources([one])} says {one.words()}" for one in (rules[0], rule))
            raise UserError(f"{where}: {first}, but {second}; {_either(rules[0].options(), rule.options())}")
    rule = min(rules, key=lambda one: (one.offset is None, one.nominal))
    source = f"{rule.words()} ({_sources(rules)})"
    known = rule.offset is not None
    if rule.in_dn and unit in {None, "dn"} and dtype != "uint8":
        return replace(found, unit="dn", offset=rule.offset_dn, source=source, known=known)
    if unit not in {None, "reflectance"}:
        as_they_are = f"--unit {unit} --scale 1 --offset 0"
        raise UserError(
            f"{where}: --unit {unit}, but {_sources(rules)} says {rule.words()}; "
            f"{_either('--unit reflectance', as_they_are)}"
        )
    return replace(found, unit="reflectance", scale=rule.scale, offset=rule.offset or 0.0, source=source, known=known)


def _holds_digital_numbers(dtype: str) -> bool:
    """Return whether values of this type can be the integers of a product: 16 bits, or more after a conversion."""
    return dtype.lstrip("u") in {"int16", "int32", "int64"}


def _rule(said: Statement, dtype: str, where: str) -> _Rule | None:
    """Return a statement about an optical band as a rule for reflectance; ``None`` if it says nothing of values."""
    scale, offset = said.scale, said.offset
    if scale is None and offset is None:
        return None
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise UserError(f"{where}: {said.source} says a scale of {scale:g}; pass --scale and --offset")
    if said.of_product or (scale is not None and scale <= _LARGEST_REFLECTANCE_SCALE):
        scale = scale or 1 / DN_PER_REFLECTANCE
    elif scale in {None, 1.0} and offset is not None and abs(offset) <= 1:  # in reflectance, of digital numbers
        if not offset or not _holds_digital_numbers(dtype):
            return None
        scale = 1 / DN_PER_REFLECTANCE
    elif said.unit == "reflectance":
        scale = scale or 1.0
    else:  # stored numbers become digital numbers
        scale, offset = (scale or 1.0) / DN_PER_REFLECTANCE, (offset or 0.0) / DN_PER_REFLECTANCE
    return _Rule(said.source, said.baseline, scale, offset, said.nominal)


def _sources(rules: Sequence[_Rule]) -> str:
    """Return sources in words, after the baseline that they name."""
    baselines = ", ".join(dict.fromkeys(rule.baseline for rule in rules if rule.baseline is not None))
    sources = ", ".join(dict.fromkeys(rule.source for rule in rules))
    return f"baseline {baselines}: {sources}" if baselines else sources


def _radar(
    found: BandReading, dtype: str, statements: Sequence[Statement], unit: Unit | None, where: str
) -> BandReading:
    """Return the reading of a radar band of which the user declared no more than the unit."""
    said_unit = next((said.unit for said in statements if said.unit in {"db", "linear"}), None)
    scaled = [said for said in statements if said.scale is not None or said.offset is not None]
    if not scaled:
        return (
            replace(found, unit=cast("Unit", said_unit)) if unit is None and said_unit and dtype != "uint8" else found
        )
    numbers = [(said, 1.0 if said.scale is None else said.scale, said.offset or 0.0) for said in scaled]
    first, scale, offset = numbers[0]
    for said, factor, shift in numbers:
        if not (math.isclose(scale, factor, rel_tol=_SAME) and math.isclose(offset, shift, rel_tol=_SAME)):
            ours, theirs = f"--scale {scale:g} --offset {offset:g}", f"--scale {factor:g} --offset {shift:g}"
            raise UserError(
                f"{where}: {first.source} says a scale of {scale:g} and an offset of {offset:g}, but {said.source} "
                f"says {factor:g} and {shift:g}; {_either(ours, theirs)}"
            )
    if not math.isfinite(scale) or scale == 0:
        raise UserError(f"{where}: {first.source} says a scale of {scale:g}; pass --scale and --offset")
    if unit is None:
        # numbers without a sign, scaled, cannot reach below 0 dB, where nearly all of the ground lies
        positive = dtype.startswith("uint") and scale > 0 and offset >= 0
        unit = cast("Unit", said_unit) if said_unit else ("linear" if positive else "db")
    shifted = f" {'-' if offset < 0 else '+'} {abs(offset):.6g}" if offset else ""
    sources = ", ".join(dict.fromkeys(said.source for said in scaled))
    return replace(
        found,
        unit=unit,
        scale=scale,
        offset=offset,
        source=f"{unit} = stored x {scale:.6g}{shifted} ({sources})",
        known=True,
    )
