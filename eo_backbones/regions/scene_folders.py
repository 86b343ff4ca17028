"""The scenes in a folder.

A folder is searched with all folders in it, hidden ones and what this package wrote aside. By rule:

1. A Sentinel-2 product (``.SAFE``), or a folder inside one, is a scene; of a product with several tiles, each tile.
2. A file of several bands is a scene. Only if no such file of a folder has all bands that are asked for, while its
   files together have each of them once, they are one scene.
3. Files of one band are one scene if their names differ in the band and the resolution only (``X_B02_10m.jp2``,
   ``X_B03_10m.jp2``); of several resolutions the finest with all bands counts. Where the names say no band, but the
   descriptions in the files do, those of a folder are one scene.
4. A file of one band that nothing names is a scene if the band is given by position (``VV=1``), else it is passed over.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from eo_backbones.bands import LAYOUTS, band_named_in
from eo_backbones.errors import UserError
from eo_backbones.rasters.band_files import RASTER_SUFFIXES, band_in_name, find_bands, product_tiles, raster_files
from eo_backbones.rasters.reader import USUAL_LAYOUTS, opened, split_request
from eo_backbones.regions.layout import REGION_FILE

logger = logging.getLogger(__name__)

_SEPARATOR = re.compile(r"[_\-. ]+")
_RESOLUTION = re.compile(r"\d+m", re.IGNORECASE)
_INSIDE_PRODUCT = re.compile(r"R[126]0m|IMG_DATA|GRANULE|MTD_\w+\.xml|manifest\.safe", re.IGNORECASE)
_WITHOUT_RESOLUTION = 10**6  # after all that have one


@dataclass(frozen=True, slots=True)
class FolderScene:
    """A scene in a folder.

    Attributes:
        name: what the files have in common.
        paths: its files, or its folder.
        problem: why it cannot be used.
    """

    name: str
    paths: tuple[str, ...]
    problem: str | None = None


class _Header(NamedTuple):
    """What a file holds: its number of bands (0: it cannot be read), and which ones, as far as it says so."""

    number: int
    bands: tuple[str | None, ...] = ()
    problem: str | None = None


def scenes_in(folder: Path, requested: Sequence[str]) -> list[FolderScene]:
    """Return the scenes in a folder, sorted by their paths.

    Args:
        folder: of scenes, or one scene.
        requested: band names under any alias, each with an optional position.

    Raises:
        UserError: there is none.
    """
    passed_over: list[str] = []
    found = list(_scenes_in(folder, requested, frozenset(), passed_over))
    if found:
        if passed_over:
            several = "1 file" if len(passed_over) == 1 else f"{len(passed_over)} files or folders"
            logger.warning("%s: %s passed over: %s", folder, several, passed_over[0])
        return found
    for name in ("catalog.json", "collection.json"):
        if (folder / name).is_file():
            raise UserError(f"folder {folder} holds no images, but a STAC catalogue; pass {folder / name}")
    if passed_over:
        raise UserError(f"folder {folder} holds no scene with {', '.join(requested)}: {passed_over[0]}")
    raise UserError(
        f"folder {folder} holds no raster file ({', '.join(RASTER_SUFFIXES)}); pass the folder of the scenes"
    )


def scene_name(path: PurePath) -> str:
    """Return what a scene is called after its file or folder: of a part of a product, the product."""
    names = [part for part in path.parts if not _INSIDE_PRODUCT.fullmatch(part)]
    return re.sub(r"\.(SAFE|tiff?|jp2|vrt|img)$", "", names[-1], flags=re.IGNORECASE) if names else path.stem


def _scenes_in(
    folder: Path, requested: Sequence[str], above: frozenset[Path], passed_over: list[str]
) -> Iterator[FolderScene]:
    place = folder.resolve()
    if place in above:  # a link to a folder above
        return
    if (folder / REGION_FILE).is_file():
        passed_over.append(f"{folder} holds embeddings")
        return
    try:
        tiles = product_tiles(folder)
        inner = [] if tiles else sorted(entry for entry in folder.iterdir() if entry.is_dir())
        files = [] if tiles else raster_files(folder)
    except OSError as error:
        yield FolderScene(folder.name, (str(folder),), f"{folder} cannot be read ({error.strerror})")
        return
    yield from (FolderScene(scene_name(tile.absolute()), (str(tile),)) for tile in tiles)
    yield from _of_files(folder, files, requested, passed_over)
    for entry in inner:
        if not entry.name.startswith("."):
            yield from _scenes_in(entry, requested, above | {place}, passed_over)


def _of_files(
    folder: Path, files: Sequence[Path], requested: Sequence[str], passed_over: list[str]
) -> Iterator[FolderScene]:
    headers = {file: _header(file) for file in files}
    whole = [file for file in files if headers[file].number != 1]
    if whole and len(files) > 1 and not any(_holds(headers[file], requested) for file in whole):
        try:
            find_bands([str(folder)], requested)
        except UserError:
            pass  # each for itself, so that each is listed with its reason
        else:
            yield FolderScene(folder.absolute().name, (str(folder),))
            return
    yield from (FolderScene(file.stem, (str(file),), headers[file].problem) for file in whole)
    single = {file: headers[file].bands[0] for file in files if headers[file].number == 1}
    yield from _of_single_bands(folder, single, requested, passed_over)


def _of_single_bands(
    folder: Path, single: Mapping[Path, str | None], requested: Sequence[str], passed_over: list[str]
) -> Iterator[FolderScene]:
    """Yield the scenes of files of one band each, of which some are not named after a band."""
    requests = [split_request(item) for item in requested]
    groups: dict[str, dict[Path, str]] = {}
    for file, name in single.items():
        alone = [(name, None)] == requests and band_in_name(file) is None  # described in the file, not in its name
        if alone or (name is None and [position for _, position in requests] == [1]):
            yield FolderScene(file.stem, (str(file),))
        elif name is None:
            passed_over.append(f"{file} has one band, and no name says which; give its position, e.g. VV=1")
        else:
            groups.setdefault(_without_band(file), {})[file] = name
    for key, members in groups.items():
        scene = _of_bands(key or folder.absolute().name, members, requested)
        if scene is None:
            passed_over.append(f"{next(iter(members))} holds band {next(iter(members.values()))}")
        else:
            yield scene


def _header(file: Path) -> _Header:
    named = band_in_name(file)
    try:
        with opened(file) as dataset:
            bands = tuple(band_named_in(text) for text in dataset.descriptions)
    except UserError as error:
        return _Header(0, (), str(error)) if named is None else _Header(1, (named,))
    if len(bands) == 1:
        return _Header(1, (bands[0] or named,))
    if not any(bands) and len(bands) in USUAL_LAYOUTS:
        bands = LAYOUTS[USUAL_LAYOUTS[len(bands)]]
    return _Header(len(bands), bands)


def _holds(header: _Header, requested: Sequence[str]) -> bool:
    """Return whether a file has all bands, as far as it says which ones it has."""
    return all(
        position <= header.number if position is not None else name in header.bands or not any(header.bands)
        for name, position in map(split_request, requested)
    )


def _without_band(file: Path) -> str:
    """Return what the files of one scene have in common: the name without band and resolution."""
    parts = [part for part in _SEPARATOR.split(file.stem) if not _RESOLUTION.fullmatch(part)]
    last = max((number for number, part in enumerate(parts) if band_named_in(part)), default=None)
    if last is None:
        return ""
    return "_".join(part for number, part in enumerate(parts) if number != last)


def _of_bands(name: str, members: dict[Path, str], requested: Sequence[str]) -> FolderScene | None:
    """Return the scene of files of one band each; ``None`` if they have none of the bands."""
    requests = [split_request(item) for item in requested]
    if any(position is not None and position > 1 for _, position in requests):
        return FolderScene(name, tuple(map(str, members)))
    names = [band for band, _ in requests]
    by_resolution: dict[int, dict[str, list[Path]]] = {}
    for file, band in members.items():
        by_resolution.setdefault(_resolution(file), {}).setdefault(band, []).append(file)
    held = set(members.values())
    if held.isdisjoint(names):
        return None
    absent = [band for band in names if band not in held]
    if absent:
        where = f"{next(iter(members)).parent}: no band {', '.join(absent)} of {name}"
        return FolderScene(name, tuple(map(str, members)), f"{where}; found {', '.join(sorted(held))}")
    whole = [resolution for resolution, bands in by_resolution.items() if all(band in bands for band in names)]
    finest = min(whole, default=None)
    order = [finest] if finest is not None else sorted(by_resolution)
    paths = [next(by_resolution[one][band] for one in order if band in by_resolution[one]) for band in names]
    return FolderScene(name, tuple(str(file) for files in paths for file in files))


def _resolution(file: Path) -> int:
    """Return the metres that a name states, such as ``10m``."""
    stated = [part for part in _SEPARATOR.split(file.stem) if _RESOLUTION.fullmatch(part)]
    return int(stated[-1][:-1]) if stated else _WITHOUT_RESOLUTION
