"""The scenes that a user names: files, folders, lists, STAC items and catalogues."""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from eo_backbones.bands import band_names
from eo_backbones.errors import UserError, without_secrets
from eo_backbones.rasters.band_files import RASTER_SUFFIXES, BandFile, find_bands, product_folder
from eo_backbones.rasters.reader import is_gdal_name, split_request
from eo_backbones.rasters.sentinel2_products import product_clouds
from eo_backbones.rasters.stac_items import item_beside
from eo_backbones.rasters.statements import Statement
from eo_backbones.regions.scene_folders import FolderScene, scene_name, scenes_in
from eo_backbones.regions.stac_assets import ItemFiles, files_of, item_clouds, item_time
from eo_backbones.regions.stac_reader import FoundItem, fetch_beginning, is_stac_text, is_web, read_items, resolve

logger = logging.getLogger(__name__)

_LIST_SUFFIXES = (".txt", ".lst", ".list")
_STAC_SUFFIXES = (".json", ".geojson", ".ndjson", ".jsonl", ".json.gz")
_IMAGE_SUFFIXES = (*RASTER_SUFFIXES, ".png", ".jpg", ".jpeg", ".nc", ".h5", ".hdf", ".zip", ".tar", ".gz")
_TABLES = (".parquet", ".geoparquet")
_MOST_LIST_BYTES = 64 << 20
_LONGEST_ID = 120
# Sentinel-1 and -2 write a time as 20220601T102031, HLS with the day of the year (2022152T102031), Landsat a day only
_TIME = re.compile(r"(?<![0-9A-Za-z])((?:19|20)\d{6})T(\d{6})(?!\d)")
_DAY_OF_YEAR = re.compile(r"(?<![0-9A-Za-z])((?:19|20)\d{5})T(\d{6})(?!\d)")
_DAY = re.compile(r"(?<![0-9A-Za-z])((?:19|20)\d{6})(?![0-9A-Za-z])")
_PRODUCT = re.compile(r"S[12][A-D]_\w+_\d{8}T\d{6}|L[COTEM]0[4-9]_", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSource:
    """A scene, as it was named; no file is open.

    Attributes:
        id: unique among the scenes that were found together, and usable as a file name.
        typed: what the user recognises it by, without signatures and passwords.
        paths: its files or folders.
        datetime: of the acquisition, RFC 3339 in UTC; of a range of times its beginning; ``None`` if nothing says it.
        cloud_cover: percent of the scene, ``None`` if nothing says it.
        problem: why it cannot be used; everything else may then be empty.
        requested: the bands, as in :func:`eo_backbones.rasters.band_files.find_bands`.
        located: where the STAC item of the scene says that the bands are; empty: they are looked for in the files.
        said: what the item says about each band of the file, where it does not say which band is which.
        item: address of that item.
    """

    id: str
    typed: str
    paths: tuple[str, ...]
    datetime: str | None
    cloud_cover: float | None
    problem: str | None
    requested: tuple[str, ...]
    located: tuple[BandFile, ...] = ()
    said: tuple[tuple[Statement, ...], ...] = ()
    item: str | None = None

    def bands(self) -> tuple[BandFile, ...]:
        """Return where each requested band is.

        Raises:
            UserError: the scene cannot be used, as :func:`eo_backbones.rasters.band_files.find_bands` or ``problem``
                says.
        """
        if self.problem is not None:
            raise UserError(self.problem)
        found = self.located or find_bands(self.paths, self.requested)
        if not self.said:
            return found
        return tuple(replace(band, said=self.said[min(band.index, len(self.said)) - 1]) for band in found)


def find_scenes(typed: Sequence[str], requested: Sequence[str]) -> tuple[SceneSource, ...]:
    """Return the scenes that a user names, in the order of the names.

    Args:
        typed: each a file (anything that GDAL opens), a folder (:mod:`eo_backbones.regions.scene_folders`), a STAC
            item, collection of items or static catalogue (a file or an http(s) address), or a list of such names
            (``.txt``, one in a line, relative to the list, ``#`` begins a comment).
        requested: band names under any alias, each with an optional position (``"B04=4"``).

    Raises:
        UserError: a band is unknown; there is no scene at all, or none that can be used; a list or a STAC file that is
            named cannot be read.
    """
    if not requested:
        raise UserError("no band is named; pass --bands, such as --bands B04 B03 B02")
    band_names(name for name, _ in map(split_request, requested))  # refuses a band that is named twice
    found = _with_ids(_without_repeats([scene for text in typed for scene in _scenes_of(text, tuple(requested))]))
    if not found:
        raise UserError("no scene is named; pass files, a folder, or a list of them")
    if all(scene.problem is not None for scene in found):
        others = f" (and {len(found) - 1} more that cannot be used either)" if len(found) > 1 else ""
        raise UserError(f"{found[0].problem}{others}")
    return found


def is_stac_name(text: str) -> bool:
    """Return whether a path or an address ends as those of STAC files do."""
    return (urlsplit(text).path if is_web(text) else text).lower().endswith(_STAC_SUFFIXES)


def _scenes_of(text: str, requested: tuple[str, ...]) -> Iterator[SceneSource]:
    """Yield the scenes that one argument stands for."""
    text = resolve(text, "") if text.lower().startswith("file:") else text
    path = Path(text).expanduser()
    if not is_gdal_name(text) and path.suffix.lower() in _LIST_SUFFIXES:
        yield from _listed(path, requested)
    else:
        yield from _named(text, path, requested)


def _named(text: str, path: Path, requested: tuple[str, ...]) -> Iterator[SceneSource]:
    """Yield the scenes that a file, folder or address stands for.

    Raises:
        UserError: it is a STAC file that cannot be read.
    """
    if _is_stac(text):
        for found in read_items(text):
            yield _of_item(found, requested)
    elif is_gdal_name(text):
        name = scene_name(PurePosixPath(unquote(urlsplit(text).path)))
        yield _source(FolderScene(name, (text,)), without_secrets(text), requested)
    elif (folder := product_folder(path)).is_dir():
        try:
            scenes = scenes_in(folder, requested)
        except UserError as error:
            scenes = [FolderScene(folder.name, (text,), str(error))]
        for scene in scenes:
            yield _source(scene, scene.paths[0], requested)
    elif path.suffix.lower() in _TABLES:
        problem = f"{text} is a table, no image; of STAC items in a table pass the same items as JSON"
        yield _source(FolderScene(path.stem, (text,), problem), text, requested)
    elif path.is_file():
        yield _source(FolderScene(scene_name(path.absolute()), (str(path),)), text, requested)
    else:
        yield _source(FolderScene(path.stem, (text,), f"no file {text}; check the path"), text, requested)


def _is_stac(text: str) -> bool:
    """Return whether a name or an address is that of a STAC file; what is at an address is looked at if need be.

    Raises:
        UserError: such an address cannot be read.
    """
    if is_stac_name(text):
        return is_web(text) or Path(text).is_file() or is_gdal_name(text)
    known = PurePosixPath(urlsplit(text).path).suffix.lower() in _IMAGE_SUFFIXES
    return is_web(text) and not known and is_stac_text(fetch_beginning(text))


def _of_item(found: FoundItem, requested: tuple[str, ...]) -> SceneSource:
    """Return the scene of a STAC item."""
    problem = found.problem
    files = ItemFiles(paths=())
    if problem is None:
        try:
            files = files_of(found, requested)
        except UserError as error:
            problem = str(error)
    return SceneSource(
        id=found.name,
        typed=found.shown,
        paths=files.paths,
        datetime=item_time(found.item) if found.item else None,
        cloud_cover=item_clouds(found.item) if found.item else None,
        problem=problem,
        requested=requested,
        located=files.located,
        said=files.said,
        item=without_secrets(found.own_address),
    )


def _listed(path: Path, requested: tuple[str, ...]) -> Iterator[SceneSource]:
    """Yield the scenes of a list.

    Raises:
        UserError: it cannot be read, or names no scene.
    """
    lines = [line for line in map(_without_comment, _text_of(path).splitlines()) if line]
    if not lines:
        raise UserError(f"{path} names no scene; write one path in a line")
    for line in lines:
        try:
            yield from _of_line(path, line, requested)
        except (UserError, OSError) as error:  # a name may be too long
            yield _source(FolderScene(PurePath(line).stem, (line,), str(error)), without_secrets(line), requested)


def _of_line(path: Path, line: str, requested: tuple[str, ...]) -> Iterator[SceneSource]:
    """Yield the scenes that a line of a list stands for."""
    text = line if is_gdal_name(line) else str(_beside(path, line))
    if Path(text).suffix.lower() in _LIST_SUFFIXES:
        raise UserError(f"{path} names {line}, a list; name its scenes instead")
    yield from _named(text, Path(text), requested)


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_LIST_BYTES:
            raise UserError(f"{path} has {path.stat().st_size >> 20} MiB, too many for a list of scenes")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no file {path}; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if b"\0" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is no text; a list of scenes has one path in a line")
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"  # PowerShell writes UTF-16
    return content.decode(encoding, "surrogateescape" if encoding != "utf-16" else "replace")


def _without_comment(line: str) -> str:
    """Return a path without comment, blanks and quotes; a ``#`` inside a name stays."""
    bare = re.sub(r"(^|\s)#.*$", "", line).strip()
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else bare


def _beside(path: Path, line: str) -> Path:
    """Return the file that a line of a list means; backslashes separate folders if nothing is called so."""
    place = path.parent / Path(line).expanduser()
    if "\\" in line and not place.exists():
        place = path.parent / line.replace("\\", "/")
    return place


def _source(scene: FolderScene, typed: str, requested: tuple[str, ...]) -> SceneSource:
    time = _time_in(scene.name)
    for part in () if time else reversed(PurePath(scene.paths[0]).parts):
        if _PRODUCT.match(part):
            time = _time_in(part)
            break
    beside = clouds = None
    if scene.problem is None and not is_gdal_name(scene.paths[0]):
        place = Path(scene.paths[0]).absolute()
        beside = None if place.is_dir() else item_beside(place)
        clouds = product_clouds(place) if place.is_dir() else None
    return SceneSource(
        id=scene.name,
        typed=typed,
        paths=scene.paths,
        datetime=time if beside is None else item_time(beside) or time,
        cloud_cover=clouds if beside is None else item_clouds(beside),
        problem=scene.problem,
        requested=requested,
    )


def _time_in(name: str) -> str | None:
    """Return the first time, or else day, in the name of a product, RFC 3339."""
    words = name.replace("_", " ")
    for pattern, layout in ((_TIME, "%Y%m%d%H%M%S"), (_DAY_OF_YEAR, "%Y%j%H%M%S"), (_DAY, "%Y%m%d")):
        for match in pattern.finditer(words):
            try:
                time = datetime.strptime("".join(match.groups()), layout).replace(tzinfo=UTC)
            except ValueError:
                continue
            return time.isoformat().replace("+00:00", "Z")
    return None


def _without_repeats(scenes: Sequence[SceneSource]) -> list[SceneSource]:
    """Return each scene once: files that are given twice, also by links or other spellings."""
    kept: dict[object, SceneSource] = {}
    repeats: list[SceneSource] = []
    for scene in scenes:
        key: object = frozenset((_place(band.path), band.index) for band in scene.located)
        key = key or frozenset(map(_place, scene.paths)) or scene.typed
        if kept.setdefault(key, scene) is not scene:
            repeats.append(scene)
    if repeats:
        logger.warning("%s given more than once, used once: %s", _scenes(len(repeats)), repeats[0].typed)
    return list(kept.values())


def _scenes(count: int) -> str:
    return "1 scene is" if count == 1 else f"{count} scenes are"


def _place(path: str) -> str:
    return path if is_gdal_name(path) else str(Path(path).resolve())


def _with_ids(scenes: Sequence[SceneSource]) -> tuple[SceneSource, ...]:
    """Return the scenes with names that are safe for files, and different even where case does not count."""
    taken: set[str] = set()
    named = []
    for scene in scenes:
        short = re.sub(r"[^A-Za-z0-9_.-]+", "_", scene.id)[:_LONGEST_ID].strip("_.-") or "scene"
        if short.lower() in taken | _RESERVED:
            # of the place, so that it stays the same when further scenes are added
            where = without_secrets("\n".join([scene.typed, scene.item or "", *map(_place, scene.paths)]))
            short = f"{short}-{hashlib.sha256(where.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        alike = next(number for number in count(1) if _numbered(short, number).lower() not in taken)
        short = _numbered(short, alike)
        taken.add(short.lower())
        named.append(replace(scene, id=short))
    return tuple(named)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


_RESERVED = {"model", "con", "prn", "aux", "nul"}
"""Names in the folder of a region, and names that Windows keeps for devices."""
