"""The files of one scene, read and checked, as codes ready for the store.

Everything that can be wrong with a scene ends as a :class:`SceneProblem` with one line for ``skipped.csv``, so that one
bad file never stops a long conversion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from eo_backbones.bands import BANDS, LAYOUTS, PAPER_BANDS, S1_BANDS, band
from eo_backbones.datasets.raster import USUAL_LAYOUTS
from eo_backbones.errors import UserError
from eo_backbones_train.codings import Array, coding_of
from eo_backbones_train.preparation.layouts.scene_files import Layout, RasterFile, SceneFiles
from eo_backbones_train.preparation.source_units import DeclaredUnits

DEFAULT_BANDS = (*PAPER_BANDS, *S1_BANDS)


class SceneProblem(Exception):  # noqa: N818 - a verdict on a scene, not a fault of the program
    """Why a scene cannot be used: one line."""


class DeclarationProblem(SceneProblem):
    """What was declared about bands or units does not fit the file: the user can correct it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How scenes of one source are read.

    Attributes:
        layout: the source's layout.
        units: declared units.
        bands: canonical name -> 1-based position in its file, or ``None`` for "find it"; empty: the ten bands of the
            paper, VV and VH, as many as a scene has.
        exact: keep 16 bits instead of 8.
    """

    layout: Layout
    units: DeclaredUnits
    bands: Mapping[str, int | None]
    exact: bool


class CodedScene(NamedTuple):
    """One scene as it goes into the store.

    ``bands`` in the order of :data:`eo_backbones.bands.BANDS`; ``codings`` one name per band; ``codes`` uint8 or uint16
    of shape ``(bands, height, width)``; ``notes``: what was guessed.
    """

    bands: tuple[str, ...]
    codings: tuple[str, ...]
    codes: Array
    notes: frozenset[str]


def read_scene(root: Path, scene: SceneFiles, options: ReadOptions) -> CodedScene:
    """Read, check and code one scene. Call it within ``gdal_environment()``.

    Raises:
        SceneProblem: the scene cannot be used.
    """
    raw: dict[str, Array] = {}
    missing: dict[str, Array] = {}
    notes: set[str] = set()
    for file in scene.files:
        for name, values, absent in _read_file(root, file, options, notes):
            raw[name] = values
            if absent is not None:
                missing[name] = absent
    names = tuple(name for name in BANDS if name in raw)
    _check_bands(names, options)
    height, width = _common_size(raw, missing, replicate=options.layout.replicate)
    units = options.units
    codings = [coding_of(name, units.of(name), exact=options.exact, display=units.display.get(name)) for name in names]
    dtype = np.result_type(*(coding.dtype for coding in codings))
    codes = np.empty((len(names), height, width), dtype)
    for index, (name, coding) in enumerate(zip(names, codings, strict=True)):
        values = raw[name]
        if values.dtype.kind == "f" and not np.isfinite(values).any():
            raise SceneProblem(f"no valid value: band {name}")
        problem = units.problem(name, values)
        if problem:
            raise DeclarationProblem(problem)
        codes[index] = coding.encode(values, units.of(name))
        if coding.has_missing and name in missing:
            codes[index][missing[name]] = 0
        if coding.has_missing and not codes[index].any():
            raise SceneProblem(f"no valid value: band {name}")
        if (values == values[0, 0]).all():
            raise SceneProblem(f"constant: band {name} is {values[0, 0]:g} everywhere")
    return CodedScene(names, tuple(coding.name for coding in codings), codes, frozenset(notes))


def _read_file(
    root: Path, file: RasterFile, options: ReadOptions, notes: set[str]
) -> list[tuple[str, Array, Array | None]]:
    """Wanted bands of one file: name, raw values, and a mask of the file's own "no data" if it declares one."""
    if file.band is not None and file.band not in (options.bands or DEFAULT_BANDS):
        return []
    try:
        with rasterio.open(root / file.path) as source:
            positions = _positions(source, file, options, notes)
            if not positions:
                return []
            values = source.read(list(positions.values()))
            no_data = source.nodata
    except RasterioError as error:
        if not (root / file.path).exists():
            raise SceneProblem(f"missing file: {file.path}") from error
        reason = str(error.__cause__ or error).splitlines()[0].replace(f"{root}/", "")
        raise SceneProblem(f"unreadable or truncated: {file.path} ({reason})") from error
    if values.dtype.kind not in "uif":
        raise SceneProblem(f"{file.path} has values of type {values.dtype}; only whole and real numbers are read")
    masks = [None] * len(values) if no_data is None else values == np.asarray(no_data, dtype=np.float64)
    return [(name, values[i], masks[i]) for i, name in enumerate(positions)]


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
    described = [_described(text) for text in source.descriptions]
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


def _described(text: str | None) -> str | None:
    try:
        return band(text).name if text else None
    except UserError:
        return None


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
    """Bring all bands to one size, in place where the layout repeats pixels; return it."""
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
