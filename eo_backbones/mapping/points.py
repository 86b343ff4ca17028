"""Labelled points from a file: GeoJSON, or a table with longitude and latitude."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from eo_backbones.datasets.tables import read_table
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import GdalError
from eo_backbones.scenes.grid import WGS84, to_degrees

LARGEST_CLASS = 254
"""Highest value of a class in a map, and the number of classes it can have; 255 is nodata."""
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
_LARGEST_COORDINATE = 1e12  # of any coordinate system on this planet
_COLUMNS = (("lon", "lat"), ("longitude", "latitude"), ("x", "y"))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Points:
    """Labelled points.

    Attributes:
        path: the file.
        lon, lat: degrees, WGS 84, float64 ``(n,)``.
        labels: class of each, int64 ``(n,)``; -1: the point says none.
        classes: names of the classes.
        values: value of each class in a map, ascending: the names where all are whole numbers from 0 to 254, else 1, 2,
            3 in the order of the names.
    """

    path: Path
    lon: np.ndarray
    lat: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    values: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_points(path: Path, class_field: str) -> Points:
    """Read labelled points.

    GeoJSON: points and multi-points (each of whose points counts), in WGS 84 or the coordinate system of a ``crs``
    member. A table: columns ``lon`` and ``lat`` (or ``longitude`` and ``latitude``), and the class.

    Args:
        path: ``.csv``, ``.tsv`` or ``.txt`` is a table, anything else GeoJSON.
        class_field: property, or column, that holds the class.

    Raises:
        UserError: no such file or field, another geometry, places outside the world, a single class, or too many.
    """
    read = _read_table if path.suffix.lower() in _TABLE_SUFFIXES else _read_geojson
    places, names = read(path, class_field)
    lon, lat = places.T
    wrong = np.flatnonzero(~((np.abs(lon) <= 180) & (np.abs(lat) <= 90)))  # also where they are NaN or infinite
    if len(wrong):
        raise UserError(
            f"{path}: point {wrong[0] + 1} at {lon[wrong[0]]:g}, {lat[wrong[0]]:g} is not a longitude and latitude; "
            "save the points in EPSG:4326, longitude first (ogr2ogr -t_srs EPSG:4326 POINTS.geojson ...)"
        )
    classes, values = _classes(path, class_field, names)
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([-1 if name is None else number[name] for name in names], np.int64)
    return Points(path=path, lon=lon, lat=lat, labels=labels, classes=classes, values=values)


def _classes(path: Path, field: str, names: list[str | None]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names of the classes and their values in a map."""
    found = sorted({name for name in names if name is not None})
    if len(found) < 2:
        seen = f"only {found[0]!r}" if found else "nothing"
        raise UserError(f"{path}: field {field} holds {seen}; a map needs points of at least two classes")
    if len(found) > LARGEST_CLASS:
        raise UserError(f"{path}: field {field} holds {len(found)} classes, but a map has at most {LARGEST_CLASS}")
    folded: dict[str, str] = {}
    for name in found:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f"{path}: classes {other!r} and {name!r} differ in capital letters only; write them alike")
    if all(name.isdecimal() and name.isascii() and str(int(name)) == name for name in found):
        numbers = sorted(map(int, found))
        if numbers[-1] <= LARGEST_CLASS:
            return tuple(map(str, numbers)), tuple(numbers)
    return tuple(found), tuple(range(1, len(found) + 1))


def _read_table(path: Path, field: str) -> tuple[np.ndarray, list[str | None]]:
    """Return longitudes and latitudes ``(n, 2)`` and the classes."""
    try:
        header = path.read_text(encoding="utf-8-sig").splitlines()[:1]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({type(error).__name__}: {error}); pass a CSV or GeoJSON file") from error
    named = {part.strip().strip('"') for part in (header or [""])[0].replace(";", ",").replace("\t", ",").split(",")}
    columns = next((pair for pair in _COLUMNS[:2] if set(pair) <= named), None)
    if columns is None:
        projected = " (x and y: save them as longitude and latitude)" if set(_COLUMNS[2]) <= named else ""
        raise UserError(f"{path} has no columns lon and lat{projected}; its first line must be lon,lat,{field}")
    if field not in named:
        raise _no_field(path, field, sorted(named - set(columns)))
    rows = read_table(path, [*columns, field], what="point", places=True)
    places = []
    for row in rows:
        try:
            places.append([float(row[name]) for name in columns])
        except ValueError as error:
            raise UserError(f"{path}, line {row.line}: {error}; write degrees such as 11.58") from None
    return np.array(places, np.float64), [row[field] for row in rows]


