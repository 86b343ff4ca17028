"""What is typed as scenes: files, folders of several kinds, lists; and which files of them are read."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from eo_backbones.errors import UserError
from eo_backbones.rasters.band_files import BandFile
from eo_backbones.regions.sources import find_scenes


def raster(path: Path, bands: Sequence[str] = (), *, count: int | None = None, value: int = 1000) -> str:
    """Write a small raster; its bands are described where they are named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = count or len(bands) or 1
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": number, "dtype": "uint16", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", transform=from_origin(600000, 5400000, 10, 10), **profile) as file:
        file.write(np.full((number, 4, 4), value, np.uint16))
        for index, name in enumerate(bands, start=1):
            file.set_band_description(index, name)
    return str(path)


def found(folder: Path, requested: Sequence[str]) -> dict[str, list[str]]:
    """Scene -> the files of its bands, of a folder."""
    scenes = find_scenes([str(folder)], requested)
    return {scene.id: [str(Path(band.path).relative_to(folder)) for band in scene.bands()] for scene in scenes}


def test_each_argument_is_a_scene(tmp_path: Path) -> None:
    paths = [raster(tmp_path / f"{name}.tif", ["B04", "B08"]) for name in ("b", "a")]
    scenes = find_scenes(paths, ["B08", "red"])
    assert [scene.id for scene in scenes] == ["b", "a"]
    assert [scene.typed for scene in scenes] == paths
    assert scenes[1].bands() == (BandFile("B08", paths[1], 2), BandFile("B04", paths[1], 1))


def test_sources_travel_between_processes(tmp_path: Path) -> None:
    scenes = find_scenes([raster(tmp_path / "a.tif", ["B04"])], ["B04"])
    assert pickle.loads(pickle.dumps(scenes)) == scenes


def test_folder_of_whole_scenes_also_in_sub_folders(tmp_path: Path) -> None:
    for name in ("one.tif", "two.tif", "2021/three.tif"):
        raster(tmp_path / name, ["B04", "B08"])
    raster(tmp_path / ".hidden" / "four.tif", ["B04", "B08"])
    assert found(tmp_path, ["B08"]) == {"one": ["one.tif"], "two": ["two.tif"], "three": ["2021/three.tif"]}


def test_folder_of_one_file_a_band_is_one_scene(tmp_path: Path) -> None:
    for name in ("B02", "B04", "B08"):
        raster(tmp_path / "scene" / f"{name}.tif")
    assert found(tmp_path / "scene", ["B08", "B02"]) == {"scene": ["B08.tif", "B02.tif"]}
    assert found(tmp_path / "scene", ["B04"]) == {"scene": ["B04.tif"]}


def test_files_of_one_band_are_joined_by_the_rest_of_their_names(tmp_path: Path) -> None:
    for tile in ("T32TQM_20220601T102031", "T33UUP_20220604T101559"):
        for band in ("B02", "B04", "TCI"):
            raster(tmp_path / f"{tile}_{band}_10m.tif")
    assert found(tmp_path, ["B04", "B02"]) == {
        tile: [f"{tile}_B04_10m.tif", f"{tile}_B02_10m.tif"]
        for tile in ("T32TQM_20220601T102031", "T33UUP_20220604T101559")
    }


def test_the_finest_resolution_with_all_bands_counts(tmp_path: Path) -> None:
    for name in ("B04_10m", "B04_20m", "B11_20m"):
        raster(tmp_path / f"X_{name}.tif")
    assert found(tmp_path, ["B04"]) == {"X": ["X_B04_10m.tif"]}
    assert found(tmp_path, ["B04", "B11"]) == {"X": ["X_B04_20m.tif", "X_B11_20m.tif"]}


def test_folders_of_files_a_band_are_scenes_each(tmp_path: Path) -> None:
    for patch in ("p1", "p2"):
        for band in ("VV", "VH"):
            raster(tmp_path / patch / f"{patch}_{band}.tif")
    raster(tmp_path / "p2" / "dem.tif")
    assert found(tmp_path, ["VV"]) == {"p1": ["p1/p1_VV.tif"], "p2": ["p2/p2_VV.tif"]}


def test_two_files_that_only_together_have_all_bands_are_one_scene(tmp_path: Path) -> None:
    raster(tmp_path / "s" / "radar.tif", ["VV", "VH"])
    raster(tmp_path / "s" / "optical.tif", ["B04", "B08"])
    assert found(tmp_path / "s", ["B04", "VV"]) == {"s": ["optical.tif", "radar.tif"]}


def test_positions_choose_bands_of_each_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        raster(tmp_path / f"{name}.tif", count=3)
    scenes = find_scenes([str(tmp_path)], ["B04=3"])
    assert [(scene.id, scene.bands()[0].index) for scene in scenes] == [("a", 3), ("b", 3)]


