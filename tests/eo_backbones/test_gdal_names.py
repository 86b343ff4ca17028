"""What only GDAL knows how to open is opened: an image within a TIFF, a variable, a member of an archive, JPEG 2000."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.shutil import copy

from eo_backbones.contract import unit_range
from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.errors import UserError
from eo_backbones.prediction.classify import Classifier, predict
from eo_backbones.prediction.segment import segment
from eo_backbones.rasters.reader import is_gdal_name, is_remote, local_file, read_bands
from eo_backbones.scenes import EmbedRequest, embed_scene
from support.masked_images import write_tiff
from support.tiny_encoders import write_tiny_encoder

SIZE_PX = 64
CPU = torch.device("cpu")


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(200, 4000, (1, SIZE_PX, SIZE_PX), dtype=np.uint16)


def second_image_of_a_tiff(folder: Path) -> str:
    write_tiff(folder / "pages.tif", values(9))
    write_tiff(folder / "pages.tif", values(), APPEND_SUBDATASET="YES")
    return f"GTIFF_DIR:2:{folder / 'pages.tif'}"


def variable(folder: Path) -> str:
    write_tiff(folder / "of.tif", values())
    copy(folder / "of.tif", folder / "scene.nc", driver="netCDF", FORMAT="NC4")
    return f'NETCDF:"{folder / "scene.nc"}":Band1'


def member(folder: Path) -> str:
    write_tiff(folder / "red.tif", values())
    with zipfile.ZipFile(folder / "scenes.zip", "w") as archive:
        archive.write(folder / "red.tif", "2020/red.tif")
    (folder / "red.tif").unlink()
    return f"/vsizip/{folder / 'scenes.zip'}/2020/red.tif"


def jpeg_2000(folder: Path) -> str:
    write_tiff(folder / "T32TQM_B04_10m.jp2", values(), driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    return str(folder / "T32TQM_B04_10m.jp2")


def virtual(folder: Path) -> str:
    write_tiff(folder / "of.tif", values())
    copy(folder / "of.tif", folder / "a.vrt", driver="VRT")
    return str(folder / "a.vrt")


NAMES = (second_image_of_a_tiff, variable, member, jpeg_2000, virtual)


class AllBright(torch.nn.Module):
    """Two classes, decided by the brightness of each pixel, or of the image."""

    def __init__(self, *, pixels: bool) -> None:
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(()))
        self.eo_digest = "0" * 64
        self.pixels = pixels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = images[:, 0] if self.pixels else images[:, 0].mean(dim=(1, 2))
        return torch.stack([0.2 - found, found + self.zero], dim=1)


def classifier(*, pixels: bool) -> Classifier:
    return Classifier(
        network=AllBright(pixels=pixels),
        spec=unit_range(["B04"]),
        classes=("dark", "bright"),
        size_px=SIZE_PX,
        mask_values=(3, 9) if pixels else (),
    )


@pytest.mark.parametrize("name_of", NAMES)
def test_it_is_read_embedded_classified_and_segmented(tmp_path: Path, name_of: Callable[[Path], str]) -> None:
    (tmp_path / "scenes").mkdir()
    name = name_of(tmp_path / "scenes")
    plain = tmp_path / "plain.tif"
    write_tiff(plain, values())
    np.testing.assert_array_equal(read_bands(name, ["B04=1"]), values())

    model = write_tiny_encoder(tmp_path / "encoder")
    made = {}
    for scene in (name, str(plain)):
        out = tmp_path / f"{len(made)}.tif"
        embed_scene(
            EmbedRequest(scene=(scene,), model=model, bands=("B04=1",), out=out, size=32),
            device=CPU,
            dtype=torch.float32,
        )
        with rasterio.open(out) as file:
            made[scene] = file.read()
            assert json.loads(file.tags()["EO_BACKBONES"])["scene"] == [scene]
    np.testing.assert_array_equal(made[name], made[str(plain)])

    found = dict(predict(classifier(pixels=False), [name, plain], bands=["B04=1"]))
    torch.testing.assert_close(found[name], found[plain], rtol=0, atol=0)
    masks = segment(classifier(pixels=True), [name, plain], tmp_path / "masks", bands=["B04=1"])
    pixels = []
    for mask in masks:
        with rasterio.open(mask.mask) as file:
            pixels.append(file.read(1))
    np.testing.assert_array_equal(pixels[0], np.where(values()[0] > 1000, 9, 3))
    np.testing.assert_array_equal(*pixels)
    again = segment(classifier(pixels=True), [name, plain], tmp_path / "masks", bands=["B04=1"])
    assert [one.before for one in again] == [True, True]


def test_images_of_class_folders_may_be_jpeg_2000(tmp_path: Path) -> None:
    for number, name in enumerate(("one/a", "one/b", "two/a")):
        write_tiff(tmp_path / f"{name}.jp2", values(number), driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    images = class_folders(tmp_path, positions={"B04": 1})
    assert len(images) == 3
    np.testing.assert_array_equal(images.read(1, ["B04"]), values(1))


def test_names_and_files_are_told_apart(tmp_path: Path) -> None:
    odd = tmp_path / "NETCDF:a.tif"
    write_tiff(odd, values())
    assert not is_gdal_name(odd)
    np.testing.assert_array_equal(read_bands(odd, ["B04=1"]), values())
    archive = member(tmp_path)
    for name, file in (
        (second_image_of_a_tiff(tmp_path), "pages.tif"),
        (variable(tmp_path), "scene.nc"),
        (archive, "scenes.zip"),
        (str(odd), odd.name),
        (f"{tmp_path}/none.tif", None),
        ("GTIFF_DIR:1:none.tif", None),
        ("https://example.com/a.tif", None),
        ("/vsicurl/https://example.com/a.tif", None),
    ):
        assert local_file(name) == (tmp_path / file if file else None)
    assert is_remote("https://example.com/a.tif")
    assert is_remote("/vsizip//vsicurl/https://example.com/a.zip/a.tif")
    assert not is_remote(archive)
    assert not is_remote(f'HDF5:"{tmp_path}/a.h5"://data')


@pytest.mark.parametrize(
    "name", ["GTIFF_DIR:1:none.tif", 'NETCDF:"none.nc":red', "/vsizip/none.zip/a.tif", "NODRIVER:a"]
)
def test_what_gdal_cannot_open_is_told_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"cannot read .*: it is truncated, out of reach or not a raster") as caught:
        read_bands(name, ["B04=1"])
    assert "\n" not in str(caught.value)
