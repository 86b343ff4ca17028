"""Masks of images of any size: windows that leave no seam, values and ground of the image, nothing half-written."""

import csv
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import timm
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from torch import nn

from eo_backbones.contract import unit_range
from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform
from eo_backbones.networks.segmentation import SegmentationNetwork
from eo_backbones.prediction.classify import Classifier, predict
from eo_backbones.prediction.mask_file import MaskFormat
from eo_backbones.prediction.segment import Segmented, predict_windows, segment, write_table
from eo_backbones.prediction.windows import WindowSize, spans
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.scenes.scene import Scene
from support.masked_images import scene, write_tiff
from support.recorded_progress import Killed, RecordedProgress

NAMES = ("B03", "B04")


class Threshold(nn.Module):
    """The class of a pixel follows from its first band alone: below, or above a level of the model's input."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))
        self.eo_digest = "0" * 64

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.level - images[:, 0], images[:, 0] - self.level], dim=1)


def classifier(network: nn.Module | None = None, values: tuple[int, ...] = (3, 9), **changes: Any) -> Classifier:
    facts: dict[str, Any] = {"spec": unit_range(NAMES), "classes": ("dark", "bright"), "size_px": 64}
    return Classifier(network=network or Threshold(0.1), mask_values=values, **facts | changes)


def segmented(files: Sequence[Path], out: Path, **changes: Any) -> list[Segmented]:
    return segment(classifier(**changes), files, out)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)  # type: ignore[no-any-return]


def network_with_a_narrow_view() -> SegmentationNetwork:
    """The tiny encoder and decoder, initialised so that all parts matter."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder: Any = timm.create_model("test_resnet", in_chans=1, num_classes=0)
        encoder.eo_input = unit_range(NAMES)
        made = SegmentationNetwork(encoder, NAMES, "concat", 4)
        made.train()(torch.rand(4, 2, 128, 128))  # BatchNorm statistics
    made.eo_digest = "1" * 64  # type: ignore[assignment]
    return made.eval()


@pytest.mark.parametrize(("length", "core", "margin"), [(64, 64, 32), (500, 64, 32), (129, 64, 32), (1, 768, 128)])
def test_windows_cover_every_pixel_once(length: int, core: int, margin: int) -> None:
    found = spans(length, WindowSize(core, margin))
    kept = [place for span in found for place in range(span.start, span.stop)]
    assert kept == list(range(length))
    for span in found:
        assert 0 <= span.first <= span.start < span.stop <= span.last <= length
        assert span.first % 32 == 0, "the grid of the feature maps"
        assert span.first in (0, span.start - margin)
        assert span.last in (length, span.stop + margin)
        assert np.arange(span.first, span.last)[span.kept].tolist() == list(range(span.start, span.stop))


def test_windows_with_a_margin_give_the_prediction_of_the_whole_image(tmp_path: Path) -> None:
    values, _ = scene(3, 330, 401)
    write_tiff(tmp_path / "a.tif", values, names=NAMES)
    network = network_with_a_narrow_view()
    transform = InputTransform(unit_range(NAMES), band=NAMES, unit="dn", check="off")
    with torch.no_grad():
        expected = network(transform(torch.from_numpy(values.astype(np.float32)))[None])[0].argmax(dim=0).numpy()
    assert len(np.unique(expected)) > 2

    def in_windows(margin: int) -> np.ndarray:
        found = np.full(expected.shape, -9)
        with Scene(find_bands([str(tmp_path / "a.tif")], NAMES)) as opened:
            for rows, columns, classes in predict_windows(network, opened, transform, WindowSize(64, margin)):
                found[rows.start : rows.stop, columns.start : columns.stop] = classes
        return found

    assert (in_windows(128) != expected).mean() < 1e-4  # rounding may decide a pixel
    assert (in_windows(0) != expected).mean() > 1e-3, "the test would notice a seam"


