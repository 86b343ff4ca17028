"""Bands of a scene are found in one file, in one file a band and in folders; what cannot be embedded is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from eo_backbones.errors import UserError
from eo_backbones.rasters.band_files import BandFile, find_bands
from eo_backbones.scenes import EmbedRequest, embed_scene
from support.synthetic_scene import UTM, numbers, write_scene
from support.tiny_encoders import write_tiny_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


def one_a_band(folder: Path, *names: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [str(write_scene(folder / f"{name}.tif", numbers(1, 8, 8))) for name in names]


@pytest.mark.parametrize(
    "names",
    [
        ("B2", "B8A"),
        ("S2A_MSIL2A_20170613T101031_87_48_B02", "S2A_MSIL2A_20170613T101031_87_48_B8A"),
        ("T32TQM_20200101T101010_B02_10m", "T32TQM_20200101T101010_B8A_20m"),
    ],
)
def test_one_file_a_band_is_told_by_its_name(tmp_path: Path, names: tuple[str, str]) -> None:
    blue, nir = one_a_band(tmp_path, *names)
    expected = (BandFile("B8A", nir, 1), BandFile("B02", blue, 1))
    assert find_bands([blue, nir], ["B8A", "blue"]) == expected
    assert find_bands([str(tmp_path)], ["B8A", "blue"]) == expected


def test_a_description_wins_over_the_name(tmp_path: Path) -> None:
    path = str(write_scene(tmp_path / "B02.tif", numbers(1, 8, 8), names=("B04",)))
    assert find_bands([path], ["B04"]) == (BandFile("B04", path, 1),)


def test_a_pair_of_sensors_has_the_bands_of_both(tmp_path: Path) -> None:
    radar = str(write_scene(tmp_path / "s1.tif", numbers(2, 8, 8)))
    optical = str(write_scene(tmp_path / "s2.tif", numbers(13, 8, 8)))
    assert find_bands([radar, optical], ["B8A", "VH"]) == (BandFile("B8A", optical, 9), BandFile("VH", radar, 2))


def test_places_count_on_through_the_files(tmp_path: Path) -> None:
    first = str(write_scene(tmp_path / "first.tif", numbers(3, 8, 8)))
    second = str(write_scene(tmp_path / "second.tif", numbers(1, 8, 8)))
    assert find_bands([first, second], ["B04=4", "VV=2"]) == (BandFile("B04", second, 1), BandFile("VV", first, 2))


@pytest.mark.parametrize(
    ("make", "bands", "message"),
    [
        (lambda f: one_a_band(f, "B02", "B03"), ["B04"], "the 2 files: no band B04; found B02, B03"),
        (lambda f: one_a_band(f, "image"), ["B04"], "no band with a recognisable name.*B04=1"),
        (lambda f: one_a_band(f, "a_B04", "b_B04"), ["B04"], "B04 is in .*a_B04.tif and in .*b_B04.tif"),
        (lambda f: one_a_band(f, "B02"), ["B02=2"], "1 bands in all, so B02=2 is not among them"),
        (lambda f: one_a_band(f, "B02"), ["B02", "blue"], "B02 is named more than once"),
        (lambda f: [str(f / "none.tif")], ["B02"], "no file .*none.tif; check the path"),
        (lambda f: [str(f)], ["B02"], "holds no raster file"),
        (lambda f: one_a_band(f, "B02"), [], "no band is named"),
    ],
)
def test_bands_that_cannot_be_found(
    tmp_path: Path, make: Callable[[Path], list[str]], bands: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_bands(make(tmp_path), bands)


def shifted(transform: Affine, x: float) -> Affine:
    return Affine(*transform[:2], transform[2] + x, *transform[3:6])


def two(folder: Path, second: np.ndarray, **options: Any) -> list[str]:
    first = write_scene(folder / "B04.tif", numbers(1, 64, 64))
    return [str(first), str(write_scene(folder / "B08.tif", second, **options))]


def one(folder: Path, values: np.ndarray, **options: Any) -> list[str]:
    return [str(write_scene(folder / "B04.tif", values, **options))]


def damaged(folder: Path) -> list[str]:
    path = folder / "B04.tif"
    write_scene(path, numbers(1, 64, 64))
    path.write_bytes(path.read_bytes()[:4000])
    return [str(path)]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda f: one(f, numbers(1, 40, 64)), {}, "64 x 40 pixels, fewer than a window of 64; pass --size 40 or less"),
        (
            lambda f: two(f, numbers(1, 32, 32)),
            {"bands": ("B04", "B08")},
            "differ in size: .*B04.tif has 64 x 64 pixels, .*B08.tif 32 x 32; .* gdalbuildvrt",
        ),
        (
            lambda f: two(f, numbers(1, 64, 64), transform=shifted(UTM, 10.0)),
            {"bands": ("B04", "B08")},
            "B08.tif is not on the pixel grid of .*B04.tif",
        ),
        (
            lambda f: two(f, numbers(1, 64, 64), crs="EPSG:32633"),
            {"bands": ("B04", "B08")},
            "is not on the pixel grid of",
        ),
        (lambda f: one(f, np.zeros((1, 64, 64), np.uint16), nodata=0), {}, "every window has more than 5% missing"),
        (lambda f: one(f, np.full((1, 64, 64), np.nan, np.float32)), {}, "every window has more than 5% missing"),
        (lambda f: one(f, np.ones((1, 64, 64), np.complex64)), {}, "complex numbers; convert it to sigma nought"),
        (lambda f: one(f, np.full((1, 64, 64), 0.3, np.float32)), {"units": ("dn",)}, "pass --unit reflectance"),
        (lambda f: one(f, np.full((1, 64, 64), 90, np.uint8)), {"units": ("dn",)}, "uint8 are display values"),
        (lambda f: one(f, numbers(1, 64, 64)), {"units": ("metres",)}, "unknown unit 'metres'"),
        (lambda f: one(f, numbers(1, 64, 64)), {"units": ("dn", "db")}, "2 units for 1 bands"),
        (lambda f: one(f, numbers(1, 64, 64)), {"stride": 0}, "at least 1"),
        (lambda f: one(f, numbers(1, 64, 64)), {"fuse": "attention"}, "pass concat or mean"),
        (lambda f: one(f, numbers(1, 64, 64)), {"dtype": "int4"}, "unknown --dtype 'int4'"),
        (lambda f: one(f, numbers(1, 64, 64)), {"max_nodata": 1.5}, "share of the pixels"),
        (lambda f: one(f, numbers(1, 64, 64)), {"components": 0}, "pass 1 or more"),
        (lambda f: one(f, numbers(1, 64, 64)), {"components": 9999}, "features; pass fewer"),
        (lambda f: one(f, numbers(1, 64, 64)), {"components": 1, "components_from": Path("x.npz")}, "pass one of them"),
        (lambda f: one(f, numbers(1, 64, 64)), {"components_from": Path("x.npz")}, "no file x.npz"),
        (lambda f: one(f, numbers(1, 64, 64)), {"out": Path("out.png")}, r"end it in \.tif, \.parquet or \.zarr"),
        (lambda f: one(f, numbers(1, 64, 64)), {"out": Path("x.parquet"), "dtype": "int8"}, "needs the scales"),
        (damaged, {}, "cannot read .*B04.tif: it is truncated"),
    ],
)
def test_what_cannot_be_embedded_is_said_and_leaves_nothing(
    tmp_path: Path, model: str, make: Callable[[Path], list[str]], options: dict[str, Any], message: str
) -> None:
    paths = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    settings: dict[str, Any] = {"bands": ("B04",), "out": tmp_path / "out.tif", **options}
    with pytest.raises(UserError, match=message) as caught:
        embed_scene(
            EmbedRequest(scene=tuple(paths), model=model, **settings), device=torch.device("cpu"), dtype=torch.float32
        )
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_is_replaced_only_when_asked(tmp_path: Path, model: str) -> None:
    (path,) = one(tmp_path, numbers(1, 64, 64))
    request = {"scene": (path,), "model": model, "bands": ("B04",)}
    out = tmp_path / "out.tif"
    out.write_text("precious")
    with pytest.raises(UserError, match="is there already; pass --overwrite"):
        embed_scene(EmbedRequest(**request, out=out), device=torch.device("cpu"), dtype=torch.float32)
    assert out.read_text() == "precious"
    embed_scene(EmbedRequest(**request, out=out, overwrite=True), device=torch.device("cpu"), dtype=torch.float32)
    with rasterio.open(out) as source:
        assert (source.height, source.width) == (1, 1)
    with pytest.raises(UserError, match="is a file of the scene itself"):
        embed_scene(
            EmbedRequest(**request, out=Path(path), overwrite=True), device=torch.device("cpu"), dtype=torch.float32
        )


def test_a_scene_without_coordinates_is_embedded_with_a_note(
    tmp_path: Path, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = one(tmp_path, numbers(1, 64, 64), crs=None)
    request = EmbedRequest(scene=(path,), model=model, bands=("B04",), out=tmp_path / "out.tif")
    made = embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
    assert "has no coordinate system" in caplog.text
    assert made.km2 is None
    with rasterio.open(tmp_path / "out.tif") as source:
        assert source.crs is None
        assert source.transform == Affine(320.0, 0.0, 500_160.0, 0.0, -320.0, 4_999_840.0)
