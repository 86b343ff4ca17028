"""Splits are stratified, disjoint, repeatable, and refuse sets that are too small."""

from pathlib import Path

import numpy as np
import pytest

from eo_backbones.datasets.eurosat import eurosat_ms
from eo_backbones.datasets.labelled import strata_of
from eo_backbones.datasets.splits import Split, seeded_split, standard_split, subset_of
from eo_backbones.errors import UserError
from support.synthetic_data import PER_CLASS, eurosat_ms_folder

__all__ = ["eurosat_ms_folder"]

LABELS = np.repeat(np.arange(4), [100, 50, 10, 3])


def parts(split: Split) -> list[np.ndarray]:
    return [split.train, split.val, split.test]


def test_every_image_is_in_one_part_and_every_class_in_all() -> None:
    split = seeded_split(LABELS, seed=0)
    assert sorted(np.concatenate(parts(split)).tolist()) == list(range(len(LABELS)))
    counts = [np.bincount(LABELS[part], minlength=4).tolist() for part in parts(split)]
    assert counts == [[60, 30, 6, 1], [20, 10, 2, 1], [20, 10, 2, 1]]
    assert all((np.diff(part) > 0).all() for part in parts(split))


def test_uneven_fractions_leave_something_in_every_part() -> None:
    split = seeded_split(np.repeat([0, 1], [4, 3]), seed=0, fractions=(0.1, 0.45, 0.45))
    assert [len(part) for part in parts(split)] == [2, 2, 3]
    assert all(set(np.repeat([0, 1], [4, 3])[part]) == {0, 1} for part in parts(split))


def test_the_seed_alone_decides() -> None:
    again = zip(parts(seeded_split(LABELS, seed=7)), parts(seeded_split(LABELS, seed=7)), strict=True)
    assert all(np.array_equal(one, two) for one, two in again)
    assert not np.array_equal(seeded_split(LABELS, seed=7).test, seeded_split(LABELS, seed=8).test)
    # PCG64 gives the same numbers on every platform; a change would silently change published results.
    assert seeded_split(LABELS, seed=7).test[-4:].tolist() == [141, 155, 156, 162]


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)])
def test_fractions_that_are_none(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="three positive numbers that sum to 1"):
        seeded_split(LABELS, seed=0, fractions=fractions)


def test_a_class_of_two_images_is_too_small_to_split() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    with pytest.raises(UserError, match="too small to split: of its 5 images in 2 classes, class River has 2"):
        seeded_split(labels, seed=0, classes=("Forest", "River"))
    with pytest.raises(UserError, match=r"class number 1 has 2; .* at least 3 images of every class"):
        seeded_split(labels, seed=0)
    with pytest.raises(UserError, match="it has no image"):
        seeded_split(np.array([], np.int64), seed=0)


def test_the_eight_original_patches_are_too_small_to_split(shared_data: Path) -> None:
    data = eurosat_ms(shared_data / "eurosat_ms")
    with pytest.raises(UserError, match="too small to split: of its 8 images in 4 classes, class Pasture has 1"):
        seeded_split(data.labels, seed=0, classes=data.classes)


def write_lists(folder: Path, prefix: str, names: dict[str, list[str]]) -> None:
    for part, entries in names.items():
        (folder / f"{prefix}-{part}.txt").write_text("".join(f"{entry}\n" for entry in entries))


@pytest.mark.parametrize(("name", "prefix"), [("standard", "eurosat"), ("spatial", "eurosat-spatial")])
def test_published_lists_name_jpg_files_for_both_forms(
    name: str, prefix: str, eurosat_ms_folder: Path, tmp_path: Path
) -> None:
    data = eurosat_ms(eurosat_ms_folder)
    write_lists(
        tmp_path,
        prefix,
        {"train": ["River_2.jpg", "Forest_1.jpg"], "val": ["River_1.jpg"], "test": ["Forest_3.jpg", "SeaLake_4.jpg"]},
    )
    split = standard_split(data, tmp_path, name=name)
    assert [[data.ids[index] for index in part] for part in parts(split)] == [
        ["Forest/Forest_1", "River/River_2"],
        ["River/River_1"],
        ["Forest/Forest_3", "SeaLake/SeaLake_4"],
    ]
    assert split.name == name


