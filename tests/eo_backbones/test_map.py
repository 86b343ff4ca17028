"""``eo-backbones map``: a region whose classes are known is mapped from a few points; its report is right about it."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rio_cogeo.cogeo import cog_validate
from sklearn.metrics import f1_score

from eo_backbones.cli.main import main
from eo_backbones.errors import UserError
from eo_backbones.mapping import MapRequest, map_region
from eo_backbones.mapping.accuracy import Share, estimated_areas, wilson
from eo_backbones.mapping.report import as_markdown
from eo_backbones.mapping.scene_map import row_areas_km2
from eo_backbones.prediction.mask_file import class_colours
from eo_backbones.regions.folder import open_region
from eo_backbones.search import build_index
from support.synthetic_region import CELL_M, CLASSES, Scene, draw_places, write_points, write_region

POINTS = 30


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scene]]:
    folder = tmp_path_factory.mktemp("mapped") / "region"
    return folder, write_region(folder, noise=0.8, missing=True)


@pytest.fixture(scope="module")
def mapped(region: tuple[Path, list[Scene]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished map."""
    folder, scenes = region
    base = tmp_path_factory.mktemp("map")
    points = write_points(base / "labels.geojson", draw_places(scenes, POINTS))
    out = base / "map"
    map_region(MapRequest(region=folder, points=points, class_field="land", out=out))
    return out


def request(made: tuple[Path, list[Scene]], tmp_path: Path, places: Any = None, **options: Any) -> MapRequest:
    folder, scenes = made
    points = write_points(tmp_path / "labels.geojson", draw_places(scenes, POINTS) if places is None else places)
    return MapRequest(**{"region": folder, "points": points, "class_field": "land", "out": tmp_path / "map", **options})


def test_the_map_is_the_region(region: tuple[Path, list[Scene]], mapped: Path) -> None:
    report = json.loads((mapped / "report.json").read_text())
    missed = cells = 0
    true, predicted = [], []
    for scene in region[1]:
        known = scene.truth >= 0
        folder = mapped / scene.name
        with rasterio.open(folder / f"{scene.name}_classes.tif") as classes:
            values = classes.read(1)
            np.testing.assert_array_equal(values == classes.nodata, ~known)
            assert classes.transform.almost_equals(scene.grid.transform, precision=1e-9)
            assert classes.crs == scene.grid.crs
            assert [classes.colormap(1)[value][:3] for value in (1, 2, 3)] == class_colours(3)
            assert [classes.tags(1)[f"CLASS_{value}"] for value in (1, 2, 3)] == list(CLASSES)
        true.append(scene.truth[known])
        predicted.append(values[known] - 1)
        with rasterio.open(folder / f"{scene.name}_probability.tif") as raster:
            probability = raster.read(1)
            np.testing.assert_array_equal(np.isnan(probability), ~known)
            assert probability[known].min() >= 1 / 3
        with rasterio.open(folder / f"{scene.name}_sets.tif") as raster:
            size, *members = raster.read()
            assert raster.descriptions[0] == "classes in the set"
            assert [text.removeprefix("set holds ") for text in raster.descriptions[1:]] == list(CLASSES)
            np.testing.assert_array_equal(size[known], np.sum(members, axis=0)[known])
            assert (size[~known] == 255).all()
        holds = np.take_along_axis(np.array(members), np.maximum(scene.truth, 0)[None], axis=0)[0]
        missed += (holds[known] == 0).sum()
        cells += known.sum()
    f1 = f1_score(np.concatenate(true), np.concatenate(predicted), average="weighted")
    assert f1 > 0.75
    # what 30 points say about 3,750 cells
    assert report["f1_weighted"]["low"] <= f1 <= report["f1_weighted"]["high"]
    assert missed / cells < 0.15
    assert report["coverage"]["low"] <= 1 - missed / cells <= report["coverage"]["high"]
    assert sum(entry["cells"] for entry in report["classes"]) == cells
    assert sum(report["set_sizes"]["map"]) == cells
    areas = np.bincount(np.concatenate(predicted)) * CELL_M**2 / 1e6
    np.testing.assert_allclose([entry["km2_mapped"] for entry in report["classes"]], areas, rtol=2e-3)
    corrected = [entry["km2_corrected"] for entry in report["classes"]]
    assert sum(area["value"] for area in corrected) == pytest.approx(areas.sum(), rel=2e-3)
    assert all(area["low"] < area["value"] < area["high"] for area in corrected)


