"""Searching many scenes: brute force is the truth for scans and filters; what is wrong is said in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image

from eo_backbones.errors import UserError
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones.regions import open_region
from eo_backbones.scenes import EmbedRequest, embed_scene
from eo_backbones.search import Filters, Found, SearchIndex, SearchRequest, build_index, find_hits, nearest, search
from eo_backbones.search.filters import parse_dates
from eo_backbones.search.lists import RECALL
from eo_backbones.search.queries import at_place, in_area
from support.synthetic_scene import numbers, write_scene
from support.tiny_encoders import write_tiny_encoder

PLACES = {
    "a": ("EPSG:32632", Affine(10, 0, 500_000, 0, -10, 5_000_000), "2022-06-01T10:00:00Z", 5.0),
    "b": ("EPSG:32633", Affine(10, 0, 300_000, 0, -10, 5_100_000), "2022-08-15T10:00:00Z", 40.0),
    "c": ("EPSG:4326", Affine(1e-4, 0, 20.0, 0, -1e-4, 45.0), None, None),
}
"""Scene -> coordinate system, transform, date and cloud share."""


def run(scene: Path, model: str, out: Path, **options: Any) -> None:
    given = {"scene": (str(scene),), "model": model, "bands": ("B04",), "out": out, "size": 32, "stride": 16}
    embed_scene(EmbedRequest(**{**given, **options}), device=torch.device("cpu"), dtype=torch.float32)


def state(path: Path, **facts: Any) -> None:
    """Add facts to those in a file of embeddings, as runs over many scenes write them."""
    with rasterio.open(path, "r+") as target:
        stored = json.loads(target.tags()["EO_BACKBONES"])
        target.update_tags(EO_BACKBONES=json.dumps(stored | facts))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 9 x 9 windows in three coordinate systems; the first corner of each is missing."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, (crs, transform, _, _)) in enumerate(PLACES.items()):
        values = (numbers(1, 160, 160, seed=seed) * np.linspace(0.2, 1, 160)).astype(np.uint16)
        values[:, :32, :32] = 0
        write_scene(folder / f"{name}.tif", values, names=("B04",), crs=crs, transform=transform, nodata=0)
    return folder


@pytest.fixture(scope="module")
def region(scenes: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their embeddings: eight components that all share, of the second scene as int8."""
    folder = tmp_path_factory.mktemp("region")
    run(scenes / "a.tif", model, folder / "a.tif", components=8)
    shared = folder / "a.components.npz"
    run(scenes / "b.tif", model, folder / "b.tif", components_from=shared, dtype="int8")
    run(scenes / "c.tif", model, folder / "c.tif", components_from=shared)
    for name, (_, _, moment, cloud) in PLACES.items():
        state(folder / f"{name}.tif", scene_id=name, datetime=moment, cloud_cover=cloud)
    return folder


