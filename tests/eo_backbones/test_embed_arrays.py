"""Embeddings of arrays in memory are those of the same pixels in a file, with coordinates where the array has them."""

from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import xarray
from affine import Affine

import eo_backbones
from eo_backbones.contract import standardized
from eo_backbones.datasets.synthetic import scene
from eo_backbones.errors import UserError
from eo_backbones.scenes import EmbedRequest, embed_scene
from support.tiny_encoders import write_tiny_encoder

SIDE, WINDOW = 96, {"size": 16, "stride": 4}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("model") / "encoder", spec=standardized())


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bands of a place, digital numbers uint16, 0 is nodata; high enough for several blocks."""
    made = [scene(1, name, SIDE, index=i, bands=("B04", "B08")).s2 for i, name in enumerate(("Forest", "River") * 3)]
    pixels = np.concatenate([np.stack([one["B04"], one["B08"]]) for one in made], axis=1).astype(np.uint16)
    pixels[:, :20, :9] = 0
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    profile: dict[str, Any] = {"driver": "GTiff", "count": 2, "height": 6 * SIDE, "width": SIDE, "dtype": "uint16"}
    profile |= {"crs": "EPSG:32632", "transform": Affine(10, 0, 5e5, 0, -10, 5e6), "nodata": 0}
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.descriptions = ("B04", "B08")
    return path


@pytest.fixture(scope="module")
def expected(encoder: str, raster: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Affine]:
    out = tmp_path_factory.mktemp("out") / "out.tif"
    request = EmbedRequest(scene=(str(raster),), model=encoder, bands=("B04", "B08"), out=out, offset=0.0, **WINDOW)
    embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
    with rasterio.open(out) as file:
        return file.read(), file.transform


@pytest.fixture
def arguments(encoder: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("eo_backbones.scenes.arrays.fast_dtype", lambda _: torch.float32)
    return {"model": encoder, "unit": "dn", "band": ["B04", "B08"], "offset": 0.0, **WINDOW}


def test_an_array_gives_what_its_file_gives(
    raster: Path, expected: tuple[np.ndarray, Affine], arguments: dict[str, Any]
) -> None:
    with rasterio.open(raster) as file:
        pixels = file.read()
    made = eo_backbones.embed(pixels, nodata=0, **arguments)
    assert isinstance(made, np.ndarray) and made.dtype == np.float32
    np.testing.assert_array_equal(made, expected[0])
    assert np.isnan(made[0]).any() and not np.isnan(made[0]).all()
    masked = np.ma.masked_equal(pixels, 0)
    np.testing.assert_array_equal(eo_backbones.embed(masked, **arguments), made)
    tensor = torch.from_numpy(pixels.astype(np.int32))
    np.testing.assert_array_equal(eo_backbones.embed(tensor, nodata=0, **arguments), made)


def test_a_data_array_keeps_its_place(
    raster: Path, expected: tuple[np.ndarray, Affine], arguments: dict[str, Any]
) -> None:
    made = eo_backbones.embed(rioxarray.open_rasterio(raster), **arguments)  # its attributes say nodata 0
    np.testing.assert_array_equal(made.values, expected[0])
    assert made.dims == ("feature", "y", "x")
    assert made.rio.crs == "EPSG:32632"
    assert made.rio.transform().almost_equals(expected[1])
    assert (made.attrs["bands"], made.attrs["units"]) == (["B04", "B08"], ["dn", "dn"])


def test_a_lazy_array_stays_lazy_and_gives_the_same_bits(
    raster: Path, expected: tuple[np.ndarray, Affine], arguments: dict[str, Any]
) -> None:
    made = eo_backbones.embed(rioxarray.open_rasterio(raster, chunks={"y": 50}), **arguments)
    assert isinstance(made.data, dask.array.Array) and made.data.numblocks == (1, 2, 1)
    np.testing.assert_array_equal(made.compute(scheduler="synchronous").values, expected[0])


def test_bands_are_found_in_the_coordinate(
    raster: Path, expected: tuple[np.ndarray, Affine], arguments: dict[str, Any]
) -> None:
    with rasterio.open(raster) as file:
        values = file.read().transpose(1, 2, 0)
    array = xarray.DataArray(values, dims=("latitude", "longitude", "band"), coords={"band": ["red", "nir"]})
    del arguments["band"]
    made = eo_backbones.embed(array, nodata=0, **arguments)
    np.testing.assert_array_equal(made.values, expected[0])
    assert made.dims == ("feature", "latitude", "longitude")


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (np.ones((2, 32, 32), np.float32) * 0.2, {}, "pass unit='reflectance'"),
        (np.ones((3, 32, 32)), {}, r"2 bands \(B04, B08\) for 3 channels"),
        (np.ones((2, 2, 32, 32)), {}, r"an array of shape \(2, 2, 32, 32\)"),
        (np.ones((2, 32, 32), np.complex64), {}, "values of type complex64 are no pixels"),
        (np.ones((2, 8, 8)), {}, "fewer than a window of 16"),
        (np.ones((2, 32, 32)), {"band": None}, "nothing names the band; pass band='B04'"),
        (np.ones((2, 32, 32)), {"fuse": "attention"}, "unknown fuse 'attention'"),
        (np.ones((2, 32, 32)), {"max_nodata": 2}, "max_nodata=2 is a share"),
        (xarray.DataArray(np.ones((3, 2, 32, 32)), dims=("time", "band", "y", "x")), {}, r"such as .isel\(time=0\)"),
        (xarray.Dataset({"red": (("y", "x"), np.ones((32, 32)))}), {}, r"values.to_dataarray\('band'\)"),
    ],
)
def test_what_cannot_be_embedded_is_said(
    values: Any, changes: dict[str, Any], message: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=message):
        eo_backbones.embed(values, **arguments | changes)


def test_attributes_that_scale_are_not_passed_over(arguments: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(1200, 3000, (2, 32, 32)).astype(np.uint16)
    array = xarray.DataArray(pixels, dims=("band", "y", "x"), attrs={"scale_factor": 1e-4, "add_offset": -0.1})
    del arguments["offset"]
    with pytest.raises(UserError, match=r"the attributes say scale_factor=0.0001, add_offset=-0.1"):
        eo_backbones.embed(array, **arguments)
    made = eo_backbones.embed(array, **arguments | {"unit": "reflectance"}, scale=1e-4, offset=-0.1)
    plain = eo_backbones.embed(pixels.astype(np.float32) - 1000, **arguments, offset=0.0)
    np.testing.assert_allclose(made.values, plain, atol=1e-5)


def test_a_network_in_memory_is_taken(encoder: str, arguments: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(200, 3000, (2, 32, 32)).astype(np.uint16)
    by_name = eo_backbones.embed(pixels, **arguments)
    network = eo_backbones.create_model(encoder)
    np.testing.assert_array_equal(eo_backbones.embed(pixels, **arguments | {"model": network}), by_name)
