"""Missing pixels are the same ones for every reader and every command, however a file marks them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import nn

from eo_backbones.contract import unit_range
from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.datasets.labelled import IGNORED
from eo_backbones.datasets.mask_folders import mask_folders
from eo_backbones.errors import UserError
from eo_backbones.evaluation.features import read_batches
from eo_backbones.inputs import InputTransform
from eo_backbones.prediction.classify import Classifier, predict
from eo_backbones.prediction.segment import segment
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones.rasters.reader import read_bands, read_declared
from eo_backbones.scenes import EmbedRequest, embed_scene
from eo_backbones.scenes.scene import Scene
from support.marked_images import MARKS, write_marked
from support.masked_images import write_tiff
from support.tiny_encoders import write_tiny_encoder
from support.typed_command import Ended

NAMES = ("B03", "B04")
SIZE_PX = 32


def pixels(seed: int = 0, size: int = SIZE_PX) -> tuple[np.ndarray, np.ndarray]:
    """Digital numbers of two bands, and which of them are missing: a column and a corner."""
    rng = np.random.default_rng(seed)
    values = rng.integers(200, 4000, (2, size, size), dtype=np.uint16)
    missing = np.zeros((size, size), bool)
    missing[:, 5] = missing[size - 9 :, : size // 2] = True
    return values, missing


def expected(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    return np.where(missing, np.nan, values.astype(np.float32))


class Remembered(nn.Module):
    """A network that keeps what it is given; every image is of its first class."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))
        self.eo_digest = "0" * 64
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return self.bias.expand(len(images), 2)


def classifier(network: nn.Module, **changes: Any) -> Classifier:
    facts: dict[str, Any] = {"spec": unit_range(NAMES), "classes": ("one", "two"), "size_px": SIZE_PX}
    return Classifier(network=network, **facts | changes)


@pytest.mark.parametrize("mark", MARKS)
def test_every_reader_finds_the_pixels_that_rasterio_masks(tmp_path: Path, mark: str) -> None:
    values, missing = pixels()
    write_marked(tmp_path / "one" / "0.tif", values, missing, mark, names=NAMES)
    write_marked(tmp_path / "two" / "0.tif", values[::-1], missing, mark, names=NAMES)
    path = tmp_path / "one" / "0.tif"
    with rasterio.open(path) as source:
        reference = np.ma.masked_invalid(source.read([1, 2], masked=True))
        if mark == "nodata and mask":  # of the two GDAL looks at the mask alone
            reference = np.ma.masked_equal(reference, source.nodata)
        if mark == "alpha band":  # GDAL looks at that of files with two or four bands alone
            reference = np.ma.masked_where(np.broadcast_to(source.read(3) == 0, reference.shape), reference)
    np.testing.assert_array_equal(reference.mask, np.broadcast_to(missing, reference.shape))
    wanted = reference.astype(np.float32).filled(np.nan)

    read, readings = read_declared(path, NAMES, ReadingOptions().for_bands(NAMES))
    assert [reading.unit for reading in readings] == ["dn", "dn"]
    scene = np.empty(wanted.shape, np.float32)
    with Scene(find_bands([str(path)], NAMES)) as opened:
        opened.read(scene, top=0)
    images = class_folders(tmp_path)
    (_, batch) = next(read_batches(images, ("B04", "B03"), np.array([0])))
    for found in (read, read_bands(path, NAMES), images.read(0, NAMES), scene, batch[0].numpy()[::-1]):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == np.float32


