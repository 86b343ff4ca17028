"""The STAC catalogue of a region: one item for each scene, which says how its embedding was made.

Read are the files of embeddings alone, so the catalogue can be written again at any time. Fields are those of

* STAC 1.1, and the extensions projection 2.0, processing 1.2 and (clouds) eo 2.0;
* the proposed extension for embeddings, prefix ``emb``, version 0.0.1, of the geo-embeddings sprint of March 2026
  (github.com/geo-embeddings/embeddings-stac-specification, README of 16 March 2026). What all scenes share (type,
  number of values, layout of the windows) stands in a collection, what belongs to one of them in its item, and
  ``emb:model`` leads to the STAC item of the model. Its draft of a schema still refers to the item of STAC 1.0, whose
  ``data_type`` it takes from 1.1; items here are 1.1, as its field needs.

The collection is a child of the catalogue; items are linked from the catalogue only, so that who walks it meets each
once, and name their collection.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from rasterio.crs import CRS
from rasterio.errors import CRSError

from eo_backbones.errors import without_secrets
from eo_backbones.files import write_json
from eo_backbones.rasters.reader import is_gdal_name, opened
from eo_backbones.regions.folder import EmbeddedRegion, EmbeddedScene
from eo_backbones.regions.footprint import footprint
from eo_backbones.regions.layout import CATALOG_FILE, COMPONENTS_FILE, MODEL_ITEM
from eo_backbones.regions.model_item import write_model_item
from eo_backbones.scenes.grid import at

COLLECTION_FILE = "collection.json"
EMBEDDINGS_SCHEMA = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PROJECTION_SCHEMA = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
PROCESSING_SCHEMA = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
EO_SCHEMA = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"

_VERSION = "1.1.0"
_ALWAYS = ("1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z")  # of scenes without a date: STAC asks for one, or a range
_JSON, _GEOJSON = "application/json", "application/geo+json"
_PARAMETERS = (
    "bands", "units", "scale", "offset", "nodata", "fuse", "size", "stride", "max_nodata", "number_format", "features",
    "weights_sha256", "components", "components_sha256",
)  # fmt: skip
"""Facts of a file that are given as parameters of the run."""
_FIT_FOR_USE = ["similarity_search", "classification"]


def write_catalog(folder: Path, region: EmbeddedRegion) -> None:
    """Write the catalogue, its collection, one item beside each embedding, and the item of the model.

    Each file appears whole or not at all, and replaces that of an earlier call; the catalogue comes last.

    Args:
        folder: of the region.
        region: what is in it.
    """
    write_model_item(folder / MODEL_ITEM, region.facts)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.") or "region"
    items = []
    for scene in region.scenes:
        path = scene.path.with_suffix(".json")
        item = _item(scene, path, folder, f"{name}-embeddings")
        write_json(path, item)
        items.append((path, item))
    collection = _collection(folder, region, f"{name}-embeddings", [item for _, item in items])
    write_json(folder / COLLECTION_FILE, collection)
    links = [_link("root", CATALOG_FILE, _JSON), _link("child", COLLECTION_FILE, _JSON)]
    links += [_link("item", _between(folder, path), _GEOJSON, title=item["id"]) for path, item in items]
    catalogue = {
        "type": "Catalog",
        "stac_version": _VERSION,
        "id": name,
        "title": f"Embeddings of {len(items)} scene{'s' if len(items) != 1 else ''}",
        "description": f"Embeddings by {region.facts.get('model')}; what they have in common is in {COLLECTION_FILE}.",
        "links": links,
    }
    write_json(folder / CATALOG_FILE, catalogue)


def _link(rel: str, href: str, media_type: str | None = None, **more: str) -> dict[str, str]:
    return {"rel": rel, "href": href, **({"type": media_type} if media_type else {}), **more}


def _between(folder: Path, path: Path) -> str:
    """Return the address of a file below or above a folder, relative to it."""
    start, end = folder.resolve(), path.resolve()
    up = 0
    while not end.is_relative_to(start):
        start, up = start.parent, up + 1
    place = quote(end.relative_to(start).as_posix())
    return ("../" * up or "./") + place


def _item(scene: EmbeddedScene, path: Path, folder: Path, collection: str) -> dict[str, Any]:
    """Return the item of a scene.

    Args:
        scene: its embedding.
        path: of the item.
        folder: of the region.
        collection: id of the collection.
    """
    facts = scene.facts
    stored = _stored(scene)
    outline = footprint(scene.crs, scene.transform, scene.rows, scene.cols)
    written = datetime.fromtimestamp(scene.path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    properties: dict[str, Any] = {
        "datetime": scene.datetime,
        **({"start_datetime": _ALWAYS[0], "end_datetime": _ALWAYS[1]} if scene.datetime is None else {}),
        **_projection(scene),
        **({"eo:cloud_cover": scene.cloud_cover} if scene.cloud_cover is not None else {}),
        **({"gsd": metres} if (metres := _metres(scene)) is not None else {}),
        "emb:runtime_parameters": {name: facts[name] for name in _PARAMETERS if facts.get(name) is not None},
        "emb:fit_for_use": _FIT_FOR_USE,
        "processing:datetime": written.replace("+00:00", "Z"),
        **({"processing:software": {"eo-backbones": str(facts["version"])}} if facts.get("version") else {}),
    }
    if facts.get("components"):
        properties["emb:postprocessing"] = {"format": "python", "expression": "(features - mean) @ axes.T"}
    if stored["data_type"] != "float32":
        properties["emb:quantization"] = _quantization(stored)
    schemas = [EMBEDDINGS_SCHEMA, PROCESSING_SCHEMA, PROJECTION_SCHEMA]
    up = path.parent
    links = [
        _link("root", _between(up, folder / CATALOG_FILE), _JSON),
        _link("parent", _between(up, folder / CATALOG_FILE), _JSON),
        _link("collection", _between(up, folder / COLLECTION_FILE), _JSON),
        _link("emb:model", _between(up, folder / MODEL_ITEM), _GEOJSON, title=str(facts.get("model"))),
        *_sources(facts),
    ]
    return {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": schemas + ([EO_SCHEMA] if scene.cloud_cover is not None else []),
        "id": scene.id,
        "collection": collection,
        "geometry": None if outline is None else outline.geometry,
        **({} if outline is None else {"bbox": outline.bbox}),
        "properties": properties,
        "links": links,
        "assets": {
            "embeddings": {
                "href": f"./{quote(scene.path.name)}",
                "title": f"{scene.features} values for each of {scene.rows} x {scene.cols} cells",
                "type": stored["type"],
                "roles": ["data"],
                "data_type": stored["data_type"],
            }
        },
    }


def _stored(scene: EmbeddedScene) -> dict[str, Any]:
    """Return media type and data type of an embedding, and scale and offset of each of its bands if it has them."""
    told = str(scene.facts.get("dtype") or "float32")
    if scene.format != "geotiff":
        types = {"parquet": "application/vnd.apache.parquet", "zarr": "application/vnd+zarr"}
        return {"type": types[scene.format], "data_type": told}
    with opened(scene.path) as source:
        tiled = source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
        half = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == "16"  # GDAL reads 16-bit floats as 32 bits
        coded = source.dtypes[0] == "int8"
        return {
            "type": "image/tiff; application=geotiff" + ("; profile=cloud-optimized" if tiled else ""),
            "data_type": "float16" if half and not coded else source.dtypes[0],
            **({"scale": list(source.scales), "offset": list(source.offsets)} if coded else {}),
        }


def _quantization(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return how values were made smaller."""
    coded = {name: stored[name] for name in ("scale", "offset") if name in stored}
    return {
        "method": "linear" if coded else "cast",
        "original_dtype": "float32",
        "quantized_dtype": stored["data_type"],
        **coded,
    }