def test_files_of_one_band_without_a_name_need_a_position(tmp_path: Path) -> None:
    for name in ("north", "south"):
        raster(tmp_path / f"{name}.tif")
    assert found(tmp_path, ["VV=1"]) == {"north": ["north.tif"], "south": ["south.tif"]}
    with pytest.raises(UserError, match=r"no name says which; give its position, e\.g\. VV=1"):
        find_scenes([str(tmp_path)], ["VV"])


def test_bands_named_in_the_files_only(tmp_path: Path) -> None:
    for name, band in (("x", "B04"), ("y", "B08")):
        raster(tmp_path / "s" / f"{name}.tif", [band])
    assert found(tmp_path / "s", ["B04", "B08"]) == {"s": ["x.tif", "y.tif"]}
    raster(tmp_path / "s" / "z.tif", ["B04"])
    assert found(tmp_path / "s", ["B04"]) == {"x": ["x.tif"], "z": ["z.tif"]}


def product(folder: Path) -> Path:
    """Write the 10 m bands of a Sentinel-2 product."""
    tile = folder / "GRANULE" / "L2A_T32TQM_A027379_20220601T102031" / "IMG_DATA" / "R10m"
    for band in ("B02", "B04", "TCI"):
        raster(tile / f"T32TQM_20220601T102031_{band}_10m.jp2.tif").replace(".tif", "")
    (folder / "MTD_MSIL2A.xml").write_text("<n/>")
    return folder


def test_products_are_scenes_whichever_part_is_named(tmp_path: Path) -> None:
    name = "S2A_MSIL2A_20220601T102031_N0400_R065_T32TQM_20220601T160000"
    safe = product(tmp_path / f"{name}.SAFE")
    inner = next(safe.glob("GRANULE/*/IMG_DATA/R10m"))
    for typed in (tmp_path, safe, safe / "MTD_MSIL2A.xml", inner):
        (scene,) = find_scenes([str(typed)], ["B04"])
        assert Path(scene.bands()[0].path).name == "T32TQM_20220601T102031_B04_10m.jp2.tif"
        assert scene.datetime == "2022-06-01T10:20:31Z"
    assert find_scenes([str(safe)], ["B04"])[0].id == name


def test_clouds_of_a_product_and_what_an_item_beside_a_file_says(tmp_path: Path) -> None:
    safe = product(tmp_path / "S2A_MSIL2A_20220601T102031_N0400_R065_T32TQM_20220601T160000.SAFE")
    for clouds, text in ((37.5, "37.5"), (None, "")):
        (safe / "MTD_MSIL2A.xml").write_text(f"<n><Cloud_Coverage_Assessment>{text}</Cloud_Coverage_Assessment></n>")
        assert [scene.cloud_cover for scene in find_scenes([str(safe)], ["B04"])] == [clouds]
    path = raster(tmp_path / "a.tif", ["B04"])
    said = {"datetime": "2021-02-03T04:05:06Z", "eo:cloud_cover": 3}
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "properties": said,
        "assets": {"d": {"href": "a.tif"}},
    }
    (tmp_path / "scene.json").write_text(json.dumps(item))
    (scene,) = find_scenes([path], ["B04"])
    assert (scene.datetime, scene.cloud_cover) == ("2021-02-03T04:05:06Z", 3.0)


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("S1A_IW_GRDH_1SDV_20210711T170623_20210711T170648_038730_0491F2_8A4D", "2021-07-11T17:06:23Z"),
        ("LC08_L2SP_193027_20220601_20220605_02_T1", "2022-06-01T00:00:00Z"),
        ("HLS.S30.T32TQM.2022152T102031.v2.0", "2022-06-01T10:20:31Z"),
        ("T32TQM_20220601T102031", "2022-06-01T10:20:31Z"),
        ("patch_20991399_x", None),
        ("ROIs1158_spring_106_p42", None),
    ],
)
def test_times_in_names(tmp_path: Path, name: str, time: str | None) -> None:
    (scene,) = find_scenes([raster(tmp_path / f"{name}.tif", ["B04"])], ["B04"])
    assert scene.datetime == time


def test_list_of_scenes(tmp_path: Path) -> None:
    raster(tmp_path / "in" / "a b.tif", ["B04"])
    raster(tmp_path / "in" / "c#1.tif", ["B04"])
    absolute = raster(tmp_path / "d.tif", ["B04"])
    raster(tmp_path / "more" / "e.tif", ["B04"])
    text = f'# scenes\r\n\r\n"in/a b.tif"\r\nin\\c#1.tif   # with a hash\r\n{absolute}\r\nmore\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "list.txt").write_bytes(text.encode(encoding))
        scenes = find_scenes([str(tmp_path / "list.txt")], ["B04"])
        assert [scene.id for scene in scenes] == ["a_b", "c_1", "d", "e"]
        assert all(scene.bands()[0].name == "B04" for scene in scenes)


