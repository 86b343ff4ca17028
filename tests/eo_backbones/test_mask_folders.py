"""Images with masks: which value is which class, which pixel has none, and all that can be wrong with the files."""

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from eo_backbones.datasets.labelled import IGNORED
from eo_backbones.datasets.mask_folders import mask_folders, mask_table
from eo_backbones.errors import UserError
from support.masked_images import SIZE_PX, VALUES, scene, write_masked, write_tiff


@pytest.fixture
def land(tmp_path: Path) -> Path:
    return write_masked(tmp_path / "land", count=4)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], **profile: object) -> None:
    with rasterio.open(path) as file:
        values, place = file.read(), {"transform": file.transform, "crs": file.crs}
    write_tiff(path, change(values), **place | profile)


def test_values_become_classes_in_ascending_order(land: Path) -> None:
    opened = mask_folders(land)
    data = opened.data
    assert (opened.values, data.classes) == ((2, 7, 40), ("ground", "field", "roof"))
    assert data.maps is not None
    for row, path in enumerate(data.paths):
        _, mask = scene(row, SIZE_PX, SIZE_PX)
        expected = np.select([mask == value for value in VALUES], [0, 1, 2], IGNORED)
        np.testing.assert_array_equal(data.maps.reader(path), expected)
        np.testing.assert_array_equal(data.labels[row], [np.any(expected == number) for number in range(3)])
    assert data.labels.dtype == bool


def test_classes_without_a_table_are_called_by_their_value(land: Path) -> None:
    (land / "classes.csv").unlink()
    assert mask_folders(land).data.classes == ("2", "7", "40")


@pytest.mark.parametrize("nodata", [0, 9])
def test_pixels_of_the_declared_nodata_value_have_no_class(land: Path, nodata: int) -> None:
    for path in (land / "masks").rglob("*.tif"):
        rewrite(path, lambda mask: np.where(mask == 40, nodata, mask).astype(np.uint8), nodata=nodata)
    opened = mask_folders(land)
    assert opened.values == (2, 7)
    assert opened.data.maps is not None
    _, mask = scene(0, SIZE_PX, SIZE_PX)
    np.testing.assert_array_equal(
        opened.data.maps.reader(opened.data.paths[0]) == IGNORED, (mask == 40) | (mask == 255)
    )


def test_whole_numbers_may_be_stored_as_floats_and_nan_is_no_class(land: Path) -> None:
    before = mask_folders(land).data
    for path in (land / "masks").rglob("*.tif"):
        rewrite(path, lambda mask: np.where(mask == 255, np.nan, mask).astype(np.float32))
    after = mask_folders(land).data
    assert before.maps is not None
    assert after.maps is not None
    for path in after.paths:
        np.testing.assert_array_equal(after.maps.reader(path), before.maps.reader(path))


def test_a_pixel_that_the_image_marks_as_missing_has_no_value(land: Path) -> None:
    path = land / "images" / "a" / "image_1.tif"
    with rasterio.open(path) as file:
        stored, names, place = file.read(), file.descriptions, file.transform
    stored[0, 20:30, :5] = 9999
    write_tiff(path, stored, names=names, nodata=9999, transform=place)
    data = mask_folders(land).data
    values = data.read(1, ["B03", "B04"])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(values), stored == 9999)
    np.testing.assert_array_equal(values[stored != 9999], stored[stored != 9999])
    assert data.read(0, ["B03"]).dtype == np.uint16, "as stored where every pixel has a value"