def test_a_mask_lies_on_its_image_with_the_users_values(tmp_path: Path) -> None:
    values, _ = scene(1, 300, 280)
    values[:, :10, :7] = 0
    write_tiff(tmp_path / "a.tif", values, 5, names=NAMES, nodata=0)
    (made,) = segmented([tmp_path / "a.tif"], tmp_path / "masks")
    expected = np.where(values[0] > 1000, 9, 3)
    expected[:10, :7] = 255
    with rasterio.open(tmp_path / "a.tif") as image, rasterio.open(made.mask) as mask:
        np.testing.assert_array_equal(mask.read(1), expected)
        assert (mask.crs, mask.transform, mask.dtypes, mask.nodata) == (image.crs, image.transform, ("uint8",), 255)
        assert mask.tags(1) == {"CLASS_3": "dark", "CLASS_9": "bright"}
        colours = mask.colormap(1)
        assert colours[3] != colours[9]
    assert made.pixels == tuple(int((expected == value).sum()) for value in (3, 9))
    table = write_table(tmp_path / "masks", ("dark", "bright"), [made])
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["path"], row["mask"], row["pixels"]) == (str(tmp_path / "a.tif"), "a.tif", str(300 * 280 - 70))
    assert float(row["share_bright"]) == pytest.approx((expected == 9).sum() / (expected != 255).sum(), abs=1e-6)


def test_values_above_a_byte_make_a_mask_of_two(tmp_path: Path) -> None:
    formats = {largest: MaskFormat(values=(0, largest), classes=("a", "b")).dtype for largest in (254, 255)}
    assert formats == {254: "uint8", 255: "uint16"}
    values, _ = scene(1, 40, 40)
    values[:, 0, 0] = 0
    write_tiff(tmp_path / "a.tif", values, names=NAMES, nodata=0)
    (made,) = segmented([tmp_path / "a.tif"], tmp_path / "masks", values=(7, 1200))
    assert np.unique(read(made.mask)).tolist() == [7, 1200, 65535]


def test_an_image_standardised_by_itself_is_so_as_a_whole(tmp_path: Path) -> None:
    values, _ = scene(2, 200, 260)
    values[:, :, 130:] = values[:, :, 130:] // 8  # halves of different brightness
    write_tiff(tmp_path / "a.tif", values, names=NAMES)
    spec = replace(unit_range(NAMES), normalization="image")
    whole = InputTransform(spec, band=NAMES, unit="dn", check="off")(values.astype(np.float32))[0].numpy()
    model = classifier(Threshold(0.5), spec=spec)
    (made,) = segment(model, [tmp_path / "a.tif"], tmp_path / "masks", window_size=WindowSize(64, 32))
    assert (read(made.mask) != np.where(whole > 0.5, 9, 3)).mean() < 1e-4


