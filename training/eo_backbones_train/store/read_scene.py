"""The files of one scene, read and checked, as codes ready for the store.

First what the user declares about a source (``--unit``, ``--bands``), then the reading. Everything that can be wrong
with a scene ends as a :class:`SceneProblem` with one line for ``skipped.csv``, so that one bad file never stops a long
conversion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rasterio.errors import RasterioError

from eo_backbones.bands import BANDS, LAYOUTS, PAPER_BANDS, S1_BANDS, band_named_in, band_names
from eo_backbones.contract import Unit, parse_unit, unit_range
from eo_backbones.errors import UserError
from eo_backbones.inputs import UNITS_OF, as_options, check_values
from eo_backbones.rasters.alignment import shift
from eo_backbones.rasters.metadata import statements_of
from eo_backbones.rasters.reader import (
    USUAL_LAYOUTS,
    RasterFacts,
    as_values,
    opened,
    refuse_palette,
    split_request,
    stored_and_missing,
)
from eo_backbones.rasters.scaling import BandReading, DeclaredReading, resolve_reading
from eo_backbones_train.store.codings import Array, coding_of
from eo_backbones_train.store.layouts import Layout, RasterFile, SceneFiles

DEFAULT_BANDS = (*PAPER_BANDS, *S1_BANDS)

_LARGEST_SHIFT_PX = 1.0  # between the images of a pair (ours): they show the same ground, not the same pixels
_BAND_INPUTS = {entry.band: entry for entry in unit_range(BANDS).bands}


class SceneProblem(Exception):  # noqa: N818 - a verdict on a scene, not a fault of the program
    """Why a scene cannot be used: one line."""


class DeclarationProblem(SceneProblem):
    """What was declared about bands or units does not fit the file: the user can correct it."""


@dataclass(frozen=True, slots=True)
class DeclaredUnits:
    """Units of a source: those of the layout, overridden by the user's.

    Attributes:
        declared: band -> unit.
        display: band in ``uint8`` -> native values that 0 and 255 stand for, where they were given.
    """

    declared: Mapping[str, Unit]
    display: Mapping[str, tuple[float, float]]

    def of(self, name: str) -> str:
        """Return the unit of a band; digital numbers or dB unless declared otherwise."""
        return self.declared.get(name, BANDS[name].unit)

    def described(self, name: str) -> str:
        """Return the unit of a band as ``--unit`` takes it."""
        return ":".join([self.of(name), *(f"{value:g}" for value in self.display.get(name, ()))])

    def problem(self, values: Array, missing: Array | None, reading: BandReading) -> str | None:
        """Return why values of a band cannot be in the unit that they were read in and what to type, or ``None``."""
        name, unit = reading.band, reading.unit
        if values.dtype == np.uint8 and self.of(name) != "uint8":
            return (
                f"band {name} has 8-bit values, which are display values or some unit of their own; declare it: "
                f"--unit uint8 (all bands), or --unit {name}=uint8"
            )
        shown = torch.from_numpy(as_values(values, missing, None))
        finding = check_values(shown, _BAND_INPUTS[name], unit, scale=reading.scale, offset=reading.offset)
        return as_options(finding.message, name) if finding and finding.certain else None


def parse_units(options: Sequence[str]) -> DeclaredUnits:
    """Read the values of ``--unit``.

    ``uint8`` declares the unit of every band that can be in that unit, ``B04=reflectance`` that of one band; later
    options win over earlier ones, and the layout's own units (digital numbers, dB) hold for the rest.
    ``B03=uint8:0:1`` also says which native values the display values 0 and 255 stand for, here reflectance 0 and 1;
    without it they are those of the input contract.

    Raises:
        UserError: an unknown band or unit, a unit that the band cannot have, or an invalid display range.
    """
    declared: dict[str, Unit] = {}
    display: dict[str, tuple[float, float]] = {}
    for option in options:
        typed, colon, limits = option.partition(":")
        name, unit = parse_unit(typed)
        bands = [name] if name else list(BANDS)
        possible = [one for one in bands if unit in UNITS_OF[_BAND_INPUTS[one].unit]]
        if not possible:
            allowed = ", ".join(UNITS_OF[_BAND_INPUTS[bands[0]].unit])
            raise UserError(f"--unit {option}: band {bands[0]} cannot be in {unit}; its units are {allowed}")
        declared |= dict.fromkeys(possible, unit)
        for one in possible:
            display.pop(one, None)
        if colon:
            display[possible[0]] = _display_range(option, limits, allowed=name is not None and unit == "uint8")
    return DeclaredUnits(declared, display)


def _display_range(option: str, limits: str, *, allowed: bool) -> tuple[float, float]:
    """Read ``LOW:HIGH``."""
    try:
        low, high = map(float, limits.split(":"))
    except ValueError:
        low = high = 0.0
    if not (allowed and low < high):
        raise UserError(
            f"--unit {option}: a display range is written BAND=uint8:LOW:HIGH, the reflectance or dB that 0 and 255 "
            "stand for, e.g. B03=uint8:0:1"
        )
    return low, high


def parse_bands(options: Sequence[str]) -> dict[str, int | None]:
    """Read the values of ``--bands``: canonical name -> 1-based position in its file, or ``None`` for "find it".

    ``B03`` and ``VV`` keep these bands, ``B03=2`` also says that B03 is the second band of its file.

    Raises:
        UserError: an unknown band, a band named twice, or a position that is not a positive number.
    """
    requests = [split_request(option) for option in options]
    band_names(name for name, _ in requests)  # refuses a band that is named twice
    return dict(requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How scenes of one source are read.

    Attributes:
        layout: the source's layout.
        units: declared units.
        bands: canonical name -> 1-based position in its file, or ``None`` for "find it"; empty: the ten bands of the
            paper, VV and VH, as many as a scene has.
        exact: keep 16 bits instead of 8.
        reading: scale, offset and nodata that the user declares.
    """

    layout: Layout
    units: DeclaredUnits
    bands: Mapping[str, int | None]
    exact: bool
    reading: DeclaredReading = field(default_factory=DeclaredReading)

    @property
    def declared(self) -> DeclaredReading:
        """All that the user declares about stored values."""
        return replace(self.reading, units=self.units.declared)