def test_nothing_missing_leaves_the_values_as_they_are_stored(tmp_path: Path) -> None:
    values, _ = pixels()
    for mark in ("nodata 65535", "nodata -9999", "internal mask", "mask beside it", "alpha band"):
        path = write_marked(tmp_path / f"{mark}.tif", values, np.zeros(values.shape[1:], bool), mark, names=NAMES)
        found = read_bands(path, NAMES)
        assert found.dtype == (np.int16 if mark == "nodata -9999" else np.uint16)
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("stored", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("nodata", [-9999, 0, 255, 65535, 1e20, -3.4028234663852886e38, np.nan])
def test_a_nodata_value_that_the_type_cannot_hold_marks_nothing(tmp_path: Path, stored: str, nodata: float) -> None:
    values = np.arange(1, 65).reshape(1, 8, 8).astype(stored)
    path = tmp_path / "a.tif"
    try:
        target = rasterio.open(path, "w", driver="GTiff", dtype=stored, count=1, height=8, width=8, nodata=nodata)
    except ValueError:  # rasterio does not write it; GDAL's own tools do, and the sidecar says the same
        target = rasterio.open(path, "w", driver="GTiff", dtype=stored, count=1, height=8, width=8)
        band = f'<PAMRasterBand band="1"><NoDataValue>{nodata!r}</NoDataValue></PAMRasterBand>'
        path.with_name("a.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    with target:
        target.write(values)
    holds = np.dtype(stored).kind == "f" or np.iinfo(stored).min <= nodata <= np.iinfo(stored).max
    if holds:
        values[0, 0, 0] = nodata
        with rasterio.open(path, "r+") as again:
            again.write(values)
    found = read_bands(path, ["B04=1"])
    np.testing.assert_array_equal(np.isnan(found[0].astype(np.float64)).nonzero(), ([0], [0]) if holds else ([], []))


def test_the_users_nodata_is_compared_with_what_is_stored(tmp_path: Path) -> None:
    values, missing = pixels()
    stored = np.where(missing, 0, values + 1000).astype(np.uint16)
    path = write_marked(tmp_path / "a.tif", stored, missing, None, names=NAMES)
    options = ReadingOptions.of(offset=-1000, nodata=0)
    found, _ = read_declared(path, NAMES, options.for_bands(NAMES))
    np.testing.assert_array_equal(found, expected(values, missing))
    one = ReadingOptions.of(offset=["B03=-1000"], scale="B04=0.5", nodata=["B04=0"])
    found, _ = read_declared(path, NAMES, one.for_bands(NAMES))
    np.testing.assert_array_equal(found[0], np.where(missing, -1000.0, values[0]))
    np.testing.assert_array_equal(found[1], np.where(missing, np.nan, stored[1] / 2))


def test_the_fourth_band_of_bytes_is_near_infrared_where_it_is_called_so(tmp_path: Path) -> None:
    """GDAL declares the fourth band of any 8-bit GeoTIFF alpha."""
    values = np.random.default_rng(0).integers(0, 3, (4, 16, 16), dtype=np.uint8)
    plain = write_marked(tmp_path / "plain.tif", values, np.zeros((16, 16), bool), None)
    with rasterio.open(plain) as source:
        assert source.colorinterp[3].name == "alpha"
    np.testing.assert_array_equal(read_bands(plain, ["B04=1", "B08=4"]), values[[0, 3]])
    names = ("B02", "B03", "B04", "B08")
    named = write_marked(tmp_path / "named.tif", values, np.zeros((16, 16), bool), None, names=names)
    np.testing.assert_array_equal(read_bands(named, ["B02"]), values[:1])
    assert np.isnan(read_bands(plain, ["B04=1"])).sum() == (values[3] == 0).sum(), "else it is alpha"


@pytest.mark.parametrize("mark", MARKS)
def test_training_and_prediction_give_a_network_the_same_input(tmp_path: Path, mark: str) -> None:
    from eo_backbones_train.finetuning.images import as_input

    values, missing = pixels()
    write_marked(tmp_path / "one" / "0.tif", values, missing, mark, names=NAMES)
    write_marked(tmp_path / "two" / "0.tif", values[::-1], missing, mark, names=NAMES)
    trained = as_input(class_folders(tmp_path), NAMES, unit_range(NAMES), size_px=SIZE_PX, device=torch.device("cpu"))
    (_, inputs) = next(trained.inputs(np.array([0, 1]), 2))
    network = Remembered()
    rows = list(predict(classifier(network), [tmp_path / "one" / "0.tif", tmp_path / "two" / "0.tif"]))
    assert len(rows) == 2
    torch.testing.assert_close(network.seen[0], inputs, rtol=0, atol=0)
    transform = InputTransform(unit_range(NAMES), band=NAMES, unit="dn")
    torch.testing.assert_close(inputs[0], transform(torch.from_numpy(expected(values, missing))), rtol=0, atol=0)
    means = values[:, ~missing].mean(axis=1)[:, None, None]
    np.testing.assert_allclose(inputs[0].numpy(), np.where(missing, means, values) / 1e4, rtol=1e-5)


@pytest.mark.parametrize("mark", MARKS)
def test_a_predicted_mask_has_no_class_where_the_image_has_no_value(tmp_path: Path, mark: str) -> None:
    values, missing = pixels()
    path = write_marked(tmp_path / "a.tif", values, missing, mark, names=NAMES)

    class AllOne(Remembered):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.stack([images[:, 0] * 0 + 1, images[:, 0] * 0], dim=1)

    (made,) = segment(classifier(AllOne(), mask_values=(3, 9)), [path], tmp_path / "masks")
    with rasterio.open(made.mask) as mask:
        np.testing.assert_array_equal(mask.read(1), np.where(missing, 255, 3))


@pytest.mark.parametrize("mark", MARKS)
def test_an_image_without_a_valid_pixel_is_refused_by_name(tmp_path: Path, mark: str) -> None:
    values, missing = pixels()
    everywhere = np.ones_like(missing)
    write_marked(tmp_path / "one" / "0.tif", values, missing, mark, names=NAMES)
    write_marked(tmp_path / "two" / "0.tif", values, everywhere, mark, names=NAMES)
    reads: tuple[Callable[[], object], ...] = (
        lambda: class_folders(tmp_path).read(1, NAMES),
        lambda: list(predict(classifier(Remembered()), sorted(tmp_path.rglob("*.tif")))),
    )
    for read in reads:
        with pytest.raises(UserError, match=r"two/0\.tif: band B03, B04 has no valid pixel") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", MARKS)
def test_a_stored_tile_has_code_zero_where_a_pixel_is_missing(tmp_path: Path, mark: str) -> None:
    from eo_backbones_train.store.prepare import prepare
    from eo_backbones_train.store.store import Store

    values, missing = pixels()
    radar = np.random.default_rng(1).normal(-12, 3, (2, SIZE_PX, SIZE_PX)).astype(np.float32)
    for root, marked in (("marked", mark), ("whole", None)):
        write_marked(tmp_path / root / "s2" / "0.tif", values, missing, marked, names=NAMES)
        write_marked(tmp_path / root / "s1" / "0.tif", radar, missing, None, names=("VV", "VH"))
        prepare("pairs", tmp_path / root, tmp_path / f"{root}.store", workers=1)
    found, whole = (Store.open(tmp_path / f"{root}.store").tile(0, "B04") for root in ("marked", "whole"))
    np.testing.assert_array_equal(found, np.where(missing, 0, whole))
    assert whole.all()


def test_display_values_have_no_code_for_missing_and_get_the_mean_of_the_others(tmp_path: Path) -> None:
    from eo_backbones_train.store.prepare import prepare
    from eo_backbones_train.store.store import Store

    values, missing = pixels()
    shown = (values // 16).astype(np.uint8)
    for sensor, names in (("s2", NAMES), ("s1", ("VV", "VH"))):
        write_marked(tmp_path / "p" / sensor / "0.tif", shown, missing, "internal mask", names=names)
    empty = np.ones_like(missing)
    for sensor, names in (("s2", NAMES), ("s1", ("VV", "VH"))):
        write_marked(tmp_path / "p" / sensor / "1.tif", shown, empty, "internal mask", names=names)
    summary = prepare("pairs", tmp_path / "p", tmp_path / "store", units=["uint8"], workers=1)
    assert (summary.stored, summary.reasons) == (1, {"no valid value": 1})
    tile = Store.open(tmp_path / "store").tile(0, "VV")
    np.testing.assert_array_equal(tile, np.where(missing, np.rint(shown[0][~missing].mean()), shown[0]))


@pytest.mark.parametrize("mark", MARKS)
def test_windows_with_too_many_missing_pixels_become_nodata_cells(tmp_path: Path, mark: str) -> None:
    model = write_tiny_encoder(tmp_path / "encoder")
    values, _ = pixels(size=64)
    missing = np.zeros((64, 64), bool)
    missing[:, :20] = True
    path = write_marked(tmp_path / "a.tif", values, missing, mark, names=NAMES)
    cells = {}
    for name, limit in (("strict", 0.6), ("lax", 0.7)):  # 20 of 32 columns are missing: 0.625
        request = EmbedRequest(
            scene=(str(path),),
            model=model,
            bands=NAMES,
            out=tmp_path / f"{name}.tif",
            size=32,
            stride=32,
            max_nodata=limit,
        )
        embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
        with rasterio.open(request.out) as made:
            cells[name] = np.isnan(made.read(1))
    np.testing.assert_array_equal(cells["strict"], [[True, False], [True, False]])
    assert not cells["lax"].any()


def png(path: Path, values: np.ndarray, missing: np.ndarray, kind: str) -> Path:
    """Write an 8-bit picture whose missing pixels are transparent."""
    grey = values[0]
    alpha = np.where(missing, 0, 255).astype(np.uint8)
    if kind == "RGBA":
        Image.fromarray(np.dstack([values[0], values[1], values[0], alpha])).save(path)
    elif kind == "LA":
        Image.fromarray(np.dstack([grey, alpha])).save(path)
    else:
        Image.fromarray(np.where(missing, 255, grey // 2).astype(np.uint8)).save(path, transparency=255)
    return path


@pytest.mark.parametrize("kind", ["RGBA", "LA", "L with a transparent grey"])
def test_transparent_pixels_of_pictures_are_missing(tmp_path: Path, kind: str) -> None:
    values, missing = pixels()
    path = png(tmp_path / "a.png", (values // 16).astype(np.uint8), missing, kind)
    with rasterio.open(path) as source:
        reference = source.read(1, masked=True)
    np.testing.assert_array_equal(np.ma.getmaskarray(reference), missing)
    found = read_bands(path, ["B04=1"])[0]
    np.testing.assert_array_equal(found, reference.astype(np.float32).filled(np.nan))


def test_a_mask_beside_a_jpeg_is_read(tmp_path: Path) -> None:
    values, missing = pixels()
    Image.fromarray((values[0] // 16).astype(np.uint8)).save(tmp_path / "a.jpg")
    plain = read_bands(tmp_path / "a.jpg", ["B04=1"])
    assert plain.dtype == np.uint8
    write_tiff(tmp_path / "a.jpg.msk", np.where(missing, 0, 255).astype(np.uint8)[None])
    with rasterio.open(tmp_path / "a.jpg.msk", "r+") as mask:
        mask.update_tags(INTERNAL_MASK_FLAGS_1="2")
    with rasterio.open(tmp_path / "a.jpg") as source:
        reference = source.read(masked=True)
    np.testing.assert_array_equal(np.ma.getmaskarray(reference)[0], missing)
    np.testing.assert_array_equal(read_bands(tmp_path / "a.jpg", ["B04=1"])[0], expected(plain[0], missing))


def test_a_mask_of_classes_may_be_masked_itself(tmp_path: Path) -> None:
    values, missing = pixels()
    for number in range(2):
        write_marked(tmp_path / "images" / f"{number}.tif", values + number, missing, None, names=NAMES)
        classes = np.full((1, SIZE_PX, SIZE_PX), 3, np.uint8)
        classes[:, ::2] = 9
        write_marked(tmp_path / "masks" / f"{number}.tif", classes, missing, "internal mask")
    opened = mask_folders(tmp_path)
    assert opened.values == (3, 9), "not what is stored where the mask has no value"
    assert opened.data.maps is not None
    found = opened.data.maps.reader(opened.data.paths[0])
    np.testing.assert_array_equal(found, np.where(missing, IGNORED, classes[0] == 9))


def test_a_command_reads_what_the_library_reads(tmp_path: Path, command: Callable[..., Ended]) -> None:
    """One image with a mask beside it, through ``embed``: windows without pixels are nodata cells."""
    model = write_tiny_encoder(tmp_path / "encoder")
    values, _ = pixels(size=64)
    missing = np.zeros((64, 64), bool)
    missing[:, :32] = True
    path = write_marked(tmp_path / "a.tif", values, missing, "mask beside it", names=NAMES)
    out = tmp_path / "out.tif"
    ended = command("embed", path, "--model", model, "--bands", "B04", "--size", 32, "--stride", 32, "--out", out)
    assert ended.status == 0, ended.err
    with rasterio.open(out) as made:
        np.testing.assert_array_equal(np.isnan(made.read(1)), [[True, False], [True, False]])
