"""Which scenes a folder holds: names, pairing, hold-out, duplicates."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eo_backbones.datasets.synthetic_files import (
    write_bigearthnet,
    write_dfc2020,
    write_pairs,
    write_sen12ms,
    write_sen12mscr,
)
from eo_backbones.errors import UserError
from eo_backbones_train.preparation.layouts import LAYOUTS, get_layout
from eo_backbones_train.preparation.layouts.sen12ms import HOLD_OUT_SCENES
from eo_backbones_train.preparation.prepare import prepare
from eo_backbones_train.preparation.subsets import draw_proportional, parse_subset
from eo_backbones_train.store import Store

SEASONS = {
    "SPRING": "ROIs1158_spring",
    "SUMMER": "ROIs1868_summer",
    "FALL": "ROIs1970_fall",
    "WINTER": "ROIs2017_winter",
}


def test_sen12ms_pairs_sensors_and_leaves_hold_out_scenes_out(tmp_path: Path) -> None:
    write_sen12ms(
        tmp_path, scenes=("ROIs1158_spring/63", "ROIs1158_spring/9", "ROIs1868_summer/63"), patches=2, size=16
    )
    scan = LAYOUTS["sen12ms"].scan(tmp_path, False)
    assert [scene.scene for scene in scan.scenes] == [
        "ROIs1158_spring_9_p1",
        "ROIs1158_spring_9_p2",
        "ROIs1868_summer_63_p1",
        "ROIs1868_summer_63_p2",
    ]
    assert scan.held_out == 2
    assert [file.path for file in scan.scenes[0].files] == [
        "ROIs1158_spring/s2_9/ROIs1158_spring_s2_9_p1.tif",
        "ROIs1158_spring/s1_9/ROIs1158_spring_s1_9_p1.tif",
    ]
    assert len(LAYOUTS["sen12ms"].scan(tmp_path, True).scenes) == 6


def test_patches_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    """p10 after p9, and scene 10 after scene 9, whatever the file system's order."""
    write_sen12ms(tmp_path, scenes=("ROIs1158_spring/10", "ROIs1158_spring/9"), patches=1, size=16)
    for sensor in ("s1", "s2"):
        folder = tmp_path / "ROIs1158_spring" / f"{sensor}_9"
        shutil.copy(folder / f"ROIs1158_spring_{sensor}_9_p1.tif", folder / f"ROIs1158_spring_{sensor}_9_p10.tif")
    names = [scene.scene for scene in LAYOUTS["sen12ms"].scan(tmp_path, False).scenes]
    assert names == ["ROIs1158_spring_9_p1", "ROIs1158_spring_9_p10", "ROIs1158_spring_10_p1"]


def test_a_missing_partner_is_listed(tmp_path: Path) -> None:
    write_sen12ms(tmp_path, scenes=("ROIs1158_spring/9",), patches=2, size=16)
    (tmp_path / "ROIs1158_spring/s1_9/ROIs1158_spring_s1_9_p2.tif").unlink()
    scan = LAYOUTS["sen12ms"].scan(tmp_path, False)
    assert len(scan.scenes) == 1
    assert scan.skipped == (("ROIs1158_spring_9_p2", "missing partner: no s1 file"),)


def test_hold_out_scenes_are_the_official_ones(shared_data: Path) -> None:
    listed = (shared_data / "splits" / "SEN12MS_holdOutScenes.txt").read_text().split()
    assert {line.replace("/s1_", "_") for line in listed} == HOLD_OUT_SCENES
    assert len(HOLD_OUT_SCENES) == 26


def test_cloudy_images_are_not_read(tmp_path: Path) -> None:
    write_sen12mscr(tmp_path, patches=2, size=16)
    scan = LAYOUTS["sen12mscr"].scan(tmp_path, False)
    assert len(scan.scenes) == 2
    assert not any("cloudy" in file.path for scene in scan.scenes for file in scene.files)


def test_real_sen12ms_folder(shared_data: Path) -> None:
    scan = LAYOUTS["sen12mscr"].scan(shared_data / "sen12ms_layout", False)
    assert Counter(scene.roi for scene in scan.scenes) == {
        "ROIs1158_spring_101": 3,
        "ROIs1970_fall_139": 1,
        "ROIs2017_winter_112": 1,
    }


def test_dfc2020_counts_a_patch_once(tmp_path: Path) -> None:
    """The seasonal folders repeat the contest's patches under other numbers; one more of them is new."""
    write_dfc2020(tmp_path, validation=2, test=3, size=16)
    assert len(LAYOUTS["dfc2020"].scan(tmp_path, False).scenes) == 5
    other = write_dfc2020(tmp_path / "other", validation=0, test=1, size=16, seed=7)
    copies = [
        ("ROIs0000_validation/{s}_validation/ROIs0000_validation_{s}_0_p0.tif", tmp_path, 17),
        ("ROIs0000_test/{s}_0/ROIs0000_test_{s}_0_p2.tif", tmp_path, 18),
        ("ROIs0000_test/{s}_0/ROIs0000_test_{s}_0_p0.tif", other, 19),
    ]
    for pattern, source, number in copies:
        for sensor in ("s1", "s2"):
            target = tmp_path / f"ROIs0000_autumn/{sensor}_3/ROIs0000_autumn_{sensor}_3_p{number}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / pattern.format(s=sensor), target)
    scan = LAYOUTS["dfc2020"].scan(tmp_path, False)
    assert [scene.scene for scene in scan.scenes][-1] == "ROIs0000_autumn_3_p19"
    assert len(scan.scenes) == 6
    assert [reason.split(":")[0] for _, reason in scan.skipped] == ["duplicate"] * 2