class CodedScene(NamedTuple):
    """One scene as it goes into the store.

    ``bands`` in the order of :data:`eo_backbones.bands.BANDS`; ``codings`` one name per band; ``codes`` uint8 or uint16
    of shape ``(bands, height, width)``; ``notes``: what was guessed; ``levels``: processing levels of the Sentinel-2
    bands, with ``None`` for those whose level is not known.
    """

    bands: tuple[str, ...]
    codings: tuple[str, ...]
    codes: Array
    notes: frozenset[str]
    levels: frozenset[str | None]


def read_scene(root: Path, scene: SceneFiles, options: ReadOptions) -> CodedScene:
    """Read, check and code one scene. Call it within ``gdal_environment()``.

    Raises:
        SceneProblem: the scene cannot be used.
    """
    raw: dict[str, Array] = {}
    missing: dict[str, Array] = {}
    readings: dict[str, BandReading] = {}
    notes: set[str] = set()
    first: RasterFacts | None = None
    for file in scene.files:
        facts, bands = _read_file(root, file, options, notes)
        first = first or facts
        if first and facts and (first.height, first.width) == (facts.height, facts.width):
            beside = shift(first, facts, largest_px=_LARGEST_SHIFT_PX)
            if beside:
                raise SceneProblem(f"grid mismatch: {file.path} {beside}")
        for reading, values, absent in bands:
            raw[reading.band], readings[reading.band] = values, reading
            if absent is not None:
                missing[reading.band] = absent
    names = tuple(name for name in BANDS if name in raw)
    _check_bands(names, options)
    height, width = _common_size(raw, missing, replicate=options.layout.replicate)
    units = options.units
    codings = [
        coding_of(name, readings[name].unit, exact=options.exact, display=units.display.get(name)) for name in names
    ]
    dtype = np.result_type(*(coding.dtype for coding in codings))
    codes = np.empty((len(names), height, width), dtype)
    for index, (name, coding) in enumerate(zip(names, codings, strict=True)):
        reading, absent = readings[name], missing.get(name)
        values = as_values(raw[name], None, reading)
        if absent is not None and absent.all():
            raise SceneProblem(f"no valid value: band {name}")
        problem = units.problem(values, absent, reading)
        if problem:
            raise DeclarationProblem(problem)
        codes[index] = coding.encode(values, reading.unit)
        if absent is not None:
            # display values have no code for "missing": they get the mean of the valid ones, as a model's input does
            codes[index][absent] = 0 if coding.has_missing else np.rint(codes[index][~absent].mean())
        if coding.has_missing and not codes[index].any():
            raise SceneProblem(f"no valid value: band {name}")
        if (values == values[0, 0]).all():
            raise SceneProblem(f"constant: band {name} is {values[0, 0]:g} everywhere")
    levels = frozenset(readings[name].level or options.layout.level for name in names if BANDS[name].sensor == "s2")
    return CodedScene(names, tuple(coding.name for coding in codings), codes, frozenset(notes), levels)


