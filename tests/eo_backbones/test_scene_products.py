"""Sentinel-2 products as they are downloaded: which files hold the bands; embeddings are those of reflectance."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from eo_backbones.errors import UserError
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.rasters.reader import read_declared
from eo_backbones.rasters.scaling import parse_reading
from eo_backbones.scenes import EmbedRequest, embed_scene
from support.sentinel2_product import band_values, write_jp2, write_safe
from support.tiny_encoders import write_tiny_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One product of each level, which no test changes."""
    folder = tmp_path_factory.mktemp("products")
    return {level: write_safe(folder, level=level) for level in ("L1C", "L2A")}


def found(path: Path, *bands: str) -> list[str]:
    return [Path(band.path).name for band in find_bands([str(path)], list(bands))]


def test_finest_resolution_with_all_bands(products: dict[str, Path]) -> None:
    safe = products["L2A"]
    assert found(safe, "B04", "B08") == ["T32TQM_20220601T102031_B04_10m.jp2", "T32TQM_20220601T102031_B08_10m.jp2"]
    assert found(safe, "B04", "B11") == ["T32TQM_20220601T102031_B04_20m.jp2", "T32TQM_20220601T102031_B11_20m.jp2"]
    assert found(products["L1C"], "B04", "B02")[0] == "T32TQM_20220601T102031_B04.jp2"


@pytest.mark.parametrize(
    "part", [".", "MTD_MSIL2A.xml", "GRANULE", "GRANULE/*", "GRANULE/*/IMG_DATA", "GRANULE/*/IMG_DATA/R10m"]
)
def test_every_part_of_a_product(products: dict[str, Path], part: str) -> None:
    safe = products["L2A"]
    place = safe if part == "." else next(safe.glob(part))
    assert found(place, "B04") == ["T32TQM_20220601T102031_B04_10m.jp2"]


def test_folder_of_one_product(products: dict[str, Path]) -> None:
    folder = products["L2A"].parent / "one"
    folder.mkdir()
    (folder / products["L2A"].name).symlink_to(products["L2A"], target_is_directory=True)
    assert found(folder, "B04") == ["T32TQM_20220601T102031_B04_10m.jp2"]


def test_bands_of_no_common_resolution_get_a_command(products: dict[str, Path]) -> None:
    with pytest.raises(UserError) as caught:
        find_bands([str(products["L2A"])], ["B08", "B11"])
    message = str(caught.value)
    assert "no resolution holds all of B08, B11" in message
    assert "gdalbuildvrt -separate -resolution highest -r bilinear S.vrt" in message
    assert "B08_10m.jp2" in message
    assert "B11_20m.jp2" in message
    assert "--bands B08=1 B11=2" in message
    with pytest.raises(UserError, match=r"no band B09; found B02, B03, B04"):
        find_bands([str(products["L2A"])], ["B04", "B09"])


def test_a_product_of_radar_must_be_calibrated(tmp_path: Path) -> None:
    (tmp_path / "S1A_IW_GRDH_1SDV_20200607T010800.SAFE" / "measurement").mkdir(parents=True)
    with pytest.raises(UserError, match="uncalibrated amplitudes; calibrate"):
        find_bands([str(tmp_path / "S1A_IW_GRDH_1SDV_20200607T010800.SAFE")], ["VV"])


def test_several_tiles_are_named(tmp_path: Path) -> None:
    for tile in ("L1C_T32TQM_A036260_20220601T102558", "L1C_T32TQN_A036260_20220601T102558"):
        write_jp2(tmp_path / "GRANULE" / tile / "IMG_DATA" / "B04.jp2", band_values("B04", 64))
    with pytest.raises(UserError, match=r"holds 2 tiles; pass one of them: .*T32TQM.*T32TQN"):
        find_bands([str(tmp_path)], ["B04"])


def tif(path: Path, values: np.ndarray) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2], count=len(values), dtype=values.dtype,
        crs="EPSG:32632", transform=from_origin(600_000, 5_000_000, 10, 10),
    ) as file:  # fmt: skip
        file.write(values)
    return path


def test_a_folder_may_hold_other_things(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tif(tmp_path / "B04.tif", band_values("B04")[None])
    tif(tmp_path / "TCI.tif", np.zeros((3, 8, 8), np.uint8))
    tif(tmp_path / "SCL.tif", np.zeros((1, 8, 8), np.uint8))
    tif(tmp_path / "visual.tif", np.zeros((3, 8, 8), np.uint8))
    tif(tmp_path / "five.tif", np.zeros((5, 8, 8), np.uint16))
    (tmp_path / ".hidden.tif").write_bytes(b"x")
    (tmp_path / "._B04.tif").write_bytes(b"x")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "damaged.tif").write_bytes(b"no image")
    (tmp_path / "folder.tif").mkdir()
    assert found(tmp_path, "B04") == ["B04.tif"]
    assert "damaged.tif" in caplog.text
    with pytest.raises(UserError, match=r"damaged\.tif"):  # it may be the band that is asked for
        find_bands([str(tmp_path)], ["B08"])


def test_single_band_of_a_product_is_told_by_its_name(products: dict[str, Path]) -> None:
    path = next(products["L2A"].glob("GRANULE/*/IMG_DATA/R10m/*_B08_10m.jp2"))
    values, (reading,) = read_declared(path, ["B08"], parse_reading([], [], [], [], ["B08"]))
    np.testing.assert_array_equal(values[0], band_values("B08").astype(np.float32) - 1000)
    assert (reading.band, reading.level) == ("B08", "L2A")
    with pytest.raises(UserError, match="has no band B04; it has B08"):
        read_declared(path, ["B04"], parse_reading([], [], [], [], ["B04"]))


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_embeddings_are_those_of_reflectance(tmp_path: Path, model: str, products: dict[str, Path], level: str) -> None:
    stored = np.stack([band_values(band) for band in ("B04", "B08")])
    reflectance = (stored.astype(np.float64) - 1000) / 10_000
    by_hand = tif(tmp_path / "by_hand.tif", reflectance.astype(np.float32))

    def embed(scene: Path, name: str, **options: object) -> np.ndarray:
        request = EmbedRequest(
            scene=(str(scene),), model=model, out=tmp_path / name, size=64, stride=64,
            **({"bands": ("B04", "B08")} | options),
        )  # fmt: skip
        embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
        with rasterio.open(request.out) as file:
            return np.asarray(file.read())

    expected = embed(by_hand, "expected.tif", bands=("B04=1", "B08=2"), units=("reflectance",))
    np.testing.assert_allclose(embed(products[level], "safe.tif"), expected, rtol=1e-4, atol=1e-5)
    unshifted = embed(products[level], "raw.tif", offset="0")
    assert np.abs(unshifted - expected).max() > 1e-3


def test_new_scene_without_its_metadata_is_refused(tmp_path: Path, model: str, products: dict[str, Path]) -> None:
    for band in ("B04", "B08"):
        source = next(products["L2A"].glob(f"GRANULE/*/IMG_DATA/R10m/*_{band}_10m.jp2"))
        shutil.copy(source, tmp_path / f"{band}.jp2")
    large = tif(tmp_path / "large.tif", np.tile(band_values("B04"), (6, 6))[None])
    request = EmbedRequest(scene=(str(large),), model=model, bands=("B04=1",), out=tmp_path / "e.tif")
    with pytest.raises(UserError, match=r"looks like \+1000.*pass --offset -1000 or --offset 0"):
        embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
    assert not (tmp_path / "e.tif").exists()