def _projection(scene: EmbeddedScene) -> dict[str, Any]:
    """Return the fields of the projection extension."""
    x, y = zip(*(at(scene.transform, col, row) for col in (0, scene.cols) for row in (0, scene.rows)), strict=True)
    return {
        **_crs(scene.crs),
        "proj:shape": [scene.rows, scene.cols],
        "proj:transform": list(scene.transform[:6]),
        **({"proj:bbox": [min(x), min(y), max(x), max(y)]} if scene.crs is not None else {}),
    }


def _crs(crs: CRS | None) -> dict[str, Any]:
    authority = None if crs is None else crs.to_authority()
    if crs is None or authority is not None:
        return {"proj:code": None if authority is None else ":".join(authority)}
    try:
        return {"proj:code": None, "proj:wkt2": crs.to_wkt(version="WKT2_2019")}
    except CRSError:
        return {"proj:code": None}


def _metres(scene: EmbeddedScene) -> float | None:
    """Return the side of a cell in metres, where the unit of its coordinates is a length."""
    if scene.crs is None or not scene.crs.is_projected:
        return None
    a, b, _, d, e, _ = scene.transform[:6]
    side = math.sqrt(abs(a * e - b * d)) * float(scene.crs.linear_units_factor[1])
    return round(side, 6)