def read_optical(root: Path, scene: SceneFiles, options: ReadOptions) -> tuple[Array, tuple[BandReading, ...]]:
    """Return the Sentinel-2 bands of one scene, of its largest size, as values of their readings, NaN where missing.

    Raises:
        SceneProblem: there is none, or a file cannot be read.
    """
    bands = [
        (reading, as_values(values, absent, reading))
        for file in scene.files
        if file.sensor == "s2"
        for reading, values, absent in _read_file(root, file, options, set())[1]
    ]
    if not bands:
        raise SceneProblem("no Sentinel-2 band")
    largest = max(values.shape for _, values in bands)
    kept = [(reading, values) for reading, values in bands if values.shape == largest]
    return np.stack([values for _, values in kept]), tuple(reading for reading, _ in kept)


def _read_file(
    root: Path, file: RasterFile, options: ReadOptions, notes: set[str]
) -> tuple[RasterFacts | None, list[tuple[BandReading, Array, Array | None]]]:
    """Header and wanted bands of one file: how each is read, what is stored, and where that is no value, if anywhere.

    Of a file without a wanted band there is no header.
    """
    if file.band is not None and file.band not in (options.bands or DEFAULT_BANDS):
        return None, []
    path = root / file.path
    try:
        with opened(path) as source:
            positions = _positions(source, file, options, notes)
            if not positions:
                return None, []
            refuse_palette(file.path, source, positions.values())
            facts = RasterFacts.of(source)
            dtype = source.dtypes[0]
            if np.dtype(dtype).kind not in "uif":
                raise SceneProblem(f"{file.path} has values of type {dtype}; only integers and floats are read")
            readings = [
                resolve_reading(
                    name,
                    source.dtypes[index - 1],
                    statements_of(str(path), source, index, name) if options.layout.of_the_user else (),
                    options.declared,
                    path=file.path,
                )
                for name, index in positions.items()
            ]
            stored, missing = stored_and_missing(
                source, path, list(positions.values()), [reading.missing_values for reading in readings]
            )
    except UserError as error:
        cause = error.__cause__
        if not path.exists():
            raise SceneProblem(f"missing file: {file.path}") from error
        if not isinstance(cause, RasterioError):
            raise DeclarationProblem(str(error).replace(f"{root}/", "")) from error
        reason = str(cause.__cause__ or cause).splitlines()[0].replace(f"{root}/", "")
        raise SceneProblem(f"unreadable or truncated: {file.path} ({reason})") from error
    notes |= {reading.source for reading in readings if reading.source}
    absent: list[Array | None] = [None] * len(stored)
    if missing is not None:
        absent = [band if band.any() else None for band in missing]
    return facts, list(zip(readings, stored, absent, strict=True))


