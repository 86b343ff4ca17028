"""A user's own class folders: bands by name, layout or place, units, and everything that can be wrong with them."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_backbones.bands import LAYOUTS, S2_BANDS
from eo_backbones.datasets import open_dataset
from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.datasets.synthetic import scene
from eo_backbones.datasets.synthetic_files import write_class_folders
from eo_backbones.errors import UserError
from eo_backbones.rasters.options import ReadingOptions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "own")


def test_folders_are_classes_and_descriptions_are_bands(folder: Path) -> None:
    data = class_folders(folder)
    assert data.classes == ("AnnualCrop", "Forest", "HerbaceousVegetation")
    assert np.bincount(data.labels).tolist() == [4, 4, 4]
    assert data.bands == ("B02", "B03", "B04", "B08")
    assert set(data.units) == {"dn"}
    made = scene(0, "Forest", 32, index=2)
    index = data.ids.index("Forest/image_2")
    np.testing.assert_array_equal(data.read(index, ["nir", "blue"]), [made.s2["B08"], made.s2["B02"]])


def test_both_sensors_in_one_file(tmp_path: Path) -> None:
    data = class_folders(write_class_folders(tmp_path, bands=("B04", "VV")))
    assert (data.unit_of("B04"), data.unit_of("VV")) == ("dn", "db")
    made = scene(0, "AnnualCrop", 32)
    np.testing.assert_array_equal(data.read(0, ["VV", "B04"]), [made.s1["VV"], made.s2["B04"]])


def test_a_known_layout_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_class_folders(tmp_path, bands=S2_BANDS, named=False)
    with caplog.at_level(logging.WARNING):
        data = class_folders(root)
        data.read(0, ["B8A"])
    assert data.bands == LAYOUTS["sen12ms-s2"]
    assert caplog.text.count("its 13 bands are taken to be B01, B02") == 1
    np.testing.assert_array_equal(data.read(0, ["B8A"])[0], scene(0, "AnnualCrop", 32).s2["B8A"])


def test_places_by_the_users_word(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path, named=False)
    with pytest.raises(UserError, match=r"4 bands without names; .*pass each band with its position in the file"):
        class_folders(root)
    data = class_folders(root, positions={"B04": 3, "B08": 4})
    assert data.bands == ("B04", "B08")
    made = scene(0, "AnnualCrop", 32)
    np.testing.assert_array_equal(data.read(0, ["B08", "B04"]), [made.s2["B08"], made.s2["B04"]])
    assert class_folders(root, positions={"B04": 1, "B08": 4}).digest != data.digest
    with pytest.raises(UserError, match="has 4 bands, so B8A=5 is not in it"):
        class_folders(root, positions={"B8A": 5})


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_class_folders(tmp_path, bands=("B04", "B03", "B02"), suffix=suffix)
    with caplog.at_level(logging.WARNING):
        data = class_folders(root)
    assert "red, green and blue are taken to be B04, B03, B02" in caplog.text
    assert (data.bands, set(data.units)) == (("B04", "B03", "B02"), {"uint8"})
    grey = data.read(0, ["B02"])[0]
    expected = (scene(0, "AnnualCrop", 32).s2["B02"] / 2750 * 255).clip(0, 255)
    assert grey.dtype == np.uint8
    assert np.abs(grey - expected).mean() < (0.51 if suffix == ".png" else 12)


def test_units(folder: Path) -> None:
    assert set(class_folders(folder, reading=ReadingOptions(units=("reflectance",))).units) == {"reflectance"}
    mixed = class_folders(folder, reading=ReadingOptions(units=("nir=reflectance",)))
    assert (mixed.unit_of("B08"), mixed.unit_of("B04")) == ("reflectance", "dn")
    assert mixed.digest != class_folders(folder).digest
    with pytest.raises(UserError, match="unknown unit 'reflectence'; did you mean reflectance"):
        class_folders(folder, reading=ReadingOptions(units=("reflectence",)))
    with pytest.raises(UserError, match="there is no band VV here; the bands are B02"):
        class_folders(folder, reading=ReadingOptions(units=("VV=db",)))


def test_only_folders_take_places_and_units(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave --unit out"):
        open_dataset("dfc2020", tmp_path, reading=ReadingOptions(units=("dn",)))
    with pytest.raises(UserError, match="are at known positions; write B04 instead of B04=4"):
        open_dataset("eurosat-ms", tmp_path, positions={"B04": 4})


def rewrite(path: Path, *, count: int = 4, size: int = 32, dtype: str = "uint16") -> None:
    with rasterio.open(path, "w", driver="GTiff", width=size, height=size, count=count, dtype=dtype) as target:
        target.write(np.ones((count, size, size), dtype))
        target.descriptions = ("B02", "B03", "B04", "B08", "B11")[:count]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: rewrite(path, size=40), r"differ in pixels: .*image_3\.tif has 40 x 40, .* has 32 x 32"),
        (lambda path: rewrite(path, count=5), r"differ in bands: .*image_3\.tif has 5, .* has 4"),
        (lambda path: rewrite(path, dtype="float32"), r"differ in dtype: .* has float32, .* has uint16"),
        (lambda path: path.write_bytes(b"no image"), r"cannot read .*image_3\.tif: it is truncated or not a raster"),
    ],
)
def test_images_that_are_not_alike(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder / "Forest" / "image_3.tif")
    with pytest.raises(UserError, match=message):
        class_folders(folder)


def test_folders_that_are_no_classes(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "read.txt").touch()
    with caplog.at_level(logging.WARNING):
        assert len(class_folders(folder).classes) == 3
    assert "folder notes holds no image" in caplog.text
    with pytest.raises(UserError, match=r"no class folders with images .*: labels are missing"):
        class_folders(folder / "Forest")
    for name in ("Forest", "HerbaceousVegetation"):
        shutil.rmtree(folder / name)
    with pytest.raises(UserError, match="holds one class only, AnnualCrop"):
        class_folders(folder)
    with pytest.raises(UserError, match="no folder"):
        class_folders(tmp_path / "none")