def _sources(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return links to what the embedding was made from: the scene's own item, else its files."""
    item = facts.get("stac_item")
    if isinstance(item, str) and item:
        href = _address(item)
        return [_link("derived_from", href, _GEOJSON), _link("emb:source-data", href, _GEOJSON)]
    files = facts.get("scene")
    return [_link("emb:source-data", _address(str(path))) for path in (files if isinstance(files, list) else ())]


def _address(path: str) -> str:
    """Return a complete address of a file."""
    return without_secrets(path) if is_gdal_name(path) or "://" in path else Path(path).absolute().as_uri()


def _collection(
    folder: Path, region: EmbeddedRegion, identifier: str, items: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the collection: what all embeddings have in common."""
    first = region.scenes[0]
    types = sorted({item["assets"]["embeddings"]["data_type"] for item in items})
    metres = sorted({item["properties"]["gsd"] for item in items if "gsd" in item["properties"]})
    size, stride = first.facts.get("size"), first.facts.get("stride")
    layout = {"layout_type": "regular_grid", "chip_size": [size, size], "stride": [stride, stride]}
    sources = {link["href"]: link for item in items for link in item["links"] if link["rel"] == "emb:source-data"}
    links = [
        _link("root", f"./{CATALOG_FILE}", _JSON),
        _link("parent", f"./{CATALOG_FILE}", _JSON),
        _link("emb:model", f"./{PurePosixPath(MODEL_ITEM)}", _GEOJSON, title=str(region.facts.get("model"))),
        *sources.values(),
    ]
    components = folder / COMPONENTS_FILE
    asset = {
        "href": f"./{COMPONENTS_FILE}",
        "title": "Mean and axes of the principal components, as NumPy arrays",
        "type": "application/octet-stream",
        "roles": ["metadata"],
    }
    return {
        "type": "Collection",
        "stac_version": _VERSION,
        "stac_extensions": [EMBEDDINGS_SCHEMA],
        "id": identifier,
        "title": f"Embeddings by {region.facts.get('model')}",
        "description": f"Embeddings of windows of {size} x {size} pixels, bands {', '.join(region.facts['bands'])}.",
        "license": "other",  # that of the scenes, which nothing here states
        "extent": {"spatial": {"bbox": _boxes(items)}, "temporal": {"interval": [_interval(region.scenes)]}},
        "emb:type": "chip",
        "emb:dimensions": region.features,
        "data_type": types[0],
        **({"gsd": metres[0]} if metres else {}),
        "emb:chip_layout": layout,
        "emb:temporal_resolution": "single_acquisition",
        "emb:fit_for_use": _FIT_FOR_USE,
        "links": links,
        **({"assets": {"components": asset}} if components.is_file() else {}),
        "summaries": {"data_type": types, **({"gsd": metres} if metres else {})},
    }


def _boxes(items: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the box of all scenes; one around the globe where a scene has no place or lies across 180 degrees."""
    boxes = [item["bbox"] for item in items if "bbox" in item]
    if not boxes or any(west > east for west, _, east, _ in boxes):
        return [[-180.0, -90.0, 180.0, 90.0]] if not boxes else [
            [-180.0, min(box[1] for box in boxes), 180.0, max(box[3] for box in boxes)]
        ]  # fmt: skip
    west, south, east, north = zip(*boxes, strict=True)
    return [[min(west), min(south), max(east), max(north)]]


def _interval(scenes: Sequence[EmbeddedScene]) -> list[str | None]:
    times = sorted(scene.datetime for scene in scenes if scene.datetime is not None)
    return [times[0], times[-1]] if times else list(_ALWAYS)