def test_bigearthnet_pairs_by_place_and_nearest_date(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, patches=2)
    near = tmp_path / "BigEarthNet-S1" / "S1A_IW_GRDH_1SDV_20170613T165043"
    far = tmp_path / "BigEarthNet-S1" / "S1A_IW_GRDH_1SDV_20170101T165043"
    for patch in near.iterdir():
        (far / patch.name.replace("20170613", "20170101")).mkdir(parents=True)
    scan = LAYOUTS["bigearthnet"].scan(tmp_path, False)
    assert len(scan.scenes) == 2
    radar = [file for file in scan.scenes[0].files if file.sensor == "s1"]
    assert all("20170613T165043_33UUP_26_57" in file.path for file in radar)
    assert [file.band for file in radar] == ["VV", "VH"]
    assert len(scan.scenes[0].files) == 14


def test_real_bigearthnet_version_1_pairs_by_its_labels(shared_data: Path) -> None:
    scan = LAYOUTS["bigearthnet"].scan(shared_data / "bigearthnet_sample", False)
    assert len(scan.scenes) == 3
    assert not scan.skipped
    for scene in scan.scenes:
        assert scene.files[-1].path.endswith(f"{scene.scene.split('_', 3)[-1]}_VH.tif")


def test_pairs_may_be_pictures_of_eight_bits(tmp_path: Path) -> None:
    """PNG keeps the values, so the store must hold them as they are; JPEG is read by the same way."""
    values = np.random.default_rng(0).integers(0, 256, (3, 2, 32, 32), dtype=np.uint8)
    for folder in ("s2", "s1"):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
    for place, (optical, radar) in enumerate(values):
        suffix = "jpg" if place == 2 else "png"
        Image.fromarray(optical).save(tmp_path / "pairs" / "s2" / f"{place}.{suffix}")
        Image.fromarray(radar).save(tmp_path / "pairs" / "s1" / f"{place}.{suffix}")
    prepare("pairs", tmp_path / "pairs", tmp_path / "store", workers=1, bands=("B03=1", "VV=1"), units=("uint8",))
    store = Store.open(tmp_path / "store")
    assert len(store) == 3
    for place in range(2):
        np.testing.assert_array_equal(store.tile(place, "B03"), values[place, 0])
        np.testing.assert_array_equal(store.tile(place, "VV"), values[place, 1])


def test_pairs_have_equal_names(tmp_path: Path) -> None:
    write_pairs(tmp_path, count=2, sizes=(16,))
    (tmp_path / "s2" / "synthetic_0001.tif").unlink()
    scan = LAYOUTS["pairs"].scan(tmp_path, False)
    assert [scene.scene for scene in scan.scenes] == ["synthetic_0000"]
    assert scan.skipped == (("synthetic_0001", "missing partner: no s2 file"),)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_empty_folder_is_refused_with_what_it_should_hold(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--root"):
        get_layout(name).scan(tmp_path, False)


def test_an_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(UserError, match="sen12ms"):
        get_layout("sen12")


def test_shares_are_proportional_with_largest_remainders() -> None:
    regions = {"a": [f"a{i}" for i in range(6)], "b": [f"b{i}" for i in range(3)], "c": ["c0"]}
    drawn = draw_proportional(regions, 5, seed=0)
    assert {roi: len(scenes) for roi, scenes in drawn.items()} == {
        "a": 3,
        "b": 2,
        "c": 0,
    }  # 3.0, 1.5, 0.5: ties by name
    assert draw_proportional(dict(reversed(regions.items())), 5, seed=0) == drawn
    assert draw_proportional(regions, 10, seed=0) == regions
    many = {"a": [f"a{i}" for i in range(40)]}
    assert draw_proportional(many, 20, seed=0) != draw_proportional(many, 20, seed=1)


def test_a_subset_larger_than_the_source_is_refused() -> None:
    with pytest.raises(UserError, match="7 scenes, the source has 1"):
        draw_proportional({"a": ["a0"]}, 7, seed=0)
    with pytest.raises(UserError, match="90k"):
        parse_subset("half")


def test_90k_is_half_of_the_real_data_set_outside_the_hold_out(shared_data: Path) -> None:
    """180,662 patches less 18,106 in hold-out scenes; every region keeps its share to within one patch."""
    regions: dict[str, list[str]] = {}
    with (shared_data / "splits" / "sen12ms_observations.csv").open() as stream:
        for season, scene, patch in csv.reader(stream):
            roi = f"{SEASONS[season.removeprefix('Seasons.')]}_{scene}"
            regions.setdefault(roi, []).append(f"{roi}_p{patch}")
    assert sum(map(len, regions.values())) == 180_662
    kept = {roi: scenes for roi, scenes in regions.items() if roi not in HOLD_OUT_SCENES}
    assert sum(map(len, kept.values())) == 162_556
    subset = parse_subset("90k")
    assert subset is not None
    drawn = draw_proportional(kept, subset.total, seed=0)
    assert sum(map(len, drawn.values())) == 90_331
    assert all(abs(len(drawn[roi]) - len(kept[roi]) * 90_331 / 162_556) < 1 for roi in kept)
