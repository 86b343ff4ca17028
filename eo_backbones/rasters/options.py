"""``--unit``, ``--scale``, ``--offset`` and ``--nodata`` as typed, before it is known which bands are in use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eo_backbones.bands import BANDS, band
from eo_backbones.errors import UserError
from eo_backbones.rasters.scaling import DeclaredReading, parse_reading

Numbers = float | str | Sequence[str | float] | None
"""A number for all bands, or several values as typed: numbers and ``BAND=NUMBER``; ``None``: not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """What the user says about stored values: ``value = stored * scale + offset``, in the unit.

    Attributes:
        units: one for all bands, one per band, or ``BAND=UNIT``.
        scale, offset: one for all bands, or ``BAND=NUMBER``; they win over what the files say. Where optical and radar
            bands stand together, a number for all is one for all optical bands.
        nodata: stored value that means "missing", likewise; besides what the files declare.
    """

    units: tuple[str, ...] = ()
    scale: tuple[str | float, ...] = ()
    offset: tuple[str | float, ...] = ()
    nodata: tuple[str | float, ...] = ()

    @classmethod
    def of(
        cls, units: Sequence[str] = (), *, scale: Numbers = None, offset: Numbers = None, nodata: Numbers = None
    ) -> "ReadingOptions":
        """Return the options, each also as a single number."""
        return cls(units=tuple(units), scale=_several(scale), offset=_several(offset), nodata=_several(nodata))

    def for_bands(self, bands: Sequence[str]) -> DeclaredReading:
        """Return what they say about each band.

        Raises:
            UserError: as :func:`eo_backbones.rasters.scaling.parse_reading`.
        """
        scale, offset = (_of_one_sensor(numbers, bands) for numbers in (self.scale, self.offset))
        return parse_reading(self.units, scale, offset, self.nodata, bands)

    def words(self) -> list[str]:
        """Return them as words of a command line; none for those that are not given."""
        given = {"--unit": self.units, "--scale": self.scale, "--offset": self.offset, "--nodata": self.nodata}
        return [
            word
            for option, values in given.items()
            if values
            for word in (option, *(value if isinstance(value, str) else f"{value:g}" for value in values))
        ]


AS_FILES_SAY = ReadingOptions()
"""Nothing is declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReading:
    """How the images of a fine-tuning were read: what the user declared, kept for the images to predict.

    Attributes:
        positions: band -> its position in every file, counted from 1, where it was given.
        declared: unit, scale, offset and nodata of bands, where they were given.
    """

    positions: Mapping[str, int]
    declared: DeclaredReading

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without what was not given."""
        kept = {
            "positions": self.positions,
            "units": self.declared.units,
            "scale": self.declared.scales,
            "offset": self.declared.offsets,
            "nodata": self.declared.nodata,
        }
        return {name: dict(by_band) for name, by_band in kept.items() if by_band}

    @classmethod
    def from_dict(cls, data: Any) -> "KeptReading":
        """Read the JSON form back.

        Raises:
            UserError: it is damaged.
        """
        try:
            positions = {band(name).name: int(position) for name, position in data.get("positions", {}).items()}
            numbers = {
                option: [f"{name}={float(value)!r}" for name, value in data.get(option, {}).items()]
                for option in ("scale", "offset", "nodata")
            }
            units = [f"{name}={unit}" for name, unit in data.get("units", {}).items()]
            named = {band(name).name for by_band in data.values() for name in by_band}
            declared = parse_reading(units, numbers["scale"], numbers["offset"], numbers["nodata"], sorted(named))
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"'reading' in config.json is damaged ({error}); fine-tune the folder again") from error
        return cls(positions=positions, declared=declared)

    def under(self, typed: DeclaredReading) -> DeclaredReading:
        """Return what holds where the user says something again: a band's unit, scale and offset belong together."""
        anew = typed.units.keys() | typed.scales.keys() | typed.offsets.keys()
        kept = self.declared
        kept = kept.narrowed({*kept.units, *kept.scales, *kept.offsets} - anew)
        return DeclaredReading(
            units={**kept.units, **typed.units},
            scales={**kept.scales, **typed.scales},
            offsets={**kept.offsets, **typed.offsets},
            nodata={**self.declared.nodata, **typed.nodata},
        )


def _of_one_sensor(numbers: Sequence[str | float], bands: Sequence[str]) -> list[str | float]:
    """Return numbers with one for all bands given to each optical band, where radar bands stand beside them."""
    optical = [name for name in bands if BANDS[name].sensor == "s2"]
    if len(optical) in {0, len(bands)}:
        return list(numbers)
    spread: list[str | float] = []
    for number in numbers:
        named = [other.partition("=")[0].strip() for other in numbers if isinstance(other, str) and "=" in other]
        own = {band(name).name for name in named}
        plain = not isinstance(number, str) or "=" not in number
        spread += [f"{name}={number}" for name in optical if name not in own] if plain else [number]
    return spread


def _several(numbers: Numbers) -> tuple[str | float, ...]:
    if numbers is None:
        return ()
    return (numbers,) if isinstance(numbers, str | float | int) else tuple(numbers)
