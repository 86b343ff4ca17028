"""Retrieval: recalls worked out by hand and by sorting, places that do not overlap, one line for what is refused."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eo_backbones.datasets import open_unlabelled
from eo_backbones.datasets.synthetic_files import write_geotiff, write_pairs, write_sen12ms
from eo_backbones.errors import UserError
from eo_backbones.evaluation.encoders import image_statistics
from eo_backbones.evaluation.request import Request
from eo_backbones.evaluation.retrieval.measure import run_retrieval
from eo_backbones.evaluation.retrieval.places import cut_places
from eo_backbones.evaluation.retrieval.recall import between, recall_matrix
from eo_backbones.evaluation.retrieval.records import RetrievalFile
from eo_backbones.evaluation.retrieval.report import write_matrices
from eo_backbones.rasters.reader import read_bands
from support.typed_command import Ended


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


def test_places_are_tiles_that_do_not_overlap(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=3, sizes=(72, 48), s2_bands=("B08", "B03"), s1_bands=("VV",))
    images = open_unlabelled("pairs", root)
    places = cut_places(images, side=20)  # 3 x 3 or 2 x 2 of each, what is left over is not used
    assert len(places) == 9 + 4 + 9
    whole = read_bands(root / "s2" / "synthetic_0001.tif", ["B03", "B08"])
    (row,) = [row for row, path in enumerate(places.paths) if path.name == "synthetic_0001@0,20.tif"]
    np.testing.assert_array_equal(places.read(row, ["B03", "B08"]), whole[:, :20, 20:40])
    radar = read_bands(root / "s1" / "synthetic_0001.tif", ["VV"])
    np.testing.assert_array_equal(places.read(row, ["VV"]), radar[:, :20, 20:40])
    assert {images.unit_of("B03"), images.unit_of("VV")} == {"dn", "db"}


def test_a_place_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=2, sizes=(64,), s2_bands=("B03",), s1_bands=("VV",))
    for sensor in ("s1", "s2"):
        shutil.copy(root / sensor / "synthetic_0001.tif", root / sensor / "synthetic_0002.tif")
    assert len(cut_places(open_unlabelled("pairs", root), side=16)) == 2 * 16


def test_images_are_drawn_until_there_are_enough_places(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=8, sizes=(32,), s2_bands=("B03",), s1_bands=("VV",))
    images = open_unlabelled("pairs", root)
    first, again = (cut_places(images, side=8, most=40) for _ in range(2))
    assert len(first) == 3 * 16
    assert first.paths == again.paths
    assert first.digest == again.digest != cut_places(images, side=8).digest


def test_the_command_writes_recalls_of_all_pairs_of_bands(tmp_path: Path, command: Callable[..., Ended]) -> None:
    root = write_sen12ms(tmp_path / "data", scenes=("ROIs1158_spring/1",), patches=2)
    words = ["--dataset", "sen12ms", "--root", root, "--models", "stats", "--bands", "B03", "B08", "VV", "--json"]
    answer = json.loads(command("evaluate", *words, "--protocol", "retrieval", "--out", tmp_path / "out").out)
    with (tmp_path / "out" / "retrieval.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["asked"], row["found"]) for row in rows] == list(product(("B03", "B08", "VV"), repeat=2))
    assert {row["places"] for row in rows} == {"32"}
    places = cut_places(open_unlabelled("sen12ms", root))
    expected = {}
    for name in ("B03", "B08"):
        tiles = np.concatenate([places.read(row, [name]) for row in range(len(places))]) / 10000
        expected[name] = image_statistics(torch.from_numpy(tiles.clip(0, 1).astype(np.float32))[:, None]).numpy()
    asked = next(row for row in rows if (row["asked"], row["found"]) == ("B03", "B08"))
    for rank in (1, 5):
        recall = sorted_recall(expected["B03"], expected["B08"], rank)
        assert float(asked[f"recall_{rank}"]) == pytest.approx(recall, abs=1e-6)
    assert answer["added"] == 9
    page = (tmp_path / "out" / "retrieval.md").read_text()
    assert "| `stats` | recall@5 |" in page
    for name in (answer["figure_1"], answer["figure_5"]):
        assert Image.open(name).format == "PNG"
    again = json.loads(command("evaluate", *words, "--protocol", "retrieval", "--out", tmp_path / "out").out)
    assert again["added"] == 0
    assert again["rows"] == answer["rows"]


def test_bands_and_models_are_added_to_what_is_there(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=12, sizes=(64,), s2_bands=("B03", "B08"), s1_bands=("VV",))
    request = Request(dataset="pairs", models=("stats",), bands=("B03", "B08"), protocols=("retrieval",))
    folders = {"root": root, "out": tmp_path / "out", "cache": tmp_path / "cache", "device": "cpu"}
    first = run_retrieval(request, **folders)
    both = run_retrieval(replace(request, models=("raw",), bands=()), **folders)
    assert (first.added, both.added) == (4, 9)
    wider = run_retrieval(replace(request, bands=("B03", "VV")), **folders)
    kept = {(row.asked, row.found): row.recall_5 for row in wider.results.rows if row.model == "stats"}
    assert len(kept) == 4 + 3
    assert {(row.asked, row.found): row.recall_5 for row in first.results.rows}.items() <= kept.items()


def test_batch_norm_of_an_adapted_network_follows_each_band(tmp_path: Path) -> None:
    """Untrained networks whose statistics follow the band differ from those whose do not."""
    root = write_pairs(tmp_path / "pairs", count=12, sizes=(64,), s2_bands=("B03", "B08"), s1_bands=("VV",))
    request = Request(dataset="pairs", models=("random", "random-bn"), bands=("B03", "VV"), sizes=(32,))
    outcome = run_retrieval(request, root=root, out=tmp_path / "out", cache=tmp_path / "cache", device="cpu")
    recalls = {
        model: [row.recall_5 for row in outcome.results.rows if row.model == model and row.asked != row.found]
        for model in request.models
    }
    assert recalls["random"] != recalls["random-bn"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--protocol", "retrieval", "logistic"], "retrieval uses no labels and is measured alone; leave the other"),
        (["--bands", "B03"], "there is only B03; name at least two of B03, B08, VV"),
        (["--bands", "B03+B08", "VV"], "compares single bands with each other"),
        (["--bands", "B03", "B04"], "pairs has no band B04; it has B03, B08, VV"),
        (["--seeds", "3"], "--seeds has no meaning for protocol retrieval"),
        (["--shots", "5"], "--shots has no meaning for protocol retrieval"),
        (["--limit", "9"], "9 images of pairs hold 9 different tiles of 64 x 64 pixels; retrieval needs at least 10"),
        (["--protocol", "logistic"], "pairs has no labels; measure it with --protocol retrieval"),
        (["--dataset", "pair"], "unknown data set 'pair'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    change: list[str], line: str, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    root = write_pairs(tmp_path / "pairs", count=12, sizes=(64,), s2_bands=("B03", "B08"), s1_bands=("VV",))
    words = ["--dataset", "pairs", "--root", root, "--models", "stats", "--out", tmp_path / "out"]
    words += [] if "--protocol" in change else ["--protocol", "retrieval"]
    ended = command("evaluate", *words, *change)
    assert ended.status == 2
    (error,) = [written for written in ended.err.splitlines() if written.startswith("error: ")]
    assert line in error
    assert not (tmp_path / "out").exists()


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=2, sizes=(16,), s2_bands=("B03",), s1_bands=("VV",))
    with pytest.raises(UserError, match=r"no GeoTIFF in .*/s2; pass the folder that holds s1 and s2"):
        open_unlabelled("pairs", root / "s2")
    write_geotiff(root / "s2" / "synthetic_0002.tif", np.ones((1, 16, 16), np.uint16), descriptions=("B08",))
    with pytest.raises(UserError, match=r"synthetic_0002.tif has no twin in .*s1 \(1 files like it\)"):
        open_unlabelled("pairs", root)
    write_geotiff(root / "s1" / "synthetic_0002.tif", np.ones((1, 16, 16), np.float32), descriptions=("VV",))
    with pytest.raises(UserError, match=r"shares no band with the files before it; its band descriptions name B08"):
        open_unlabelled("pairs", root)
    write_geotiff(root / "s2" / "synthetic_0002.tif", np.ones((1, 16, 16), np.uint8), descriptions=("B03",))
    with pytest.raises(UserError, match=r"holds uint8, .*uint16; put pairs of one kind into a folder"):
        open_unlabelled("pairs", root)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.csv"
    path.write_text("model,size\nstats,64\n")
    with pytest.raises(UserError, match="is damaged or was written by another version"):
        RetrievalFile(path, data_digest="")


def test_panels_are_wrapped_into_rows(tmp_path: Path) -> None:
    matrix = np.eye(3)
    sizes = {}
    for models in (1, 2, 3, 6):
        path = tmp_path / f"{models}.png"
        write_matrices(path, {f"model {number}": matrix for number in range(models)}, ("B02", "B03", "VV"), rank=1)
        sizes[models] = Image.open(path).size
    assert sizes[2][0] == sizes[3][0] == sizes[6][0] == pytest.approx(2 * sizes[1][0], abs=2)
    assert sizes[1][1] == sizes[2][1] < sizes[3][1] < sizes[6][1]
