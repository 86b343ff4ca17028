"""Labels are those on disk: folders of a split, hidden files, tables, one file named twice, copies under two labels."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from eo_backbones.datasets.class_folders import class_folders, label_table
from eo_backbones.datasets.copies import without_copies
from eo_backbones.datasets.image_files import hidden, identical_files
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.splits import official_split
from eo_backbones.datasets.synthetic_files import write_class_folders
from eo_backbones.errors import UserError
from support.own_images import PARTED, write_parts

CLASSES = PARTED


def parts_of(data: LabelledImages) -> dict[str, set[str]]:
    """Part -> paths of its images, below the root."""
    assert data.official is not None
    base = Path(os.path.commonpath([str(path) for path in data.paths]))
    paths = [path.relative_to(base).as_posix() for path in data.paths]
    return {
        part: {p for p, own in zip(paths, data.official.parts, strict=True) if own == part}
        for part in ("train", "val", "test")
    }


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "validation", "TESTING"),
        ("train", "valid", "test"),
        ("train", "dev", "test"),
    ],
)
def test_folders_of_a_split_are_the_split(
    names: tuple[str, str, str], nested: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = class_folders(write_parts(tmp_path / "own", names, nested=nested))
    assert data.classes == CLASSES
    assert np.bincount(data.labels).tolist() == [9, 9]
    found = parts_of(data)
    for part, name in zip(("train", "val", "test"), names, strict=True):
        expected = {f"{label}/{name}" if nested else f"{name}/{label}" for label in CLASSES}
        assert {path.rpartition("/")[0] for path in found[part]} == expected
        assert len(found[part]) == 6
    split = official_split(data, seed=0)
    assert [data.classes[label] for label in data.labels[split.test]] == ["AnnualCrop"] * 3 + ["Forest"] * 3
    lines = [line for line in caplog.messages if "its folders are the split (6 train, 6 val, 6 test)" in line]
    assert len(lines) == 1


def test_the_digest_knows_the_parts_of_folders(tmp_path: Path) -> None:
    root = write_parts(tmp_path / "own", ("train", "test"))
    before = class_folders(root).digest
    for place in ("train/Forest", "test/Forest"):
        (root / place / "image_0.tif").rename(root / place / "image_9.tif")
    first, second = root / "train" / "Forest" / "image_9.tif", root / "test" / "Forest" / "image_1.tif"
    assert len({before, class_folders(root).digest}) == 2
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    assert before != class_folders(root).digest


@pytest.mark.parametrize("names", [("train", "bus"), ("valid", "invalid"), ("test", "control")])
def test_one_name_of_a_part_is_a_class(names: tuple[str, str], tmp_path: Path) -> None:
    made = write_class_folders(tmp_path / "own", classes=CLASSES)
    for old, new in zip(CLASSES, names, strict=True):
        (made / old).rename(made / new)
    data = class_folders(made)
    assert data.classes == tuple(sorted(names))
    assert data.official is None


def another_class(root: Path) -> str:
    (root / "test" / "Forest").rename(root / "test" / "Wood")
    return r"hold different classes: train has no image of Wood; test has no image of Forest; give all of them the same"


def no_image_of_a_class(root: Path) -> str:
    for path in (root / "test" / "Forest").iterdir():
        path.unlink()
    return r"hold different classes: test has no image of Forest"


def a_folder_beside(root: Path) -> str:
    shutil.copytree(root / "train" / "Forest", root / "more")
    return r"holds the folders test, train, which are a split, and beside them more; move"


def outside_the_classes(root: Path) -> str:
    (root / "train" / "Forest" / "image_0.tif").rename(root / "train" / "image_0.tif")
    return r"train/image_0\.tif lies in no class folder: labels are missing"


def two_of_one_part(root: Path) -> str:
    shutil.copytree(root / "train", root / "training")
    return r"of the folders test, train, training in \S+ two are the same part"


def classes_beside_one_part(root: Path) -> str:
    for path in (root / "train").iterdir():
        path.rename(root / path.name)
    shutil.rmtree(root / "train")
    return r"test holds AnnualCrop, Forest, as \S+ does: is it the test part\? Then move the folders beside it into"


def train_alone(root: Path) -> str:
    shutil.rmtree(root / "test")
    return r"holds one class only, train; pass the folder above it, with all classes, or \S+train if AnnualCrop, Forest"


def alike(root: Path) -> str:
    for part in ("train", "test"):
        shutil.move(root / part / "AnnualCrop", root / part / "forest ")
    return r"the classes 'Forest' and 'forest ' differ in upper and lower case, blanks or accents only"


def unwritable(root: Path) -> str:
    for part in ("train", "test"):
        shutil.move(root / part / "Forest", root / part / "Fo\nrest")
    return r"the class name 'Fo\\nrest' holds a character that cannot be written"


@pytest.mark.parametrize(
    "spoil",
    [
        another_class,
        no_image_of_a_class,
        a_folder_beside,
        outside_the_classes,
        two_of_one_part,
        classes_beside_one_part,
        train_alone,
        alike,
        unwritable,
    ],
)
def test_folders_that_do_not_fit_together(spoil: object, tmp_path: Path) -> None:
    assert callable(spoil)
    root = write_parts(tmp_path / "own", ("train", "test"))
    with pytest.raises(UserError, match=spoil(root)) as error:
        class_folders(root)
    assert "\n" not in str(error.value)


def test_images_outside_the_parts_in_a_class(tmp_path: Path) -> None:
    root = write_parts(tmp_path / "own", ("train", "test"), nested=True)
    shutil.move(root / "Forest" / "train" / "image_0.tif", root / "Forest" / "image_0.tif")
    with pytest.raises(UserError, match=r"Forest/image_0\.tif lies outside the folders test, train that divide"):
        class_folders(root)


def test_images_and_masks_are_no_classes(tmp_path: Path) -> None:
    root = write_parts(tmp_path / "own", ("train", "test"))
    for part in ("train", "test"):
        (root / part / "AnnualCrop").rename(root / part / "images")
        (root / part / "Forest").rename(root / part / "masks")
    with pytest.raises(UserError, match="holds the folders images and masks, no classes; add --task segmentation"):
        class_folders(root)


@pytest.mark.parametrize(
    "place",
    [
        "Forest/.ipynb_checkpoints/image_0-checkpoint.tif",
        "Forest/deep/.git/a.tif",
        "Forest/__MACOSX/a.tif",
        "Forest/@eaDir/image_0.tif",
        "Forest/._image_0.tif",
        "__MACOSX/Forest/a.tif",
        ".ipynb_checkpoints/a.tif",
        "$RECYCLE.BIN/a.tif",
        "Forest/Thumbs.db",
    ],
)
def test_what_is_hidden_does_not_count(place: str, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / ".own" / "fields", classes=CLASSES)  # the root itself may be hidden
    before = class_folders(root)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(b"no image")
    after = class_folders(root)
    assert (after.paths, after.classes, after.digest) == (before.paths, before.classes, before.digest)
    assert hidden(Path(place)) == (not place.endswith("Thumbs.db"))


def test_images_of_kinds_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_class_folders(tmp_path / "own", classes=CLASSES)
    for name in ("a.nc", "b.NC", "c.img"):
        (root / "Forest" / name).touch()
    assert len(class_folders(root)) == 8
    assert "Forest: 2 .nc files, 1 .img file left out; only .tif, .tiff, .png, .jpg" in caplog.text


# Copies


def test_copies_with_one_label_are_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_class_folders(tmp_path / "own", classes=CLASSES)
    shutil.copy(root / "Forest" / "image_2.tif", root / "Forest" / "copy.tif")
    shutil.copy(root / "Forest" / "image_2.tif", root / "Forest" / "other.tif")
    data = class_folders(root)
    assert sorted(path.name for path in data.paths if path.parent.name == "Forest") == [
        "copy.tif",
        "image_0.tif",
        "image_1.tif",
        "image_3.tif",
    ]
    assert [m for m in caplog.messages if "2 of 10 images are copies of others, byte for byte, such as" in m] != []


def test_copies_stay_where_they_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_parts(tmp_path / "own", ("train", "val", "test"))
    shutil.copy(root / "train" / "Forest" / "image_1.tif", root / "test" / "Forest" / "a.tif")
    shutil.copy(root / "val" / "Forest" / "image_1.tif", root / "test" / "Forest" / "b.tif")
    found = parts_of(class_folders(root))
    assert {part: len(paths) for part, paths in found.items()} == {"train": 6, "val": 6, "test": 6}
    assert "test/Forest/a.tif of " in caplog.text
    assert "each image is used once: where it trains, if a copy does, else where it validates" in caplog.text


def test_one_image_under_two_labels_is_refused(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "own", classes=CLASSES)
    shutil.copy(root / "Forest" / "image_1.tif", root / "AnnualCrop" / "copy.tif")
    with pytest.raises(
        UserError,
        match=r"one image, byte for byte, has two labels: \S+copy\.tif \(AnnualCrop\) and \S+image_1\.tif \(Forest\)",
    ):
        class_folders(root)


def test_identical_files_are_found_by_their_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.bytes(20_000)
    contents = [base, base[:-1] + b"x", base, b"x" + base[1:], b"", b"", rng.bytes(20_000), base]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    expected = [[i for i, other in enumerate(contents) if other == content] for content in dict.fromkeys(contents)]
    assert identical_files(paths) == sorted(group for group in expected if len(group) > 1)


def test_a_set_without_copies_is_returned_as_it_is(tmp_path: Path) -> None:
    data = class_folders(write_class_folders(tmp_path, classes=CLASSES))
    assert without_copies(data) is data


# Tables


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_class_folders(tmp_path / "own", classes=CLASSES)
    return tmp_path / "own" / "labels.csv"


def rows_of(table: Path) -> list[str]:
    paths = sorted(table.parent.rglob("*.tif"))
    return [f"{path.relative_to(table.parent).as_posix()},{path.parent.name}" for path in paths]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_semicolons_and_tabs_separate_columns_too(
    delimiter: str, table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table.write_text("\n".join(["path,label", *rows_of(table)]))
    expected = label_table(table)
    table.write_text("\n".join(line.replace(",", delimiter) for line in ["path,label", *rows_of(table)]))
    data = label_table(table)
    assert (data.paths, data.classes, data.labels.tolist()) == (expected.paths, CLASSES, expected.labels.tolist())
    assert "separate its columns" in caplog.text


def test_what_spreadsheets_write_is_understood(table: Path) -> None:
    rows = rows_of(table)
    text = "\r\n".join(
        ["\ufeffpath, label,,", rows[0] + ",,", "", ",,", *(row.replace(",", ', "') + '",,' for row in rows[1:])]
    )
    table.write_bytes(text.encode())
    data = label_table(table)
    assert (len(data), data.classes) == (8, CLASSES)


def test_a_quoted_label_may_hold_a_comma(table: Path) -> None:
    table.write_text(
        "\n".join(
            [
                "path,label",
                *(
                    row.replace("Forest", '"Forest, mixed"') if row.endswith("Forest") else row
                    for row in rows_of(table)
                ),
            ]
        ).replace('"Forest, mixed"/', "Forest/")
    )
    assert label_table(table).classes == ("AnnualCrop", "Forest, mixed")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda rows: [*rows, "x.tif,Forest, mixed"],
            r"line 10: 3 values for the 2 columns path,label; put a value that holds a comma into double quotes",
        ),
        (lambda rows: [*rows, "", "x.tif"], r"line 11: 1 value for the 2 columns path,label; write all of them"),
        (lambda rows: [f"{row},train" for row in rows[:-1]] + [rows[-1]], r"line 2: 3 values for the 2 columns"),
        (
            lambda rows: [*rows, "./Forest/image_0.tif,Forest"],
            r"lines 6 and 10: Forest/image_0\.tif and \./Forest/image_0\.tif are one file; list",
        ),
        (
            lambda rows: [*rows, "Forest/../Forest/image_0.tif,Water"],
            r"lines 6 and 10, with the labels Forest and Water: Forest/image_0\.tif and Forest/\.\./\S+ are one file",
        ),
        (
            lambda rows: [*rows[:-1], rows[-1].replace(",Forest", ",forest")],
            r"column label: the classes 'Forest' and 'forest' differ in upper and lower case",
        ),
        (lambda rows: [*rows, '"x.tif,Forest'], r"cannot be read as a table \(unexpected end of data\)"),
    ],
)
def test_rows_that_are_not_what_they_seem(change: object, said: str, table: Path) -> None:
    assert callable(change)
    table.write_text("\n".join(["path,label", *change(rows_of(table))]))
    with pytest.raises(UserError, match=said):
        label_table(table)


def test_headers_that_are_not_what_they_seem(table: Path) -> None:
    for header, said in (
        ("path,label,label", "has the column 'label' twice"),
        ("path;label", "3 values for the 2 columns"),
    ):
        row = "Forest/image_0.tif,Forest,Water" if "," in header else "Forest/image_0.tif;Forest;Water"
        table.write_text(f"{header}\n{row}\n")
        with pytest.raises(UserError, match=said):
            label_table(table)


@pytest.mark.parametrize("way", ["symlink", "absolute"])
def test_a_file_named_in_another_way_is_the_same_file(way: str, table: Path) -> None:
    image = table.parent / "Forest" / "image_0.tif"
    other = str(image)
    if way == "symlink":
        (table.parent / "link.tif").symlink_to(image)
        other = "link.tif"
    table.write_text("\n".join(["path,label", *rows_of(table)[:8], f"{other},Water"]))
    with pytest.raises(UserError, match="with the labels Forest and Water"):
        label_table(table)


def test_copies_across_the_parts_of_a_table(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(table.parent / "Forest" / "image_0.tif", table.parent / "Forest" / "image_7.tif")
    parts = ["train", "val", "test", "test", "train", "val", "test", "test", "train"]
    rows = sorted(rows_of(table))
    table.write_text("\n".join(["path,label,split", *(f"{row},{part}" for row, part in zip(rows, parts, strict=True))]))
    found = parts_of(label_table(table))
    assert rows[-1].startswith("Forest/image_7.tif")
    assert "Forest/image_0.tif" in found["train"]
    assert "Forest/image_7.tif" not in set().union(*found.values())
    assert "Forest/image_7.tif of " in caplog.text
