"""BigEarthNet: patches, labels of both versions, bands of three sizes, both sensors."""

import csv
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from eo_backbones.bands import LAYOUTS
from eo_backbones.datasets import open_dataset
from eo_backbones.datasets.bigearthnet import BIGEARTHNET_CLASSES, bigearthnet, label_numbers
from eo_backbones.datasets.synthetic import scene
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import read_bands
from support.synthetic_layouts import write_bigearthnet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patches, version 2; do not change it."""
    return write_bigearthnet(tmp_path_factory.mktemp("bigearthnet"), patches=6)


@pytest.fixture
def damageable(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "data")
    return tmp_path / "data"


def test_labels_are_what_covers_the_patch(folder: Path) -> None:
    data = bigearthnet(folder)
    assert data.multilabel
    assert data.labels.dtype == bool
    assert data.labels.shape == (6, 19)
    assert data.classes[8:11] == ("Broad-leaved forest", "Coniferous forest", "Mixed forest")
    names = {1: "Mixed forest", 6: "Arable land", 7: "Urban fabric", 4: "Pastures", 10: "Inland waters"}
    shares = np.bincount(scene(0, "AnnualCrop", 120, index=0, level="L2A", native=True).classmap.ravel()) / 120**2
    expected = {names[code] for code in np.flatnonzero(shares >= 0.05)}
    assert {data.classes[label] for label in np.flatnonzero(data.labels[0])} == expected


def test_bands_of_both_sensors_come_at_120_pixels_in_their_units(folder: Path) -> None:
    data = bigearthnet(folder)
    assert data.bands == (*LAYOUTS["bigearthnet-s2"], "VV", "VH")
    assert (data.unit_of("B8A"), data.unit_of("VH")) == ("dn", "db")
    made = scene(0, "Forest", 120, index=1, level="L2A", native=True)
    image = data.read(1, ["vh", "B09", "B8A", "B02"])
    assert image.shape == (4, 120, 120)
    np.testing.assert_array_equal(image[0], made.s1["VH"])
    np.testing.assert_array_equal(image[1], np.kron(made.s2["B09"], np.ones((6, 6))))
    np.testing.assert_array_equal(image[2], np.kron(made.s2["B8A"], np.ones((2, 2))))
    np.testing.assert_array_equal(image[3], made.s2["B02"])
    assert data.read(1, ["B11"]).dtype == np.uint16


@pytest.mark.parametrize("labels", ["parquet", "json"])
def test_every_form_of_labels_says_the_same(labels: str, folder: Path, tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, patches=6, labels=labels)  # type: ignore[arg-type]
    other, data = bigearthnet(tmp_path), bigearthnet(folder)
    np.testing.assert_array_equal(other.labels, data.labels)
    assert other.ids == data.ids
    assert other.digest == data.digest
    np.testing.assert_array_equal(other.read(2, ["VV"]), data.read(2, ["VV"]))


def test_the_tables_split_is_the_official_one(folder: Path) -> None:
    official = bigearthnet(folder).official
    assert official is not None
    assert official.parts.tolist() == ["train", "val", "test"] * 2
    assert official.source == "column split of metadata.csv"


def test_a_table_as_pandas_saves_it(damageable: Path) -> None:
    table = damageable / "metadata.csv"
    rows = list(csv.DictReader(table.open()))
    before = bigearthnet(damageable).labels
    for row in rows:  # numpy prints lists without commas
        row["labels"] = row["labels"].replace("', '", "' '")
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    np.testing.assert_array_equal(bigearthnet(damageable).labels, before)


def test_sentinel_1_alone(damageable: Path) -> None:
    shutil.rmtree(damageable / "BigEarthNet-S2")
    data = bigearthnet(damageable)
    assert data.bands == ("VV", "VH")
    assert len(data) == 6
    np.testing.assert_array_equal(
        data.read(0, ["VV"])[0], scene(0, "AnnualCrop", 120, level="L2A", native=True).s1["VV"]
    )


def test_patches_without_a_twin_are_left_out_and_said(damageable: Path, caplog: pytest.LogCaptureFixture) -> None:
    (first, *_) = sorted((damageable / "BigEarthNet-S1").glob("*/*"))
    shutil.rmtree(first)
    with caplog.at_level(logging.WARNING):
        assert len(bigearthnet(damageable)) == 5
    assert "1 of 6 patches without a Sentinel-1 patch are left out" in caplog.text


def test_the_digest_follows_labels_and_pixels(damageable: Path) -> None:
    before = bigearthnet(damageable).digest
    table = damageable / "metadata.csv"
    text = table.read_text()
    table.write_text(text.replace("Mixed forest", "Coniferous forest"))
    assert bigearthnet(damageable).digest != before
    table.write_text(text)
    assert bigearthnet(damageable).digest == before
    (band,) = damageable.glob("BigEarthNet-S2/*/*_26_57/*_B04.tif")
    content = bytearray(band.read_bytes())
    content[1000] ^= 1
    band.write_bytes(content)
    assert bigearthnet(damageable).digest != before


def test_43_names_become_19_labels() -> None:
    found = label_numbers(["Peatbogs", "Water bodies", "Burnt areas", "Transitional woodland/shrub"], Path("x"))
    assert {BIGEARTHNET_CLASSES[number] for number in found} == {
        "Inland wetlands",
        "Inland waters",
        "Transitional woodland, shrub",
    }
    with pytest.raises(UserError, match="unknown BigEarthNet label 'Peatbog'; did you mean Peatbogs"):
        label_numbers(["Peatbog"], Path("x"))


def test_missing_labels(damageable: Path) -> None:
    (damageable / "metadata.csv").rename(damageable / "elsewhere.csv")
    with pytest.raises(UserError, match=r"6 BigEarthNet patches, but no labels: there is neither metadata\.parquet"):
        bigearthnet(damageable)
    (damageable / "metadata.csv").write_text("patch_id,labels\n")
    with pytest.raises(UserError, match="has no column split, s1_name"):
        bigearthnet(damageable)
    (damageable / "metadata.csv").write_text("patch_id,labels,split,s1_name\nx,['Pastures'],train,y\n")
    with pytest.raises(UserError, match="names none of them"):
        bigearthnet(damageable)


def test_damaged_label_files(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, patches=1, labels="json")
    (file,) = tmp_path.glob("BigEarthNet-S2/*/*/*.json")
    file.write_text(json.dumps({"label": []}))
    with pytest.raises(UserError, match="is not a BigEarthNet label file"):
        bigearthnet(tmp_path)


def test_a_parquet_table_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bigearthnet(tmp_path, patches=1, labels="parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'eo-backbones\[eval\]', or save the table as metadata.csv"):
        bigearthnet(tmp_path)
    monkeypatch.undo()
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"cannot read .*metadata.parquet"):
        bigearthnet(tmp_path)


def test_a_folder_without_patches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no BigEarthNet patches found"):
        open_dataset("bigearthnet", tmp_path)
    with pytest.raises(UserError, match="no folder"):
        open_dataset("bigearthnet", tmp_path / "none")


def test_a_band_of_another_size(damageable: Path) -> None:
    small, large = (sorted(damageable.glob(f"BigEarthNet-S2/*/*/*_{name}.tif"))[0] for name in ("B09", "B02"))
    shutil.copy(damageable / large, damageable / small)
    bigearthnet(damageable).read(0, ["B09"])  # 120 pixels are as good as 20
    read_bands(small, ["B09=1"])
    import rasterio

    with rasterio.open(small, "w", driver="GTiff", width=50, height=50, count=1, dtype="uint16") as target:
        target.write(np.ones((1, 50, 50), np.uint16))
    with pytest.raises(UserError, match="has 50 x 50 pixels; BigEarthNet bands have 120, 60 or 20"):
        bigearthnet(damageable).read(0, ["B09"])


def test_the_real_sample(shared_data: Path) -> None:
    """Version 1: label files with CORINE's 43 names, no product folders."""
    data = bigearthnet(shared_data / "bigearthnet_sample")
    labels = {path.name: np.flatnonzero(row) for path, row in zip(data.paths, data.labels, strict=True)}
    named = {data.classes[label] for label in labels["S2B_MSIL2A_20170924T93020_69_24"]}
    assert named == {
        "Coniferous forest",
        "Mixed forest",
        "Transitional woodland, shrub",
        "Inland wetlands",
        "Inland waters",
    }
    assert data.official is None
    index = [path.name for path in data.paths].index("S2B_MSIL2A_20170924T93020_69_24")
    image = data.read(index, ["B01", "B02", "VV"])
    assert image.shape == (3, 120, 120)
    assert (image[0].min(), image[0].max()) == (5, 164)
    assert image[2].max() == pytest.approx(-0.15900202)
