"""Labelled points are read as they were meant, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eo_backbones.errors import UserError
from eo_backbones.mapping.points import read_points
from support.synthetic_region import write_points

PLACES = [(11.5, 48.1, "forest"), (11.6, 48.2, "field"), (-70.0, -33.4, "forest")]


def collection(path: Path, geometries: list[Any], **members: Any) -> Path:
    features = [
        {"type": "Feature", "properties": {"land": f"class {number % 2}"}, "geometry": geometry}
        for number, geometry in enumerate(geometries)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))
    return path


def point(*coordinates: Any) -> dict[str, Any]:
    return {"type": "Point", "coordinates": list(coordinates)}


def test_geojson_and_tables_say_the_same(tmp_path: Path) -> None:
    geojson = read_points(write_points(tmp_path / "a.geojson", PLACES), "land")
    for name, header, separator in (
        ("a.csv", ("lon", "lat", "land"), ","),
        ("b.csv", ("land", "latitude", "longitude"), ";"),
        ("c.tsv", ("lat", "land", "lon"), "\t"),
    ):
        lines = [separator.join(header)]
        for lon, lat, land in PLACES:
            values = {"lon": lon, "longitude": lon, "lat": lat, "latitude": lat, "land": land}
            lines.append(separator.join(str(values[column]) for column in header))
        (tmp_path / name).write_text("\ufeff" + "\n".join(lines) + "\n\n", encoding="utf-8")
        table = read_points(tmp_path / name, "land")
        for field in ("lon", "lat", "labels"):
            np.testing.assert_array_equal(getattr(table, field), getattr(geojson, field))
    assert (geojson.classes, geojson.values) == (("field", "forest"), (1, 2))
    assert geojson.labels.tolist() == [1, 0, 1]
    assert geojson.lon.tolist() == [11.5, 11.6, -70.0]


@pytest.mark.parametrize(
    ("written", "classes", "values"),
    [
        ([10, 2, 2.0], ("2", "10"), (2, 10)),
        (["10", "2", "2"], ("2", "10"), (2, 10)),
        ([0, 254, 0], ("0", "254"), (0, 254)),
        ([1, 255, 1], ("1", "255"), (1, 2)),
        (["b", " a ", "1"], ("1", "a", "b"), (1, 2, 3)),
        (["007", "7", "7"], ("007", "7"), (1, 2)),
        ([True, False, None], ("false", "true"), (1, 2)),
    ],
)
def test_classes_that_are_numbers_keep_them(
    tmp_path: Path, written: list[Any], classes: tuple[str, ...], values: tuple[int, ...]
) -> None:
    places = [(11.5, 48.1, value) for value in written]
    read = read_points(write_points(tmp_path / "p.geojson", places), "land")
    assert (read.classes, read.values) == (classes, values)
    assert [None if number < 0 else read.classes[number] for number in read.labels] == [
        None if value is None else str(value).strip().removesuffix(".0").lower() for value in written
    ]


def test_points_in_another_coordinate_system_and_of_several_parts(tmp_path: Path) -> None:
    named = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}}
    read = read_points(collection(tmp_path / "p.json", [point(500_000, 0, 12.5), point(500_000, 0)], **named), "land")
    np.testing.assert_allclose((read.lon, read.lat), ([9, 9], [0, 0]), atol=1e-9)
    named = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}}
    parts = {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}
    read = read_points(collection(tmp_path / "p.json", [parts, point(5, 6), None], **named), "land")
    assert (read.lon.tolist(), read.lat.tolist(), read.labels.tolist()) == ([1, 3, 5], [2, 4, 6], [0, 0, 1])


POLYGON = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}


@pytest.mark.parametrize(
    ("geometries", "members", "message"),
    [
        ([POLYGON, point(1, 2)], {}, r"feature 1 is a Polygon, which has no single cell; pass points inside it"),
        ([{"type": "LineString", "coordinates": [[0, 0], [1, 1]]}], {}, r"is a LineString, which .*; pass points$"),
        ([point(500_000, 5_300_000), point(1, 2)], {}, r"point 1 at 500000, 5.3e\+06 is not a longitude and latitude"),
        ([point(1, 2), point(48.1, 91)], {}, r"point 2 at 48.1, 91 is not a longitude"),
        ([point("1", "2")], {}, r"coordinates of feature 1 are not numbers"),
        ([point(1)], {}, r"coordinates of feature 1 are not numbers"),
        ([None, None], {}, r"none of its 2 features has a geometry"),
        ([], {}, r"holds no points"),
        ([point(1, 2)], {}, r"field land holds only 'class 0'; a map needs points of at least two classes"),
        ([point(1, 2)], {"crs": {"properties": {"name": "EPSG:1"}}}, r"crs member .* names no known"),
        ([point(1, 2)], {"type": "Topology"}, r"not a GeoJSON FeatureCollection but a Topology"),
        ([point(1, 2)], {"features": 3}, r"not a GeoJSON FeatureCollection but a FeatureCollection"),
    ],
)
def test_what_has_no_cell_is_refused(
    tmp_path: Path, geometries: list[Any], members: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read_points(collection(tmp_path / "p.geojson", geometries, **members), "land")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "x,y,land\n1,2,a\n", r"no columns lon and lat \(x and y: save them as longitude"),
        ("p.csv", "lon,lat,cover\n1,2,a\n", r"no field land; --class-field takes one of: cover"),
        ("p.csv", "lon,lat,land\n1,north,a\n", r"line 2: could not convert string to float: 'north'; write degrees"),
        ("p.csv", "lon,lat,land\n1,2,\n", r"line 2: lon or lat or land is empty"),
        ("p.csv", "lon,lat,land\n1,2,a\nnan,2,b\n", r"point 2 at nan, 2 is not a longitude"),
        ("p.csv", "", r"no columns lon and lat"),
        ("p.gpkg", "SQLite format 3", r"cannot read .*p\.gpkg as GeoJSON .*; convert it: ogr2ogr"),
        ("p.geojson", "{", r"cannot read .* as GeoJSON"),
        ("p.geojson", "[1]", r"not a GeoJSON FeatureCollection but something else"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / name, "land")
    with pytest.raises(UserError, match=r"no file|cannot read"):
        read_points(tmp_path / f"missing_{name}", "land")


def test_fields_and_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no field cover; --class-field takes one of: land"):
        read_points(write_points(tmp_path / "p.geojson", PLACES), "cover")
    with pytest.raises(UserError, match=r"classes 'Forest' and 'forest' differ in capital letters only"):
        read_points(write_points(tmp_path / "p.geojson", [*PLACES, (1, 2, "Forest")]), "land")
    many = [(1.0, 2.0, f"class {number}") for number in range(255)]
    with pytest.raises(UserError, match=r"holds 255 classes, but a map has at most 254"):
        read_points(write_points(tmp_path / "p.geojson", many), "land")
    with pytest.raises(UserError, match=r"the class of point 1 is 1.5; classes are names or whole numbers"):
        read_points(write_points(tmp_path / "p.geojson", [(1, 2, 1.5)]), "land")
