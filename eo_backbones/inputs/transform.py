"""Raw pixels to model input, with the unit checked: the input contract as a module.

Half of the wrong results in this field come from feeding values in another unit than the weights were trained on
(reflectance for digital numbers, linear backscatter for dB). So a transform is told the unit of its caller's values,
refuses values that cannot be in it, and says what to pass instead. The check looks at values, therefore it is skipped
while the module is compiled or exported; the model's own ``forward`` never checks.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from eo_backbones.bands import BANDS, band_names
from eo_backbones.contract import DN_PER_REFLECTANCE, BandInput, InputSpec, NativeUnit, Normalization, Unit
from eo_backbones.errors import UserError
from eo_backbones.inputs.offset_check import blocks, dark_end, offset_finding
from eo_backbones.inputs.unit_check import Finding, UnitError, check_batch

Check = Literal["error", "warn", "off"]
"""What happens to values that cannot be in the declared unit: refused, used with a warning, or not looked at."""
PerBand = float | Sequence[float]
"""One number for all bands, or one per band."""
Display = tuple[float, float] | Sequence[tuple[float, float]]
"""Native values that the 8-bit values 0 and 255 of one band stand for, or such a pair for each band in 8 bits."""

UNITS_OF: dict[NativeUnit, tuple[Unit, ...]] = {
    "reflectance": ("dn", "reflectance", "uint8"),
    "db": ("db", "linear", "uint8"),
}
"""Units that each native unit can be computed from."""

TINY = 1e-6
"""Smallest standard deviation that values are divided by."""
_JUDGED_IMAGES = 64  # of a batch, by their darkest pixels; more are not surer and cost time
_JUDGED_PX, _JUDGED_PX_EACH = 1 << 17, 1024  # of each band: of all these images, and of one at least
# An offset moves values within the range of their unit; -1000 for reflectance is one for digital numbers.
_LARGEST_OFFSET: dict[Unit, float] = {"dn": 65_535.0, "reflectance": 5.0, "db": 200.0, "linear": 1000.0, "uint8": 255.0}


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


def to_native(values: Tensor, entry: BandInput, unit: Unit, *, display: tuple[float, float] | None = None) -> Tensor:
    """Convert values of one band to its native unit (reflectance, or dB), as float32.

    Args:
        values: any shape and dtype, after scale and offset.
        entry: the band's contract.
        unit: unit of ``values``.
        display: native values that the display values 0 and 255 stand for; default: the contract's.
    """
    values = values.to(torch.float32)
    if unit == "dn":
        return values / DN_PER_REFLECTANCE
    if unit == "linear":
        return 10.0 * torch.log10(values)  # 0 becomes -inf, which is missing
    if unit == "uint8":
        low, high = display or entry.display
        return low + values * ((high - low) / 255.0)
    return values


class InputTransform(nn.Module):
    """Convert raw values of given bands in a given unit to the values that the model was trained on.

    A stored value means ``stored * scale + offset`` in its unit, as in GDAL; where the stored value equals ``nodata``,
    or is NaN, infinite, or linear backscatter of 0 or less, it is missing. A missing pixel becomes the mean of the
    valid pixels of its image and band; if none is valid, the contract's mean (docs/decisions/0016).

    Args:
        spec: the model's contract.
        band: name or alias of the band, or several for an input of several channels, in channel order.
        unit: unit of the raw values, one for all or one per band: ``"dn"`` (reflectance x 10000), ``"reflectance"``,
            ``"db"``, ``"linear"`` (backscatter) or ``"uint8"`` (display value).
        offset: added to the scaled values, one number for all bands or one per band. Pass -1000 for Sentinel-2
            digital numbers of processing baseline 04.00 (January 2022) and later, unless your provider has removed the
            offset already; one number for digital numbers beside bands in other units goes to the digital numbers.
            ``None`` is 0, unless the darkest pixels of digital numbers look as if they carried +1000: of 8 images and
            more that is refused, of fewer it is a warning or cannot be told. 0 says that they do not.
        scale: the stored values are multiplied by it, one number for all bands or one per band.
        nodata: stored value that means "missing", one for all bands or one per band (``None``: none).
        display: native values that display values 0 and 255 stand for, a pair for the band in 8 bits, or one for each
            of several, in order; default: the contract's (0 to 0.275 reflectance as in EuroSAT RGB; -25 to 0 dB).
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
        offset: PerBand | None = None,
        scale: PerBand = 1.0,
        nodata: float | Sequence[float | None] | None = None,
        display: Display | None = None,
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
        self.units: tuple[Unit, ...] = tuple(units)
        self.normalization: Normalization = spec.normalization
        self.offsets = _offsets(0.0 if offset is None else offset, self.units)
        self._offset_unstated = offset is None
        self.scales = _scales(scale, self.units)
        self.nodata = _nodata(nodata, len(names))
        self.display = _display(display, self.units)
        self.check: Check = check

    def forward(self, values: Any) -> Tensor:
        """Check, convert, clip and normalise.

        Args:
            values: tensor, array of NumPy (masked pixels are missing), or what NumPy makes an array of, such as an
                ``xarray.DataArray`` or lists: ``(H, W)`` for one band, ``(C, H, W)`` or ``(B, C, H, W)`` with one
                channel per band; integers or floats of any size.

        Returns:
            float32 of shape ``(C, H, W)`` or ``(B, C, H, W)``.

        Raises:
            UnitError: the values cannot be in the declared unit (unless ``check`` is ``"warn"`` or ``"off"``).
            UserError: the number of channels differs from the number of bands, or values that are no real numbers.
        """
        x = _tensor(values)
        if x.ndim == 2:
            x = x[None]
        if x.ndim not in {3, 4} or x.shape[-3] != len(self.entries):
            expected = ", ".join(entry.band for entry in self.entries)
            raise UserError(
                f"input of shape {tuple(x.shape)} for {len(self.entries)} band(s) ({expected}); "
                "pass (H, W) for one band, (C, H, W) or (B, C, H, W) with one channel per band"
            )
        channels = self.in_units(x)
        if self.check != "off" and not (torch.compiler.is_compiling() or torch.compiler.is_exporting()):
            for index, channel in enumerate(channels):
                self._check(channel, index, x.dtype)
            if self._offset_unstated:
                self._check_offset(channels)
        return torch.stack([self._channel(channel, index) for index, channel in enumerate(channels)], dim=-3)

    def in_units(self, stored: Tensor) -> list[Tensor]:
        """Return stored values ``(..., C, H, W)`` in the declared units, ``(..., H, W)`` a band, NaN where missing."""
        return [self._in_unit(stored.select(-3, index), index) for index in range(len(self.entries))]

    def _in_unit(self, stored: Tensor, index: int) -> Tensor:
        """Return stored values in the declared unit, missing ones as NaN; the same tensor if nothing is to be done."""
        scale, offset, nodata = self.scales[index], self.offsets[index], self.nodata[index]
        values = stored
        if scale != 1:
            values = values.to(torch.float32) * scale
        if offset:
            values = values.to(torch.float32) + offset
        if nodata is not None and _representable(nodata, stored.dtype):
            values = torch.where(stored == nodata, torch.nan, values.to(torch.float32))
        return values

    def _channel(self, values: Tensor, index: int) -> Tensor:
        entry = self.entries[index]
        native = to_native(values, entry, self.units[index], display=self.display[index])
        missing = ~native.isfinite()
        native = native.clamp(*entry.clip)
        spread: Tensor | float = 1.0
        # What is compiled or exported cannot branch on values; of a complete image, filling changes no bit.
        if torch.compiler.is_compiling() or torch.compiler.is_exporting() or missing.any():
            native, valid_share = _filled(native, missing, entry.mean)
            spread = valid_share.rsqrt()
        if self.normalization == "image":
            mean = native.mean(dim=(-2, -1), keepdim=True)
            deviation = native.std(dim=(-2, -1), correction=0, keepdim=True) * spread
            return (native - mean) / deviation.clamp_min(TINY)
        return (native - entry.mean) / entry.std

    def _check(self, values: Tensor, index: int, stored: torch.dtype) -> None:
        entry, unit = self.entries[index], self.units[index]
        scale, offset = self.scales[index], self.offsets[index]
        images = values if values.ndim == 3 else values[None]
        eight_bit = stored == torch.uint8 and (scale, offset) == (1.0, 0.0)
        self._report(check_batch(images, entry, unit, eight_bit=eight_bit, scale=scale, offset=offset))

    def _check_offset(self, channels: Sequence[Tensor]) -> None:
        """Look for +1000 in digital numbers of some images, since the caller has not said whether they carry it."""
        judged = [index for index, unit in enumerate(self.units) if unit == "dn" and self.scales[index] == 1]
        if not judged:
            return
        chosen = [channels[index] if channels[index].ndim == 3 else channels[index][None] for index in judged]
        step = max(-(-len(chosen[0]) // _JUDGED_IMAGES), 1)
        some = torch.stack([images[::step] for images in chosen], dim=1).detach().cpu().numpy()
        parts = list(islice((block for image in some for block in blocks(image)), _JUDGED_IMAGES))
        pixels = max(_JUDGED_PX // max(len(parts), 1), _JUDGED_PX_EACH)
        ends = []
        for block in parts:
            thin = block[:, :: max(block.shape[1] // pixels, 1)]
            present = ((index, row[np.isfinite(row) & (row != 0)]) for index, row in zip(judged, thin, strict=True))
            looks = (dark_end(values, self.entries[index].band) for index, values in present)
            ends.append([end for end in looks if end is not None])
        self._report(offset_finding(ends))

    def _report(self, finding: Finding | None) -> None:
        if finding is None:
            return
        if finding.certain and self.check == "error":
            raise UnitError(f"{finding.message} (check='warn' continues anyway)")
        warnings.warn(finding.message, UserWarning, stacklevel=4)

    def extra_repr(self) -> str:
        """Show bands, units and sampling distance when the module is printed."""
        bands = ", ".join(
            f"{entry.band} [{unit}, {BANDS[entry.band].gsd_m} m]"
            for entry, unit in zip(self.entries, self.units, strict=True)
        )
        numbers = [
            f"{name}={', '.join(f'{value:g}' for value in values)}"
            for name, values, neutral in (("scale", self.scales, 1.0), ("offset", self.offsets, 0.0))
            if set(values) != {neutral}
        ]
        if any(value is not None for value in self.nodata):
            numbers.append(f"nodata={', '.join('none' if value is None else f'{value:g}' for value in self.nodata)}")
        return ", ".join([bands, f"normalization={self.normalization}", *numbers, f"check={self.check}"])


def _filled(native: Tensor, missing: Tensor, otherwise: float) -> tuple[Tensor, Tensor]:
    """Set missing pixels to the mean of the valid ones of their image (docs/decisions/0016).

    Args:
        native: ``(..., H, W)``.
        missing: where ``native`` has no value.
        otherwise: value of an image without a valid pixel.

    Returns:
        Filled values, and the share of valid pixels ``(..., 1, 1)``, at least that of one pixel.
    """
    valid = torch.where(missing, 0.0, native)
    pixels = native.shape[-2] * native.shape[-1]
    count = (~missing).sum(dim=(-2, -1), keepdim=True)
    mean = valid.sum(dim=(-2, -1), keepdim=True) / count.clamp_min(1)
    mean = torch.where(count > 0, mean, otherwise)
    return torch.where(missing, mean, native), count.clamp_min(1) / pixels


def _tensor(values: Any) -> Tensor:
    """Return values of any kind as a tensor of a type that torch can compute with; masked ones as NaN.

    Raises:
        UserError: complex numbers, truth values, or what is no array of numbers.
    """
    x = values if isinstance(values, Tensor) else _from_array(values)
    if x.is_complex():
        raise UserError("complex values are no backscatter; calibrate them to sigma nought and pass it in dB")
    if x.dtype == torch.bool:
        raise UserError("true and false are no values of a band; pass the pixels, and mask missing ones with NaN")
    wider = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.float64}
    return x.to(wider[x.dtype]) if x.dtype in wider else x  # torch computes little with these


def _from_array(values: Any) -> Tensor:
    try:
        masked = values if isinstance(values, np.ma.MaskedArray) else None
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{type(values).__name__} is no array of numbers ({error}); pass an array or a tensor"
        ) from error
    if array.dtype.kind not in "buifc":
        raise UserError(
            f"{type(values).__name__} of type {array.dtype} holds no numbers; pass integers or floats of one shape"
        )
    if masked is not None and masked.mask is not np.ma.nomask and array.dtype.kind in "uif":
        kind = np.result_type(array.dtype, np.float32)
        array = np.where(np.ma.getmaskarray(masked), kind.type(np.nan), array.astype(kind))
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        array = array.astype(np.float64)
    # torch takes neither the bytes of other machines, nor views that run backwards, nor memory that must stay as it is
    usable = array.dtype.isnative and array.flags.writeable and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if usable else array.astype(array.dtype.newbyteorder("="), order="C", copy=True))


def _is_one(given: object) -> bool:
    """Whether it stands for all bands; text is one wrong number, not a list of letters."""
    return given is None or isinstance(given, float | int | str | np.generic)


def _is_number(given: object) -> bool:
    return isinstance(given, float | int | np.integer | np.floating) and not isinstance(given, bool)


def _each(option: str, given: Any, bands: int) -> list[Any]:
    """Return what was given, once per band."""
    values = [given] * bands if _is_one(given) else list(given)
    if len(values) != bands:
        raise UserError(f"{len(values)} values of {option} for {bands} bands; pass one for all, or one per band")
    return values


def _numbers(option: str, given: PerBand, bands: int) -> tuple[float, ...]:
    """Return one finite number per band."""
    numbers = _each(option, given, bands)
    for number in numbers:
        if not _is_number(number) or not math.isfinite(number):
            raise UserError(f"{option}={number!r} is not a finite number; pass one for all bands, or one per band")
    return tuple(float(number) for number in numbers)


def _offsets(given: PerBand, units: Sequence[Unit]) -> tuple[float, ...]:
    offsets = _numbers("offset", given, len(units))
    if _is_one(given) and any(offsets) and len(set(units)) > 1:
        if "dn" not in units:
            raise UserError(
                f"offset={offsets[0]:g} for bands in different units ({', '.join(units)}); pass one per band"
            )
        offsets = tuple(offset if unit == "dn" else 0.0 for offset, unit in zip(offsets, units, strict=True))
    for offset, unit in zip(offsets, units, strict=True):
        if abs(offset) > _LARGEST_OFFSET[unit]:
            raise UserError(
                f"offset={offset:g} applies to digital numbers only, it is beyond all values of unit={unit!r}; leave "
                "it out, or pass unit='dn'"
            )
    return offsets


def _scales(given: PerBand, units: Sequence[Unit]) -> tuple[float, ...]:
    scales = _numbers("scale", given, len(units))
    if 0 in scales:
        raise UserError("scale=0 makes every value the same; pass the factor that turns stored values into their unit")
    if _is_one(given) and set(scales) != {1.0} and len(set(units)) > 1:
        raise UserError(f"scale={scales[0]:g} for bands in different units ({', '.join(units)}); pass one per band")
    return scales


def _display(given: Any, units: Sequence[Unit]) -> tuple[tuple[float, float] | None, ...]:
    """Return the range of each band, ``None`` where it is the contract's."""
    eight_bit = [index for index, unit in enumerate(units) if unit == "uint8"]
    if given is None:
        return (None,) * len(units)
    if not eight_bit:
        raise UserError("display applies to 8-bit display values only; leave it out, or pass unit='uint8'")
    pairs: list[Any] = [given] if _is_one(given) else list(given)
    if all(_is_number(end) for end in pairs):
        pairs = [pairs]
    if len(pairs) != len(eight_bit):
        raise UserError(
            f"{len(pairs)} display ranges for {len(eight_bit)} bands in 8 bits, whose units may differ; pass a pair "
            "(low, high) for each of them, in order"
        )
    found: list[tuple[float, float] | None] = [None] * len(units)
    for index, pair in zip(eight_bit, pairs, strict=True):
        ends = list(pair) if isinstance(pair, Iterable) else []
        numbers = len(ends) == 2 and all(_is_number(end) and math.isfinite(end) for end in ends)
        if not numbers or ends[0] >= ends[1]:
            raise UserError(f"display range {pair!r} is not a pair (low, high) of numbers, the lower one first")
        found[index] = float(ends[0]), float(ends[1])
    return tuple(found)


def _nodata(given: float | Sequence[float | None] | None, bands: int) -> tuple[float | None, ...]:
    values = _each("nodata", given, bands)
    for value in values:
        if value is not None and not _is_number(value):
            raise UserError(f"nodata={value!r} is not a number; pass the stored value that means missing, or None")
    return tuple(None if value is None else float(value) for value in values)


def _representable(nodata: float, dtype: torch.dtype) -> bool:
    """Whether a stored value of the type can be equal to it; comparing an integer with another value would wrap."""
    if dtype.is_floating_point:
        return True
    bounds = torch.iinfo(dtype)
    return nodata.is_integer() and bounds.min <= nodata <= bounds.max
