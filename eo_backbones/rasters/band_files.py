"""Which file of a scene holds which band: one file with all bands, one file per band, or a folder of those.

A band is found by the files' own band descriptions; in a file of a single band without a description, by the file's
name (``B2.tif``, ``..._B02.tif``, ``T32TQM_20200101T101010_B02_10m.jp2``: the last part that names a band); in other
files by the order that a file of its kind usually has (:mod:`eo_backbones.rasters.reader`). ``B04=2`` is the second
band of the file; where there are several files, the count goes on from one to the next.

A folder may be a Sentinel-2 product (``.SAFE``) or a part of one: of its resolutions the finest with all requested
bands is taken. What lies beside the bands (true colour, scene classification, aerosol, masks, previews), hidden and
empty files are passed over.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from eo_backbones.bands import S2_BANDS, band_named_in, band_names
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import is_gdal_name, opened, order_in, split_request
from eo_backbones.rasters.statements import Statement

logger = logging.getLogger(__name__)

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")

# Sentinel-2: true colour, scene classification, aerosol, water vapour, previews, masks of clouds and snow; catalogues
_BESIDE_BANDS = frozenset({"tci", "scl", "aot", "wvp", "pvi", "msk", "cld", "snw"})
_PICTURES = frozenset({"visual", "preview", "thumbnail", "quicklook", "overview", "browse"})
NOT_BANDS = _BESIDE_BANDS | _PICTURES
"""Words in names of files that hold no band."""
_PRODUCT_FILES = re.compile(r"MTD_MSIL(1C|2A)\.xml|manifest\.safe", re.IGNORECASE)
_RESOLUTIONS = ("R10m", "R20m", "R60m")


@dataclass(frozen=True, slots=True)
class BandFile:
    """A band: its canonical name, the file, and its 1-based index in it.

    Attributes:
        said: what is said about its values elsewhere than in and beside the file: by the STAC item that named the file.
    """

    name: str
    path: str
    index: int
    said: tuple[Statement, ...] = ()


def find_bands(paths: Sequence[str], requested: Sequence[str]) -> tuple[BandFile, ...]:
    """Return where each requested band is.

    Args:
        paths: files of one scene, anything that GDAL opens, or folders of such files.
        requested: band names under any alias, each with an optional position (``"B04=4"``).

    Raises:
        UserError: a file is missing or not a raster; a band is unknown, in none of the files, or in more than one.
    """
    if not requested:
        raise UserError("no band is named; pass --bands, such as --bands B04 B03 B02")
    requests = [split_request(item) for item in requested]
    named = band_names(name for name, _ in requests)  # refuses a band that is named twice
    by_position: list[tuple[str, int]] = []
    by_name: dict[str, BandFile] = {}
    passed_over: list[UserError] = []
    need_names = any(position is None for _, position in requests)
    for path, is_listed in _files(paths, named if need_names else ()):
        try:
            with opened(path) as dataset:
                names = _names(dataset, path) if need_names else ()
                by_position += [(path, index) for index in range(1, dataset.count + 1)]
        except UserError as error:
            if not is_listed:
                raise
            passed_over.append(error)  # one of a folder, which may hold other things as well
            continue
        for index, name in enumerate(names, start=1):
            if name is None:
                continue
            if name in by_name and (name, None) in requests:
                raise UserError(
                    f"band {name} is in {by_name[name].path} and in {path}; pass the files of one scene and date"
                )
            by_name.setdefault(name, BandFile(name, path, index))
    if passed_over and not (need_names and all(name in by_name for name, position in requests if position is None)):
        raise passed_over[0]
    for reason in passed_over:
        logger.warning("passed over: %s", reason)
    return tuple(_found(name, position, by_name, by_position, paths) for name, position in requests)


def _found(
    name: str,
    position: int | None,
    by_name: dict[str, BandFile],
    by_position: list[tuple[str, int]],
    paths: Sequence[str],
) -> BandFile:
    shown = paths[0] if len(paths) == 1 else f"the {len(paths)} files"
    if position is not None:
        if position > len(by_position):
            raise UserError(f"{shown}: {len(by_position)} bands in all, so {name}={position} is not among them")
        return BandFile(name, *by_position[position - 1])
    if name not in by_name:
        present = ", ".join(by_name) or "no band with a recognisable name"
        raise UserError(
            f"{shown}: no band {name}; found {present}. Give the position of the band instead, e.g. {name}=1"
        )
    return by_name[name]


def _files(paths: Sequence[str], named: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield the files, with those of a folder in its place, and whether a file was found in a folder.

    Args:
        paths: as typed.
        named: the bands that are looked for by name.
    """
    for path in paths:
        folder = product_folder(Path(path))
        if is_gdal_name(path) or not folder.is_dir():
            yield path, False
            continue
        rasters = raster_files(folder) or _of_product(folder, named)
        if not rasters:
            raise UserError(f"folder {path} holds no raster file ({', '.join(RASTER_SUFFIXES)}); pass the files")
        yield from ((str(file), True) for file in rasters)


