"""DFC2020 and SEN12MS: scene labels from maps, official parts, both sensors, the maps themselves."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_backbones.datasets.eurosat import EUROSAT_CLASSES
from eo_backbones.datasets.land_cover import LAND_COVER_CLASSES, dfc2020, sen12ms
from eo_backbones.datasets.splits import official_split
from eo_backbones.datasets.synthetic import scene
from eo_backbones.errors import UserError
from support.synthetic_layouts import write_dfc2020, write_sen12ms_with_maps

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 validation and 20 test patches; do not change it."""
    return write_dfc2020(tmp_path_factory.mktemp("dfc"), validation=20, test=20, size=SIZE)


@pytest.fixture
def damageable(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "data")
    return tmp_path / "data"


def expected_majority(index: int) -> str:
    made = scene(0, EUROSAT_CLASSES[index % 10], SIZE, index=index)
    codes, counts = np.unique(made.classmap, return_counts=True)
    return LAND_COVER_CLASSES[codes[counts.argmax()] - 1]


def test_the_label_is_the_class_of_most_pixels(folder: Path) -> None:
    data = dfc2020(folder)
    for path, label in zip(data.paths, data.labels, strict=True):
        index = int(path.stem.rpartition("_p")[2]) + (20 if "_test_" in path.stem else 0)
        assert data.classes[label] == expected_majority(index)
    assert set(data.classes) <= set(LAND_COVER_CLASSES)
    assert np.bincount(data.labels).min() >= 3


def test_both_sensors_by_name(folder: Path) -> None:
    data = dfc2020(folder)
    assert len(data.bands) == 15
    assert (data.unit_of("B10"), data.unit_of("VV")) == ("dn", "db")
    index = next(i for i, path in enumerate(data.paths) if path.stem == "ROIs0000_validation_s2_0_p3")
    made = scene(0, EUROSAT_CLASSES[3], SIZE, index=3)
    image = data.read(index, ["VH", "B8A", "VV", "B02"])
    np.testing.assert_array_equal(image, [made.s1["VH"], made.s2["B8A"], made.s1["VV"], made.s2["B02"]])
    assert data.maps is not None
    np.testing.assert_array_equal(data.maps.reader(data.paths[index]), made.classmap.astype(np.int64) - 1)


def test_the_contests_parts(folder: Path) -> None:
    data = dfc2020(folder)
    split = official_split(data, seed=0)
    assert all("_test_" in data.paths[row].stem for row in split.test)
    labelled = np.concatenate([split.train, split.val])
    assert all("_validation_" in data.paths[row].stem for row in labelled)
    assert 0 < len(split.val) < len(split.train)
    assert len(labelled) + len(split.test) == len(data)
    assert not np.array_equal(official_split(data, seed=1).val, split.val)
    with pytest.raises(UserError, match="none of these dfc2020 images is in the official test part"):
        official_split(data.take(labelled), seed=0)


def test_seasonal_folders_are_not_read_twice(damageable: Path) -> None:
    before = dfc2020(damageable).ids
    shutil.copytree(damageable / "ROIs0000_test", damageable / "ROIs0000_spring")
    assert dfc2020(damageable).ids == before


def test_ignored_pixels_and_rare_classes(damageable: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = dfc2020(damageable)
    path = data.paths[0]
    file = path.parent.parent / "dfc_0" / path.name.replace("_s2_", "_dfc_")
    with rasterio.open(file, "r+") as target:
        codes = np.full((1, SIZE, SIZE), 255, np.uint16)
        codes[0, :2] = 3
        target.write(codes)
    with caplog.at_level(logging.WARNING):
        fewer = dfc2020(damageable)
    assert path not in fewer.paths
    assert "the only 1 images of class Savanna are left out" in caplog.text
    assert fewer.maps is not None
    found = fewer.maps.reader(path)
    assert (found[:2] == 2).all()
    assert (found[2:] == 255).all()


def test_a_map_of_another_scheme(damageable: Path) -> None:
    file = sorted((damageable / "ROIs0000_test" / "dfc_0").iterdir())[0]
    with rasterio.open(file, "r+") as target:
        target.write(np.full((1, SIZE, SIZE), 17, np.uint16))
    with pytest.raises(UserError, match="holds the value 17; a dfc2020 class map ends at 10"):
        dfc2020(damageable)


def test_missing_parts(damageable: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = len(dfc2020(damageable))
    sorted((damageable / "ROIs0000_test" / "s1_0").iterdir())[0].unlink()
    with caplog.at_level(logging.WARNING):
        assert len(dfc2020(damageable)) < count
    assert "without a Sentinel-1 file are left out" in caplog.text
    for maps in damageable.glob("*/dfc_*"):
        shutil.rmtree(maps)
    with pytest.raises(UserError, match=r"labels are missing: 39 images .* no map like ROIs0000_test/dfc_0/"):
        dfc2020(damageable)
    with pytest.raises(UserError, match=r"no dfc2020 images in .*; pass the folder that holds ROIs0000_validation"):
        dfc2020(tmp_path / "empty")


def test_sen12ms_reads_igbp_in_the_simplified_scheme(tmp_path: Path) -> None:
    root = write_sen12ms_with_maps(tmp_path, scenes=("ROIs1158_spring/1", "ROIs1158_spring/63"), patches=10, size=16)
    data = sen12ms(root)
    assert data.maps is None  # 500 m pixels
    label = {path.stem: data.classes[label] for path, label in zip(data.paths, data.labels, strict=True)}
    codes, counts = np.unique(scene(0, EUROSAT_CLASSES[0], 16, index=0).classmap, return_counts=True)
    assert label["ROIs1158_spring_s2_1_p1"] == LAND_COVER_CLASSES[codes[counts.argmax()] - 1]
    split = official_split(data, seed=0)
    assert {data.paths[row].parent.name for row in split.test} == {"s2_63"}
    assert {data.paths[row].parent.name for row in np.concatenate([split.train, split.val])} == {"s2_1"}


def test_real_sen12ms_files_have_no_maps(shared_data: Path) -> None:
    with pytest.raises(UserError, match=r"labels are missing: 5 images .* no map like ROIs1158_spring/lc_101/"):
        sen12ms(shared_data / "sen12ms_layout")