def test_rasters_are_cloud_optimised_and_named(mapped: Path) -> None:
    rasters = sorted(mapped.glob("*/*.tif"))
    assert len(rasters) == 6
    for path in rasters:
        valid, errors, warnings = cog_validate(path, quiet=True)
        assert (valid, errors, warnings) == (True, [], [])
        with rasterio.open(path) as raster:
            facts = json.loads(raster.tags()["EO_BACKBONES_MAP"])
        assert facts["region"]["weights_sha256"] == "0" * 64
        assert len(facts["points_sha256"]) == 64
        assert facts["map"] == json.loads((mapped / "report.json").read_text())["map"]
    vrt = mapped.parent / "names.vrt"
    rasterio.shutil.copy(mapped / "scene_0" / "scene_0_classes.tif", vrt, driver="VRT")
    names = [element.text or "" for element in ET.parse(vrt).iter("Category")]
    assert names == ["", *CLASSES]  # as GDAL reads them, value by value


def test_picture_and_report_show_everything(mapped: Path) -> None:
    picture = np.asarray(Image.open(mapped / "map.png").convert("RGB"))
    assert picture.shape[1] == 1200
    for colour in class_colours(3):
        assert (np.abs(picture.astype(int) - colour).max(axis=2) < 4).mean() > 0.01
    text = (mapped / "report.md").read_text()
    assert text == as_markdown(json.loads((mapped / "report.json").read_text()))
    assert "asked for: at least 0.9" in text
    assert "not to be trusted" in text
    assert not (mapped / "left_out.csv").exists()


