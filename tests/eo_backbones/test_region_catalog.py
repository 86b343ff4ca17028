"""The STAC catalogue of a region, read by pystac; its outlines against GDAL's own cutting at the antimeridian."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_bounds, transform_geom

from eo_backbones.regions.catalog import write_catalog
from eo_backbones.regions.folder import open_region
from eo_backbones.regions.footprint import footprint
from eo_backbones.regions.model_item import model_item
from eo_backbones.regions.sources import find_scenes
from eo_backbones.scenes.geotiff import write_geotiff
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.parquet import write_parquet
from eo_backbones.weights import DEFAULT

pystac = pytest.importorskip("pystac", reason="pystac is not installed: uv sync installs it")
pytest.importorskip("jsonschema", reason="pystac validates with jsonschema: uv sync installs it")

SHA256 = DEFAULT.sha256
FACTS: dict[str, Any] = {
    "model": DEFAULT.name, "weights_sha256": SHA256, "bands": ["B04"], "units": ["dn"], "fuse": "concat", "size": 64,
    "stride": 32, "max_nodata": 0.05, "version": "1.2.3", "number_format": "torch.float32", "features": "ab" * 32,
    "offset": -1000.0,
}  # fmt: skip


def embedding(path: Path, *, dtype: Any = "float32", crs: str | None = "EPSG:32632", **facts: Any) -> Path:
    """Write 4 x 5 cells of 3 values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Affine(10, 0, 600000, 0, -10, 5400000)
    grid = Grid(height=160, width=192, size=64, stride=32, scene_transform=place, crs=crs and CRS.from_string(crs))
    cells = np.random.default_rng(0).normal(size=(grid.rows, grid.cols, 3)).astype(np.float32)
    told = {**FACTS, "scene_id": path.stem, "datetime": None, "cloud_cover": None, **facts}
    if path.suffix == ".parquet":
        write_parquet(path, lambda: iter(cells), grid=grid, features=3, dtype=dtype, facts={**told, "dtype": dtype})
    else:
        write_geotiff(path, lambda: iter(cells), grid=grid, bands=3, dtype=dtype, facts=told)
    return path


@pytest.fixture
def region(tmp_path: Path) -> Path:
    """Three scenes: with date, clouds and an item; without any; without a coordinate system."""
    out = tmp_path / "my region"
    said = {"datetime": "2022-06-01T10:27:21Z", "cloud_cover": 12.5, "stac_item": "https://x.invalid/items/S2A"}
    embedding(out / "S2A" / "S2A.tif", **said)
    embedding(out / "plain" / "plain.tif", scene=[str(tmp_path / "in put" / "plain.tif")])
    embedding(out / "no-place" / "no-place.tif", crs=None, datetime="2023-01-01T00:00:00Z")
    write_catalog(out, open_region(out))
    return out


def valid(thing: Any) -> None:
    """Compare an object with pystac's own schemas of STAC 1.1; those of extensions it would fetch."""
    core = thing.clone()
    core.stac_extensions = []
    assert core.validate()


def test_pystac_finds_each_scene_once(region: Path) -> None:
    catalogue = pystac.Catalog.from_file(str(region / "catalog.json"))
    valid(catalogue)
    items = {item.id: item for item in catalogue.get_items(recursive=True)}
    assert sorted(items) == ["S2A", "no-place", "plain"]
    assert [child.id for child in catalogue.get_children()] == ["my-region-embeddings"]
    for item in items.values():
        valid(item)
        assert item.get_collection().id == "my-region-embeddings"
        assert Path(item.assets["embeddings"].get_absolute_href()) == region / item.id / f"{item.id}.tif"
        assert item.assets["embeddings"].media_type == "image/tiff; application=geotiff"
        assert item.get_root().id == item.get_parent().id == "my-region"


def test_items_say_where_when_and_how(region: Path) -> None:
    item = pystac.Item.from_file(str(region / "S2A" / "S2A.json"))
    assert item.datetime.isoformat() == "2022-06-01T10:27:21+00:00"
    properties = item.properties
    assert properties["eo:cloud_cover"] == 12.5
    assert properties["proj:code"] == "EPSG:32632"
    with rasterio.open(region / "S2A" / "S2A.tif") as source:
        assert properties["proj:shape"] == [source.height, source.width] == [4, 5]
        assert properties["proj:transform"] == list(source.transform[:6])
        assert properties["proj:bbox"] == list(source.bounds)
        bounds = transform_bounds(source.crs, "EPSG:4326", *source.bounds, densify_pts=21)
    np.testing.assert_allclose(item.bbox, bounds, atol=1e-6)
    assert properties["gsd"] == 320
    assert properties["emb:runtime_parameters"]["bands"] == ["B04"]
    assert properties["emb:runtime_parameters"]["offset"] == -1000
    assert properties["processing:software"] == {"eo-backbones": "1.2.3"}
    assert [link.target for link in item.get_links("derived_from")] == ["https://x.invalid/items/S2A"]
    plain = json.loads((region / "plain" / "plain.json").read_text())
    assert (plain["properties"]["datetime"], plain["properties"]["start_datetime"]) == (None, "1900-01-01T00:00:00Z")
    (link,) = [link for link in plain["links"] if link["rel"] == "emb:source-data"]
    assert link["href"].startswith("file:///") and link["href"].endswith("/in%20put/plain.tif")
    nowhere = json.loads((region / "no-place" / "no-place.json").read_text())
    assert nowhere["geometry"] is None and "bbox" not in nowhere and nowhere["properties"]["proj:code"] is None


