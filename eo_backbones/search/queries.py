"""What is searched for: the cell at a place, the cells in an area, or an image, as vectors of length 1."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask
from rasterio.warp import transform_geom

from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.rasters.options import AS_FILES_SAY, ReadingOptions
from eo_backbones.rasters.reader import tell_sources
from eo_backbones.scenes.compute import compute_blocks, rows_per_block
from eo_backbones.scenes.embed import given_components, scene_grid
from eo_backbones.scenes.grid import WGS84
from eo_backbones.scenes.request import features_digest, load_network
from eo_backbones.scenes.scene import Scene
from eo_backbones.search.filters import taken_at
from eo_backbones.search.index import COMPONENTS_FILE, IndexedScene, SearchIndex, unit_length

Combine = Literal["mean", "best"]
_AREAS = ("Polygon", "MultiPolygon")
_WGS84_NAMES = ("4326", "CRS84")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Query:
    """What cells are compared with.

    Attributes:
        vectors: float32 ``(n, features)`` of length 1; a cell's score is its largest cosine with any of them.
        text: what it is, for people.
        cells: numbers of the cells of the index that it was made from.
        image: files that it was made from.
    """

    vectors: np.ndarray
    text: str
    cells: np.ndarray
    image: tuple[str, ...] = ()


def at_place(index: SearchIndex, longitude: float, latitude: float, *, scene: str | None = None) -> Query:
    """Return the query for the cell at a place (WGS 84), of the latest of several scenes there.

    Args:
        index: the cells.
        longitude: degrees.
        latitude: degrees.
        scene: take the cell of this one.

    Raises:
        UserError: no scene has a value there.
    """
    where = f"longitude {longitude:g}, latitude {latitude:g}"
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
        raise UserError(f"{where} is no place on Earth; longitude comes first, such as --at 11.58,48.14")
    asked = [_scene_named(index, scene)] if scene else list(index.scenes)
    covering = [(one, cell) for one in asked if (cell := one.cell_at(longitude, latitude)) is not None]
    if not covering:
        raise UserError(f"{where} is outside {_extent(asked)}; longitude comes first")
    found = []
    for one, cell in covering:
        inside = np.zeros((one.rows, one.cols), bool)
        inside[cell] = True
        found += [(one, cell, number) for number in index.numbers(one, inside)]
    if not found:
        raise UserError(
            f"{where}: the cell there has no value (nodata) in {_names([s for s, _ in covering])}; move a bit"
        )
    found.sort(key=lambda item: (_age(item[0]), item[0].id))
    one, (row, col), number = found[0]
    others = f"; {len(found) - 1} more scenes there, --scene ID takes another" if len(found) > 1 else ""
    return Query(
        vectors=np.asarray(index.vectors[[number]]),
        text=f"cell at {where}: row {row}, column {col} of {_dated(one)}{others}",
        cells=np.array([number]),
    )


def in_area(index: SearchIndex, geojson: Path, *, combine: Combine = "mean") -> Query:
    """Return the query for the cells whose centres lie in the polygons of a GeoJSON file (of any that they touch).

    Args:
        index: the cells.
        geojson: a geometry, a feature or a collection of features, WGS 84.
        combine: ``"mean"``: one query, their mean; ``"best"``: as many queries as there are cells.

    Raises:
        UserError: no such file, no polygons, or none over a cell that has a value.
    """
    areas = list(_areas(geojson))
    parts: list[np.ndarray] = []
    for touched in (False, True):
        parts = [
            index.numbers(scene, _inside(scene, areas, geojson, touched=touched))
            for scene in index.scenes
            if scene.crs is not None
        ]
        if any(map(len, parts)):
            break
    numbers = np.concatenate([np.empty(0, np.int64), *parts])
    if not len(numbers):
        raise UserError(
            f"{geojson} covers no cell that has a value; the index has {_extent(index.scenes)}; longitude comes first"
        )
    vectors = np.asarray(index.vectors[numbers])
    scenes = sum(1 for part in parts if len(part))
    cells = f"{len(numbers):,} cell{'s' * (len(numbers) > 1)} in {scenes} scene{'s' * (scenes > 1)}"
    return Query(
        vectors=_mean(vectors) if combine == "mean" else vectors,
        text=f"{combine} of {cells} inside {geojson.name}",
        cells=numbers,
    )


def of_image(
    index: SearchIndex,
    image: Sequence[str],
    *,
    model: str | None = None,
    reading: ReadingOptions = AS_FILES_SAY,
    device: torch.device,
    dtype: torch.dtype,
) -> Query:
    """Return the query for an image: embedded as the scenes of the index were; of a large one the mean of its windows.

    Args:
        index: the cells.
        image: a file, or several of one image.
        model: where the model of the index is now; default: where it was.
        reading: what is declared about the stored values; the unit by default is that of the scenes.
        device: where to compute.
        dtype: of the network's computation.

    Raises:
        UserError: the image is too small or lacks a band, the model is another one, or the index lacks its components.
    """
    facts = index.facts
    names, size = list(facts["bands"]), facts["size"]
    bands = find_bands(image, names)
    network, spec, weights = load_network(model or facts["model"], names, facts["fuse"])
    meaning = features_digest(network, spec, weights)
    if weights != facts["weights_sha256"] or facts.get("features", meaning) != meaning:
        raise UserError(
            f"{index.folder} was made with {facts['model']} (weights {facts['weights_sha256'][:12]}...), and "
            f"{model or 'what is there now'} has others ({weights[:12]}...); pass that model with --model"
        )
    components = None
    if "components" in facts:
        if not (index.folder / COMPONENTS_FILE).is_file():
            raise UserError(
                f"{index.folder} lacks {COMPONENTS_FILE}, so an image cannot be projected as its cells were; make the "
                "index again from a folder that holds it, or pass --at or --geometry"
            )
        components = given_components(index.folder / COMPONENTS_FILE, network.num_features, meaning)
    declared = replace(reading, units=reading.units or tuple(index.scenes[0].facts["units"]))
    with Scene(bands, declared.for_bands(names)) as scene:
        if min(scene.height, scene.width) < size:
            raise UserError(
                f"{image[0]} has {scene.width} x {scene.height} pixels, fewer than a window of this index, which has "
                f"{size} x {size}; pass a larger cut-out"
            )
        grid = scene_grid(scene, size=size, stride=min(index.scenes[0].facts["stride"], size))
        tell_sources(scene.readings)
        scene.check_units(spec)
        blocks = compute_blocks(
            scene,
            grid,
            network,
            InputTransform(spec, band=names, unit=scene.units, check="off"),
            first=0,
            last=grid.rows,
            rows=rows_per_block(grid),
            max_nodata=index.scenes[0].facts["max_nodata"],
            device=device,
            dtype=dtype,
        )
        features = np.concatenate(list(blocks))
    features = features[~np.isnan(features[:, 0])]
    if not len(features):
        raise UserError(f"{image[0]}: every window has too many missing pixels; pass another cut-out")
    vectors = unit_length(features if components is None else components.project(features))
    windows = f", mean of {len(vectors):,} windows" if len(vectors) > 1 else ""
    return Query(
        vectors=_mean(vectors),
        text=f"image {', '.join(Path(path).name for path in image)}{windows}",
        cells=np.empty(0, np.int64),
        image=tuple(image),
    )


def _mean(vectors: np.ndarray) -> np.ndarray:
    """Return the direction of the mean, ``(1, features)``."""
    return unit_length(vectors.mean(axis=0, dtype=np.float64, keepdims=True))


def _areas(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the polygons of a GeoJSON file.

    Raises:
        UserError: no such file, no GeoJSON, no polygons, or another coordinate system than WGS 84.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; --geometry takes a GeoJSON file with polygons")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} could not be read as GeoJSON ({error}); --geometry takes polygons in WGS 84"
        ) from error
    if isinstance(content, dict) and "crs" in content:
        name = str((content["crs"] or {}).get("properties", {}).get("name", ""))
        if not name.endswith(_WGS84_NAMES):
            raise UserError(
                f"{path} is in {name or 'another coordinate system'}; GeoJSON is longitude and latitude, WGS 84"
            )
    found = [geometry for geometry in _geometries(content) if geometry.get("type") in _AREAS]
    if not found:
        raise UserError(f"{path} holds no polygon; --geometry takes areas, and --at LON,LAT a point")
    yield from found


def _geometries(content: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(content, dict):
        return
    for part in content.get("features", ()) or ():
        yield from _geometries(part)
    for part in content.get("geometries", ()) or ():
        yield from _geometries(part)
    if content.get("type") == "Feature":
        yield from _geometries(content.get("geometry"))
    elif "coordinates" in content:
        yield content


def _inside(scene: IndexedScene, areas: Sequence[dict[str, Any]], path: Path, *, touched: bool) -> np.ndarray:
    """Return which cells of a scene lie in any of the areas, bool ``(rows, cols)``."""
    try:
        placed = [transform_geom(WGS84, scene.crs, area) for area in areas]
        mask: np.ndarray = geometry_mask(
            placed, (scene.rows, scene.cols), scene.transform, all_touched=touched, invert=True
        )
    except (RasterioError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path} holds a polygon that cannot be read ({str(error).splitlines()[0]})") from error
    return mask


def _scene_named(index: SearchIndex, name: str) -> IndexedScene:
    found = next((scene for scene in index.scenes if scene.id == name), None)
    if found is None:
        raise UserError(f"--scene {name} is not in the index; it holds {_names(index.scenes)}")
    return found


def _age(scene: IndexedScene) -> float:
    """Return a number that is lower for later scenes."""
    moment = taken_at(scene)
    return math.inf if moment is None else -moment.timestamp()


def _dated(scene: IndexedScene) -> str:
    return scene.id if scene.datetime is None else f"{scene.id} ({scene.datetime[:10]})"


def _names(scenes: Sequence[IndexedScene]) -> str:
    names = [scene.id for scene in scenes[:5]]
    return ", ".join(names) + (f" and {len(scenes) - 5:,} more" if len(scenes) > 5 else "")


def _extent(scenes: Sequence[IndexedScene]) -> str:
    """Return the box of scenes in words."""
    placed = [scene.corners() for scene in scenes if scene.crs is not None]
    if not placed:
        return f"{_names(scenes)}, which have no coordinate system"
    lon, lat = (np.concatenate([corner[axis] for corner in placed]) for axis in (0, 1))
    return f"{_names(scenes)}: {lon.min():.4f} to {lon.max():.4f} and {lat.min():.4f} to {lat.max():.4f}"