def test_images_missing_from_the_lists_are_counted(
    eurosat_ms_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = eurosat_ms(eurosat_ms_folder)
    absent = f"Forest_{PER_CLASS + 1}.jpg"
    write_lists(tmp_path, "eurosat", {"train": ["Forest_1.jpg", absent], "val": ["River_1.jpg"], "test": ["River_2"]})
    with pytest.raises(UserError, match="1 of the 4 images in the standard split lists are not in eurosat-ms"):
        standard_split(data, tmp_path)
    split = standard_split(data, tmp_path, allow_missing=True)
    assert [data.ids[index] for index in split.train] == ["Forest/Forest_1"]
    assert "1 of 4 images" in caplog.text


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["River_1.jpg"], "val": ["River_2.jpg"]}, r"no split list .*eurosat-test\.txt"),
        ({"train": ["River_1.jpg"], "val": ["River_1.jpg"], "test": []}, "name River_1 twice"),
        ({"train": ["River_1.jpg"], "val": ["River_2.jpg"], "test": []}, "no image of the standard split's test list"),
    ],
)
def test_lists_that_are_not_the_published_ones(
    lists: dict[str, list[str]], message: str, eurosat_ms_folder: Path, tmp_path: Path
) -> None:
    write_lists(tmp_path, "eurosat", lists)
    with pytest.raises(UserError, match=message):
        standard_split(eurosat_ms(eurosat_ms_folder), tmp_path)


def test_an_unknown_split_names_the_known_ones(eurosat_ms_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown split 'spatial2'; did you mean spatial"):
        standard_split(eurosat_ms(eurosat_ms_folder), tmp_path, name="spatial2")


def test_label_fractions_are_stratified_and_nested() -> None:
    indices = np.arange(10, len(LABELS))
    tenth = subset_of(LABELS, indices, fraction=0.1, seed=3)
    half = subset_of(LABELS, indices, fraction=0.5, seed=3)
    assert np.bincount(LABELS[tenth]).tolist() == [9, 5, 1, 1]
    assert np.bincount(LABELS[half]).tolist() == [45, 25, 5, 2]
    assert set(tenth) <= set(half) <= set(indices)
    assert np.array_equal(subset_of(LABELS, indices, fraction=1.0, seed=3), indices)
    assert not np.array_equal(subset_of(LABELS, indices, fraction=0.1, seed=4), tenth)


def test_shots_take_the_same_number_of_every_class() -> None:
    chosen = subset_of(LABELS, np.arange(len(LABELS)), shots=3, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [3, 3, 3, 3]
    with pytest.raises(UserError, match="4 shots asked for, but a class has only 3 images"):
        subset_of(LABELS, np.arange(len(LABELS)), shots=4, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a label fraction or a number of shots"),
        ({"fraction": 0.5, "shots": 1}, "either a label fraction or a number of shots"),
        ({"fraction": 0.0}, "not between 0 and 1"),
        ({"fraction": 10.0}, "not between 0 and 1"),
        ({"shots": 0}, "0 shots leave nothing"),
    ],
)
def test_subsets_that_make_no_sense(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        subset_of(LABELS, np.arange(len(LABELS)), seed=0, **options)


def test_strata_serve_rare_labels_first() -> None:
    labels = np.zeros((12, 4), dtype=bool)
    labels[:, 0] = True  # all
    labels[:6, 1] = True
    labels[4:8, 2] = True  # rarer than 1, so it takes the two that have both
    labels[:2, 3] = True  # too few for a group of their own
    assert strata_of(labels).tolist() == [1] * 4 + [2] * 4 + [0] * 4
    assert strata_of(labels[:, 1:]).tolist() == [0] * 4 + [1] * 4 + [3] * 4  # the rest has a group of its own
    assert strata_of(labels[:9, 1:]).tolist() == [0] * 4 + [1] * 4 + [0]  # or joins the largest


def test_rare_labels_reach_every_part() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((200, 10)) < np.linspace(0.02, 0.6, 10)
    split = seeded_split(strata_of(labels), seed=0)
    for part in (split.train, split.val, split.test):
        assert labels[part].any(axis=0).all()