# README of github.com/geo-embeddings/embeddings-stac-specification of 16 March 2026: fields, and who requires which
OF_COLLECTIONS = {
    "emb:type", "emb:dimensions", "emb:chip_layout", "emb:temporal_resolution", "emb:fit_for_use", "emb:uncertainty",
}  # fmt: skip
OF_ITEMS = {
    "emb:runtime_parameters", "emb:preprocessing", "emb:postprocessing", "emb:fit_for_use", "emb:uncertainty",
    "emb:quantization",
}  # fmt: skip


def prefixed(data: dict[str, Any]) -> set[str]:
    return {key for key in data if key.startswith("emb:")}


def test_fields_are_those_of_the_proposed_extension(region: Path) -> None:
    collection = json.loads((region / "collection.json").read_text())
    valid(pystac.Collection.from_file(str(region / "collection.json")))
    assert prefixed(collection) <= OF_COLLECTIONS
    assert (collection["emb:type"], collection["emb:dimensions"], collection["data_type"]) == ("chip", 3, "float32")
    assert collection["emb:chip_layout"] == {"layout_type": "regular_grid", "chip_size": [64, 64], "stride": [32, 32]}
    assert collection["extent"]["temporal"]["interval"] == [["2022-06-01T10:27:21Z", "2023-01-01T00:00:00Z"]]
    relations = [link["rel"] for link in collection["links"]]
    assert {"emb:model", "emb:source-data"} <= set(relations)
    for path in region.glob("*/*.json"):
        item = json.loads(path.read_text())
        if "embeddings" not in item["assets"]:
            continue  # that of the model
        assert prefixed(item["properties"]) <= OF_ITEMS
        assert not any(prefixed(asset) for asset in item["assets"].values())
        (model,) = [link for link in item["links"] if link["rel"] == "emb:model"]
        assert (path.parent / model["href"]).resolve() == region / "model" / "stac_mlm.json"


def test_model_of_the_package_has_its_item(region: Path, repository: Path) -> None:
    data = json.loads((region / "model" / "stac_mlm.json").read_text())
    valid(pystac.Item.from_dict(data))
    assert data["assets"]["weights"]["file:checksum"].endswith(str(SHA256))
    assert data["assets"]["weights"]["href"].startswith("pkg:pypi/eo-backbones#eo_backbones/embedded/")
    known = json.loads((repository / "model_cards" / DEFAULT.name / "stac_mlm.json").read_text())
    assert data["properties"] == known["properties"]


def test_model_in_a_folder_keeps_its_item_with_complete_addresses(tmp_path: Path, repository: Path) -> None:
    folder = tmp_path / "my weights"
    folder.mkdir()
    known = json.loads((repository / "model_cards" / DEFAULT.name / "stac_mlm.json").read_text())
    (folder / "stac_mlm.json").write_text(json.dumps(known))
    made = model_item(f"local-dir:{folder}", str(SHA256))
    assert made["properties"] == known["properties"]
    assert made["assets"]["weights"]["href"] == f"{folder.as_uri()}/model.safetensors"
    assert made["assets"]["source_code"] == known["assets"]["source_code"]


