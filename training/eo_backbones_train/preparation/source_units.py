"""What the user declares about a source: the unit of each band, and which bands to keep.

``--unit uint8`` speaks of every band that can be in that unit, ``--unit B04=reflectance`` of one; later ones win over
earlier ones, and the layout's own units (digital numbers, dB) hold for the rest. ``--unit B03=uint8:0:1`` also says
which native values the display values 0 and 255 stand for, here reflectance 0 and 1; without it the input contract's
range holds. ``--bands B03 VV`` keeps these bands, ``B03=2`` says that B03 is the second band of its file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from eo_backbones.bands import BANDS, band, band_names
from eo_backbones.contract import UNITS, Unit, unit_range
from eo_backbones.datasets.raster import split_request
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.inputs import UNITS_OF, check_values

_ENTRIES = {entry.band: entry for entry in unit_range(BANDS).bands}


@dataclass(frozen=True, slots=True)
class DeclaredUnits:
    """Units of a source: those of the layout, overridden by the user's.

    Attributes:
        declared: band -> unit.
        display: band in ``uint8`` -> native values that 0 and 255 stand for, where they were given.
    """

    declared: Mapping[str, str]
    display: Mapping[str, tuple[float, float]]

    def of(self, name: str) -> str:
        """Return the unit of a band; digital numbers or dB unless declared otherwise."""
        return self.declared.get(name, BANDS[name].unit)

    def described(self, name: str) -> str:
        """Return the unit of a band as ``--unit`` takes it."""
        return ":".join([self.of(name), *(f"{value:g}" for value in self.display.get(name, ()))])

    def problem(self, name: str, values: np.ndarray[Any, Any]) -> str | None:
        """Return why raw values of a band cannot be in its unit and what to type, or ``None``."""
        unit = self.of(name)
        if values.dtype == np.uint8 and unit != "uint8":
            return (
                f"band {name} has 8-bit values, which are display values or some unit of their own; declare it: "
                f"--unit uint8 (all bands), or --unit {name}=uint8"
            )
        if (values.dtype, unit) in {(np.dtype(np.uint16), "dn"), (np.dtype(np.uint8), "uint8")}:
            return None  # every value is possible, and looking at them is most of the work
        found = check_values(torch.from_numpy(values.astype(np.float32)), _ENTRIES[name], cast("Unit", unit))
        return None if found is None else re.sub(r"unit='(\w+)'", rf"--unit {name}=\1", found)


def parse_units(options: Sequence[str]) -> DeclaredUnits:
    """Read the values of ``--unit``.

    Raises:
        UserError: an unknown band or unit, one that the other cannot have, or a display range that is none.
    """
    declared: dict[str, str] = {}
    display: dict[str, tuple[float, float]] = {}
    for option in options:
        name, separator, text = option.rpartition("=")
        unit, colon, limits = text.strip().lower().partition(":")
        if unit not in UNITS:
            raise unknown_name("unit", unit, UNITS)
        wanted = [band(name).name] if separator else list(BANDS)
        possible = [one for one in wanted if unit in UNITS_OF[_ENTRIES[one].unit]]
        if not possible:
            allowed = ", ".join(UNITS_OF[_ENTRIES[wanted[0]].unit])
            raise UserError(f"--unit {option}: band {wanted[0]} cannot be in {unit}; its units are {allowed}")
        declared |= dict.fromkeys(possible, unit)
        for one in possible:
            display.pop(one, None)
        if colon:
            display[possible[0]] = _display_range(option, limits, one_band=bool(separator) and unit == "uint8")
    return DeclaredUnits(declared, display)


def _display_range(option: str, limits: str, *, one_band: bool) -> tuple[float, float]:
    """Read ``LOW:HIGH``."""
    try:
        low, high = map(float, limits.split(":"))
    except ValueError:
        low = high = 0.0
    if not (one_band and low < high):
        raise UserError(
            f"--unit {option}: a display range is written BAND=uint8:LOW:HIGH, the reflectance or dB that 0 and 255 "
            "stand for, e.g. B03=uint8:0:1"
        )
    return low, high


def parse_bands(options: Sequence[str]) -> dict[str, int | None]:
    """Read the values of ``--bands``: canonical name -> 1-based position in its file, or ``None`` for "find it".

    Raises:
        UserError: an unknown band, a band named twice, or a position that is no positive number.
    """
    requests = [split_request(option) for option in options]
    band_names(name for name, _ in requests)  # refuses a band that is named twice
    return dict(requests)