def _positions(source: Any, file: RasterFile, options: ReadOptions, notes: set[str]) -> dict[str, int]:
    """Wanted bands that an open file has -> 1-based positions."""
    if file.band is not None:
        return {file.band: 1}
    explicit = {
        name: position
        for name, position in options.bands.items()
        if position is not None and BANDS[name].sensor == file.sensor
    }
    beyond = {name: position for name, position in explicit.items() if position > source.count}
    if beyond:
        name, position = beyond.popitem()
        raise DeclarationProblem(f"{file.path} has {source.count} bands, so --bands {name}={position} is not in it")
    wanted = [
        name for name in (options.bands or DEFAULT_BANDS) if BANDS[name].sensor == file.sensor and name not in explicit
    ]
    if not wanted:
        return explicit
    order = _order(source, file, options, notes)
    return explicit | {name: order.index(name) + 1 for name in wanted if name in order}


def _order(source: Any, file: RasterFile, options: ReadOptions, notes: set[str]) -> Sequence[str | None]:
    """Band of each position of an open file, ``None`` where unknown."""
    known = options.layout.s2_order if file.sensor == "s2" else options.layout.s1_order
    if known is not None:
        if source.count != len(LAYOUTS[known]):
            raise SceneProblem(f"wrong band count: {file.path} has {source.count}, not {len(LAYOUTS[known])}")
        return LAYOUTS[known]
    described = [band_named_in(text) for text in source.descriptions]
    if any(described):
        return described
    usual = USUAL_LAYOUTS.get(source.count, "")
    if not usual.endswith(file.sensor):
        raise DeclarationProblem(
            f"{file.path} has {source.count} bands without names; say which is which: --bands "
            + ("B03=1 B08=2 ..." if file.sensor == "s2" else "VV=1 ...")
        )
    notes.add(f"{file.sensor} files of {source.count} bands without names are read as {', '.join(LAYOUTS[usual])}")
    return LAYOUTS[usual]


def _check_bands(names: Sequence[str], options: ReadOptions) -> None:
    """Refuse a scene without a band of each sensor, or without a band that was asked for by name."""
    lacking = [name for name in options.bands if name not in names]
    if lacking:
        raise SceneProblem(f"missing band: no {', '.join(lacking)}; it has {', '.join(names) or 'none'}")
    for sensor, title in (("s2", "Sentinel-2"), ("s1", "Sentinel-1")):
        if not any(BANDS[name].sensor == sensor for name in names):
            raise DeclarationProblem(
                f"no {title} band among those to keep ({', '.join(options.bands or DEFAULT_BANDS)}) is in the files; "
                "name bands that they have: --bands"
            )


def _common_size(raw: dict[str, Array], missing: dict[str, Array], *, replicate: bool) -> tuple[int, int]:
    """Return the size of all bands; smaller ones are enlarged in place where the layout repeats pixels."""
    sizes = {values.shape for values in raw.values()}
    height, width = max(sizes)
    if len(sizes) == 1:
        return height, width
    if not replicate or any(height % h or width % w or height // h != width // w for h, w in sizes):
        seen = "; ".join(
            f"{' '.join(name for name in raw if raw[name].shape == (h, w))}: {h}x{w}" for h, w in sorted(sizes)
        )
        raise SceneProblem(f"size mismatch: {seen}")
    for layer in (raw, missing):
        for name, values in layer.items():
            factor = height // values.shape[0]
            if factor > 1:
                layer[name] = values.repeat(factor, axis=0).repeat(factor, axis=1)
    return height, width
