"""What a STAC item beside a file says about its values.

Read are the item's ``s2:processing_baseline`` (or ``processing:version``), level, whether the provider removed the
offset of baseline 04.00 (``earthsearch:boa_offset_applied``), and scale, offset, nodata and unit of the asset that the
file is: ``raster:bands`` of the raster extension 1.x, ``bands`` of STAC 1.1.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from eo_backbones.rasters.sentinel2_products import by_baseline, name_statement, parse_baseline, parse_level
from eo_backbones.rasters.side_files import names_in, read_once
from eo_backbones.rasters.statements import Statement

_MOST_BYTES = 4 << 20  # items have 5 to 100 kB
_MOST_FILES = 32  # in a folder of more JSON files only STEM.json is looked at
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_OFFSET_REMOVED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_LEVELS = ("processing:level", "s2:product_type", "product:type", "sentinel:product_type")
_NAMES = ("s2:product_uri", "sentinel:product_id")


def stac_statements(path: Path, index: int) -> list[Statement]:
    """Return what the STAC items beside a file, or in the folder above, say about one of its bands.

    Args:
        path: absolute, on this machine.
        index: 1-based index of the band in the file.
    """
    return [
        statement
        for found in _items_beside(path)
        for statement in item_statements(found.item, found.asset or {}, found.name, index)
    ]


def item_beside(path: Path) -> Mapping[str, Any] | None:
    """Return the STAC item beside a file, or in the folder above, that describes it; its own before others.

    Args:
        path: absolute, on this machine.
    """
    first = min(_items_beside(path), key=lambda found: not found.own, default=None)
    return None if first is None else first.item


class _Beside(NamedTuple):
    """An item that describes a file: ``own``, named like it beside it, or with the file as an asset."""

    name: str
    item: Mapping[str, Any]
    asset: Mapping[str, Any] | None
    own: bool


def _items_beside(path: Path) -> Iterator[_Beside]:
    """Yield the items beside a file, and in the folder above, that describe it."""
    for folder in path.parents[:2]:
        names = names_in(folder, (".json", ".geojson"))
        own = [f"{path.stem}{end}" for end in (".json", ".geojson") if folder == path.parent]
        for name in names if len(names) <= _MOST_FILES else own:
            item = read_once(folder / name, _read)
            asset = None if item is None else _asset(item, folder, path)
            if item is not None and (asset is not None or name in own):
                yield _Beside(name, item, asset, name in own)


def _read(path: Path) -> Mapping[str, Any] | None:
    """Return the item in a JSON file, ``None`` if it holds none."""
    try:
        content = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
        if b'"stac_version"' not in content:  # labels, logs: not worth parsing
            return None
        item = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None
    is_item = isinstance(item, dict) and item.get("type") == "Feature" and isinstance(item.get("properties"), dict)
    return item if is_item else None


def _asset(item: Mapping[str, Any], folder: Path, path: Path) -> Mapping[str, Any] | None:
    """Return the asset of an item that a file is: by its relative address, else by its file name."""
    assets = item.get("assets")
    by_name: list[Mapping[str, Any]] = []
    for asset in assets.values() if isinstance(assets, dict) else ():
        href = asset.get("href") if isinstance(asset, dict) else None
        if not isinstance(href, str):
            continue
        address = PurePosixPath(unquote(urlsplit(href).path))
        if "://" not in href and folder.joinpath(address) == path:
            return dict(asset)
        if folder == path.parent and address.name == path.name:
            by_name.append(asset)
    return by_name[0] if by_name else None


def item_statements(item: Mapping[str, Any], asset: Mapping[str, Any], name: str, index: int) -> list[Statement]:
    """Return what an item says about one band of one of its assets.

    Args:
        item: its ``properties`` are an object.
        asset: of the item.
        name: of the item, for messages.
        index: 1-based index of the band in the asset.
    """
    properties = item["properties"]
    level = next((known for key in _LEVELS if (known := parse_level(properties.get(key))) is not None), None)
    baseline = next((said for key in _BASELINES if (said := parse_baseline(properties.get(key))) is not None), None)
    removed = next((properties[key] for key in _OFFSET_REMOVED if isinstance(properties.get(key), bool)), None)
    of_sentinel2 = is_sentinel2(properties)
    named = next((found for key in _NAMES if (found := name_statement(str(properties.get(key) or "")))), None)
    statements = []
    if baseline is None and named is not None:
        baseline = None if named.baseline is None else parse_baseline(named.baseline)
        level = level or named.level
    if of_sentinel2 and removed is True:
        statements.append(
            Statement(source=f"{name} (boa_offset_applied)", scale=1e-4, offset=0.0, offset_removed=True, level=level)
        )
    elif of_sentinel2 and baseline is not None:
        statements.append(by_baseline(baseline, f"{name} (processing baseline)", level))
    elif of_sentinel2 and level is not None:
        statements.append(Statement(source=name, of_product=True, level=level))
    entry = _band_entry(asset, index)
    scale, offset = _finite(entry.get("scale")), _finite(entry.get("offset"))
    nodata = _nodata(entry.get("nodata"))
    unit = entry.get("unit") if isinstance(entry.get("unit"), str) else None
    if scale is not None or offset is not None or nodata is not None or unit is not None:
        key = "raster:bands" if asset.get("raster:bands") else "bands"
        statements.append(Statement(source=f"{name} ({key})", scale=scale, offset=offset, nodata=nodata, unit=unit))
    return statements


def is_sentinel2(properties: Mapping[str, Any]) -> bool:
    """Return whether the properties of an item say that it is of Sentinel-2."""
    named = f"{properties.get('constellation')} {properties.get('platform')}".lower()
    return "sentinel-2" in named or any(key.startswith(("s2:", "sentinel:")) for key in properties)


def _band_entry(asset: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """Return what an asset says about one band: its own entry, over what is said for all bands (STAC 1.1)."""
    common = {key: asset[f"raster:{key}"] for key in ("scale", "offset") if f"raster:{key}" in asset}
    common |= {key: asset[key] for key in ("nodata", "unit") if key in asset}
    for key in ("raster:bands", "bands"):
        entries = asset.get(key)
        if isinstance(entries, list) and len(entries) >= index and isinstance(entries[index - 1], dict):
            entry: dict[str, Any] = entries[index - 1]
            prefixed = {name: entry[f"raster:{name}"] for name in ("scale", "offset") if f"raster:{name}" in entry}
            return common | prefixed | entry
    return common


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _nodata(value: object) -> float | None:
    if isinstance(value, str) and value.lower() in {"nan", "inf", "-inf"}:
        return float(value)
    return _finite(value)