def raster_files(folder: Path) -> list[Path]:
    """Return the raster files of a folder, without what can hold no band."""
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.suffix.lower() in RASTER_SUFFIXES
        and not entry.name.startswith(".")
        and NOT_BANDS.isdisjoint(name_parts(entry))
        and entry.is_file()
        and entry.stat().st_size
    ]


def name_parts(path: PurePath) -> list[str]:
    """Return the words of a file name in lower case, without its suffix."""
    return re.split(r"[_\-. ]", path.stem.lower())


def product_tiles(folder: Path) -> list[Path]:
    """Return the tiles of a folder that is a Sentinel-2 product of several.

    A product of one tile, a part of a product, and a Sentinel-1 product give the folder itself, other folders nothing.
    """
    tiles = [place.parent for place in sorted(folder.glob("GRANULE/*/IMG_DATA"))]
    inner = ("IMG_DATA", "GRANULE", "measurement", *_RESOLUTIONS)
    if len(tiles) > 1:
        return tiles
    if any((folder / name).is_dir() for name in inner) or any(
        _PRODUCT_FILES.fullmatch(entry.name) for entry in folder.iterdir()
    ):
        return [folder]
    return []


def product_folder(path: Path) -> Path:
    """Return the folder that a path stands for: that of the product if it is the product's metadata file."""
    return path.parent if _PRODUCT_FILES.fullmatch(path.name) else path


def _of_product(folder: Path, named: Sequence[str]) -> list[Path]:
    """Return the bands of a Sentinel-2 product, of one of its tiles, or of the images in it; none for other folders.

    Raises:
        UserError: it has several tiles, or no resolution has all the bands.
    """
    if (folder / "measurement").is_dir():
        raise UserError(
            f"{folder} is a Sentinel-1 product of uncalibrated amplitudes; calibrate it to sigma nought first (SNAP, "
            "or a product with radiometric terrain correction)"
        )
    patterns = ("IMG_DATA", "*/IMG_DATA", "GRANULE/*/IMG_DATA", "*.SAFE/GRANULE/*/IMG_DATA")
    found = [place for pattern in patterns for place in sorted(folder.glob(pattern))]
    if any((folder / resolution).is_dir() for resolution in _RESOLUTIONS):
        found = [folder]
    if len(found) > 1:
        tiles = [str(place.parent) for place in found]
        raise UserError(f"{folder} holds {len(found)} tiles; pass one of them: {', '.join(tiles)}")
    if not found:
        return []
    by_resolution = {
        resolution: files
        for resolution in _RESOLUTIONS
        if (found[0] / resolution).is_dir() and (files := raster_files(found[0] / resolution))
    }
    if not by_resolution:
        return raster_files(found[0])
    held = {resolution: {band_in_name(file): file for file in files} for resolution, files in by_resolution.items()}
    for resolution, files in by_resolution.items():
        if all(name in held[resolution] for name in named):
            return files
    finest = {name: next((held[one][name] for one in held if name in held[one]), None) for name in named}
    absent = [name for name, file in finest.items() if file is None]
    if absent:
        present = ", ".join(name for name in S2_BANDS if any(name in one for one in held.values()))
        raise UserError(f"{folder}: no band {', '.join(absent)}; found {present}")
    bands = " ".join(f"{name}={number}" for number, name in enumerate(finest, start=1))
    raise UserError(
        f"{folder}: no resolution holds all of {', '.join(named)}; resample them to one grid first: gdalbuildvrt "
        f"-separate -resolution highest -r bilinear S.vrt {' '.join(map(str, finest.values()))}, and embed S.vrt with "
        f"--bands {bands}"
    )


def band_in_name(path: PurePath) -> str | None:
    """Return the band that a file is named after."""
    return next((name for part in reversed(name_parts(path)) if (name := band_named_in(part))), None)


def _names(dataset: Any, path: str) -> tuple[str | None, ...]:
    """Return the band at each position of a file, ``None`` where it is unknown."""
    if dataset.count > 1 or any(band_named_in(text) for text in dataset.descriptions):
        return order_in(dataset, path)
    return (band_in_name(PurePosixPath(path)),)