def test_a_bad_line_stops_no_other(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", ["B04"])
    (tmp_path / "other.txt").write_text("a.tif")
    (tmp_path / "list.txt").write_text("gone.tif\na.tif\nother.txt\n" + "x" * 5000)
    gone, kept, other, long = find_scenes([str(tmp_path / "list.txt")], ["B04"])
    assert long.problem is not None and "name too long" in long.problem and len(long.id) <= 120
    assert gone.problem is not None and "no file" in gone.problem and "gone.tif" in gone.problem
    assert kept.problem is None
    assert other.problem is not None and "a list; name its scenes instead" in other.problem
    with pytest.raises(UserError, match="no file"):
        gone.bands()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "names no scene"), (b"# nothing\n", "names no scene"), (b"\x89PNG\0\0", "is no text")],
)
def test_lists_without_a_scene(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_scenes([str(tmp_path / "list.txt")], ["B04"])


def test_missing_file_beside_a_good_one_is_its_problem_alone(tmp_path: Path) -> None:
    good = raster(tmp_path / "a.tif", ["B04"])
    scenes = find_scenes([good, str(tmp_path / "b.tif")], ["B04"])
    assert [scene.problem is None for scene in scenes] == [True, False]
    with pytest.raises(UserError, match="no file"):
        find_scenes([str(tmp_path / "b.tif")], ["B04"])


def test_duplicates_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = raster(tmp_path / "in" / "a.tif", ["B04"])
    (tmp_path / "link.tif").symlink_to(path)
    typed = [path, str(tmp_path / "in"), str(tmp_path / "in" / ".." / "in" / "a.tif"), str(tmp_path / "link.tif")]
    assert [scene.id for scene in find_scenes(typed, ["B04"])] == ["a"]
    assert "3 scenes are given more than once, used once" in caplog.text


def test_scenes_of_one_name_get_different_ids_that_do_not_depend_on_later_ones(tmp_path: Path) -> None:
    paths = [raster(tmp_path / folder / name, ["B04"]) for folder, name in (("x", "a.tif"), ("y", "A.tif"))]
    first, second = find_scenes(paths, ["B04"])
    assert first.id == "a" and second.id.startswith("A-")
    more = find_scenes([*paths, raster(tmp_path / "z" / "a.tif", ["B04"])], ["B04"])
    assert [scene.id for scene in more[:2]] == [first.id, second.id]
    assert len({scene.id.lower() for scene in more}) == 3
    assert find_scenes([raster(tmp_path / "model.tif", ["B04"])], ["B04"])[0].id != "model"


def test_cut_file_of_a_folder_is_listed(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", ["B04", "B08"])
    (tmp_path / "b.tif").write_bytes(Path(raster(tmp_path / "c.tif", ["B04", "B08"])).read_bytes()[:60])
    scenes = {scene.id: scene for scene in find_scenes([str(tmp_path)], ["B04"])}
    assert scenes["b"].problem is not None and "truncated" in scenes["b"].problem
    assert scenes["a"].problem is scenes["c"].problem is None


def test_scenes_of_other_bands_fail_by_themselves(tmp_path: Path) -> None:
    raster(tmp_path / "radar.tif", ["VV", "VH"])
    raster(tmp_path / "optical.tif", ["B04", "B08"])
    optical, radar = find_scenes([str(tmp_path)], ["B04"])
    assert optical.bands()[0].index == 1
    with pytest.raises(UserError, match="no band B04; found VV, VH"):
        radar.bands()


def test_scene_of_other_bands_is_listed_with_what_it_has(tmp_path: Path) -> None:
    for name in ("x_B04", "x_B08", "y_B04"):
        raster(tmp_path / f"{name}.tif")
    scenes = {scene.id: scene for scene in find_scenes([str(tmp_path)], ["B04", "B08"])}
    assert scenes["x"].problem is None
    assert scenes["y"].problem is not None and "no band B08 of y; found B04" in scenes["y"].problem


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    raster(tmp_path / "in" / "a.tif", ["B04"])
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    assert [scene.id for scene in find_scenes([str(tmp_path)], ["B04"])] == ["a"]


def test_earlier_results_in_the_folder_are_no_scenes(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", ["B04"])
    raster(tmp_path / "out" / "a" / "a.tif", ["component 1"])
    (tmp_path / "out" / "region.json").write_text("{}")
    assert [scene.id for scene in find_scenes([str(tmp_path)], ["B04"])] == ["a"]


@pytest.mark.parametrize(
    ("typed", "requested", "message"),
    [
        ("empty", ["B04"], r"holds no raster file"),
        ("catalogue", ["B04"], r"pass .*catalog\.json"),
        ("empty", ["B99"], "unknown band"),
        ("empty", [], "no band is named"),
        ("empty", ["B04", "red"], "named more than once"),
        ("items.parquet", ["B04"], "is a table, no image; of STAC items in a table pass the same items as JSON"),
        ("gone.txt", ["B04"], "no file"),
    ],
)
def test_nothing_at_all(tmp_path: Path, typed: str, requested: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "catalog.json").write_text("{}")
    with pytest.raises(UserError, match=message) as caught:
        find_scenes([str(tmp_path / typed)], requested)
    assert "\n" not in str(caught.value)