def test_catalogue_can_be_written_again(region: Path) -> None:
    before = {path: path.read_bytes() for path in region.rglob("*.json")}
    write_catalog(region, open_region(region))
    assert {path: path.read_bytes() for path in region.rglob("*.json")} == before
    embedding(region / "later" / "later.tif")
    write_catalog(region, open_region(region))
    assert len(list(pystac.Catalog.from_file(str(region / "catalog.json")).get_items(recursive=True))) == 4


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [("a.tif", "int8", "linear"), ("a.tif", "float16", "cast"), ("a.parquet", "float16", "cast")],
)
def test_smaller_numbers_are_said(tmp_path: Path, name: str, dtype: str, method: str) -> None:
    path = embedding(tmp_path / "a" / name, dtype=dtype, components=3, explained=[0.5, 0.3, 0.2])
    write_catalog(tmp_path, open_region(tmp_path))
    item = json.loads(path.with_suffix(".json").read_text())
    assert item["assets"]["embeddings"]["data_type"] == dtype
    valid(pystac.Item.from_file(str(path.with_suffix(".json"))))
    coding = item["properties"]["emb:quantization"]
    assert (coding["method"], coding["original_dtype"], coding["quantized_dtype"]) == (method, "float32", dtype)
    if method == "linear":
        with rasterio.open(path) as source:
            assert coding["scale"] == list(source.scales) and coding["offset"] == list(source.offsets)
    assert item["properties"]["emb:postprocessing"]["expression"] == "(features - mean) @ axes.T"
    assert json.loads((tmp_path / "collection.json").read_text())["data_type"] == dtype


def test_a_region_is_no_set_of_scenes_but_its_catalogue_reads_as_one(region: Path) -> None:
    scenes = find_scenes([str(region / "catalog.json")], ["B04=1"])
    assert sorted(scene.id for scene in scenes) == ["S2A", "no-place", "plain"]
    assert {scene.id: scene.cloud_cover for scene in scenes}["S2A"] == 12.5


def outline(crs: str, x: float, y: float, cell: float) -> tuple[Any, dict[str, Any]]:
    """Our outline of 100 x 100 cells, and the box that GDAL finds for the same cells, cut at 180 degrees."""
    place = Affine(cell, 0, x, 0, -cell, y)
    made = footprint(CRS.from_string(crs), place, 100, 100)
    steps = np.linspace(0, 100, 101)
    ring = [(x + cell * col, y) for col in steps]
    ring += [(x + 100 * cell, y - cell * row) for row in steps[1:]]
    ring += [(x + cell * col, y - 100 * cell) for col in steps[::-1][1:]]
    ring += [(x, y - cell * row) for row in steps[::-1][1:]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return made, transform_geom(crs, "EPSG:4326", geometry, antimeridian_cutting=True)


def extents(geometry: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """Box of each polygon, from west to east."""
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    corners = [np.array(part[0])[:, :2] for part in parts]
    return sorted((*ring.min(axis=0), *ring.max(axis=0)) for ring in corners)


@pytest.mark.parametrize(
    ("crs", "x", "y", "cell"),
    [
        ("EPSG:32632", 600_000, 5_400_000, 1000),
        ("EPSG:32701", 250_000, 8_200_000, 1000),  # Fiji, across 180 degrees
        ("EPSG:32660", 700_000, 7_300_000, 1500),  # Chukotka, likewise
        ("EPSG:4326", 10, 50, 0.01),
        ("EPSG:3035", 3_000_000, 4_000_000, 10_000),
    ],
)
def test_outlines_are_those_of_gdal(crs: str, x: float, y: float, cell: float) -> None:
    made, reference = outline(crs, x, y, cell)
    assert made is not None
    found, expected = extents(made.geometry), extents(reference)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert made.bbox == pytest.approx([found[-1][0], found[0][1], found[0][2], found[0][3]], abs=1e-3)
    for part in made.geometry["coordinates"] if len(found) > 1 else [made.geometry["coordinates"]]:
        ring = np.array(part[0])
        assert (ring[0] == ring[-1]).all()
        assert np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]) > 0  # anticlockwise


def test_an_outline_in_degrees_is_cut_as_well() -> None:
    made = footprint(CRS.from_epsg(4326), Affine(0.01, 0, 179.5, 0, -0.01, 10), 100, 100)
    assert made is not None
    assert extents(made.geometry) == [(-180.0, 9.0, -179.5, 10.0), (179.5, 9.0, 180.0, 10.0)]
    assert made.bbox == [179.5, 9.0, -179.5, 10.0]


def test_outlines_around_a_pole_and_beyond_the_globe() -> None:
    north = footprint(CRS.from_epsg(3995), Affine(40_000, 0, -2_000_000, 0, -40_000, 2_000_000), 100, 100)
    assert north is not None and north.bbox[0::2] == [-180, 180] and north.bbox[3] == 90
    south = footprint(CRS.from_epsg(3031), Affine(40_000, 0, -2_000_000, 0, -40_000, 2_000_000), 100, 100)
    assert south is not None and south.bbox[1] == -90 and -75 < south.bbox[3] < -60
    full_disk = CRS.from_string("+proj=geos +h=35785831 +lon_0=0 +sweep=y")
    assert footprint(full_disk, Affine(1e5, 0, -5.5e6, 0, -1e5, 5.5e6), 110, 110) is None
    assert footprint(None, Affine.identity(), 4, 4) is None
