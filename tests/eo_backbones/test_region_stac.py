"""STAC items, collections of items and catalogues as scenes: on disk and from a real HTTP server."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eo_backbones.errors import UserError
from eo_backbones.rasters.scaling import DeclaredReading
from eo_backbones.regions import RegionRequest, embed_region, open_region
from eo_backbones.regions.sources import SceneSource, find_scenes
from eo_backbones.scenes.scene import Scene
from support.file_server import FileServer, serving
from support.stac_scenes import (
    PIXELS,
    catalogue,
    earth_search,
    item,
    planetary_computer,
    stac_1_1,
    values,
    write_band,
    write_json,
)
from support.tiny_encoders import write_tiny_encoder
from support.typed_command import Ended

BANDS = ("B02", "B04", "B08")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serving(tmp_path) as running:
        yield running


def reflectance(source: SceneSource, declared: DeclaredReading | None = None) -> np.ndarray:
    """The values of a scene in reflectance, as they would go to a model."""
    with Scene(source.bands(), declared) as scene:
        read = np.empty((len(scene.bands), scene.height, scene.width), np.float32)
        scene.read(read, top=0)
        scales = [1e-4 if unit == "dn" else 1.0 for unit in scene.units]
    return read * np.array(scales, np.float32)[:, None, None]


def expected(bands: Sequence[str]) -> np.ndarray:
    return np.stack([values(band) for band in bands]) * 1e-4


WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "earth-search": earth_search,
    "planetary-computer": planetary_computer,
    "stac-1.1": stac_1_1,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("over_http", [False, True])
def test_values_through_an_item_are_those_of_the_ground(
    tmp_path: Path, server: FileServer, writer: str, over_http: bool
) -> None:
    path = write_json(tmp_path / "item.json", WRITERS[writer](tmp_path, "S2A_32UPU_20220601", BANDS))
    (source,) = find_scenes([f"{server.url}/item.json" if over_http else str(path)], ["nir", "B04"])
    assert source.id == "S2A_32UPU_20220601"
    assert source.problem is None
    assert source.datetime is not None and source.datetime.startswith("2022-06-01T10:27:21")
    assert source.cloud_cover == 12.5
    assert all(band.path.startswith(server.url) for band in source.bands()) is over_http
    np.testing.assert_allclose(reflectance(source), expected(["B08", "B04"]), atol=1e-6)


def test_what_an_item_says_counts_far_from_its_file_too(tmp_path: Path, server: FileServer) -> None:
    made = planetary_computer(tmp_path / "data", "S", BANDS)
    for asset in made["assets"].values():
        asset["href"] = f"{server.url}/data/{asset['href']}"
    path = write_json(tmp_path / "elsewhere" / "items.json", {"type": "FeatureCollection", "features": [made]})
    (source,) = find_scenes([str(path)], ["B04"])
    np.testing.assert_allclose(reflectance(source), expected(["B04"]), atol=1e-6)
    zero = DeclaredReading(offsets={"B04": 0.0})
    np.testing.assert_allclose(reflectance(source, zero), expected(["B04"]) + 0.1, atol=1e-6)


def test_item_beside_its_files_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(tmp_path / "item.json", planetary_computer(tmp_path, "S", BANDS))
    (source,) = find_scenes([str(tmp_path / "item.json")], ["B04"])
    with Scene(source.bands()) as scene:
        assert scene.readings[0].source == "digital numbers - 1000 (baseline 04.00: item.json (processing baseline))"


def test_contradicting_item_is_refused_as_in_every_command(tmp_path: Path) -> None:
    made = earth_search(tmp_path, "S", BANDS)
    made["assets"]["red"]["raster:bands"][0]["offset"] = -0.1
    (source,) = find_scenes([str(write_json(tmp_path / "item.json", made))], ["B04"])
    with pytest.raises(UserError, match=r"boa_offset_applied.*--offset 0, or --offset -1000"), Scene(source.bands()):
        pass


def test_features_through_items_equal_those_of_plain_files(tmp_path: Path, server: FileServer) -> None:
    model = write_tiny_encoder(tmp_path / "model")
    names = ["earth-search", "planetary-computer", "stac-1.1"]
    for name in names:
        write_json(tmp_path / f"{name}.json", WRITERS[name](tmp_path, name, BANDS))
    links = [("item", f"{name}.json") for name in [*names, "gone"]]
    write_json(tmp_path / "catalog.json", catalogue("c", links))
    for band in BANDS:
        write_band(tmp_path / "plain" / f"{band}.tif", values(band))
    cells = {}
    for typed in (f"{server.url}/catalog.json", str(tmp_path / "plain")):
        out = tmp_path / f"out{len(cells)}"
        request = RegionRequest(
            scenes=(typed,), model=model, bands=("B04", "B08"), out=out, size=32, stride=16, offset=None
        )
        made = embed_region(request, device="cpu")
        cells |= {scene.id: scene.read(0, scene.rows) for scene in open_region(out).scenes}
        assert [one["scene"] for one in made.failed] == (["gone"] if typed.startswith("http") else [])
    plain = cells.pop("plain")
    assert plain.shape == (3, 3, plain.shape[2]) and np.isfinite(plain).all()
    assert sorted(cells) == sorted(names)
    for read in cells.values():
        np.testing.assert_allclose(read, plain, rtol=1e-4, atol=1e-5)


def test_item_for_a_file_to_write_is_refused(tmp_path: Path, command: Callable[..., Ended]) -> None:
    model = write_tiny_encoder(tmp_path / "model")
    path = write_json(tmp_path / "item.json", earth_search(tmp_path, "S", BANDS))
    ended = command("embed", path, "--model", model, "--bands", "B04", "--out", tmp_path / "a.tif")
    assert ended.status == 2
    assert f"{path} is a STAC file, and {tmp_path / 'a.tif'} holds one scene; name a folder with --out" in ended.err


def test_corrected_item_is_embedded_again(tmp_path: Path) -> None:
    model = write_tiny_encoder(tmp_path / "model")
    made = earth_search(tmp_path, "S", BANDS)
    path = write_json(tmp_path / "item.json", made)
    request = RegionRequest(scenes=(str(path),), model=model, bands=("B04",), out=tmp_path / "out", size=32, stride=16)
    read = []
    for offset in (0, 0, -0.01):
        made["properties"]["earthsearch:boa_offset_applied"] = None
        made["properties"]["s2:processing_baseline"] = "02.14" if offset == 0 else None
        made["assets"]["red"]["raster:bands"][0]["offset"] = offset
        write_json(path, made)
        summary = embed_region(request, device="cpu")
        read.append((summary.computed_cells, open_region(tmp_path / "out").scenes[0].read(0)))
    assert [cells for cells, _ in read] == [9, 0, 9]
    assert not np.allclose(read[0][1], read[2][1])


def asset(path: str, **fields: Any) -> dict[str, Any]:
    return {"href": path, "type": "image/tiff; application=geotiff", "roles": ["data"], **fields}


def chosen(
    tmp_path: Path, assets: dict[str, Any], requested: Sequence[str], **properties: Any
) -> list[tuple[str, int]]:
    """File name and position of each band."""
    path = write_json(tmp_path / "item.json", item("S", assets, properties))
    (source,) = find_scenes([str(path)], requested)
    return [(Path(band.path).name, band.index) for band in source.bands()]


def test_band_by_key_and_by_file_name(tmp_path: Path) -> None:
    keys = {"SR_B4": asset("x.tif"), "vv": asset("y.tif"), "data": asset("R10m/T32TQM_20220601T1_B08_10m.jp2")}
    keys["red-mask"] = asset("msk_B02.tif")
    assert chosen(tmp_path, keys, ["B04", "VV", "B08"]) == [
        ("x.tif", 1),
        ("y.tif", 1),
        ("T32TQM_20220601T1_B08_10m.jp2", 1),
    ]


def test_finest_resolution_that_has_all_bands(tmp_path: Path) -> None:
    keys = {f"{band}_{size}m": asset(f"{band}_{size}m.jp2", type="image/jp2") for band, size in
            [("B04", 60), ("B04", 20), ("B04", 10), ("B11", 20), ("B11", 60), ("TCI", 10)]}  # fmt: skip
    assert chosen(tmp_path, keys, ["B04"]) == [("B04_10m.jp2", 1)]
    assert chosen(tmp_path, keys, ["B11", "B04"]) == [("B11_20m.jp2", 1), ("B04_20m.jp2", 1)]


def test_pictures_are_the_last_resort(tmp_path: Path) -> None:
    rgb = [{"name": name} for name in ("red", "green", "blue")]
    keys = {
        "visual": asset("visual.tif", **{"eo:bands": rgb, "gsd": 1}),
        "thumbnail": asset("t.png", roles=["thumbnail"], **{"eo:bands": rgb}),
        "B04": asset("b4.tif", gsd=10),
    }
    assert chosen(tmp_path, keys, ["B04"]) == [("b4.tif", 1)]
    assert chosen(tmp_path, keys, ["B02"]) == [("visual.tif", 3)]


def test_names_mean_bands_of_the_sensor(tmp_path: Path) -> None:
    landsat = {"nir08": asset("b5.tif", **{"eo:bands": [{"name": "B5", "common_name": "nir08"}]})}
    assert chosen(tmp_path, landsat, ["B8A"], platform="landsat-8") == [("b5.tif", 1)]
    sentinel = {"x": asset("b8.tif", **{"eo:bands": [{"name": "B08", "common_name": "nir08"}]})}
    assert chosen(tmp_path, sentinel, ["B08"], constellation="sentinel-2") == [("b8.tif", 1)]


def test_only_file_without_names_is_read_as_a_file_is(tmp_path: Path) -> None:
    stored = np.stack([values("B04", offset=1000), values("B08", offset=1000)])
    write_band(tmp_path / "data.tif", stored, descriptions=["red", "nir"])
    bands = [{"scale": 1e-4, "offset": -0.1}] * 2
    made = item("S", {"data": asset("data.tif", **{"raster:bands": bands}), "meta": {"href": "m.xml"}})
    path = write_json(tmp_path / "far" / "item.json", made)
    made["assets"]["data"]["href"] = "../data.tif"
    write_json(path, made)
    for requested in (["B08"], ["B08=2"]):
        (source,) = find_scenes([str(path)], requested)
        np.testing.assert_allclose(reflectance(source), expected(["B08"]), atol=1e-6)


def test_position_among_several_rasters_is_not_clear(tmp_path: Path) -> None:
    keys = {"a": asset("a_B04.tif"), "b": asset("b_B08.tif")}
    with pytest.raises(UserError, match="2 rasters, so a position such as B04=1 is not clear"):
        chosen(tmp_path, keys, ["B04=1"])


def write_catalogue(folder: Path) -> Path:
    """Root -> year -> collection -> items, with links in every direction, as pystac writes a self-contained one."""
    write_json(folder / "c" / "2022" / "s1" / "s1.json", earth_search(folder / "c" / "2022" / "s1", "s1", BANDS))
    write_json(folder / "c" / "2022" / "s 2.json", planetary_computer(folder / "c" / "2022", "s2", BANDS))
    up = [("root", "../catalog.json"), ("parent", "../catalog.json"), ("child", "../catalog.json")]
    year = catalogue("2022", [*up, ("item", "./s1/s1.json"), ("item", "s%202.json"), ("self", "collection.json")])
    write_json(folder / "c" / "2022" / "collection.json", year | {"type": "Collection", "license": "other"})
    root = catalogue(
        "root", [("self", "catalog.json"), ("child", "./2022/collection.json"), ("item", "2022/s1/s1.json")]
    )
    return write_json(folder / "c" / "catalog.json", root)


@pytest.mark.parametrize("over_http", [False, True])
def test_catalogue_with_loops_ends_and_gives_each_item_once(
    tmp_path: Path, server: FileServer, over_http: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_catalogue(tmp_path)
    scenes = find_scenes([f"{server.url}/c/catalog.json" if over_http else str(path)], ["B04"])
    assert sorted(scene.id for scene in scenes) == ["s1", "s2"]
    assert "links back to" in caplog.text
    for scene in scenes:
        np.testing.assert_allclose(reflectance(scene), expected(["B04"]), atol=1e-6)


@pytest.mark.parametrize("over_http", [False, True])
def test_what_is_wrong_below_is_said_scene_by_scene(tmp_path: Path, server: FileServer, over_http: bool) -> None:
    good = earth_search(tmp_path, "good", BANDS)
    write_json(tmp_path / "good.json", good)
    write_json(tmp_path / "no-red.json", item("no-red", {"nir": asset("x.tif")}))
    write_json(tmp_path / "no-raster.json", item("no-raster", {"data": {"href": "x.zip", "type": "application/zip"}}))
    write_json(tmp_path / "number.json", 12)
    write_json(tmp_path / "place.json", {"type": "Feature", "properties": {}, "geometry": None})
    (tmp_path / "cut.json").write_text(json.dumps(good)[:200])
    names = ["good", "gone", "no-red", "no-raster", "number", "place", "cut"]
    path = write_json(tmp_path / "catalog.json", catalogue("c", [("item", f"{name}.json") for name in names]))
    scenes = find_scenes([f"{server.url}/catalog.json" if over_http else str(path)], ["B04"])
    problems = {scene.id: scene.problem for scene in scenes}
    assert list(problems) == names and problems.pop("good") is None
    said = {
        "gone": "the server answers 404 Not Found" if over_http else "no file",
        "no-red": "no asset with band B04; its assets hold B08",
        "no-raster": "none of its 1 assets is a raster",
        "number": "a number, no STAC item or catalogue",
        "place": "a GeoJSON feature with no assets, no STAC item",
        "cut": "damaged: no valid JSON",
    }
    for name, problem in problems.items():
        assert problem is not None and said[name] in problem and "\n" not in problem
        assert (server.url if over_http else str(tmp_path)) in problem


def collection(features: Sequence[Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.mark.parametrize("form", ["collection", "list", "lines", "bom", "utf-16", "gzip"])
def test_forms_of_several_items(tmp_path: Path, form: str) -> None:
    items = [earth_search(tmp_path, name, BANDS) for name in ("a", "b")]
    path = tmp_path / ("items.ndjson" if form == "lines" else "items.json")
    if form == "lines":
        path.write_text("\n".join(map(json.dumps, items)) + "\n")
    elif form == "gzip":
        import gzip

        path = path.with_name("items.json.gz")
        path.write_bytes(gzip.compress(json.dumps(collection(items)).encode()))
    else:
        text = json.dumps(items if form == "list" else collection(items))
        path.write_text(text, encoding={"bom": "utf-8-sig", "utf-16": "utf-16"}.get(form, "utf-8"))
    scenes = find_scenes([str(path)], ["B04"])
    assert [scene.id for scene in scenes] == ["a", "b"]
    assert scenes[1].typed == f"{path}#b"
    np.testing.assert_allclose(reflectance(scenes[1]), expected(["B04"]), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"type": "FeatureCollection", "features": []}, "has no items"),
        (
            collection([{"type": "Feature", "properties": {"name": "x"}, "geometry": None}]),
            "holds no STAC items: a GeoJ",
        ),
        ({"type": "FeatureCollection"}, "without a list of features"),
        ({"type": "Feature", "properties": None, "assets": {}}, "null as properties, no STAC item"),
        ({"type": "Polygon", "coordinates": []}, "type 'Polygon', no STAC item or catalogue"),
        ({"a": 1}, "an object without a type"),
        ([1, 2], "holds no STAC items: a number"),
        ("text", "a text, no STAC item or catalogue"),
        (catalogue("empty", [("self", "x.json")]), "has no items; pass a STAC item"),
        (catalogue("api", [("data", "https://x.invalid/collections"), ("search", "/search")]), "belongs to a STAC API"),
    ],
)
def test_root_that_is_no_stac_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = write_json(tmp_path / "x.json", content)
    with pytest.raises(UserError, match=message) as caught:
        find_scenes([str(path)], ["B04"])
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b'{"type": "Feat', "damaged: no valid JSON"),
        (b"[" * 100_000, "damaged"),
        (b"<!DOCTYPE html><html></html>", "a web page or XML, no JSON"),
        (b"\xff\xfe\x00\x01\x80", "no JSON file"),
        (b"\x1f\x8b\x08broken", "no JSON file"),
    ],
)
def test_root_that_is_no_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        find_scenes([str(tmp_path / "x.json")], ["B04"])
    assert "\n" not in str(caught.value)


def test_root_that_does_not_answer_is_refused_with_status_and_address(tmp_path: Path, server: FileServer) -> None:
    message = f"cannot read {server.url}/gone.json?...: the server answers 404 Not Found"
    with pytest.raises(UserError, match=re.escape(message)):
        find_scenes([f"{server.url}/gone.json?sig=SECRET"], ["B04"])
    with pytest.raises(UserError, match=r"cannot read http://127\.0\.0\.1:9/x\.json: .*refused"):
        find_scenes(["http://127.0.0.1:9/x.json"], ["B04"])


def test_momentary_failures_are_tried_again(tmp_path: Path, server: FileServer) -> None:
    write_json(tmp_path / "item.json", earth_search(tmp_path, "S", BANDS))
    server.status["/item.json"] = [503]
    assert find_scenes([f"{server.url}/item.json"], ["B04"])[0].problem is None
    assert server.asked.count("/item.json") == 2


def test_address_without_a_suffix_and_after_a_redirection(tmp_path: Path, server: FileServer) -> None:
    write_json(tmp_path / "real" / "item.v2.0", earth_search(tmp_path / "real", "S", BANDS))
    server.moved["/items/S"] = "/real/item.v2.0"
    for typed in ("items/S", "items/S?f=json", "real/item.v2.0"):
        (source,) = find_scenes([f"{server.url}/{typed}"], ["B04"])
        assert source.bands()[0].path == f"{server.url}/real/S/B04.tif"
    write_band(tmp_path / "plain", values("B04"), descriptions=["B04"])
    (raster,) = find_scenes([f"{server.url}/plain"], ["B04"])
    np.testing.assert_allclose(reflectance(raster), expected(["B04"]), atol=1e-6)


def test_server_without_ranges_of_bytes(tmp_path: Path, server: FileServer) -> None:
    pixels = np.random.default_rng(0).integers(1, 9000, (700, 700)).astype(np.uint16)
    write_band(tmp_path / "large.tif", pixels)
    write_json(tmp_path / "item.json", item("S", {"B04": asset("large.tif")}))
    server.ranges = False
    (source,) = find_scenes([f"{server.url}/item.json"], ["B04"])
    np.testing.assert_allclose(reflectance(source)[0], pixels * 1e-4, atol=1e-6)


def test_signatures_and_passwords_are_used_but_never_shown(
    tmp_path: Path, server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="eo_backbones")
    made = planetary_computer(tmp_path, "S", BANDS, query="?st=2022&sig=SECRET%2Fx")
    made["links"] = [{"rel": "self", "href": f"{server.url}/item.json?sig=SECRET"}]
    write_json(tmp_path / "item.json", made)
    server.accounts["/item.json"] = "Basic dXNlcjpTRUNSRVQ="
    with_password = server.url.replace("http://", "http://user:SECRET@")
    (source,) = find_scenes([f"{with_password}/item.json"], ["B04"])
    np.testing.assert_allclose(reflectance(source), expected(["B04"]), atol=1e-6)
    assert any("sig=SECRET%2Fx" in asked for asked in server.asked)
    (tmp_path / "S" / "T32UPU_S_B04_10m.tif").unlink()
    made["assets"]["B04"]["href"] = made["assets"]["B04"]["href"].replace("S/T32", "S/gone32")
    write_json(tmp_path / "item.json", made)
    (gone,) = find_scenes([f"{with_password}/item.json"], ["B04"])
    with pytest.raises(UserError, match=r"404") as caught, Scene(gone.bands()):
        pass
    shown = [str(caught.value), source.typed, str(source.item), caplog.text]
    assert not [text for text in shown if "SECRET" in text]
    assert f"{server.url}/S/gone32UPU_S_B04_10m.tif" in str(caught.value)


def test_missing_local_asset_is_said_with_its_place(tmp_path: Path) -> None:
    path = write_json(tmp_path / "item.json", item("S", {"B04": asset("gone.tif")}))
    (source,) = find_scenes([str(path)], ["B04"])
    with pytest.raises(UserError, match=rf"no file {tmp_path / 'gone.tif'}"), Scene(source.bands()):
        pass


@pytest.mark.parametrize("href", ["{folder}/my data/a b.tif", "my data/a b.tif", "./my%20data/a%20b.tif",
                                  "my data\\a b.tif", "file://{quoted}/my%20data/a%20b.tif"])  # fmt: skip
def test_spellings_of_a_local_asset(tmp_path: Path, href: str) -> None:
    write_band(tmp_path / "my data" / "a b.tif", values("B04"))
    place = href.format(folder=tmp_path, quoted=str(tmp_path).replace(" ", "%20"))
    path = write_json(tmp_path / "item.json", item("S", {"B04": asset(place)}))
    for typed in (str(path), path.as_uri()):
        (source,) = find_scenes([typed], ["B04"])
        np.testing.assert_array_equal(reflectance(source).shape, (1, PIXELS, PIXELS))


def test_spaces_in_an_address(tmp_path: Path, server: FileServer) -> None:
    write_band(tmp_path / "my data" / "a b.tif", values("B04"))
    write_json(tmp_path / "an item.json", item("S", {"B04": asset("my data/a b.tif")}))
    (source,) = find_scenes([f"{server.url}/an item.json"], ["B04"])
    assert reflectance(source).shape == (1, PIXELS, PIXELS)


def test_downloaded_item_with_relative_assets_reads_them_where_it_came_from(tmp_path: Path, server: FileServer) -> None:
    made = earth_search(tmp_path / "remote", "S", BANDS)
    made["links"] = [{"rel": "self", "href": f"{server.url}/remote/item.json"}]
    path = write_json(tmp_path / "local" / "item.json", made)
    (source,) = find_scenes([str(path)], ["B04"])
    assert source.bands()[0].path == f"{server.url}/remote/S/B04.tif"
    assert source.item == f"{server.url}/remote/item.json"


def test_assets_in_buckets_are_named_as_gdal_does(tmp_path: Path) -> None:
    path = write_json(tmp_path / "item.json", item("S", {"B04": asset("s3://b/k.tif"), "B08": asset("gs://b/k.tif")}))
    (source,) = find_scenes([str(path)], ["B04", "B08"])
    assert source.paths == ("/vsis3/b/k.tif", "/vsigs/b/k.tif")
    with pytest.raises(UserError, match=r"s3://b/catalog\.json: STAC files are read from disk and over http"):
        find_scenes(["s3://b/catalog.json"], ["B04"])


def test_catalogues_inside_each_other_without_end(tmp_path: Path) -> None:
    for number in range(150):
        write_json(tmp_path / f"{number}.json", catalogue(str(number), [("child", f"{number + 1}.json")]))
    with pytest.raises(UserError, match="more than 100 catalogues inside each other"):
        find_scenes([str(tmp_path / "0.json")], ["B04"])


def test_next_page_is_not_followed_but_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    page = collection([earth_search(tmp_path, "a", BANDS)])
    page["links"] = [{"rel": "next", "href": "https://x.invalid/page2"}]
    assert len(find_scenes([str(write_json(tmp_path / "p.json", page))], ["B04"])) == 1
    assert "one page of more: its 1 items are used" in caplog.text


def test_times_and_clouds_as_items_state_them(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str | None, float | None]] = [
        (
            {"datetime": None, "start_datetime": "2021-01-01T00:00:00Z", "eo:cloud_cover": 101},
            "2021-01-01T00:00:00Z",
            None,
        ),
        ({"datetime": "2021-05-01T23:30:00-02:00", "eo:cloud_cover": 0}, "2021-05-02T01:30:00Z", 0.0),
        ({"datetime": "yesterday", "eo:cloud_cover": "12"}, None, None),
        ({"datetime": 7, "eo:cloud_cover": True}, None, None),
    ]
    for properties, time, clouds in cases:
        path = write_json(tmp_path / "item.json", item("S", {"B04": asset("x.tif")}, properties))
        (source,) = find_scenes([str(path)], ["B04"])
        assert (source.datetime, source.cloud_cover) == (time, clouds)


def test_odd_fields_of_an_item_stop_nothing(tmp_path: Path) -> None:
    odd = [None, 3, "x", [], {}, {"href": None}, {"href": ""}, {"href": "x.tif", "roles": "data", "eo:bands": "red"}]
    odd += [{"href": "data:image/png;base64,AAAA", "type": "image/png"}, {"href": "x" * 5000, "type": "image/tiff"}]
    assets = {f"a{number}": value for number, value in enumerate(odd)}
    assets["b"] = asset(
        "y.tif", **{"eo:bands": [None, 4, {"name": 3}, {"name": "B04"}], "gsd": "ten", "proj:transform": []}
    )
    made = item("S", assets) | {"links": [None, {"href": 3}, "x"], "id": 17}
    (source,) = find_scenes([str(write_json(tmp_path / "item.json", made))], ["B04"])
    assert source.id == "17"
    assert [(Path(band.path).name, band.index) for band in source.bands()] == [("y.tif", 4)]


def test_items_of_one_id_are_kept_apart(tmp_path: Path) -> None:
    items = [item("S", {"B04": asset(f"https://x.invalid/{number}.tif?sig={number}")}) for number in range(3)]
    path = write_json(tmp_path / "items.json", collection([*items, item("S", {}), item("s", {})]))
    scenes = find_scenes([str(path)], ["B04"])
    assert len({scene.id.lower() for scene in scenes}) == len(scenes) >= 4
    assert scenes[0].id == "S"
    for number, one in enumerate(items):
        one["assets"]["B04"]["href"] = f"https://x.invalid/{number}.tif?sig=other"
    write_json(path, collection(items))
    assert [scene.id for scene in find_scenes([str(path)], ["B04"])] == [scene.id for scene in scenes[:3]]


def test_product_as_the_only_asset(tmp_path: Path) -> None:
    tile = tmp_path / "X.SAFE" / "GRANULE" / "L2A_T32TQM_A1_20220601T102031" / "IMG_DATA" / "R10m"
    write_band(tile / "T32TQM_20220601T102031_B04_10m.tif", values("B04"))
    path = write_json(tmp_path / "item.json", item("S", {"product": {"href": "X.SAFE"}}))
    (source,) = find_scenes([str(path)], ["B04"])
    assert [Path(band.path).name for band in source.bands()] == ["T32TQM_20220601T102031_B04_10m.tif"]


@pytest.mark.parametrize("kind", ["SELF_CONTAINED", "ABSOLUTE_PUBLISHED", "RELATIVE_PUBLISHED"])
def test_catalogues_that_pystac_writes(tmp_path: Path, server: FileServer, kind: str) -> None:
    pystac = pytest.importorskip("pystac", reason="pystac is not installed: uv sync installs it")
    made = pystac.Catalog(id="root", description="scenes")
    inner = pystac.Catalog(id="inner", description="scenes")
    made.add_child(inner)
    for name in ("a", "b"):
        described = pystac.Item.from_dict(planetary_computer(tmp_path / "data", name, BANDS))
        for one in described.assets.values():
            one.href = f"{tmp_path if kind == 'SELF_CONTAINED' else server.url}/data/{one.href}"
        (inner if name == "b" else made).add_item(described)
    made.normalize_hrefs(str(tmp_path / "catalogue") if kind == "SELF_CONTAINED" else f"{server.url}/catalogue")
    if kind == "SELF_CONTAINED":
        made.make_all_asset_hrefs_relative()
    made.save(getattr(pystac.CatalogType, kind), dest_href=str(tmp_path / "catalogue"))
    for typed in (str(tmp_path / "catalogue" / "catalog.json"), f"{server.url}/catalogue/catalog.json"):
        scenes = find_scenes([typed], ["B04"])
        assert sorted(scene.id for scene in scenes) == ["a", "b"]
        for scene in scenes:
            np.testing.assert_allclose(reflectance(scene), expected(["B04"]), atol=1e-6)


def test_items_in_lists_and_items_with_the_same_assets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(tmp_path / "item.json", earth_search(tmp_path, "S", BANDS))
    (tmp_path / "cut.json").write_text("{")
    (tmp_path / "list.txt").write_text("item.json\ncut.json\n")
    scenes = find_scenes([str(tmp_path / "list.txt"), str(tmp_path / "item.json")], ["B04"])
    assert [(scene.id, scene.problem is None) for scene in scenes] == [("S", True), ("cut", False)]
    assert "1 scene is given more than once" in caplog.text
