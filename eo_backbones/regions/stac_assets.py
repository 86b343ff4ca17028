"""Which asset of a STAC item holds which band, and what the item says about time and clouds.

A band is found by the asset's list of bands (``bands`` of STAC 1.1, ``eo:bands``), by name or common name, else by the
asset's key, else by the name of its file. Common names count before names, except for Sentinel-2, since ``B05`` is the
near infrared of Landsat and the red edge of Sentinel-2. Of several assets with a band those are taken that are no
pictures for display, whose resolution is the finest at which all requested bands are there, and that need no account
(http before ``s3://``), GeoTIFF before JPEG 2000.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from eo_backbones.bands import band_named_in
from eo_backbones.errors import UserError
from eo_backbones.rasters.band_files import NOT_BANDS, RASTER_SUFFIXES, BandFile, band_in_name
from eo_backbones.rasters.reader import is_gdal_name, split_request
from eo_backbones.rasters.stac_items import is_sentinel2, item_statements
from eo_backbones.rasters.statements import Statement
from eo_backbones.regions.stac_reader import FoundItem

_NO_DATA_ROLES = frozenset({"thumbnail", "overview", "metadata", "date", "saturation", "cloud", "snow-ice"})
_FOR_DISPLAY = frozenset({"visual", "tci"})
_ON_NETWORKS = {"s3": "/vsis3/", "gs": "/vsigs/"}
_RESOLUTION_IN_KEY = re.compile(r"(?:^|[_\-. ])(\d+)m(?=$|[_\-. ])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFiles:
    """Where the bands of an item are.

    Attributes:
        paths: the files, as GDAL names them.
        located: the bands; empty where nothing says which band of the only file is which.
        said: then, what the item says about each band of that file.
    """

    paths: tuple[str, ...]
    located: tuple[BandFile, ...] = ()
    said: tuple[tuple[Statement, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asset:
    """A raster of an item.

    Attributes:
        data: the asset's JSON object.
        path: as GDAL names it.
        bands: band at each position; ``None`` where it is none of ours, empty where nothing says it.
        for_display: colours made for the eye.
        resolution: of a pixel, in the unit that the item states it in; infinite where it does not.
        rank: of assets with the same band and resolution the lowest is taken.
    """

    data: Mapping[str, Any]
    path: str
    bands: tuple[str | None, ...]
    for_display: bool
    resolution: float
    rank: tuple[int, ...]


def files_of(found: FoundItem, requested: Sequence[str]) -> ItemFiles:
    """Return where the requested bands of an item are.

    Args:
        found: the item.
        requested: band names under any alias; a position (``"B04=4"``) only where the item has one raster.

    Raises:
        UserError: it has no asset with one of the bands.
    """
    assets = [asset for number, key in enumerate(found.item["assets"]) if (asset := _asset(found, key, number))]
    for_use = [asset for asset in assets if not asset.for_display] or assets
    folders = [place for data in found.item["assets"].values() if (place := _folder(found, data)) is not None]
    if not for_use and len(folders) == 1:  # a whole product (.SAFE), whose own metadata say what its values are
        return ItemFiles(paths=(folders[0],))
    if not for_use:
        raise UserError(f"{found.shown}: none of its {len(found.item['assets'])} assets is a raster")
    source = _source_name(found)
    requests = [split_request(item) for item in requested]
    if any(position is not None for _, position in requests) or (len(for_use) == 1 and not any(for_use[0].bands)):
        if len(for_use) > 1:
            raise UserError(
                f"{found.shown}: it has {len(for_use)} rasters, so a position such as {requested[0]} is not clear; "
                "name the bands only"
            )
        data = for_use[0].data
        described = data.get("raster:bands") or data.get("bands")
        count = max(len(described) if isinstance(described, list) else 0, 1)
        said = tuple(tuple(item_statements(found.item, data, source, index)) for index in range(1, count + 1))
        return ItemFiles(paths=(for_use[0].path,), said=said)
    names = [name for name, _ in requests]
    chosen = _choose(names, for_use) or _choose(names, assets)
    if chosen is None:
        held = sorted({name for asset in assets for name in asset.bands if name})
        absent = ", ".join(name for name in names if name not in held)
        raise UserError(f"{found.shown}: no asset with band {absent}; its assets hold {', '.join(held) or 'none'}")
    located = []
    for name, asset in zip(names, chosen, strict=True):
        index = asset.bands.index(name) + 1
        located.append(BandFile(name, asset.path, index, tuple(item_statements(found.item, asset.data, source, index))))
    return ItemFiles(paths=tuple(dict.fromkeys(band.path for band in located)), located=tuple(located))


def _choose(names: Sequence[str], assets: Sequence[_Asset]) -> list[_Asset] | None:
    """Return the asset for each band; ``None`` if one is missing."""
    holders = [[asset for asset in assets if name in asset.bands] for name in names]
    if not all(holders):
        return None
    common = set.intersection(*({asset.resolution for asset in some} for some in holders))
    finest = min(common, default=None)
    return [
        min(
            (asset for asset in some if finest is None or asset.resolution == finest),
            key=lambda asset: (asset.resolution, asset.rank),
        )
        for some in holders
    ]


def _asset(found: FoundItem, key: str, number: int) -> _Asset | None:
    """Return an asset if it is a raster with values."""
    data = found.item["assets"][key]
    href = data.get("href") if isinstance(data, dict) else None
    if not isinstance(href, str) or not href.strip() or href.lower().startswith("data:"):
        return None
    words = {word for word in re.split(r"[_\-. ]", key.lower()) if word}
    roles = {str(role).lower() for role in data["roles"]} if isinstance(data.get("roles"), list) else set()
    kind = str(data.get("type") or "").lower()
    place = found.resolve(href)
    name = PurePosixPath(unquote(urlsplit(place).path) if "://" in place else place.replace("\\", "/"))
    is_raster = kind.startswith("image/") or name.suffix.lower() in RASTER_SUFFIXES
    if not is_raster or roles & _NO_DATA_ROLES or words & (NOT_BANDS - _FOR_DISPLAY):
        return None
    scheme = urlsplit(place).scheme
    prefix = _ON_NETWORKS.get(scheme)
    if prefix is not None:
        path = prefix + place.partition("://")[2]
    else:
        path = place if is_gdal_name(place) else str(Path(place).absolute())  # a worker may be in another folder
    return _Asset(
        data=data,
        path=path,
        bands=_bands(found.item, data, key, name),
        for_display=bool((roles | words) & _FOR_DISPLAY),
        resolution=_resolution(data, key),
        rank=(
            int(path.startswith("/vsi")),
            int(kind.startswith(("image/png", "image/jpeg"))),
            int("jp2" in kind or "jp2" in words or name.suffix.lower() == ".jp2"),
            number,
        ),
    )


def _folder(found: FoundItem, data: Any) -> str | None:
    """Return the folder on this machine that an asset is, ``None`` if it is something else."""
    href = data.get("href") if isinstance(data, dict) else None
    place = found.resolve(href) if isinstance(href, str) and href.strip() else ""
    try:
        return str(Path(place).absolute()) if place and not is_gdal_name(place) and Path(place).is_dir() else None
    except OSError:  # a name that is too long
        return None


def _bands(item: Mapping[str, Any], data: Mapping[str, Any], key: str, name: PurePosixPath) -> tuple[str | None, ...]:
    """Return the band at each position of an asset; nothing where its list, its key and its file name say none."""
    entries: list[Any] = next(
        (data[one] for one in ("bands", "eo:bands") if isinstance(data.get(one), list) and data[one]), []
    )
    names_first = is_sentinel2(item["properties"])
    listed = tuple(_band(entry, names_first=names_first) if isinstance(entry, dict) else None for entry in entries)
    if any(listed):
        return listed
    named = band_named_in(key) or band_in_name(PurePosixPath(f"{key}.")) or band_in_name(name)
    return (named,) if named is not None and len(listed) < 2 else ()


def _band(entry: Mapping[str, Any], *, names_first: bool) -> str | None:
    """Return the band that an entry of a list of bands describes."""
    texts = [entry.get("name"), entry.get("eo:common_name"), entry.get("common_name")]
    known = [name for text in texts if (name := band_named_in(text if isinstance(text, str) else None))]
    if not known:
        return band_in_name(PurePosixPath(f"{entry.get('name')}."))
    return known[0] if names_first else known[-1]


def _resolution(data: Mapping[str, Any], key: str) -> float:
    """Return the size of a pixel of an asset, as it is stated."""
    entries = [data]
    for name in ("raster:bands", "bands"):
        entries += [one for one in data[name] if isinstance(one, dict)] if isinstance(data.get(name), list) else []
    in_key = _RESOLUTION_IN_KEY.findall(key)
    transform = data.get("proj:transform")
    stated = [
        *(entry.get(name) for name in ("spatial_resolution", "raster:spatial_resolution") for entry in entries),
        *(transform[:1] if isinstance(transform, list) else ()),
        *(entry.get("gsd") for entry in entries),
        *map(float, in_key[-1:]),
    ]
    sizes = [abs(float(size)) for size in stated if _is_number(size) and size]
    return sizes[0] if sizes else math.inf


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _source_name(found: FoundItem) -> str:
    """Return what the item is called as the source of a statement, as where it is found beside a file."""
    name = PurePosixPath(urlsplit(found.address.replace("\\", "/")).path).name
    return name if name.endswith((".json", ".geojson")) and "#" not in found.shown else f"STAC item {found.name}"


def item_time(item: Mapping[str, Any]) -> str | None:
    """Return when an item was taken, RFC 3339 in UTC; of a range of times the beginning, else the end."""
    properties = item["properties"]
    for key in ("datetime", "start_datetime", "end_datetime"):
        text = properties.get(key)
        try:
            time = datetime.fromisoformat(text.strip()) if isinstance(text, str) else None
            if time is not None:
                known = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
                return known.astimezone(UTC).isoformat().replace("+00:00", "Z")
        except (ValueError, OverflowError):
            continue
    return None


def item_clouds(item: Mapping[str, Any]) -> float | None:
    """Return the share of clouds of an item in percent, ``None`` if it does not say it."""
    share = item["properties"].get("eo:cloud_cover")
    return float(share) if _is_number(share) and 0 <= share <= 100 else None
