"""Retrieval: recalls worked out by hand and by sorting, tiles that do not overlap, one line for what is missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones.evaluation.encoders import open_model
from eo_backbones.evaluation.retrieval import between, features, read_places, recall_matrix, write_matrices


def sorted_recall(asked: np.ndarray, answers: np.ndarray, rank: int) -> float:
    """Recall by sorting the cosines of each place, one after the other."""

    def prepared(values: np.ndarray) -> np.ndarray:
        return (values - values.mean(axis=0)) / values.std(axis=0)

    asked, answers = prepared(asked), prepared(answers)
    hits = 0
    for place, one in enumerate(asked):
        cosines = [float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)) for other in answers]
        hits += place in np.argsort(cosines)[::-1][:rank]
    return hits / len(asked)


@pytest.mark.parametrize("rank", [1, 5])
def test_recall_is_that_of_sorting(rank: int) -> None:
    generator = np.random.default_rng(0)
    places = generator.normal(size=(40, 6))
    found = {name: places * scale + generator.normal(size=places.shape) for name, scale in (("B03", 2), ("VV", 1))}
    matrix = recall_matrix(found, rank=rank)
    for row, asked in enumerate(found.values()):
        for column, answers in enumerate(found.values()):
            assert matrix[row, column] == pytest.approx(sorted_recall(asked, answers, rank))
    assert matrix[0, 0] == matrix[1, 1] == 1
    assert 0 < matrix[0, 1] < 1


def test_an_offset_and_a_scale_of_a_band_do_not_count() -> None:
    places = np.random.default_rng(1).normal(size=(20, 5))
    assert recall_matrix({"B03": places, "VV": places * [3, 1, 2, 9, 4] + 7}, rank=1).min() == 1


def test_features_that_are_all_alike_find_nothing() -> None:
    """Ties count against the model: a collapsed encoder must not look perfect."""
    matrix = recall_matrix({"B03": np.ones((10, 4)), "VV": np.ones((10, 4))}, rank=5)
    assert matrix.max() == 0


def test_the_mean_between_groups_leaves_a_band_with_itself_out() -> None:
    matrix = np.array([[1.0, 0.2, 0.4], [0.6, 1.0, 0.0], [0.8, 0.1, 1.0]])
    bands = ("B02", "B03", "VV")
    assert between(matrix, bands, ("B02", "B03"), ("VV",)) == pytest.approx((0.4 + 0.0 + 0.8 + 0.1) / 4)
    assert between(matrix, bands, ("B02", "B03"), ("B02", "B03")) == pytest.approx((0.2 + 0.6) / 2)


def test_tiles_do_not_overlap_and_features_are_of_each_tile(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=2, sizes=(48,), s2_bands=("B03", "B08"), s1_bands=("VV",))
    names = sorted(path.stem for path in (root / "s2").iterdir())
    bands = ("B08", "VV")
    places = read_places(root, names, bands, side=20)  # 2 x 2 tiles of each, 8 pixels are left over
    whole = read_places(root, names, bands, side=48)
    assert places["B08"].shape == places["VV"].shape == (8, 20, 20)
    np.testing.assert_array_equal(places["VV"][5], whole["VV"][1][:20, 20:40])
    model = open_model("stats", (64,))
    found = features(model, model.settings[0], {"B08": places["B08"]})["B08"]
    assert found.shape == (8, 9)
    reflectance = torch.nn.functional.interpolate(
        torch.from_numpy(places["B08"][:, None] / 10000).clamp(0, 1), (64, 64), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(found[:, 0], reflectance.mean(dim=(1, 2, 3)).numpy(), rtol=1e-4)


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=1, sizes=(32,), s2_bands=("B03",), s1_bands=("VV",))
    name = next((root / "s2").iterdir()).stem
    with pytest.raises(UserError, match="has no B04; its band descriptions name B03"):
        read_places(root, [name], ("B04",), side=16)
    with pytest.raises(UserError, match="there is no"):
        read_places(root, ["elsewhere"], ("B03",), side=16)
    with pytest.raises(UserError, match="no tile of 64 pixels"):
        read_places(root, [name], ("B03",), side=64)


def test_the_picture_has_a_panel_for_each_model(tmp_path: Path) -> None:
    matrix = np.eye(3)
    sizes = []
    for models in (1, 2):
        path = tmp_path / f"{models}.png"
        write_matrices(path, {f"model {number}": matrix for number in range(models)}, ("B02", "B03", "VV"), rank=1)
        sizes.append(Image.open(path).size)
    assert sizes[1][0] == pytest.approx(2 * sizes[0][0], abs=2)
    assert sizes[1][1] == sizes[0][1]
