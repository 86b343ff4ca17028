"""Small scenes with STAC items in the words of three providers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

PIXELS = 64
_COMMON = {"B02": "blue", "B03": "green", "B04": "red", "B05": "rededge", "B08": "nir", "B8A": "nir08", "B11": "swir16"}
_EARTH_SEARCH = _COMMON | {"B05": "rededge1"}


def values(band: str, *, offset: int = 0) -> np.ndarray:
    """Return digital numbers of ground that looks like ground, the same for a band everywhere."""
    ground = np.random.default_rng(sum(map(ord, band))).gamma(4.0, 300.0, (PIXELS, PIXELS))
    return (ground + 50 + offset).astype(np.uint16)


def write_band(path: Path, pixels: np.ndarray, *, resolution: float = 10, descriptions: Sequence[str] = ()) -> Path:
    """Write one band, or several ``(bands, height, width)``, as a tiled GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = pixels[None] if pixels.ndim == 2 else pixels
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    where = {"crs": "EPSG:32632", "transform": from_origin(600000, 5400000, resolution, resolution)}
    with rasterio.open(path, "w", **profile, **where) as file:
        file.write(bands)
        for index, name in enumerate(descriptions, start=1):
            file.set_band_description(index, name)
    return path


def item(identifier: str, assets: Mapping[str, Any], properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a STAC item."""
    ring = [[10.36, 48.74], [10.37, 48.74], [10.37, 48.75], [10.36, 48.75], [10.36, 48.74]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [10.36, 48.74, 10.37, 48.75],
        "properties": {"datetime": "2022-06-01T10:27:21.024000Z", "eo:cloud_cover": 12.5, **(properties or {})},
        "links": [],
        "assets": dict(assets),
    }


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def earth_search(folder: Path, identifier: str, bands: Sequence[str], *, base: str = "") -> dict[str, Any]:
    """Write a scene as Element 84's Earth Search v1 offers it, and return its item.

    Keys and names are common names; the offset of baseline 04.00 was removed, so stored values have none.
    """
    assets: dict[str, Any] = {}
    for band in bands:
        name = _EARTH_SEARCH[band]
        write_band(folder / identifier / f"{band}.tif", values(band))
        assets[name] = {
            "href": f"{base}{identifier}/{band}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "eo:bands": [{"name": name, "common_name": _COMMON[band]}],
            "gsd": 10,
            "raster:bands": [
                {"nodata": 0, "data_type": "uint16", "spatial_resolution": 10, "scale": 1e-4, "offset": 0}
            ],
            "roles": ["data", "reflectance"],
        }
        assets[f"{name}-jp2"] = assets[name] | {
            "href": f"s3://sentinel-s2-l2a/tiles/{identifier}/R10m/{band}.jp2",
            "type": "image/jp2",
        }
    picture = np.full((3, PIXELS, PIXELS), 90, np.uint8)
    write_band(folder / identifier / "TCI.tif", picture)
    names = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
    assets = {
        "visual": {"href": f"{base}{identifier}/TCI.tif", "type": "image/tiff", "eo:bands": names, "roles": ["visual"]},
        "thumbnail": {"href": f"{base}{identifier}/preview.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
        **assets,
        "granule_metadata": {"href": f"{base}{identifier}/metadata.xml", "type": "application/xml"},
    }
    said = {
        "platform": "sentinel-2a",
        "constellation": "sentinel-2",
        "s2:processing_baseline": "04.00",
        "earthsearch:boa_offset_applied": True,
        "s2:product_type": "S2MSI2A",
    }
    return item(identifier, assets, said)


def planetary_computer(folder: Path, identifier: str, bands: Sequence[str], *, query: str = "") -> dict[str, Any]:
    """Write a scene as Microsoft's Planetary Computer offers it: numbers with +1000, keys ``B04``, signed addresses."""
    assets: dict[str, Any] = {}
    for band in bands:
        file = f"T32UPU_{identifier}_{band}_10m.tif"
        write_band(folder / identifier / file, values(band, offset=1000))
        assets[band] = {
            "href": f"{identifier}/{file}{query}",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "eo:bands": [{"name": band, "common_name": _COMMON[band]}],
            "gsd": 10.0,
            "roles": ["data"],
        }
    assets["visual"] = assets[bands[0]] | {"eo:bands": [{"name": name} for name in ("B04", "B03", "B02")]}
    assets["tilejson"] = {"href": f"{identifier}/tilejson.json", "type": "application/json", "roles": ["tiles"]}
    said = {"platform": "Sentinel-2A", "constellation": "Sentinel 2", "s2:processing_baseline": "04.00"}
    return item(identifier, assets, said)


def stac_1_1(folder: Path, identifier: str, bands: Sequence[str]) -> dict[str, Any]:
    """Write a scene with all bands in one file, described as STAC 1.1 does, with scale and offset of each."""
    stored = np.stack([values(band, offset=1000) for band in bands])
    write_band(folder / identifier / "stack.tif", stored)
    asset = {
        "href": f"./{identifier}/stack.tif",
        "type": "image/tiff; application=geotiff",
        "roles": ["data"],
        "raster:scale": 1e-4,
        "raster:offset": -0.1,
        "nodata": 0,
        "bands": [{"name": band, "eo:common_name": _COMMON[band]} for band in bands],
    }
    made = item(identifier, {"analytic": asset}, {"datetime": None, "start_datetime": "2022-06-01T12:27:21+02:00"})
    return made | {"stac_version": "1.1.0"}


def catalogue(identifier: str, links: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return a catalogue with links ``(rel, href)``."""
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": identifier,
        "description": "scenes",
        "links": [{"rel": rel, "href": href} for rel, href in links],
    }
