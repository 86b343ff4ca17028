"""Bands are found by name whatever the file calls them, and a damaged file is named."""

import logging
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_backbones.bands import S2_BANDS
from eo_backbones.datasets.synthetic import scene
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import facts_of, read_bands, resolve_bands, without_georeference_warnings
from support.synthetic_data import sen12ms_folder

__all__ = ["sen12ms_folder"]


def write(path: Path, count: int, descriptions: tuple[str, ...] = ()) -> Path:
    """A raster whose band ``i`` (from 1) holds the value ``i`` everywhere."""
    with rasterio.open(path, "w", driver="GTiff", width=4, height=3, count=count, dtype="uint16") as target:
        for index in range(1, count + 1):
            target.write(np.full((3, 4), index, np.uint16), index)
        if descriptions:
            target.descriptions = descriptions
    return path


def test_bands_are_found_by_description_under_any_alias(tmp_path: Path) -> None:
    path = write(tmp_path / "named.tif", 4, ("nir", "cloud mask", "B4", "Blue"))
    assert resolve_bands(path, ["red", "B08", "B2"]) == [3, 1, 4]
    values = read_bands(path, ["B02", "b8"])
    assert values.shape == (2, 3, 4)
    assert values.dtype == np.uint16
    assert values[:, 0, 0].tolist() == [4, 1]


def test_descriptions_win_over_the_layout_that_the_caller_expects(tmp_path: Path) -> None:
    path = write(tmp_path / "named.tif", 13, S2_BANDS)
    assert resolve_bands(path, ["B8A", "B12"], layout="eurosat-ms") == [9, 13]


def test_a_known_layout_gives_the_order(tmp_path: Path) -> None:
    path = write(tmp_path / "plain.tif", 13)
    assert resolve_bands(path, ["B8A", "B12"], layout="eurosat-ms") == [13, 12]
    assert resolve_bands(path, ["B8A", "B12"], layout="sen12ms-s2") == [9, 13]


@pytest.mark.parametrize(("count", "name", "index"), [(13, "B8A", 9), (12, "B11", 11), (2, "VH", 2)])
def test_an_undescribed_file_of_a_usual_count_is_read_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, name: str, index: int
) -> None:
    path = write(tmp_path / "plain.tif", count)
    with caplog.at_level(logging.WARNING):
        assert resolve_bands(path, [name]) == [index]
    assert f"{count} bands are taken to be" in caplog.text
    assert "plain.tif" in caplog.text


def test_an_explicit_index_needs_no_names_and_no_guess(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "plain.tif", 4)
    with caplog.at_level(logging.WARNING):
        assert read_bands(path, ["B04=3", "nir=4"])[:, 0, 0].tolist() == [3, 4]
    assert not caplog.text


@pytest.mark.parametrize(
    ("count", "descriptions", "requested", "layout", "message"),
    [
        (4, (), ["B04"], None, "4 bands without names.*B04=4"),
        (12, (), ["B04"], "eurosat-ms", "has 12 bands, a eurosat-ms file has 13"),
        (2, (), ["B04"], None, "has no band B04; it has VV, VH"),
        (3, ("B04", "B03", "B02"), ["B08"], None, "has no band B08; it has B04, B03, B02"),
        (2, ("B04", "red"), ["B04"], None, "more than one band as B04"),
        (2, (), ["B04=3"], None, "has 2 bands, so B04=3 is not in it"),
        (2, (), ["B04=0"], None, "counted from 1"),
        (2, (), ["B04=x"], None, "counted from 1"),
        (2, (), ["B44"], None, "unknown band 'B44'; did you mean B04"),
        (13, (), ["B04", "red"], None, "named more than once"),
        (13, (), ["B04"], "eurosat", "unknown band layout 'eurosat'"),
    ],
)
def test_requests_that_a_file_cannot_meet(
    tmp_path: Path,
    count: int,
    descriptions: tuple[str, ...],
    requested: list[str],
    layout: str | None,
    message: str,
) -> None:
    path = write(tmp_path / "file.tif", count, descriptions)
    with pytest.raises(UserError, match=message) as caught:
        read_bands(path, requested, layout=layout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 10, 1000, 60_000])
def test_a_truncated_file_is_named(tmp_path: Path, sen12ms_folder: Path, kept: int) -> None:
    whole = next(sen12ms_folder.rglob("*_s2_*.tif")).read_bytes()
    assert len(whole) > 13 * 64 * 64 * 2
    path = tmp_path / "cut.tif"
    path.write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"cannot read .*cut\.tif: it is truncated") as caught:
        read_bands(path, ["B04"], layout="sen12ms-s2")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot read .*cut\.tif: it is truncated"):
        read_bands(path, ["B04"], layout="sen12ms-s2", content=whole[:kept])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*none\.tif"):
        read_bands(tmp_path / "none.tif", ["B04"])


def test_reading_leaves_no_side_car_file(tmp_path: Path) -> None:
    path = write(tmp_path / "plain.tif", 13)
    read_bands(path, ["B04"], layout="sen12ms-s2")
    assert [entry.name for entry in tmp_path.iterdir()] == ["plain.tif"]


def test_synthetic_sen12ms_gives_the_values_of_its_scene(sen12ms_folder: Path) -> None:
    made = scene(0, "AnnualCrop", 64)
    folder = sen12ms_folder / "ROIs1158_spring"
    optical = read_bands(folder / "s2_1" / "ROIs1158_spring_s2_1_p1.tif", ["B8A", "B04"], layout="sen12ms-s2")
    radar = read_bands(folder / "s1_1" / "ROIs1158_spring_s1_1_p1.tif", ["VV", "VH"], layout="sen12ms-s1")
    np.testing.assert_array_equal(optical, np.stack([made.s2["B8A"], made.s2["B04"]]))
    np.testing.assert_array_equal(radar, np.stack([made.s1["VV"], made.s1["VH"]]))
    assert (optical.dtype, radar.dtype) == (np.uint16, np.float32)


def test_known_values_of_an_original_sen12ms_patch(shared_data: Path) -> None:
    folder = shared_data / "sen12ms_layout" / "ROIs2017_winter"
    red = read_bands(folder / "s2_112" / "ROIs2017_winter_s2_112_p797.tif", ["red"], layout="sen12ms-s2")
    vv = read_bands(folder / "s1_112" / "ROIs2017_winter_s1_112_p797.tif", ["VV"], layout="sen12ms-s1")
    assert red.mean() == pytest.approx(814.79, abs=0.01)
    assert vv.mean() == pytest.approx(-9.66, abs=0.01)


def test_the_warning_about_coordinates_is_silenced_and_the_filters_are_left_as_they_were(tmp_path: Path) -> None:
    """Also where threads overlap: the first to enter is not the last to leave."""
    path = write(tmp_path / "plain.tif", 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        first, second = ExitStack(), ExitStack()
        first.enter_context(without_georeference_warnings())
        second.enter_context(without_georeference_warnings())
        first.close()
        with pytest.raises(KeyboardInterrupt), second:
            facts_of(path)
            raise KeyboardInterrupt
        facts_of(path)
        assert list(warnings.filters) == before
    assert caught == []
