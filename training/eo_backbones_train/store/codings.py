"""How raw pixel values become the codes of the store, and how codes become values again.

Every coding decodes as ``value = q0 + q1 * code + q2 * code ** 2`` in the band's native unit (reflectance, or dB), so
that the GPU needs three numbers per tile and no table. Where the coding is ours, code 0 means "missing"; 8-bit display
values are kept as they are, and their 0 is an ordinary value.

Errors of the 8-bit codings (measured, docs/decisions/0009): reflectance 0.0009 rms and at most 0.004, about the noise
of the sensor; dB at most 0.1, where speckle has a standard deviation of about 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from eo_backbones.bands import BANDS
from eo_backbones.contract import DN_PER_REFLECTANCE, OPTICAL_DISPLAY, RADAR_DISPLAY
from eo_backbones.errors import unknown_name

Array = np.ndarray[Any, Any]

DB_LOW, DB_HIGH = -40.0, 10.0  # range of the 8-bit coding
EXACT_DB_LOW = -100.0  # code 1 stands for -99.99 dB, so that 0 dB, a common value of SEN12MS-CR, is not code 0
_DB_STEP = (DB_HIGH - DB_LOW) / 254.0  # codes 1...255


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """One way of storing values as integers.

    Attributes:
        name: as in ``store.json``; ``"display:0:1"`` are display values whose 0 and 255 stand for 0 and 1.
        dtype: ``"uint8"`` or ``"uint16"``.
        q: ``(q0, q1, q2)`` in the native unit; for ``"display"`` in display values, whose range the contract knows.
        has_missing: code 0 means "missing".
    """

    name: str
    dtype: str
    q: tuple[float, float, float]
    has_missing: bool

    def coefficients(self, display: tuple[float, float]) -> tuple[float, float, float]:
        """Return ``(q0, q1, q2)`` in the native unit.

        Args:
            display: native values that the display values 0 and 255 stand for; used only by plain ``"display"``.
        """
        if self.name != "display":
            return self.q
        low, high = display
        return (low, (high - low) / 255.0, 0.0)

    def encode(self, values: Array, unit: str) -> Array:
        """Return the codes of raw values.

        Args:
            values: any shape; non-finite values count as missing.
            unit: unit of ``values``, one that the coding is for: dn or reflectance, db or linear, uint8.

        Returns:
            Array of the same shape and of ``dtype``. Values outside the coding's range take its nearest code.
        """
        if self.name.startswith("display"):
            return np.nan_to_num(values).astype(np.uint8)
        if self.name == "sqrt-reflectance" and unit == "dn" and values.dtype == np.uint16:
            codes: Array = np.take(_sqrt_table(), values, mode="clip")  # "raise" would copy the input first
            return codes
        native = _native(values, unit)
        with np.errstate(invalid="ignore"):
            if self.name == "sqrt-reflectance":
                scaled = np.sqrt(np.clip(native, 0.0, 1.0)) * np.float32(255.0)
            elif self.name == "linear-db":
                scaled = np.clip((native - np.float32(DB_LOW)) / np.float32(_DB_STEP) + np.float32(1.0), 1.0, 255.0)
            elif self.name == "exact-dn":
                scaled = np.clip(native * np.float32(DN_PER_REFLECTANCE), 0.0, 65535.0)
            else:
                scaled = np.clip((native - np.float32(EXACT_DB_LOW)) * np.float32(100.0), 1.0, 65535.0)
            scaled = np.where(np.isfinite(native), np.rint(scaled), np.float32(0.0))
        return scaled.astype(self.dtype)

    def decode(self, codes: Array, display: tuple[float, float]) -> Array:
        """Return float32 values in the native unit, NaN where missing."""
        q0, q1, q2 = self.coefficients(display)
        exact = codes.astype(np.float64)
        values = (q0 + q1 * exact + q2 * exact**2).astype(np.float32)
        if self.has_missing:
            values[codes == 0] = np.nan
        return values


def _native(values: Array, unit: str) -> Array:
    """Raw values as float32 in the native unit; missing ones become non-finite."""
    native = values.astype(np.float32)
    if unit == "dn":
        return native / np.float32(DN_PER_REFLECTANCE)
    if unit == "linear":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.float32(10.0) * np.log10(native)
    return native


@cache
def _sqrt_table() -> Array:
    """Codes of all 65,536 digital numbers: 40 times faster than a square root per pixel."""
    reflectance = np.arange(65536) / DN_PER_REFLECTANCE
    return np.rint(255.0 * np.sqrt(np.minimum(reflectance, 1.0))).astype(np.uint8)


CODINGS: Mapping[str, Coding] = MappingProxyType(
    {
        coding.name: coding
        for coding in (
            Coding(name="sqrt-reflectance", dtype="uint8", q=(0.0, 0.0, 1.0 / 255.0**2), has_missing=True),
            Coding(name="linear-db", dtype="uint8", q=(DB_LOW - _DB_STEP, _DB_STEP, 0.0), has_missing=True),
            Coding(name="display", dtype="uint8", q=(0.0, 1.0, 0.0), has_missing=False),
            Coding(name="exact-dn", dtype="uint16", q=(0.0, 1.0 / DN_PER_REFLECTANCE, 0.0), has_missing=True),
            Coding(name="exact-centidb", dtype="uint16", q=(EXACT_DB_LOW, 0.01, 0.0), has_missing=True),
        )
    }
)
"""Name in ``store.json`` -> coding."""


def coding(name: str) -> Coding:
    """Return the coding of a name.

    Raises:
        UserError: the name is unknown.
    """
    if name.startswith("display:"):
        low, high = map(float, name.split(":")[1:])
        return display_coding((low, high))
    if name not in CODINGS:
        raise unknown_name("coding", name, CODINGS)
    return CODINGS[name]


def display_coding(display: tuple[float, float] | None) -> Coding:
    """Return the coding of 8-bit display values.

    Args:
        display: native values that 0 and 255 stand for; ``None``: as the input contract of each band says.
    """
    if display is None:
        return CODINGS["display"]
    low, high = display
    return Coding(
        name=f"display:{low:g}:{high:g}", dtype="uint8", q=(low, (high - low) / 255.0, 0.0), has_missing=False
    )


def coding_of(band: str, unit: str, *, exact: bool, display: tuple[float, float] | None = None) -> Coding:
    """Return the coding for a band whose raw values are in ``unit``.

    Args:
        band: canonical name.
        unit: of the raw values.
        exact: keep 16 bits instead of 8.
        display: for ``uint8``, the native values that 0 and 255 stand for, where they are known.
    """
    if unit == "uint8":
        return display_coding(display)
    if BANDS[band].sensor == "s2":
        return CODINGS["exact-dn" if exact else "sqrt-reflectance"]
    return CODINGS["exact-centidb" if exact else "linear-db"]


def default_display(band: str) -> tuple[float, float]:
    """Return the native values that display values 0 and 255 of a band stand for, where no contract says otherwise."""
    return OPTICAL_DISPLAY if BANDS[band].sensor == "s2" else RADAR_DISPLAY