def test_pictures_have_masks_of_another_suffix(tmp_path: Path) -> None:
    for index in range(3):
        values, mask = scene(index, 40, 48)
        for folder, pixels in (("images", np.stack([values[0] // 20] * 3, axis=-1).astype(np.uint8)), ("masks", mask)):
            path = tmp_path / folder / f"a_{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path.with_suffix(".jpg") if folder == "images" else path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        opened = mask_folders(tmp_path)
    assert [warning for warning in said if warning.category is NotGeoreferencedWarning] == []
    assert opened.values == (2, 7, 40)
    assert opened.data.bands == ("B04", "B03", "B02")


def test_the_digest_knows_masks_and_names(land: Path) -> None:
    first = mask_folders(land).data.digest
    rows = (land / "classes.csv").read_text()
    (land / "classes.csv").write_text(rows.replace("field", "meadow"))
    renamed = mask_folders(land).data.digest
    (land / "classes.csv").write_text(rows)
    assert mask_folders(land).data.digest == first
    rewrite(land / "masks" / "a" / "image_1.tif", lambda mask: np.flip(mask, axis=2).copy())
    assert len({first, renamed, mask_folders(land).data.digest}) == 3


def test_images_whose_mask_holds_no_class_are_left_out(land: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(land / "masks" / "a" / "image_1.tif", lambda mask: np.full_like(mask, 255))
    with caplog.at_level("WARNING"):
        names = [path.name for path in mask_folders(land).data.paths]
    assert names == ["image_0.tif", "image_2.tif", "image_3.tif"]
    assert "1 images whose mask holds no class are left out" in caplog.text


def test_a_table_names_images_masks_and_parts(land: Path) -> None:
    rows = [
        f"images/a/image_{i}.tif,masks/a/image_{i}.tif,{part}" for i, part in enumerate(["train", "val", "", "test"])
    ]
    (land / "list.csv").write_text("\n".join(["path,mask,split", *rows]))
    data = mask_table(land / "list.csv").data
    assert data.official is not None
    assert data.official.parts.tolist() == ["train", "val", "", "test"]
    assert data.classes == ("ground", "field", "roof")
    (land / "list.csv").write_text("\n".join(["path,mask", rows[0].rpartition(",")[0], "a.tif,b.tif", "c.tif,d.tif"]))
    with pytest.raises(UserError, match=r"4 of the 6 files in .* are missing .*: a\.tif, b\.tif, c\.tif, d\.tif;"):
        mask_table(land / "list.csv")
    twice = ["path,mask", "images/a/image_0.tif,masks/a/image_0.tif", "./images/a/image_0.tif,masks/a/image_1.tif"]
    (land / "list.csv").write_text("\n".join(twice))
    with pytest.raises(UserError, match=r"image_0\.tif and .*image_0\.tif are one file; list each image once"):
        mask_table(land / "list.csv")
    (land / "list.csv").write_text("path,label\na.tif,x")
    with pytest.raises(UserError, match="has no column mask; its first line must be path,mask"):
        mask_table(land / "list.csv")


def unpaired(land: Path) -> str:
    (land / "masks" / "a" / "image_0.tif").unlink()
    (land / "masks" / "a" / "image_2.tif").unlink()
    shutil.copy(land / "masks" / "a" / "image_1.tif", land / "masks" / "b.tif")
    return (
        r"2 images have no mask: \S*image_0\.tif, \S*image_2\.tif; 1 masks have no image: \S*b\.tif\. An image and its"
    )


def wrong_masks(land: Path) -> str:
    write_tiff(land / "masks" / "a" / "image_0.tif", np.ones((1, 60, 64), np.uint8))
    write_tiff(land / "masks" / "a" / "image_1.tif", np.ones((3, 64, 64), np.uint8))
    rewrite(land / "masks" / "a" / "image_2.tif", lambda mask: (mask / 2).astype(np.float32))
    rewrite(land / "masks" / "a" / "image_3.tif", lambda mask: mask.astype(np.int16) - 3)
    return (
        r"4 of 4 masks cannot be used: \S*image_0\.tif has 64 x 60 pixels, its image 64 x 64; \S*image_1\.tif has 3 "
        r"bands; \S*image_2\.tif holds 3\.5; \S*image_3\.tif holds -1\. A mask has the size of its image and one band"
    )


def one_class(land: Path) -> str:
    for path in (land / "masks").rglob("*.tif"):
        rewrite(path, lambda mask: np.where(mask == 255, mask, 7).astype(np.uint8))
    return "the 4 masks hold only the value 7; at least two classes are needed"


def no_class(land: Path) -> str:
    for path in (land / "masks").rglob("*.tif"):
        rewrite(path, lambda mask: np.full_like(mask, 255))
    return "hold no class at all"


def measurements(land: Path) -> str:
    for path in (land / "masks").rglob("*.tif"):
        rewrite(path, lambda mask: np.arange(mask.size, dtype=np.uint16).reshape(mask.shape))
    return "hold 4,095 values, 0 to 4095; 255 classes are allowed: pass masks of class numbers"


def unnamed(land: Path) -> str:
    (land / "classes.csv").write_text("value,name\n2,ground\n")
    return "has no name for 7, 40, which the masks hold"


def named_twice(land: Path) -> str:
    (land / "classes.csv").write_text("value,name\n2,ground\n7,ground\n40,roof\n")
    return "line 3: the name ground is given twice"


def value_named_twice(land: Path) -> str:
    (land / "classes.csv").write_text("value,name\n2,ground\n7,field\n07,meadow\n40,roof\n")
    return "line 4: the value 7 is named twice; keep one line"


def no_number(land: Path) -> str:
    (land / "classes.csv").write_text("value,name\nx,ground\n")
    return "line 2: 'x' is not a value of a mask"


def sizes(land: Path) -> str:
    for folder in ("images", "masks"):
        rewrite(land / folder / "a" / "image_2.tif", lambda values: values[:, :50])
    return "images differ in (pixels|band descriptions)"


def no_masks(land: Path) -> str:
    shutil.rmtree(land / "masks")
    return "holds no folder masks; segmentation takes the images from"


def same_name(land: Path) -> str:
    shutil.copy(land / "images" / "a" / "image_0.tif", land / "images" / "a" / "image_0.tiff")
    return "image_0.tif and .*image_0.tiff have the same name; keep one"


@pytest.mark.parametrize(
    "spoil",
    [
        unpaired,
        wrong_masks,
        one_class,
        no_class,
        measurements,
        unnamed,
        named_twice,
        value_named_twice,
        no_number,
        sizes,
        no_masks,
        same_name,
    ],
)
def test_what_is_wrong_is_said_at_once(spoil: Callable[[Path], str], land: Path) -> None:
    said = spoil(land)
    with pytest.raises(UserError) as error:
        mask_folders(land)
    assert re.search(said, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def moved(path: Path, **profile: object) -> None:
    rewrite(path, lambda values: values, **profile)


def transform_of(path: Path) -> Affine:
    with rasterio.open(path) as file:
        return file.transform


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: {"crs": "EPSG:32633"}, "is in EPSG:32633, its image in EPSG:32632"),
        (
            lambda place: {"transform": place @ Affine.translation(0.5, 0.5)},
            "lies up to 0.5 columns and 0.5 rows beside",
        ),
        (lambda place: {"transform": place @ Affine.translation(0, -3)}, "lies up to 0 columns and 3 rows beside its"),
        (lambda place: {"transform": place @ Affine.scale(1.01)}, "lies up to 0.64 columns and 0.64 rows beside its"),
        (lambda place: {"transform": place @ Affine.translation(0, 64) @ Affine.scale(1, -1)}, "is upside down beside"),
        (lambda place: {"transform": place @ Affine.rotation(90)}, "lies up to "),
        (lambda place: {"crs": None, "transform": Affine.identity()}, "has no coordinates, its image has some"),
    ],
)
def test_masks_on_another_grid_are_refused_by_name(
    change: Callable[[Affine], dict[str, object]], said: str, land: Path
) -> None:
    path = land / "masks" / "a" / "image_1.tif"
    moved(path, **change(transform_of(path)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with pytest.raises(UserError, match=rf"1 of 4 masks cannot be used: \S*image_1\.tif {re.escape(said)}"):
            mask_folders(land)


def test_an_image_that_lost_its_coordinates_is_refused(land: Path) -> None:
    moved(land / "images" / "a" / "image_1.tif", crs=None, transform=Affine.identity(), names=("B03", "B04"))
    with pytest.raises(UserError, match=r"\S*masks\S*image_1\.tif has coordinates, its image has none"):
        mask_folders(land)


def test_rounded_coordinates_and_another_spelling_of_the_system_are_the_same_grid(land: Path) -> None:
    spelled = rasterio.crs.CRS.from_proj4("+proj=utm +zone=32 +datum=WGS84 +units=m +no_defs")
    for path in (land / "masks").rglob("*.tif"):
        moved(path, crs=spelled, transform=transform_of(path) @ Affine.translation(0.03, -0.03))
    assert len(mask_folders(land).data) == 4


def test_a_picture_has_no_coordinates_to_compare(land: Path) -> None:
    for path in (land / "masks").rglob("*.tif"):
        with rasterio.open(path) as file:
            Image.fromarray(file.read(1)).save(path.with_suffix(".png"))
        path.unlink()
    assert len(mask_folders(land).data) == 4


@pytest.mark.parametrize("above", [True, False])
def test_folders_of_a_split_are_the_split(above: bool, land: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index, part in enumerate(["train", "train", "val", "test"]):
        for kind in ("images", "masks"):
            target = land / part / kind / f"{index}.tif" if above else land / kind / part / f"{index}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            (land / kind / "a" / f"image_{index}.tif").rename(target)
    for kind in ("images", "masks"):
        (land / kind / "a").rmdir()
        if above:
            (land / kind).rmdir()
    data = mask_folders(land).data
    assert data.official is not None
    parts = dict(zip((path.name for path in data.paths), data.official.parts.tolist(), strict=True))
    assert parts == {"0.tif": "train", "1.tif": "train", "2.tif": "val", "3.tif": "test"}
    assert data.classes == ("ground", "field", "roof")
    assert "its folders are the split (2 train, 1 val, 1 test)" in caplog.text


def test_images_outside_the_parts_of_a_split(land: Path) -> None:
    for index, part in enumerate(["train", "val", "test"]):
        for kind in ("images", "masks"):
            (land / kind / part).mkdir()
            (land / kind / "a" / f"image_{index}.tif").rename(land / kind / part / f"{index}.tif")
    with pytest.raises(UserError, match=r"image_3\.tif lies outside the folders test, train, val that divide"):
        mask_folders(land)


def test_hidden_files_are_neither_images_nor_masks(land: Path) -> None:
    before = mask_folders(land).data.paths
    for place in ("images/.ipynb_checkpoints/image_0.tif", "masks/a/@eaDir/image_0.tif", "images/__MACOSX/a.tif"):
        (land / place).parent.mkdir(parents=True, exist_ok=True)
        (land / place).touch()
    assert mask_folders(land).data.paths == before


def test_copies_of_an_image_need_the_same_mask(land: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("images", "masks"):
        shutil.copy(land / kind / "a" / "image_1.tif", land / kind / "copy.tif")
    assert [path.name for path in mask_folders(land).data.paths] == [f"image_{index}.tif" for index in range(4)]
    assert "1 of 5 images are copies of others" in caplog.text
    rewrite(land / "masks" / "copy.tif", lambda mask: np.flip(mask, axis=2).copy())
    with pytest.raises(UserError, match=r"one image, byte for byte, has two masks: \S*image_1\.tif and \S*copy\.tif"):
        mask_folders(land)


def test_names_of_values_without_a_class(land: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (land / "classes.csv").read_text()
    (land / "classes.csv").write_text(f"{rows}\n255,other")
    with pytest.raises(UserError, match="line 5: 255 stands for pixels without a class; remove the line"):
        mask_folders(land)
    (land / "classes.csv").write_text(f"{rows}\n0,background")
    moved(land / "masks" / "a" / "image_1.tif", nodata=0)
    assert mask_folders(land).data.classes == ("ground", "field", "roof")
    assert "names 0 background, but masks declare it as nodata: its pixels have no class" in caplog.text
    (land / "classes.csv").write_text(rows.replace("field", "Ground"))
    with pytest.raises(UserError, match="the classes 'ground' and 'Ground' differ in upper and lower case"):
        mask_folders(land)
