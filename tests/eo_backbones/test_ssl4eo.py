"""SSL4EO-S12: one image a place, its bands by name at their true positions, and one line where the files do not fit."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_backbones.bands import LAYOUTS, S1_BANDS, S2_BANDS
from eo_backbones.datasets import open_dataset, open_unlabelled
from eo_backbones.datasets.synthetic_files import write_geotiff
from eo_backbones.errors import UserError
from support.typed_command import Ended

JUNE, AUGUST = "20200604T054639_20200604T054831_T43RCP", "20200823T054639_20200823T055618_T43RCP"
RADAR_JUNE = "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457"
RADAR_SEPTEMBER = "S1B_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195_03F8F5_AC1C"
SIDE = 264
FACTORS = dict.fromkeys(("B01", "B09", "B10"), 6) | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)


def write_product(folder: Path, bands: tuple[str, ...], *, seed: int) -> None:
    """Values that differ from band to band: digital numbers of Sentinel-2, dB of Sentinel-1."""
    for number, name in enumerate(bands):
        rng = np.random.default_rng([seed, number])
        side = SIDE // FACTORS.get(name, 1)
        values = rng.integers(200 + 100 * number, 3000, (1, side, side)).astype(np.uint16)
        if name in S1_BANDS:
            values = rng.uniform(-20, -5, (1, side, side)).astype(np.float32)
        write_geotiff(folder / f"{name.replace('B0', 'B')}.tif", values)


def write_place(root: Path, place: str, *, level: str = "s2c", seed: int = 0) -> None:
    """Two optical and two radar products; June's lie three days apart, the others eleven."""
    for number, product in enumerate((AUGUST, JUNE)):
        write_product(root / level / place / product, LAYOUTS[f"ssl4eo-{level}"], seed=10 * seed + number)
    for number, product in enumerate((RADAR_SEPTEMBER, RADAR_JUNE)):
        write_product(root / "s1" / place / product, S1_BANDS, seed=1000 + 10 * seed + number)


def test_a_place_has_the_two_products_nearest_in_time(tmp_path: Path) -> None:
    write_place(tmp_path, "0000200")
    data = open_unlabelled("ssl4eo-s12", tmp_path)
    assert [path.name for path in data.paths] == [JUNE]
    assert data.bands == (*S2_BANDS, "VV", "VH")
    assert data.levels == ("L1C",)
    assert (data.unit_of("B8A"), data.unit_of("VH")) == ("dn", "db")
    values = data.read(0, ["VH", "B03", "B12", "B09"])
    assert values.shape == (4, SIDE, SIDE)
    files = [tmp_path / "s1/0000200" / RADAR_JUNE / "VH.tif"]
    files += [tmp_path / "s2c/0000200" / JUNE / f"{name}.tif" for name in ("B3", "B12", "B9")]
    for plane, file, times in zip(values, files, (1, 1, 2, 6), strict=True):
        with rasterio.open(file) as source:
            np.testing.assert_array_equal(plane, np.kron(source.read(1), np.ones((times, times))))


def test_level_2a_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    write_place(tmp_path, "0000200", level="s2a")
    data = open_unlabelled("ssl4eo-s12", tmp_path)
    assert (data.levels, "B10" in data.bands, len(data.bands)) == (("L2A",), False, 14)
    write_place(tmp_path, "0000200", level="s2c")
    assert open_unlabelled("ssl4eo-s12", tmp_path).levels == ("L1C",)


def test_places_without_one_of_the_sensors_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, place in enumerate(("0000001", "0000002", "0000003")):
        write_place(tmp_path, place, seed=number)
    shutil.rmtree(tmp_path / "s1" / "0000002")
    shutil.rmtree(tmp_path / "s2c" / "0000003")
    data = open_unlabelled("ssl4eo-s12", tmp_path)
    assert [path.parent.name for path in data.paths] == ["0000001"]
    assert "2 places without s2c or s1 are left out" in caplog.text


def test_the_digest_follows_the_files(tmp_path: Path) -> None:
    write_place(tmp_path / "a", "0000200")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, again = (open_unlabelled("ssl4eo-s12", tmp_path / name).digest for name in "ab")
    assert first == again
    write_product(tmp_path / "b/s1/0000200" / RADAR_JUNE, S1_BANDS, seed=5)
    assert open_unlabelled("ssl4eo-s12", tmp_path / "b").digest != first


def no_radar_folder(root: Path) -> None:
    shutil.rmtree(root / "s1")


def other_places(root: Path) -> None:
    (root / "s1/0000200").rename(root / "s1/0000201")


def no_band(root: Path) -> None:
    (root / "s2c/0000200" / JUNE / "B8A.tif").unlink()


def no_date(root: Path) -> None:
    product = root / "s2c/0000200" / JUNE
    product.rename(product.with_name(JUNE.replace("20200604T", "20201304T")))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (shutil.rmtree, r"no SSL4EO-S12 in .*; pass the folder that holds s1 and s2c"),
        (no_radar_folder, r"no SSL4EO-S12 in .*; pass the folder that holds s1 and s2c"),
        (other_places, r"no place in .*/s2c has radar in .*/s1"),
        (no_band, r"B8A\.tif is missing; restore it from the archive, or remove the place 0000200"),
        (no_date, r"names no date \(20201304\)"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(
    damage: Callable[[Path], None], line: str, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    write_place(tmp_path / "root", "0000200")
    damage(tmp_path / "root")
    words = ["--dataset", "ssl4eo-s12", "--root", tmp_path / "root", "--models", "stats", "--protocol", "retrieval"]
    ended = command("evaluate", *words, "--out", tmp_path / "out")
    assert ended.status == 2
    (error,) = [written for written in ended.err.splitlines() if written.startswith("error: ")]
    assert re.search(line, error)
    assert not (tmp_path / "out").exists()


def test_a_band_of_another_size_is_refused(tmp_path: Path) -> None:
    write_place(tmp_path, "0000200")
    write_geotiff(tmp_path / "s2c/0000200" / JUNE / "B4.tif", np.ones((1, 100, 100), np.uint16))
    with pytest.raises(UserError, match=r"B4.tif has 100 x 100 pixels; bands of SSL4EO-S12 have 264, 132 or 44 a side"):
        open_unlabelled("ssl4eo-s12", tmp_path).read(0, ["B04"])


def test_there_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'ssl4eo-s12'"):
        open_dataset("ssl4eo-s12", tmp_path)


def test_the_real_place_is_read(shared_data: Path) -> None:
    root = shared_data / "ssl4eo_s12_sample"
    data = open_unlabelled("ssl4eo-s12", root)
    assert [path.name for path in data.paths] == [JUNE]
    bands = ("B02", "B05", "B10", "VV")
    values = data.read(0, bands)
    product, twin = root / "s2c/0000200" / JUNE, root / "s1/0000200" / RADAR_JUNE
    files = [product / "B2.tif", product / "B5.tif", product / "B10.tif", twin / "VV.tif"]
    for plane, file in zip(values, files, strict=True):
        with rasterio.open(file) as source:
            np.testing.assert_array_equal(
                plane[::6, ::6], source.read(1)[:: source.height // 44, :: source.width // 44]
            )
