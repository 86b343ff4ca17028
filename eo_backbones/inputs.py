"""Raw pixels to model input, with the unit checked: the input contract as a module.

Half of the wrong results in this field come from feeding values in another unit than the weights were trained on
(reflectance for digital numbers, linear backscatter for dB). So a transform is told the unit of its caller's values,
refuses values that cannot be in it, and says what to pass instead. The check looks at values, therefore it is skipped
while the module is compiled or exported; the model's own ``forward`` never checks.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from eo_backbones.bands import BANDS, band_names
from eo_backbones.contract import DN_PER_REFLECTANCE, BandInput, InputSpec, NativeUnit, Normalization, Unit
from eo_backbones.errors import UserError

Check = Literal["error", "warn", "off"]

UNITS_OF: dict[NativeUnit, tuple[Unit, ...]] = {
    "reflectance": ("dn", "reflectance", "uint8"),
    "db": ("db", "linear", "uint8"),
}
"""Units that each native unit can be computed from."""

# Extreme values that are still plausible in each unit; values beyond them must be in another unit.
HIGHEST_REFLECTANCE = 5.0  # sun glint and snow on slopes reach 2 to 3 (EuroSAT holds digital numbers up to 28,000)
LOWEST_REFLECTANCE = -0.2  # atmospheric correction overshoots a little below zero over water
HIGHEST_DN = 65_535
LOWEST_DN = -1000.0  # products of baseline 04.00 from which the offset was already removed
DB_RANGE = (-100.0, 50.0)
HIGHEST_LINEAR = 1000.0  # +30 dB; amplitude digital numbers of uncalibrated products are far above
TINY = 1e-6


class UnitError(UserError):
    """The values cannot be in the unit that was declared for them."""


def refuse_other_channels(images: Tensor, bands: Sequence[str]) -> None:
    """Check that a network which knows its bands gets ``(B, C, H, W)`` with one channel a band.

    Raises:
        UserError: another number of channels or dimensions.
    """
    if images.ndim != 4 or images.shape[1] != len(bands):
        raise UserError(
            f"input of shape {tuple(images.shape)} for {len(bands)} band(s) ({', '.join(bands)}); pass (B, C, H, W) "
            "with one channel per band"
        )


def check_values(values: Tensor, entry: BandInput, unit: Unit) -> str | None:
    """Return what is wrong with raw values of one band for their declared unit, or ``None``.

    Args:
        values: raw values of any shape and dtype; non-finite ones count as missing.
        entry: the band's contract.
        unit: declared unit.

    Returns:
        One line that says what the values look like and what to pass instead.
    """
    finite = values.to(torch.float32)
    finite = finite[torch.isfinite(finite)]
    if finite.numel() == 0:
        return f"band {entry.band} has no finite value; mask the image or leave it out"
    low, high = (float(bound) for bound in torch.aminmax(finite))
    fractional = bool((finite != finite.round()).any())
    problem = _problem(unit, low, high, fractional=fractional, is_uint8=values.dtype == torch.uint8)
    return f"band {entry.band}: values {low:g} to {high:g} {problem}" if problem else None


def _problem(unit: Unit, low: float, high: float, *, fractional: bool, is_uint8: bool) -> str | None:
    """Return the second half of the message for values in ``[low, high]``, or ``None`` if they fit the unit."""
    if is_uint8 and unit != "uint8":
        return f"of type uint8 are display values, which is not unit={unit!r}; pass unit='uint8'"
    rules: dict[Unit, tuple[tuple[bool, str], ...]] = {
        "dn": (
            (
                fractional and low >= LOWEST_REFLECTANCE and high <= HIGHEST_REFLECTANCE,
                "are fractions, not digital numbers (reflectance x 10000); pass unit='reflectance'",
            ),
            (low < LOWEST_DN, "are too low for digital numbers; set missing values to NaN"),
            (high > HIGHEST_DN, f"exceed {HIGHEST_DN}, the largest digital number; check the file's scale"),
        ),
        "reflectance": (
            (
                high > HIGHEST_REFLECTANCE,
                "cannot be reflectance (0 to 1); pass unit='dn' for reflectance x 10000, 'uint8' for display values",
            ),
            (low < LOWEST_REFLECTANCE, "are too low for reflectance; set missing values to NaN"),
        ),
        "db": (
            (low >= 0 and high > 0, "hold nothing below 0 dB; pass unit='linear' for linear backscatter"),
            (
                low < DB_RANGE[0] or high > DB_RANGE[1],
                f"exceed {DB_RANGE[0]:g} to {DB_RANGE[1]:g} dB; calibrate to sigma nought, set missing values to NaN",
            ),
        ),
        "linear": (
            (low < 0, "include negative ones, which linear backscatter never has; pass unit='db'"),
            (high > HIGHEST_LINEAR, "are too large for linear backscatter; calibrate digital numbers to sigma nought"),
        ),
        "uint8": (
            (high > 255, "exceed 255; pass unit='dn' for digital numbers"),
            (low < 0, "include negative ones, which display values never have; pass unit='db' for dB"),
            (fractional and high <= 1, "were scaled to 0...1; multiply by 255, or pass the unit they really have"),
        ),
    }
    return next((message for broken, message in rules[unit] if broken), None)


def to_native(
    values: Tensor, entry: BandInput, unit: Unit, *, offset: float = 0.0, display: tuple[float, float] | None = None
) -> Tensor:
    """Convert raw values of one band to its native unit (reflectance, or dB), as float32.

    Args:
        values: any shape and dtype.
        entry: the band's contract.
        unit: unit of ``values``.
        offset: added to digital numbers before they are scaled (-1000 for processing baseline 04.00 and later).
        display: native values that the display values 0 and 255 stand for; default: the contract's.
    """
    values = values.to(torch.float32)
    if unit == "dn":
        return (values + offset) / DN_PER_REFLECTANCE
    if unit == "linear":
        return 10.0 * torch.log10(values)  # 0 becomes -inf, which is missing
    if unit == "uint8":
        low, high = display or entry.display
        return low + values * ((high - low) / 255.0)
    return values


class InputTransform(nn.Module):
    """Convert raw values of given bands in a given unit to the values that the model was trained on.

    Missing values (NaN, or linear backscatter of 0) are set to the lower end of the band's clip range.

    Args:
        spec: the model's contract.
        band: name or alias of the band, or several for an input of several channels, in channel order.
        unit: unit of the raw values, one for all or one per band: ``"dn"`` (reflectance x 10000), ``"reflectance"``,
            ``"db"``, ``"linear"`` (backscatter) or ``"uint8"`` (display value).
        offset: added to digital numbers; pass -1000 for Sentinel-2 products of processing baseline 04.00 (January 2022)
            and later, unless your provider has removed the offset already.
        display: native values that display values 0 and 255 stand for; default: the contract's (0 to 0.275 reflectance
            as in EuroSAT RGB; -25 to 0 dB).
        check: what to do with values that cannot be in the unit: ``"error"``, ``"warn"``, or ``"off"``.

    Raises:
        UserError: unknown band or unit, a unit that the band cannot have, an option that has no effect.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        band: str | Sequence[str],
        unit: Unit | Sequence[Unit],
        offset: float = 0.0,
        display: tuple[float, float] | None = None,
        check: Check = "error",
    ) -> None:
        super().__init__()
        names = band_names([band] if isinstance(band, str) else band)
        units = [unit] * len(names) if isinstance(unit, str) else list(unit)
        if len(units) != len(names):
            raise UserError(f"{len(units)} units for {len(names)} bands; pass one unit for all, or one per band")
        if check not in get_args(Check):
            raise UserError(f"check={check!r} is unknown; pass one of {', '.join(get_args(Check))}")
        self.entries = tuple(spec.for_band(name) for name in names)
        for entry, declared in zip(self.entries, units, strict=True):
            if declared not in UNITS_OF[entry.unit]:
                allowed = ", ".join(UNITS_OF[entry.unit])
                raise UserError(f"band {entry.band} cannot be in unit {declared!r}; pass one of {allowed}")
        if offset and "dn" not in units:
            raise UserError(f"offset={offset:g} applies to digital numbers only; leave it out, or pass unit='dn'")
        if display and "uint8" not in units:
            raise UserError("display applies to 8-bit display values only; leave it out, or pass unit='uint8'")
        self.units: tuple[Unit, ...] = tuple(units)
        self.normalization: Normalization = spec.normalization
        self.offset = float(offset)
        self.display = display
        self.check: Check = check

    def forward(self, values: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Check, convert, clip and normalise.

        Args:
            values: ``(H, W)`` for one band, ``(C, H, W)`` or ``(B, C, H, W)`` with one channel per band; any dtype.

        Returns:
            float32 of shape ``(C, H, W)`` or ``(B, C, H, W)``.

        Raises:
            UnitError: the values cannot be in the declared unit (unless ``check`` is ``"warn"`` or ``"off"``).
            UserError: the number of channels differs from the number of bands.
        """
        x = torch.as_tensor(values)
        if x.ndim == 2:
            x = x[None]
        if x.ndim not in {3, 4} or x.shape[-3] != len(self.entries):
            expected = ", ".join(entry.band for entry in self.entries)
            raise UserError(
                f"input of shape {tuple(x.shape)} for {len(self.entries)} band(s) ({expected}); "
                "pass (H, W) for one band, (C, H, W) or (B, C, H, W) with one channel per band"
            )
        if self.check != "off" and not (torch.compiler.is_compiling() or torch.compiler.is_exporting()):
            self._check(x)
        return torch.stack([self._channel(x.select(-3, index), index) for index in range(len(self.entries))], dim=-3)

    def _channel(self, x: Tensor, index: int) -> Tensor:
        entry = self.entries[index]
        unit = self.units[index]
        native = to_native(x, entry, unit, offset=self.offset, display=self.display)
        low, high = entry.clip
        native = torch.nan_to_num(native, nan=low, posinf=high, neginf=low).clamp(low, high)
        if self.normalization == "image":
            mean = native.mean(dim=(-2, -1), keepdim=True)
            deviation = native.std(dim=(-2, -1), correction=0, keepdim=True)
            return (native - mean) / deviation.clamp_min(TINY)
        return (native - entry.mean) / entry.std

    def _check(self, x: Tensor) -> None:
        for index, (entry, unit) in enumerate(zip(self.entries, self.units, strict=True)):
            channel = x.select(-3, index)
            problem = check_values(channel, entry, unit)
            if problem and self.check == "error":
                raise UnitError(f"{problem} (check='warn' continues anyway)")
            if problem is None and not channel.any():
                problem = f"band {entry.band} holds only zeros; is it missing from the file?"
            if problem:
                warnings.warn(problem, UserWarning, stacklevel=3)

    def extra_repr(self) -> str:
        """Show bands, units and sampling distance when the module is printed."""
        bands = ", ".join(
            f"{entry.band} [{unit}, {BANDS[entry.band].gsd_m} m]"
            for entry, unit in zip(self.entries, self.units, strict=True)
        )
        return f"{bands}, normalization={self.normalization}, offset={self.offset:g}, check={self.check}"
