"""Both forms of EuroSAT, from a folder and from an archive, with the right band for each name."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eo_backbones.bands import LAYOUTS
from eo_backbones.datasets import DATASETS, open_dataset
from eo_backbones.datasets.eurosat import EUROSAT_CLASSES, eurosat_ms, eurosat_rgb
from eo_backbones.datasets.synthetic import scene
from eo_backbones.errors import UserError
from support.synthetic_data import PER_CLASS, eurosat_ms_folder, eurosat_rgb_folder

__all__ = ["eurosat_ms_folder", "eurosat_rgb_folder"]


def zipped(folder: Path, archive: Path, prefix: str) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in folder.rglob("*.*"):
            target.write(path, f"{prefix}{path.relative_to(folder)}")
        target.writestr("__MACOSX/Forest/._Forest_1.tif", b"junk")
    return archive


@pytest.fixture
def damageable(eurosat_ms_folder: Path, tmp_path: Path) -> Path:
    """Two classes of the multispectral folder, to spoil."""
    for name in ("Forest", "River"):
        shutil.copytree(eurosat_ms_folder / name, tmp_path / "data" / name)
    return tmp_path / "data"


def test_classes_labels_and_names(eurosat_ms_folder: Path) -> None:
    data = eurosat_ms(eurosat_ms_folder)
    assert data.classes == EUROSAT_CLASSES
    assert len(data) == len(data.ids) == 10 * PER_CLASS
    assert data.labels.dtype == np.int64
    assert np.bincount(data.labels).tolist() == [PER_CLASS] * 10
    assert data.ids[PER_CLASS] == "Forest/Forest_1"
    assert data.labels[PER_CLASS] == 1
    assert set(data.units) == {"dn"}
    assert data.bands[-1] == "B8A"


def test_bands_come_by_name_with_b8a_last_in_the_file(eurosat_ms_folder: Path) -> None:
    data = eurosat_ms(eurosat_ms_folder)
    index = data.ids.index("River/River_2")
    made = scene(0, "River", 64, index=1)
    for name in LAYOUTS["eurosat-ms"]:
        np.testing.assert_array_equal(data.read(index, [name])[0], made.s2[name])
    both = data.read(index, ["nnir", "B2"])
    np.testing.assert_array_equal(both, np.stack([made.s2["B8A"], made.s2["B02"]]))
    assert both.dtype == np.uint16


def test_rgb_channels_are_b04_b03_b02_of_the_display_stretch(eurosat_rgb_folder: Path) -> None:
    data = eurosat_rgb(eurosat_rgb_folder)
    assert (data.unit_of("B03"), data.bands) == ("uint8", ("B04", "B03", "B02"))
    index = data.ids.index("Pasture/Pasture_1")
    made = scene(0, "Pasture", 64)
    for name in data.bands:
        grey = data.read(index, [name])[0]
        assert grey.dtype == np.uint8
        # 2750 digital numbers are 255 grey levels; JPEG costs a few levels of each pixel, hardly any of the mean
        expected = (made.s2[name] / 2750 * 255).clip(0, 255)
        assert grey.mean() == pytest.approx(expected.mean(), abs=1.0)
        assert np.abs(grey - expected).mean() < 4


@pytest.mark.parametrize("kind", ["eurosat-ms", "eurosat-rgb"])
def test_class_folders_at_any_depth_and_archives_read_alike(
    kind: str, eurosat_ms_folder: Path, eurosat_rgb_folder: Path, tmp_path: Path
) -> None:
    folder = {"eurosat-ms": eurosat_ms_folder, "eurosat-rgb": eurosat_rgb_folder}[kind]
    nested = tmp_path / "unpacked" / "ds" / "images"
    shutil.copytree(folder, nested)
    archive = zipped(folder, tmp_path / "all.zip", "ds/images/remote_sensing/tif/")
    plain, deep, packed = (open_dataset(kind, root) for root in (folder, tmp_path / "unpacked", archive))
    assert plain.ids == deep.ids == packed.ids
    assert plain.digest == deep.digest == packed.digest
    for index in (0, len(plain) - 1):
        expected = plain.read(index, ["B03", "B02"])
        np.testing.assert_array_equal(deep.read(index, ["B03", "B02"]), expected)
        np.testing.assert_array_equal(packed.read(index, ["B03", "B02"]), expected)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["all.zip", "unpacked"]


def test_the_digest_follows_content_and_names(damageable: Path) -> None:
    before = eurosat_ms(damageable).digest
    assert len(before) == 16
    assert eurosat_ms(damageable).digest == before
    one, two = damageable / "River" / "River_1.tif", damageable / "River" / "River_2.tif"
    content = one.read_bytes()
    one.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert eurosat_ms(damageable).digest != before
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert eurosat_ms(damageable).digest != before


def test_a_band_that_the_set_lacks_or_nobody_has(eurosat_rgb_folder: Path) -> None:
    data = eurosat_rgb(eurosat_rgb_folder)
    with pytest.raises(UserError, match="eurosat-rgb has no band B08; it has B04, B03, B02"):
        data.read(0, ["nir"])
    with pytest.raises(UserError, match="unknown band 'B13'; did you mean"):
        data.check_bands(["B13"])
    assert data.check_bands(["red", "b3"]) == ("B04", "B03")


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'eurosat'; did you mean eurosat-ms"):
        open_dataset("eurosat", tmp_path)
    assert tuple(DATASETS) == ("eurosat-ms", "eurosat-rgb", "bigearthnet", "dfc2020", "sen12ms", "folder")


@pytest.mark.parametrize("kind", ["eurosat-ms", "eurosat-rgb"])
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: root / "absent", "absent does not exist; pass the folder"),
        (lambda root: root, "holds no EuroSAT class folder with .* files"),
        (lambda root: _file(root / "notes.txt", b"x"), "neither a folder nor a .zip"),
        (lambda root: _file(root / "broken.zip", b"PK\3\4"), r"broken\.zip is not a readable \.zip archive"),
    ],
)
def test_roots_that_hold_no_data_set(kind: str, prepare: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(kind, prepare(tmp_path))
    assert "\n" not in str(caught.value)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_one_class_is_refused(damageable: Path) -> None:
    for root in (damageable / "River", damageable):
        shutil.rmtree(damageable / "Forest", ignore_errors=True)
        with pytest.raises(UserError, match="holds one class only, River; pass the folder above"):
            eurosat_ms(root)


def test_a_class_in_two_places_is_refused(damageable: Path) -> None:
    shutil.copytree(damageable / "River", damageable / "copy" / "River")
    with pytest.raises(UserError, match="class River twice, in River and in copy/River"):
        eurosat_ms(damageable)


def test_folders_that_are_no_class_are_left_out_and_logged(damageable: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(damageable / "River", damageable / "previews")
    assert eurosat_ms(damageable).classes == ("Forest", "River")
    assert "previews are left out" in caplog.text


def test_a_truncated_tif_is_named(damageable: Path) -> None:
    path = damageable / "Forest" / "Forest_2.tif"
    path.write_bytes(path.read_bytes()[:5000])
    data = eurosat_ms(damageable)
    data.read(0, ["B02"])
    with pytest.raises(UserError, match=r"cannot read .*Forest_2\.tif: it is truncated"):
        data.read(1, ["B02"])


def test_a_truncated_member_of_an_archive_is_named(damageable: Path, tmp_path: Path) -> None:
    path = damageable / "Forest" / "Forest_2.tif"
    path.write_bytes(path.read_bytes()[:5000])
    data = eurosat_ms(zipped(damageable, tmp_path / "all.zip", ""))
    with pytest.raises(UserError, match=r"cannot read .*all\.zip/Forest/Forest_2\.tif: it is truncated"):
        data.read(1, ["B02"])


def test_a_file_with_other_bands_is_named(damageable: Path) -> None:
    shutil.copy(damageable / "Forest" / "Forest_1.tif", damageable / "Forest" / "Forest_9.tif")
    import rasterio

    with rasterio.open(
        damageable / "Forest" / "Forest_1.tif", "w", driver="GTiff", width=64, height=64, count=4, dtype="uint16"
    ) as target:
        target.write(np.ones((4, 64, 64), np.uint16))
    with pytest.raises(UserError, match=r"Forest_1\.tif has 4 bands, a eurosat-ms file has 13"):
        eurosat_ms(damageable).read(0, ["B02"])


def test_spoiled_jpegs_are_named_with_size_and_expectation(eurosat_rgb_folder: Path, tmp_path: Path) -> None:
    for name in ("Forest", "River"):
        shutil.copytree(eurosat_rgb_folder / name, tmp_path / name)
    Image.new("RGB", (60, 64)).save(tmp_path / "Forest" / "Forest_1.jpg")
    Image.new("L", (64, 64)).save(tmp_path / "Forest" / "Forest_2.jpg")
    whole = (tmp_path / "Forest" / "Forest_3.jpg").read_bytes()
    (tmp_path / "Forest" / "Forest_3.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "Forest" / "Forest_4.jpg").write_bytes(b"no jpeg at all")
    data = eurosat_rgb(tmp_path)
    for index, message in enumerate(
        (
            r"Forest_1\.jpg has 60 x 64 pixels; EuroSAT images have 64 x 64",
            r"Forest_2\.jpg is an image of mode L",
            r"cannot read .*Forest_3\.jpg: truncated",
            r"cannot read .*Forest_4\.jpg: truncated or not a JPEG",
        )
    ):
        with pytest.raises(UserError, match=message) as caught:
            data.read(index, ["B04"])
        assert "\n" not in str(caught.value)


def test_known_values_of_an_original_patch(shared_data: Path) -> None:
    data = eurosat_ms(shared_data / "eurosat_ms")
    assert data.classes == ("AnnualCrop", "Forest", "Pasture", "SeaLake")
    narrow, broad = data.read(data.ids.index("Forest/Forest_1"), ["B8A", "B08"])
    assert narrow.mean() == pytest.approx(3114.87, abs=0.01)
    assert broad.mean() == pytest.approx(2612.36, abs=0.01)
