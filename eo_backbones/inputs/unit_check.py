"""Whether the values of an image can be in the unit that was declared for them."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from eo_backbones.contract import BandInput, Unit
from eo_backbones.errors import UserError

# Extreme values that are still plausible in each unit; values beyond them must be in another unit.
HIGHEST_REFLECTANCE = 5.0  # sun glint and snow on slopes reach 2 to 3 (EuroSAT holds digital numbers up to 28,000)
LOWEST_REFLECTANCE = -0.2  # atmospheric correction overshoots a little below zero over water
HIGHEST_DN = 65_535
LOWEST_DN = -1000.0  # products of baseline 04.00 from which the offset was already removed
DB_RANGE = (-100.0, 50.0)
HIGHEST_LINEAR = 1000.0  # +30 dB; amplitude digital numbers of uncalibrated products are far above


class UnitError(UserError):
    """The values cannot be in the unit that was declared for them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with the values of one band of one image.

    Attributes:
        message: one line: what the values look like, and what to pass instead, as Python spells it.
        certain: the values cannot be right, and are refused; else they may be, and a warning is enough.
    """

    message: str
    certain: bool


def as_options(message: str, *bands: str) -> str:
    """Return a message of :class:`Finding` as the command line spells it: ``unit='db'`` becomes ``--unit db``.

    Args:
        message: with arguments of :func:`eo_backbones.create_transform` in it.
        bands: name them in every option (``--unit VV=db``), where a file holds bands that take different values.
    """

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        return " ".join(f"--{name} {f'{band}={value}' if band else value}" for band in bands or ("",))

    return re.sub(r"\b(unit|scale|offset|nodata)='?([\w.+-]*\w)'?", option, message)


def check_values(values: Tensor, entry: BandInput, unit: Unit, *, eight_bit: bool = False) -> Finding | None:
    """Return what is wrong with the values of one band of one image for their declared unit, or ``None``.

    Args:
        values: of any shape and dtype, after scale and offset; non-finite ones count as missing.
        entry: the band's contract.
        unit: declared unit.
        eight_bit: the values were stored as 8 bits and not scaled; ``values`` of type uint8 are, whatever is passed.
    """
    finite = values.to(torch.float32)
    finite = finite[torch.isfinite(finite)]
    if finite.numel() == 0:
        return Finding(f"band {entry.band} has no finite value; mask the image or leave it out", certain=True)
    low, high = (float(bound) for bound in torch.aminmax(finite))
    fractional = bool((finite != finite.round()).any())
    problem = _problem(unit, low, high, fractional=fractional, eight_bit=eight_bit or values.dtype == torch.uint8)
    if problem:
        return Finding(f"band {entry.band}: values {low:g} to {high:g} {problem}", certain=True)
    if not low and not high:
        return Finding(f"band {entry.band} holds only zeros; is it missing from the file?", certain=False)
    return None


def check_batch(values: Tensor, entry: BandInput, unit: Unit, *, eight_bit: bool = False) -> Finding | None:
    """Return the first certain finding of a batch, else the first one, else ``None``.

    Args:
        values: ``(B, H, W)`` of any dtype, after scale and offset; non-finite ones count as missing.
        entry: the band's contract.
        unit: declared unit.
        eight_bit: as for :func:`check_values`.
    """
    findings = [found for image in values if (found := check_values(image, entry, unit, eight_bit=eight_bit))]
    return next((finding for finding in findings if finding.certain), findings[0] if findings else None)


def _problem(unit: Unit, low: float, high: float, *, fractional: bool, eight_bit: bool) -> str | None:
    """Return the second half of the message for values in ``[low, high]``, or ``None`` if they fit the unit."""
    if eight_bit and unit != "uint8":
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