def _read_geojson(path: Path, field: str) -> tuple[np.ndarray, list[str | None]]:
    """Return longitudes and latitudes ``(n, 2)`` and the classes, ``None`` where a point says none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"no file {path}; --points takes a GeoJSON file of labelled points, or a CSV file") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot read {path} as GeoJSON ({reason}); convert it: ogr2ogr -t_srs EPSG:4326 POINTS.geojson {path}"
        ) from error
    features = list(_features(path, content))
    if not features:
        raise UserError(f"{path} holds no points; add some with a class in the property {field}")
    if not any(field in _properties(feature) for feature in features):
        raise _no_field(path, field, sorted({name for feature in features for name in _properties(feature)}))
    places, names = [], []
    for number, feature in enumerate(features, 1):
        name = _class_name(path, number, _properties(feature).get(field))
        for place in _places(path, number, feature.get("geometry")):
            places.append(place)
            names.append(name)
    if not places:
        raise UserError(f"{path}: none of its {len(features)} features has a geometry; add points")
    return _in_degrees(path, np.array(places, np.float64), _crs(path, content)), names


def _features(path: Path, content: Any) -> Iterator[Mapping[str, Any]]:
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "Feature":
        listed = [content]
    elif kind == "FeatureCollection" and isinstance(content.get("features"), list):
        listed = content["features"]
    else:
        seen = f"a {kind}" if isinstance(kind, str) else "something else"
        raise UserError(
            f"{path} is not a GeoJSON FeatureCollection but {seen}; export the points with their properties"
        )
    for number, feature in enumerate(listed, 1):
        if not isinstance(feature, dict):
            raise UserError(f"{path}: feature {number} is not an object; export the points again")
        yield feature


def _properties(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _class_name(path: Path, number: int, value: Any) -> str | None:
    """Return the name of a class: a text without surrounding blanks, or a whole number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and float(value).is_integer():
        return str(int(value))
    raise UserError(f"{path}: the class of point {number} is {json.dumps(value)}; classes are names or whole numbers")


def _places(path: Path, number: int, geometry: Any) -> list[list[float]]:
    """Return the points of a geometry; none where there is no geometry."""
    if geometry is None:
        return []
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    coordinates = geometry.get("coordinates") if isinstance(geometry, dict) else None
    if kind not in ("Point", "MultiPoint"):
        advice = "points inside it (QGIS: Random points in polygons)" if "Polygon" in str(kind) else "points"
        raise UserError(f"{path}: feature {number} is a {kind}, which has no single cell; pass {advice}")
    places = [coordinates] if kind == "Point" else coordinates
    if not isinstance(places, list) or not all(_is_place(place) for place in places):
        raise UserError(f"{path}: the coordinates of feature {number} are not numbers; export the points again")
    return [place[:2] for place in places]


def _is_place(place: Any) -> bool:
    return (
        isinstance(place, list)
        and len(place) >= 2
        and all(isinstance(part, int | float) and abs(part) < _LARGEST_COORDINATE for part in place[:2])
    )


def _crs(path: Path, content: Mapping[str, Any]) -> CRS:
    """Return the coordinate system: that of a ``crs`` member (GeoJSON of 2008), else WGS 84."""
    member = content.get("crs")
    if member is None:
        return WGS84
    try:
        name = str(member["properties"]["name"])
        return WGS84 if name.upper().endswith("CRS84") else CRS.from_user_input(name)
    except (CRSError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: its crs member {json.dumps(member)} names no known coordinate system; save it in EPSG:4326"
        ) from error


def _in_degrees(path: Path, places: np.ndarray, crs: CRS) -> np.ndarray:
    if crs == WGS84:
        return places
    try:
        return np.stack(to_degrees(crs, places[:, 0], places[:, 1]), axis=1)
    except GdalError as error:
        raise UserError(f"{path}: its points lie outside of what {crs} shows; save them in EPSG:4326") from error


def _no_field(path: Path, field: str, there: list[str]) -> UserError:
    listed = ", ".join(there[:12]) or "none"
    return UserError(f"{path} has no field {field}; --class-field takes one of: {listed}")