def test_the_same_command_goes_on_and_another_is_refused(
    region: tuple[Path, list[Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(region, tmp_path)
    whole = map_region(wanted)
    reference = {path: path.read_bytes() for path in wanted.out.rglob("*") if path.is_file()}
    (wanted.out / "scene_1" / "scene_1_sets.tif").unlink()
    untouched = (wanted.out / "scene_0" / "scene_0_classes.tif").stat().st_mtime_ns
    again = map_region(wanted)
    assert (whole.kept, again.kept) == (0, 1)
    assert (wanted.out / "scene_0" / "scene_0_classes.tif").stat().st_mtime_ns == untouched
    assert {path: path.read_bytes() for path in wanted.out.rglob("*") if path.is_file()} == reference
    other = request(region, tmp_path, error_rate=0.2)
    with pytest.raises(UserError, match=r"already holds a map made with other --error-rate; pass --overwrite"):
        map_region(other)
    with pytest.raises(UserError, match=r"made with other points and --error-rate;"):
        map_region(request(region, tmp_path, draw_places(region[1], 31), error_rate=0.2))
    assert {path: path.read_bytes() for path in wanted.out.rglob("*") if path.is_file()} == reference
    replaced = map_region(request(region, tmp_path, error_rate=0.2, overwrite=True))
    assert (replaced.kept, replaced.error_rate) == (0, 0.2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and does not hold a map of eo-backbones"):
        map_region(request(region, tmp_path, out=Path("full"), overwrite=True))


def test_points_without_a_cell_are_listed(region: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    scenes = region[1]
    places = draw_places(scenes, POINTS)
    lon, lat, name = places[0]
    other = next(one for one in CLASSES if one != name)
    twice = [(lon, lat, name), (places[1][0], places[1][1], places[1][2]), (places[1][0], places[1][1], "water-ish")]
    missing = region_corner(region[0])
    made = map_region(
        request(
            region,
            tmp_path,
            [*places[1:], *twice[:1], (lon, lat, name), (11.0, 47.0, name), (*missing, other), (9.1, 45.0, None)],
        )
    )
    assert (made.points, made.left_out) == (POINTS, 4)
    lines = (tmp_path / "map" / "left_out.csv").read_text().splitlines()
    assert lines[0] == "lon,lat,class,reason"
    assert [line.split(",", 2)[2] for line in lines[1:]] == [
        f"{name},another point of its class is in its cell",
        f"{name},outside all scenes",
        f"{other},its cell has no value",
        ",no class",
    ]
    shutil.rmtree(tmp_path / "map")
    made = map_region(request(region, tmp_path, [*places, (lon, lat, other)]))
    assert (made.points, made.left_out) == (POINTS - 1, 2)
    assert (tmp_path / "map" / "left_out.csv").read_text().count("another point in its cell has another class") == 2


def region_corner(folder: Path) -> tuple[float, float]:
    """A cell without a value."""
    lon, lat = open_region(folder).scenes[0].centres(2, 10)
    return float(lon), float(lat)


def one_corner(scenes: list[Scene], count: int) -> list[tuple[float, float, str]]:
    """Points within one square of four windows."""
    lon, lat, _ = draw_places(scenes, 1)[0]
    return [(lon + 1e-4 * number, lat, CLASSES[number % 3]) for number in range(count)]


@pytest.mark.parametrize(
    ("places", "options", "message"),
    [
        (
            lambda scenes: draw_places(scenes, 9),
            {"error_rate": 0.05},
            r"(too few|every class needs points in 3 places)",
        ),
        (
            lambda scenes: [*draw_places(scenes, 20), (9.05, 45.1, "urban")],
            {},
            r"every class needs points in 3 places at least 320 m apart, .*: urban in 1 \(2 more\); add points there$",
        ),
        (
            lambda scenes: [*draw_places(scenes, 20), (0.0, 0.0, "urban")],
            {},
            r"urban in 0 \(3 more\); add points there \(1 of the 21 points have no cell: 1 outside all scenes\)$",
        ),
        (
            lambda scenes: draw_places(scenes, 20),
            {"error_rate": 0.02},
            r"20 labelled cells are too few for --error-rate 0.02: 49 must be left .*; add \d+ points at least .*, or "
            r"pass --error-rate 0\.0[67]$",
        ),
        (lambda scenes: draw_places(scenes, 20), {"block_m": 50_000}, r"or pass a smaller --block$"),
        (
            lambda scenes: [(0.0, 0.0, "a"), (1.0, 1.0, "b")],
            {},
            r"none of the 2 points .*: 2 outside all scenes;",
        ),
        (lambda scenes: draw_places(scenes, 20), {"error_rate": 0}, r"--error-rate 0 is the share of cells .*pass a"),
        (lambda scenes: draw_places(scenes, 20), {"error_rate": 0.6}, r"--error-rate 0.6 is"),
        (lambda scenes: draw_places(scenes, 20), {"block_m": -1}, r"--block -1 is the side"),
        (lambda scenes: draw_places(scenes, 20), {"region": Path("missing")}, r"no folder missing"),
        (lambda scenes: draw_places(scenes, 20), {"class_field": "cover"}, r"no field cover; --class-field takes"),
    ],
)
def test_too_little_is_refused_and_nothing_written(
    region: tuple[Path, list[Scene]],
    tmp_path: Path,
    places: Callable[[list[Scene]], Any],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        map_region(request(region, tmp_path, places(region[1]), **options))
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "map").exists()


def test_a_dozen_points_are_enough(region: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    places = draw_places(region[1], 60, seed=3)
    for count in range(6, 30):
        try:
            made = map_region(request(region, tmp_path, places[:count]))
        except UserError:
            continue
        assert made.points == count
        assert 12 <= count <= 18
        return
    pytest.fail("thirty points are too few")


def test_points_anywhere_on_the_globe_are_outside(region: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    """Where the projection of the scenes fails, and where it shows the other side."""
    far = [(99.0, 0.0), (-171.0, -45.0), (0.0, 90.0), (0.0, -90.0), (180.0, 0.0), (-81.0, 0.0)]
    made = map_region(
        request(region, tmp_path, [*draw_places(region[1], POINTS), *((*place, "water") for place in far)])
    )
    assert (made.points, made.left_out) == (POINTS, len(far))
    assert (tmp_path / "map" / "left_out.csv").read_text().count("outside all scenes") == len(far)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(region: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    wanted = request(region, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))  # bytes of a file: the error is that of a full disk
    try:
        with pytest.raises(UserError, match=r"^cannot write the map of scene_0 into .*; make room") as refused:
            map_region(wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(str(refused.value).splitlines()) == 1
    assert [path.name for path in wanted.out.rglob("*") if path.is_file()] == ["map.json"]
    assert map_region(wanted).scenes == 2


def test_overlapping_scenes_of_several_coordinate_systems(tmp_path: Path) -> None:
    folder = tmp_path / "region"
    scenes = write_region(folder, crs=("EPSG:32632", "EPSG:32632"), rows=24, cols=30, noise=0.3, shift_m=0)
    (folder / "scene_0" / "scene_0.tif").rename(folder / "scene_0.tif")
    same = [Scene(scenes[1].name, scenes[1].grid, scenes[1].truth)]
    agree = scenes[0].truth == scenes[1].truth
    same[0].truth[~agree] = -1  # points where both scenes show the same class
    wanted = request((folder, scenes), tmp_path, draw_places(same, 24))
    made = map_region(wanted)
    report = json.loads((wanted.out / "report.json").read_text())
    assert (report["points"]["used"], report["points"]["cells"]) == (made.points, 2 * made.points)
    assert report["overlapping_scenes"] == 1
    assert "1 pairs of scenes overlap" in (wanted.out / "report.md").read_text()


def test_far_scenes_are_drawn_side_by_side(tmp_path: Path) -> None:
    folder = tmp_path / "region"
    scenes = write_region(folder, crs=("EPSG:32632", "EPSG:32633"), rows=20, cols=20, noise=0.3)
    wanted = request((folder, scenes), tmp_path, draw_places(scenes, 24))
    map_region(wanted)
    picture = np.asarray(Image.open(wanted.out / "map.png").convert("RGB")).astype(int)
    covered = sum((np.abs(picture - colour).max(axis=2) < 4).mean() for colour in class_colours(3))
    assert covered > 0.3  # in place, two scenes of 6 km that are 470 km apart would be dots


def test_areas_are_those_of_the_ground(tmp_path: Path) -> None:
    scenes = write_region(tmp_path / "region", crs=("EPSG:4326", "EPSG:32632"), rows=10, cols=10)
    degrees, utm = open_region(tmp_path / "region").scenes
    assert scenes[0].grid.cell_km2 == pytest.approx(row_areas_km2(degrees).mean(), rel=6e-3)  # a sphere of 40,075 km
    np.testing.assert_allclose(row_areas_km2(utm), (CELL_M / 1000) ** 2 / 0.9996**2, rtol=1e-4)


def test_corrected_areas_are_those_of_the_published_example() -> None:
    """Olofsson et al. 2014, section 5: 235,086 pixels of deforestation, 95 % interval of 68,418."""
    confusion = np.array([[66, 0, 1, 2], [0, 55, 0, 1], [5, 8, 153, 9], [4, 12, 11, 313]])
    areas = estimated_areas(confusion, np.array([200_000, 150_000, 3_200_000, 6_450_000]))
    assert areas is not None
    assert areas[0].value == pytest.approx(235_086, abs=1)
    assert areas[0].high - areas[0].value == pytest.approx(68_418, abs=5)
    assert sum(area.value for area in areas) == pytest.approx(10_000_000)
    assert estimated_areas(np.array([[5, 1], [0, 0]]), np.array([1.0, 1.0])) is None
    only = estimated_areas(np.array([[5, 0], [1, 0]]), np.array([6.0, 0.0]))
    assert only is not None
    assert [area.value for area in only] == [5.0, 1.0]


def test_shares_have_wilsons_interval() -> None:
    low, high = wilson(0.9, 20)
    assert (low, high) == (pytest.approx(0.6990, abs=1e-4), pytest.approx(0.9721, abs=1e-4))
    assert wilson(1.0, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)
    blocks = np.repeat(np.arange(20), 3)
    share = Share.of(np.arange(60) >= 6, blocks)
    assert (share.value, share.low, share.points, share.blocks) == (0.9, low, 60, 20)
    assert Share.of(np.zeros(0, bool), blocks[:0]).value is None


def test_an_index_is_mapped_like_its_folder(region: tuple[Path, list[Scene]], mapped: Path, tmp_path: Path) -> None:
    """Its cells have length 1, in which these classes can be told apart as well."""
    build_index(region[0], tmp_path / "index")
    wanted = request(region, tmp_path, region=tmp_path / "index")
    map_region(wanted)
    for scene in region[1]:
        name = Path(scene.name) / f"{scene.name}_classes.tif"
        with rasterio.open(mapped / name) as one, rasterio.open(wanted.out / name) as other:
            assert one.transform == other.transform
            first, second = one.read(1), other.read(1)
        np.testing.assert_array_equal(first == 255, second == 255)
        assert (first == second)[scene.truth >= 0].mean() > 0.85
    assert json.loads((wanted.out / "report.json").read_text())["region"]["unit_length"] is True


def test_the_command_says_what_it_made(
    region: tuple[Path, list[Scene]], mapped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["map", str(region[0]), "--points", str(mapped.parent / "labels.geojson"), "--class-field", "land"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--out", str(mapped), "--json"])
    assert not end.value.code
    report = json.loads((mapped / "report.json").read_text())
    said = json.loads(capsys.readouterr().out)
    assert (said["kept"], said["scenes"], said["points"]) == (2, 2, POINTS)
    assert said["coverage"][0] == report["coverage"]["value"]
    assert said["cells"] == [entry["cells"] for entry in report["classes"]]
    with pytest.raises(SystemExit) as end:
        main([*words, "--out", str(tmp_path / "new"), "--error-rate", "0.01"])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: 30 labelled cells are too few for --error-rate 0.01")