@pytest.fixture(scope="module")
def index(region: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "index"
    build_index(region, out)
    return out


def truth(region: Path) -> tuple[np.ndarray, list[tuple[str, int, int]], np.ndarray]:
    """All cells with a value: unit vectors as float64, scene with row and column, and centres in degrees."""
    vectors, cells, places = [], [], []
    for scene in open_region(region).scenes:
        with rasterio.open(scene.path) as source:
            values = np.moveaxis(source.read(masked=True).filled(np.nan) if source.dtypes[0] != "int8" else np.where(
                source.read() == -128, np.nan, source.read() * np.array(source.scales)[:, None, None]
                + np.array(source.offsets)[:, None, None]), 0, -1).astype(np.float64)  # fmt: skip
            for row, col in np.argwhere(~np.isnan(values[..., 0])):
                vectors.append(values[row, col] / np.linalg.norm(values[row, col]))
                cells.append((scene.id, int(row), int(col)))
                x, y = source.xy(row, col)
                lon, lat = rasterio.warp.transform(source.crs, "EPSG:4326", [x], [y])
                places.append((lon[0], lat[0]))
    return np.array(vectors), cells, np.array(places)


def ask(index: Path, **options: Any) -> Found:
    request = SearchRequest(index=index, **options)
    return search(request, device=torch.device("cpu"), dtype=torch.float32)


def found_cells(found: Found) -> list[tuple[str, int, int]]:
    return [(hit.scene, hit.row, hit.col) for hit in found.hits]


def test_an_index_holds_every_cell_that_has_a_value(region: Path, index: Path) -> None:
    vectors, cells, places = truth(region)
    opened = SearchIndex.open(index)
    assert len(cells) == 3 * (81 - 4)
    np.testing.assert_allclose(opened.vectors, vectors, atol=1e-6)
    stated = [
        (opened.scenes[number].id, int(cell["row"]), int(cell["col"]))
        for number, cell in zip(opened.scene_of(np.arange(len(cells))), opened.cells, strict=True)
    ]
    assert stated == cells
    np.testing.assert_allclose(np.stack([opened.cells["lon"], opened.cells["lat"]], axis=1), places, atol=1e-9)


def test_every_cell_finds_what_brute_force_finds(region: Path, index: Path) -> None:
    vectors, cells, _ = truth(region)
    opened = SearchIndex.open(index)
    for number in range(0, len(cells), 7):
        found, scores = nearest(opened, opened.vectors[[number]], 20)
        cosines = vectors @ vectors[number]
        np.testing.assert_allclose(scores, np.sort(cosines)[::-1][:20], atol=1e-6)
        np.testing.assert_allclose(cosines[found], scores, atol=1e-6)


@pytest.mark.parametrize(
    ("filters", "inside"),
    [
        (Filters(max_cloud=20), lambda cell, place: cell[0] == "a"),
        (Filters(dates=parse_dates("2022-08-15")), lambda cell, place: cell[0] == "b"),
        (Filters(dates=parse_dates("../2022-12-31")), lambda cell, place: cell[0] in "ab"),
        (Filters(bbox=(9.0, 45.14, 9.01, 45.2)), lambda cell, place: place[0] <= 9.01 and 45.14 <= place[1] <= 45.2),
        (Filters(bbox=(10, -90, 9, 90)), lambda cell, place: cell[0] in "bc"),
        (Filters(bbox=(0, 0, 30, 60), max_cloud=40), lambda cell, place: cell[0] in "ab"),
    ],
)  # fmt: skip
def test_filters_are_brute_force(
    region: Path, index: Path, filters: Filters, inside: Callable[[Any, Any], bool]
) -> None:
    vectors, cells, places = truth(region)
    found = ask(index, at=centre(region, "a", 5, 5), filters=filters, apart_m=0, with_query=True, count=500)
    allowed = np.array([inside(cell, place) for cell, place in zip(cells, places, strict=True)])
    assert 0 < allowed.sum() < len(cells)
    assert found.searched == allowed.sum()
    cosines = vectors @ vectors[cells.index(("a", 5, 5))]
    assert set(found_cells(found)) == {cell for cell, one in zip(cells, allowed, strict=True) if one}
    np.testing.assert_allclose([hit.score for hit in found.hits], np.sort(cosines[allowed])[::-1], atol=1e-6)


def centre(region: Path, scene: str, row: int, col: int) -> tuple[float, float]:
    one = next(one for one in open_region(region).scenes if one.id == scene)
    lon, lat = one.centres(row, col)
    return float(lon), float(lat)


def test_hits_are_apart_from_each_other_and_from_the_query(region: Path, index: Path) -> None:
    found = ask(index, at=centre(region, "b", 4, 4), count=12)
    cells = [("b", 4, 4), *found_cells(found)]
    assert len(set(cells)) == 13
    for number, (scene, row, col) in enumerate(cells):
        for other_scene, other_row, other_col in cells[:number]:
            assert scene != other_scene or np.hypot(row - other_row, col - other_col) >= 2
    assert [hit.rank for hit in found.hits] == list(range(1, 13))
    assert sorted((hit.score for hit in found.hits), reverse=True) == [hit.score for hit in found.hits]
    first = next(cell for cell in found_cells(ask(index, at=centre(region, "b", 4, 4), apart_m=0, count=300))
                 if cell[0] != "b" or np.hypot(cell[1] - 4, cell[2] - 4) >= 2)  # fmt: skip
    assert cells[1] == first
    with_query = ask(index, at=centre(region, "b", 4, 4), with_query=True, count=1)
    assert found_cells(with_query) == [("b", 4, 4)]


def test_the_latest_of_several_scenes_is_taken(scenes: Path, region: Path, model: str, tmp_path: Path) -> None:
    for name, moment in (("early", "2021-01-01T00:00:00Z"), ("late", "2023-01-01T00:00:00Z")):
        shutil.copy(region / "a.tif", tmp_path / f"{name}.tif")
        state(tmp_path / f"{name}.tif", scene_id=name, datetime=moment)
    build_index(tmp_path, tmp_path / "index")
    place = centre(region, "a", 5, 5)
    found = ask(tmp_path / "index", at=place, with_query=True, count=1)
    assert "row 5, column 5 of late (2023-01-01); 1 more scenes there, --scene ID takes another" in found.query
    assert "of early (2021-01-01)" in ask(tmp_path / "index", at=place, scene="early").query
    elsewhere = ask(tmp_path / "index", at=place, count=30)
    assert len({(hit.row, hit.col) for hit in elsewhere.hits}) == len(elsewhere.hits)  # one hit a place, not a date


def area(tmp_path: Path, region: Path, scene: str, rows: tuple[int, int], cols: tuple[int, int]) -> Path:
    """A polygon around the centres of some cells."""
    one = next(one for one in open_region(region).scenes if one.id == scene)
    row, col = np.array([rows[0], rows[1], rows[1], rows[0]]), np.array([cols[0], cols[0], cols[1], cols[1]])
    lon, lat = one.centres(row + np.array([-0.3, 0.3, 0.3, -0.3]), col + np.array([-0.3, -0.3, 0.3, 0.3]))
    ring = [[float(x), float(y)] for x, y in zip(lon, lat, strict=True)]
    path = tmp_path / "area.geojson"
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


@pytest.mark.parametrize("combine", ["mean", "best"])
@pytest.mark.parametrize("scene", ["a", "c"])
def test_an_area_is_the_mean_or_the_best_of_its_cells(
    region: Path, index: Path, tmp_path: Path, combine: str, scene: str
) -> None:
    vectors, cells, _ = truth(region)
    path = area(tmp_path, region, scene, (4, 6), (5, 7))
    inside = [cells.index((scene, row, col)) for row in range(4, 7) for col in range(5, 8)]
    found = ask(index, geometry=path, combine=combine, apart_m=0, count=500)
    mean = vectors[inside].mean(axis=0)
    cosines = (
        vectors @ (mean / np.linalg.norm(mean)) if combine == "mean" else (vectors @ vectors[inside].T).max(axis=1)
    )
    expected = np.sort(np.delete(cosines, inside))[::-1]
    np.testing.assert_allclose([hit.score for hit in found.hits], expected, atol=1e-6)
    assert f"{combine} of 9 cells in 1 scene inside area.geojson" in found.query


def test_a_small_area_takes_the_cell_that_it_touches(region: Path, index: Path, tmp_path: Path) -> None:
    lon, lat = next(one for one in open_region(region).scenes if one.id == "a").centres(5.3, 5.3)
    ring = [[lon + x, lat + y] for x, y in ((0, 0), (1e-5, 0), (1e-5, 1e-5), (0, 0))]
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    opened = SearchIndex.open(index)
    query = in_area(opened, tmp_path / "area.geojson")
    assert [(int(c["row"]), int(c["col"])) for c in opened.cells[query.cells]] == [(5, 5)]


def test_an_image_finds_where_it_was_cut_from(scenes: Path, index: Path, tmp_path: Path) -> None:
    with rasterio.open(scenes / "c.tif") as source:
        values = source.read()[:, 64:96, 96:128]
    write_scene(tmp_path / "patch.tif", values, names=("B04",), crs=None, transform=None)
    found = ask(index, image=(str(tmp_path / "patch.tif"),), count=1)
    assert found_cells(found) == [("c", 4, 6)]
    assert found.hits[0].score > 0.99999
    halved = write_scene(tmp_path / "halved.tif", (values / 2).astype(np.float32), names=("B04",))
    found = ask(index, image=(str(halved),), reading=ReadingOptions.of(scale=2), count=1)
    assert found_cells(found) == [("c", 4, 6)]
    assert found.hits[0].score > 0.99999
    write_scene(tmp_path / "large.tif", source_part(scenes / "c.tif", 64, 112, 96, 144), names=("B04",))
    assert "mean of 4 windows" in ask(index, image=(str(tmp_path / "large.tif"),), count=1).query


def source_part(path: Path, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    with rasterio.open(path) as source:
        values: np.ndarray = source.read()[:, top:bottom, left:right]
        return values


def test_images_that_cannot_be_compared_are_refused(index: Path, model: str, tmp_path: Path) -> None:
    patch = write_scene(tmp_path / "patch.tif", numbers(1, 64, 64), names=("B04",))
    small = write_scene(tmp_path / "small.tif", numbers(1, 31, 64), names=("B04",))
    other = write_scene(tmp_path / "other.tif", numbers(1, 64, 64), names=("B08",))
    another = write_tiny_encoder(tmp_path / "another", seed=1)
    with pytest.raises(
        UserError, match=r"small\.tif has 64 x 31 pixels, fewer than a window of this index, .* 32 x 32"
    ):
        ask(index, image=(str(small),))
    with pytest.raises(UserError, match=r"B04"):
        ask(index, image=(str(other),))
    with pytest.raises(UserError, match=r"index was made with local-dir:.* and local-dir:.*another has others"):
        ask(index, image=(str(patch),), model=another)
    without = shutil.copytree(index, tmp_path / "without")
    content = json.loads((without / "index.json").read_text())
    del content["files"]["components.npz"]
    (without / "index.json").write_text(json.dumps(content))
    (without / "components.npz").unlink()
    with pytest.raises(UserError, match=r"lacks components\.npz, so an image cannot be projected"):
        ask(without, image=(str(patch),))


def test_hits_are_written_in_all_formats(region: Path, index: Path, tmp_path: Path) -> None:
    out = tuple(tmp_path / name for name in ("hits.geojson", "hits.parquet", "deep/hits.png"))
    found = ask(index, at=centre(region, "a", 5, 5), count=7, out=out)
    content = json.loads(out[0].read_text())
    assert [feature["properties"]["rank"] for feature in content["features"]] == list(range(1, 8))
    with rasterio.open(region / "a.tif") as source:
        for feature, hit in zip(content["features"], found.hits, strict=True):
            ring = np.array(feature["geometry"]["coordinates"][0])
            assert (ring[0] == ring[-1]).all()
            assert (np.diff(ring[:, 0]) * (ring[1:, 1] + ring[:-1, 1])).sum() < 0  # anticlockwise
            assert np.abs(ring[:4].mean(axis=0) - (hit.lon, hit.lat)).max() < 1e-6
            if hit.scene == "a":
                x, y = rasterio.warp.transform("EPSG:4326", source.crs, ring[:, 0], ring[:, 1])
                left, top = source.transform @ (hit.col, hit.row)
                assert np.allclose([min(x), max(x), min(y), max(y)], [left, left + 160, top - 160, top], atol=0.1)
    table = pq.read_table(out[1])
    assert table.column("scene").to_pylist() == [hit.scene for hit in found.hits]
    assert table.column("score").to_pylist() == [hit.score for hit in found.hits]
    assert json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]["encoding"] == "WKB"
    with Image.open(out[2]) as picture:
        assert picture.size[0] > 1000


READ_HITS = """
import json, sys
import geopandas
table, features = geopandas.read_parquet(sys.argv[1]), geopandas.read_file(sys.argv[2])
print(json.dumps({
    "crs": table.crs.to_authority(),
    "valid": bool(table.geometry.is_valid.all()),
    "same": bool(table.geometry.to_crs(features.crs).geom_equals_exact(features.geometry, 1e-9).all()),
    "score": table["score"].tolist(),
    "scene": features["scene"].tolist(),
}))
"""


@pytest.mark.slow
def test_geopandas_reads_hits(region: Path, index: Path, tmp_path: Path) -> None:
    """In an environment of its own."""
    if shutil.which("uv") is None:
        pytest.skip("geopandas is installed by uv, which is not here")
    out = (tmp_path / "hits.parquet", tmp_path / "hits.geojson")
    hits = ask(index, at=centre(region, "a", 5, 5), out=out).hits
    packages = [part for name in ("geopandas", "pyarrow", "duckdb") for part in ("--with", name)]
    command = ["uv", "run", "--quiet", "--no-project", "--isolated", *packages, "python", "-c", READ_HITS, *out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip(f"geopandas cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["crs"], found["valid"], found["same"]) == (["OGC", "CRS84"], True, True)
    assert found["score"] == [hit.score for hit in hits]
    assert found["scene"] == [hit.scene for hit in hits]


def test_a_moved_index_needs_nothing_else(region: Path, scenes: Path, index: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(index, tmp_path / "elsewhere")
    for path in moved.iterdir():
        path.chmod(0o444)
    place = centre(region, "a", 5, 5)
    assert ask(moved, at=place).hits == ask(index, at=place).hits


def test_damaged_and_foreign_folders_are_refused(index: Path, region: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no index .*none; make one with eo-backbones index"):
        SearchIndex.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"there is no index\.json in .*; is it a index|there is no index\.json"):
        SearchIndex.open(region)
    cut = shutil.copytree(index, tmp_path / "cut")
    (cut / "vectors.f32").write_bytes((cut / "vectors.f32").read_bytes()[:-4])
    with pytest.raises(
        UserError, match=r"cut is damaged: vectors\.f32 has [\d,]+ bytes, not [\d,]+; copy it again, or"
    ):
        SearchIndex.open(cut)
    (cut / "vectors.f32").unlink()
    with pytest.raises(UserError, match=r"cut is damaged: vectors\.f32 is missing"):
        SearchIndex.open(cut)
    (cut / "index.json").write_text('{"kind": "something"}')
    with pytest.raises(UserError, match=r"cut is not an index; make one with"):
        SearchIndex.open(cut)
    later = shutil.copytree(index, tmp_path / "later")
    content = json.loads((later / "index.json").read_text())
    (later / "index.json").write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(UserError, match=r"later was made by a later version"):
        SearchIndex.open(later)
    (later / "index.json").write_text(json.dumps(content | {"scenes": [{"id": "a"}]}))
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        SearchIndex.open(later)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": (45, 9)}, r"latitude 9 is outside a, b, c: 9\.00\d+ to 20\.\d+ and .*longitude comes first"),
        ({"at": (9, 95)}, r"is no place on Earth; longitude comes first"),
        ({"at": (9.0012, 45.1527)}, r"the cell there has no value \(nodata\) in a; move a bit"),
        ({"at": (9.01, 45.145), "scene": "x"}, r"--scene x is not in the index; it holds a, b, c"),
        ({}, r"one of --at LON,LAT, --geometry AREA\.geojson and --image FILE"),
        ({"at": (9, 45), "image": ("a.tif",)}, r"one of --at"),
        ({"at": (9, 45), "count": 0}, r"--top 0: pass 1 or more"),
        ({"at": (9, 45), "apart_m": -1}, r"--apart -1: pass metres"),
        ({"at": (9, 45), "out": (Path("hits.txt"),)}, r"--out hits\.txt: its suffix names no format; end it in"),
        ({"geometry": Path("none.geojson")}, r"no file none\.geojson; --geometry takes a GeoJSON file"),
        ({"geometry": Path("none.geojson"), "combine": "most"}, r"unknown --combine 'most'"),
    ],
)  # fmt: skip
def test_wrong_questions_are_refused_in_one_line(index: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ask(index, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", r"could not be read as GeoJSON"),
        ("[]", r"holds no polygon"),
        ('{"type": "Point", "coordinates": [9, 45]}', r"no polygon; --geometry takes areas, and --at LON,LAT a point"),
        ('{"type": "Polygon", "coordinates": [[["x", 1], [1, 1], [1, 0], ["x", 1]]]}', r"polygon that cannot be read"),
        ('{"type": "Polygon", "coordinates": []}', r"a polygon that cannot be read|covers no cell"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}', r"covers no cell that has a value"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]], "crs": {"type": "name", "properties": '
         '{"name": "urn:ogc:def:crs:EPSG::32632"}}}', r"is in urn:ogc:def:crs:EPSG::32632; GeoJSON is longitude"),
    ],
)  # fmt: skip
def test_wrong_areas_are_refused_in_one_line(index: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "area.geojson").write_text(content)
    with pytest.raises(UserError, match=message):
        ask(index, geometry=tmp_path / "area.geojson")


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(bbox=(0, 0, 1, 1)), r"^--bbox leaves none of the 231 cells: they lie within 9\.\d+,.*; widen it"),
        (Filters(dates=parse_dates("2020-01-01/2020-12-31")), r"--date leaves none .*2022-06-01 to 2022-08-15; widen"),
        (Filters(max_cloud=1), r"--max-cloud leaves none .*the clearest scene has 5 %"),
        (
            Filters(max_cloud=10, dates=parse_dates("2022-08-01/..")),
            r"--date and --max-cloud leave none of .* together",
        ),
    ],
)
def test_an_empty_filter_is_named(index: Path, filters: Filters, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(index, at=(9.01, 45.145), filters=filters)


def test_dates_are_whole_days_and_ends_may_be_open() -> None:
    first, last = datetime(2022, 6, 1, tzinfo=UTC), datetime(2022, 8, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert parse_dates("2022-06-01/2022-08-31") == (first, last)
    assert parse_dates("2022-06-01T00:00:00Z/..") == (first, None)
    assert parse_dates("/2022-08-31") == (None, last)
    for wrong in ("x", "..", "", "2022-06-01/2022-07-01/2022-08-01", "2022-13-01", "2022-06-01/x"):
        with pytest.raises(UserError, match="pass START/END"):
            parse_dates(wrong)
    with pytest.raises(UserError, match="ends before it starts"):
        parse_dates("2022-08-31/2022-06-01")


def test_boxes_and_shares_are_checked() -> None:
    for wrong in ((1, 2, 1, 3), (0, 3, 1, 2), (0, -91, 1, 2), (0, 0, 181, 1)):
        with pytest.raises(UserError, match=r"--bbox .*: pass WEST,SOUTH,EAST,NORTH in degrees"):
            Filters(bbox=wrong)
    with pytest.raises(UserError, match="--max-cloud 101 is a percentage"):
        Filters(max_cloud=101)


def test_a_scene_without_coordinates_is_searched_by_its_windows(scenes: Path, model: str, tmp_path: Path) -> None:
    plain = write_scene(tmp_path / "plain.tif", numbers(1, 160, 160), names=("B04",), crs=None, transform=None)
    (tmp_path / "region").mkdir()
    run(plain, model, tmp_path / "region/plain.tif")
    run(scenes / "a.tif", model, tmp_path / "region/a.tif")
    build_index(tmp_path / "region", tmp_path / "index")
    opened = SearchIndex.open(tmp_path / "index")
    hits = find_hits(opened, at_place(opened, *centre(tmp_path / "region", "a", 5, 5)), 40)
    cells = [(hit.row, hit.col) for hit in hits if hit.scene == "plain"]
    assert len(cells) > 5
    assert all(max(abs(a - c), abs(b - d)) >= 2 for n, (a, b) in enumerate(cells) for c, d in cells[:n])
    assert all((hit.lon is None) == (hit.scene == "plain") for hit in hits)
    ask(tmp_path / "index", image=(str(plain),), out=(tmp_path / "hits.geojson", tmp_path / "hits.png"), count=3)
    features = json.loads((tmp_path / "hits.geojson").read_text())["features"]
    assert any(feature["geometry"] is None for feature in features)


def write_region(path: Path, vectors: np.ndarray, facts: dict[str, Any]) -> None:
    """Write vectors ``(rows, cols, features)`` as an embedding."""
    path.parent.mkdir(exist_ok=True)
    profile = {"driver": "GTiff", "height": vectors.shape[0], "width": vectors.shape[1], "count": vectors.shape[2],
               "dtype": "float32", "nodata": np.nan, "crs": "EPSG:32632", "interleave": "pixel",
               "transform": Affine(320, 0, 500_000, 0, -320, 5_000_000)}  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.update_tags(EO_BACKBONES=json.dumps(facts))
        target.write(np.moveaxis(vectors, -1, 0))


FACTS = {
    "model": "m",
    "weights_sha256": "0" * 64,
    "bands": ["B04"],
    "units": ["dn"],
    "fuse": "concat",
    "size": 64,
    "stride": 32,
}


def clustered(rows: int, cols: int) -> np.ndarray:
    """Vectors around forty kinds of ground of very different shares, which change gradually along a row."""
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((40, 16)) * np.linspace(2, 0.1, 16)
    chosen = rng.choice(40, (rows, cols), p=np.geomspace(1, 0.01, 40) / np.geomspace(1, 0.01, 40).sum())
    mixed = kinds[chosen] + 0.5 * np.roll(kinds[chosen], 1, axis=1)
    return (mixed + 0.15 * rng.standard_normal((rows, cols, 16))).astype(np.float32)


def test_approximate_search_finds_nearly_all_of_the_nearest(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    write_region(tmp_path / "region/a.tif", clustered(100, 200), FACTS)
    made = build_index(tmp_path / "region", tmp_path / "index", lists_from=10_000)
    opened = SearchIndex.open(tmp_path / "index")
    assert made.recall is not None
    assert made.recall >= RECALL
    assert opened.lists is not None
    assert opened.lists.probes < opened.lists.lists  # it looks at a part of the cells
    queries = clustered(4, 50).reshape(-1, 16)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    shares = []
    for query in queries:
        exact, _ = nearest(opened, query[None], 10, exact=True)
        found, scores = nearest(opened, query[None], 10)
        shares.append(len(np.intersect1d(exact, found)) / 10)
        np.testing.assert_allclose(scores, opened.vectors[found] @ query, atol=1e-6)
    assert np.mean(shares) >= 0.95
    everything, _ = nearest(opened, queries[:1], 20_000)
    assert sorted(everything) == list(range(20_000))


def test_without_faiss_every_search_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss")
    write_region(tmp_path / "region/a.tif", clustered(60, 100), FACTS)
    build_index(tmp_path / "region", tmp_path / "with", lists_from=6_000)
    monkeypatch.setitem(sys.modules, "faiss", None)
    made = build_index(tmp_path / "region", tmp_path / "without", lists_from=6_000)
    assert (made.lists, made.recall) == (0, None)
    assert "faiss is missing, so every search will scan all 6,000 cells" in caplog.text
    assert "pip install 'eo-backbones[search]'" in caplog.text
    place = centre(tmp_path / "region", "a", 30, 50)
    found = [ask(tmp_path / name, at=place) for name in ("with", "without")]
    assert found[0].exact
    assert found[0].hits == found[1].hits


def test_damaged_lists_are_refused_and_exact_search_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    write_region(tmp_path / "region/a.tif", clustered(60, 100), FACTS)
    build_index(tmp_path / "region", tmp_path / "index", lists_from=6_000)
    lists = tmp_path / "index/lists.faiss"
    lists.write_bytes(b"x" * lists.stat().st_size)
    place = centre(tmp_path / "region", "a", 30, 50)
    with pytest.raises(UserError, match=r"cannot read .*lists\.faiss; make the index again, or search with --exact"):
        ask(tmp_path / "index", at=place)
    assert len(ask(tmp_path / "index", at=place, exact=True).hits) == 10


def killed_while_writing(region: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another process make the index, which dies before the last file is written."""
    with monkeypatch.context() as patch:
        patch.setattr("eo_backbones.search.build.write_json", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if child == 0:
            try:
                build_index(region, out, overwrite=True)
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_an_index_is_whole_or_absent(region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "index"
    killed_while_writing(region, out, monkeypatch)
    assert not out.exists()
    build_index(region, out)
    before = (out / "vectors.f32").read_bytes()
    with pytest.raises(UserError, match=r"index is there already; pass --overwrite to replace it"):
        build_index(region, out)
    killed_while_writing(region, out, monkeypatch)
    assert (out / "vectors.f32").read_bytes() == before
    SearchIndex.open(out)
    build_index(region, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_cannot_become_an_index_is_refused(region: Path, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no embeddings"):
        build_index(scenes, tmp_path / "index")
    with pytest.raises(UserError, match="is the folder of the embeddings or above it"):
        build_index(region, region)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UserError, match="is not empty and does not hold an index"):
        build_index(region, tmp_path / "full", overwrite=True)
    write_region(tmp_path / "nothing/a.tif", np.full((2, 2, 4), np.nan, np.float32), FACTS)
    with pytest.raises(UserError, match="no cell of any scene has a value"):
        build_index(tmp_path / "nothing", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_the_commands_print_what_they_found(command: Callable[..., Any], region: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    made = json.loads(command("index", region, "--out", out, "--json").out)
    assert (made["cells"], made["scenes"], made["missing"], made["features"]) == (231, 3, 12, 8)
    lon, lat = centre(region, "a", 5, 5)
    hits, picture = tmp_path / "hits.geojson", tmp_path / "hits.png"
    lines = command("search", out, "--at", f"{lon},{lat}", "--top", 4, "--out", hits, picture).out.splitlines()
    assert lines[0].startswith("like the cell at longitude")
    assert lines[1] == "searched: 231 cells (exact)"
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3", "4", "written:", "written:"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", "9"], "error: --at LON,LAT takes two numbers with a comma between, such as 11.58,48.14; got '9'"),
        (["--at", "9,nan"], "error: --at LON,LAT takes two numbers"),
        (["--at", "9,45", "--unit", "db"], "error: --unit has no effect here: it is about the file of --image"),
        (["--at", "9,45", "--combine", "best"], "error: --combine has no effect here"),
        (["--image", "a.tif", "--scene", "a"], "error: --scene has no effect here"),
        (["--at", "9,45", "--bbox", "1,2,3"], "error: --bbox WEST,SOUTH,EAST,NORTH takes four numbers with commas"),
        (["--at", "9,45", "--date", "June"], "error: --date June: pass START/END"),
        (
            ["--at", "-70.5,-33.4", "--bbox", "-80,-40,20,60"],
            "error: longitude -70.5, latitude -33.4 is outside a, b, c",
        ),
    ],
)
def test_mistyped_options_are_one_line(
    command: Callable[..., Any], index: Path, options: list[str], message: str
) -> None:
    ended = command("search", index, *options)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert ended.err.count("\n") == 1