def test_pictures_without_coordinates(tmp_path: Path) -> None:
    pixels = np.zeros((30, 50, 3), np.uint8)
    pixels[:, 25:] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    spec = unit_range(["B03", "B02"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (made,) = segmented([tmp_path / "a.png"], tmp_path / "masks", spec=spec)
    np.testing.assert_array_equal(read(made.mask), np.where(pixels[..., 0] > 100, 9, 3))
    assert [warning for warning in said if warning.category is NotGeoreferencedWarning] == []


def test_the_same_call_goes_on_where_it_stopped(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.tif" for name in "abc"]
    for place, path in enumerate(files):
        write_tiff(path, scene(place, 60, 60)[0], names=NAMES)
    out = tmp_path / "masks"
    with pytest.raises(Killed):  # while b is written
        segment(classifier(), files, out, progress=RecordedProgress(kill_at=2))
    assert [path.name for path in out.iterdir()] == ["a.tif"]
    written = (out / "a.tif").stat().st_mtime_ns
    made = segmented(files, out)
    assert [one.before for one in made] == [True, False, False]
    assert (out / "a.tif").stat().st_mtime_ns == written
    counted = [tuple(int((read(one.mask) == value).sum()) for value in (3, 9)) for one in made]
    assert [one.pixels for one in made] == counted


def test_a_place_by_control_points_only_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = [
        GroundControlPoint(row, column, 600_000 + column, 5_400_000 - row) for row, column in ((0, 0), (0, 9), (9, 0))
    ]
    write_tiff(tmp_path / "a.tif", scene(0, 40, 40)[0], names=NAMES, transform=None, crs=None)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.gcps = (points, "EPSG:32632")
    segmented([tmp_path / "a.tif"], tmp_path / "masks")
    assert "a.tif is georeferenced by control points only" in caplog.text


@pytest.mark.parametrize("damage", [b"\n", b"one,two\n", b"\xff\xfe\n"], ids=["blank", "short", "not UTF-8"])
def test_a_table_that_was_edited_does_not_stop_the_new_one(damage: bytes, tmp_path: Path) -> None:
    made = [Segmented(image=Path("a.tif"), mask=tmp_path / "a.tif", pixels=(1, 3), before=False)]
    path = write_table(tmp_path, ("dark", "bright"), made)
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    assert write_table(tmp_path, ("dark", "bright"), made).read_bytes() == whole


def test_lines_about_other_images_stay_in_the_table(tmp_path: Path) -> None:
    made = [
        Segmented(image=Path(f"{name}.tif"), mask=tmp_path / f"{name}.tif", pixels=pixels, before=False)
        for name, pixels in {"a": (1, 3), "b": (0, 0), "c": (5, 5)}.items()
    ]
    write_table(tmp_path, ("dark", "bright"), made[:2])
    path = write_table(tmp_path, ("dark", "bright"), [replace(made[0], pixels=(2, 2)), made[2]])
    rows = [line.split(",")[1:] for line in path.read_text().splitlines()[1:]]
    assert rows == [
        ["a.tif", "4", "0.500000", "0.500000"],
        ["b.tif", "0", "", ""],
        ["c.tif", "10", "0.500000", "0.500000"],
    ]


def test_what_stands_in_the_way_is_said_before_anything_is_written(tmp_path: Path) -> None:
    image, out = tmp_path / "a.tif", tmp_path / "masks"
    write_tiff(image, scene(0, 40, 40)[0], names=NAMES)
    other = tmp_path / "x" / "a.tif"
    write_tiff(other, scene(1, 40, 40)[0], names=NAMES)

    def refused(files: Sequence[Path], folder: Path = out, **changes: Any) -> str:
        options = {name: changes.pop(name) for name in ("bands", "units") if name in changes}
        with pytest.raises(UserError) as error:
            segment(classifier(**changes), files, folder, **options)
        return str(error.value)

    assert "2 of 3 files are missing: b.tif, c.tif" in refused([image, Path("b.tif"), Path("c.tif")])
    assert "would both become" in refused([image, other])
    assert "would replace the image" in refused([image], tmp_path)
    said = refused([image], units=["reflectance"])
    assert "pass --unit B03=dn" in said
    assert "a.tif" in said
    assert "no input statistics for band B08" in refused([image], bands=["B08=1"])
    bright = tmp_path / "b.tif"
    write_tiff(bright, np.full((2, 40, 40), 0.25, np.float32), names=NAMES)
    assert "b.tif: band B03: values 0.25 to 0.25 are fractions, not digital numbers" in refused([image, bright])
    assert not out.exists()
    segmented([image], out)
    before = (out / "a.tif").read_bytes()
    assert "is not a mask of the same image, bands and units by the same model" in refused([other])
    assert "is not a mask of the same image, bands and units by the same model" in refused([image], values=(3, 10))
    assert (out / "a.tif").read_bytes() == before
    assert segment(classifier(), [image], out, units=["dn"])[0].before, "dn is what it was read as"
    with pytest.raises(UserError, match="gives every pixel a class"):
        predict(classifier(), [image])
