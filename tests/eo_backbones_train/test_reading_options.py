"""``--scale``, ``--offset`` and ``--nodata`` mean the same in every command, and stay with what a command writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.errors import UserError
from eo_backbones.evaluation.features import read_batches
from eo_backbones.evaluation.request import Request, run_evaluation
from eo_backbones.files import read_json
from eo_backbones.prediction.classify import open_classifier, predict
from eo_backbones.progress import SILENT
from eo_backbones.scenes import EmbedRequest, embed_scene
from eo_backbones_train.store.format import read_manifest
from eo_backbones_train.store.prepare import prepare
from eo_backbones_train.store.store import Store
from support.masked_images import write_tiff
from support.own_images import finetuned, write_encoder
from support.typed_command import Ended

SIZE_PX = 32
OPTIONS: dict[str, Any] = {"scale": 0.5, "offset": -1000, "nodata": 7}
TYPED = ("--scale", "0.5", "--offset", "-1000", "--nodata", "7")
CPU = torch.device("cpu")


def image(seed: int, level: int) -> np.ndarray:
    """Two bands of digital numbers, float32, with a missing column."""
    values = np.random.default_rng(seed).normal(level, 150, (2, SIZE_PX, SIZE_PX)).clip(50, 9000).round()
    values[:, :, 3] = np.nan
    return values.astype(np.float32)


def write_both(root: Path, name: str, values: np.ndarray) -> None:
    """Write an image as it is, and as numbers that the options turn into the same values."""
    write_tiff(root / "plain" / name, values)
    stored = np.where(np.isnan(values), 7, (values + 1000) * 2).astype(np.uint16)
    write_tiff(root / "stored" / name, stored)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``plain`` and ``stored``: the same images of two classes; do not change it."""
    root = tmp_path_factory.mktemp("reading")
    for number in range(20):
        name = "dark" if number % 2 else "bright"
        write_both(root, f"{name}/{number}.tif", image(number, 900 if number % 2 else 2500))
    write_encoder(root / "encoder")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Path]:
    """A classifier trained on each, with the band given by its place."""
    bands = {"bands": ["B03=2"]}
    finetuned(folder / "plain", folder / "encoder", folder / "of_plain", **bands)
    finetuned(folder / "stored", folder / "encoder", folder / "of_stored", **bands, **OPTIONS)
    return {"plain": folder / "of_plain", "stored": folder / "of_stored"}


def probabilities(model: Path, files: list[Path], **options: Any) -> np.ndarray:
    opened = open_classifier(str(model), device=CPU)
    return np.stack([row.numpy() for _, row in predict(opened, files, **options)])


def test_training_on_stored_numbers_is_training_on_their_values(trained: dict[str, Path]) -> None:
    plain, stored = (read_json(trained[name] / "recipe.json") for name in ("plain", "stored"))
    assert plain["weights_sha256"] == stored["weights_sha256"]
    assert plain["results"] == stored["results"]
    assert plain["data"]["digest"] != stored["data"]["digest"]


def test_a_folder_reads_new_images_as_those_it_was_trained_on(folder: Path, trained: dict[str, Path]) -> None:
    kept = read_json(trained["stored"] / "config.json")["eo_backbones"]["reading"]
    assert kept == {
        "positions": {"B03": 2},
        "scale": {"B03": 0.5},
        "offset": {"B03": -1000.0},
        "nodata": {"B03": 7.0},
    }
    assert read_json(trained["plain"] / "config.json")["eo_backbones"]["reading"] == {"positions": {"B03": 2}}
    card = (trained["stored"] / "README.md").read_text()
    assert 'unit=["dn"], scale=[0.5], offset=[-1000.0], nodata=[7.0])' in card
    files = {name: sorted((folder / name).rglob("*.tif")) for name in ("plain", "stored")}
    expected = probabilities(trained["plain"], files["plain"])
    assert len(np.unique(expected.argmax(axis=1))) == 2
    np.testing.assert_array_equal(probabilities(trained["stored"], files["stored"]), expected)
    again = probabilities(trained["stored"], files["plain"], scale=1, offset=0)
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(probabilities(trained["plain"], files["stored"], **OPTIONS), expected)


def test_positions_of_the_training_images_hold_unless_others_are_passed(folder: Path, trained: dict[str, Path]) -> None:
    (path, *_) = sorted((folder / "plain").rglob("*.tif"))
    with rasterio.open(path) as source:
        values = source.read()
    moved = folder / "moved.tif"
    write_tiff(moved, values[::-1].copy())
    expected = probabilities(trained["plain"], [path])
    assert not np.array_equal(probabilities(trained["plain"], [moved]), expected)
    np.testing.assert_array_equal(probabilities(trained["plain"], [moved], bands=["B03=1"]), expected)
    named = folder / "named.tif"
    write_tiff(named, values[::-1].copy(), names=("B03", "B04"))
    np.testing.assert_array_equal(probabilities(trained["plain"], [named], bands=["B03"]), expected)


def test_a_folder_without_a_reading_takes_images_as_they_are(
    folder: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    """As written before readings were kept."""
    for source in trained["stored"].iterdir():
        if source.is_file():
            (tmp_path / source.name).write_bytes(source.read_bytes())
    config = read_json(tmp_path / "config.json")
    del config["eo_backbones"]["reading"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    files = sorted((folder / "plain").rglob("*.tif"))
    np.testing.assert_array_equal(
        probabilities(tmp_path, files, bands=["B03=2"]), probabilities(trained["plain"], files)
    )


@pytest.mark.parametrize(
    "damage", [{"scale": {"B03": "half"}}, {"units": {"B03": "furlong"}}, {"offset": 3}, [1], {"positions": {"B99": 1}}]
)
def test_a_damaged_reading_is_told_in_one_line(trained: dict[str, Path], tmp_path: Path, damage: Any) -> None:
    for name in ("config.json", "recipe.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained["stored"] / name).read_bytes())
    config = read_json(tmp_path / "config.json")
    config["eo_backbones"]["reading"] = damage
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="reading") as caught:
        open_classifier(str(tmp_path), device=CPU)
    assert "\n" not in str(caught.value)


def test_the_command_takes_negative_numbers_and_the_folder_repeats_them(
    folder: Path, trained: dict[str, Path], tmp_path: Path, command: Callable[..., Ended]
) -> None:
    files = sorted((folder / "stored").rglob("*.tif"))
    for name, options in (("of_stored", ()), ("of_plain", TYPED)):
        ended = command("predict", *files, "--model", folder / name, *options, "--out", tmp_path / f"{name}.csv")
        assert ended.status == 0, ended.err
    assert (tmp_path / "of_stored.csv").read_text() == (tmp_path / "of_plain.csv").read_text()


def tag(path: Path, scale: float, offset: float) -> None:
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = (scale,) * target.count, (offset,) * target.count


def test_images_of_several_products_are_each_read_in_their_own_way(tmp_path: Path) -> None:
    values = {name: np.nan_to_num(image(number, 1500), nan=77) for number, name in enumerate("abcd")}
    write_tiff(tmp_path / "one" / "a.tif", values["a"].astype(np.uint16))
    write_tiff(tmp_path / "one" / "b.tif", values["b"].astype(np.uint16))
    for name in "cd":
        write_tiff(tmp_path / "two" / f"{name}.tif", (values[name] + 1000).astype(np.uint16))
        tag(tmp_path / "two" / f"{name}.tif", 1e-4, -0.1)
    images = class_folders(tmp_path, positions={"B03": 1, "B04": 2})
    for index, name in enumerate("abcd"):
        np.testing.assert_array_equal(images.read(index, ["B03", "B04"]), values[name])
    assert "in 2 ways" in images.reading
    (_, batch) = next(read_batches(images, ["B03", "B04"], np.arange(4)))
    np.testing.assert_array_equal(batch.numpy(), np.stack([values[name] for name in "abcd"]))

    tag(tmp_path / "two" / "d.tif", 2.75e-5, -0.2)
    with pytest.raises(UserError, match=r"in the unit of band B03: .*two/d\.tif is read as reflectance") as caught:
        class_folders(tmp_path, positions={"B03": 1, "B04": 2})
    assert "\n" not in str(caught.value)


def test_embed_reads_stored_numbers_as_their_values(folder: Path, tmp_path: Path) -> None:
    facts = {}
    for name, options in (
        ("plain", {}),
        ("stored", OPTIONS),
        ("by_band", {"offset": ["red=-1000"], "scale": "B04=0.5", "nodata": 7}),
    ):
        scene = folder / ("plain" if name == "plain" else "stored") / "dark" / "1.tif"
        request = EmbedRequest(
            scene=(str(scene),),
            model=f"local-dir:{folder / 'encoder'}",
            bands=("B04=2",),
            out=tmp_path / f"{name}.tif",
            size=32,
            **options,
        )
        embed_scene(request, device=CPU, dtype=torch.float32)
        with rasterio.open(request.out) as made:
            facts[name] = (json.loads(made.tags()["EO_BACKBONES"]), made.read())
    for name in ("stored", "by_band"):
        np.testing.assert_array_equal(facts[name][1], facts["plain"][1])
        assert {key: facts[name][0][key] for key in OPTIONS} == {"scale": 0.5, "offset": -1000, "nodata": 7}
    assert "scale" not in facts["plain"][0]
    assert (facts["plain"][0]["offset"], facts["plain"][0]["nodata"]) == (0.0, None)


def test_evaluate_measures_the_values_and_repeats_the_options(folder: Path, tmp_path: Path) -> None:
    found = {}
    for name, options in (("plain", {}), ("stored", OPTIONS)):
        request = Request(dataset="folder", models=("stats",), bands=("B03=2",), sizes=(32,), **options)
        run_evaluation(
            request, root=folder / name, out=tmp_path / name, cache=tmp_path / "cache", device="cpu", progress=SILENT
        )
        found[name] = [row.split(",")[10:15] for row in (tmp_path / name / "results.csv").read_text().splitlines()]
    assert found["plain"] == found["stored"]
    assert " ".join(TYPED) in (tmp_path / "stored" / "commands.txt").read_text()
    assert "--scale" not in (tmp_path / "plain" / "commands.txt").read_text()


def test_prepare_stores_the_values_and_records_the_options(tmp_path: Path) -> None:
    values = image(0, 2000)
    write_both(tmp_path, "s2/a.tif", values)
    radar = np.random.default_rng(1).normal(-12, 3, (2, SIZE_PX, SIZE_PX)).astype(np.float32)
    for name in ("plain", "stored"):
        write_tiff(tmp_path / name / "s1" / "a.tif", radar)
    bands = ["B03=1", "B04=2", "VV", "VH"]
    prepare("pairs", tmp_path / "plain", tmp_path / "p", bands=bands, workers=1)
    prepare("pairs", tmp_path / "stored", tmp_path / "s", bands=bands, workers=1, **OPTIONS)
    plain, stored = Store.open(tmp_path / "p"), Store.open(tmp_path / "s")
    for band in ("B03", "B04", "VV"):
        np.testing.assert_array_equal(stored.tile(0, band), plain.tile(0, band))
    assert not plain.tile(0, "B03")[:, 3].any()
    (source,) = read_manifest(tmp_path / "s")["sources"]
    both = {"B03": -1000.0, "B04": -1000.0}
    assert (source["offset"], source["scale"]) == (both, {"B03": 0.5, "B04": 0.5}), "optical bands only"
    assert set(source["nodata"].items()) == {(band, 7.0) for band in ("B03", "B04", "VV", "VH")}
    assert not {"scale", "offset", "nodata"} & set(read_manifest(tmp_path / "p")["sources"][0])
    assert prepare("pairs", tmp_path / "stored", tmp_path / "s", bands=bands, workers=1, **OPTIONS).already_there
    with pytest.raises(UserError, match="another choice of scale, offset, nodata"):
        prepare("pairs", tmp_path / "stored", tmp_path / "s", bands=bands, workers=1)


def test_known_data_sets_have_known_values(tmp_path: Path, command: Callable[..., Ended]) -> None:
    ended = command(
        "evaluate", "--dataset", "eurosat-ms", "--root", tmp_path, "--models", "stats", *TYPED, "--out", tmp_path / "o"
    )
    assert ended.status == 2
    assert "leave --scale and --offset and --nodata out" in ended.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--offset", "thousand"), "'thousand' is no number"),
        (("--offset", "B03=-1000,B03=-900"), "more than once for band B03"),
        (("--scale", "0"), "makes every value the same"),
        (("--nodata", "VV=0"), "no band VV here"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    folder: Path, trained: dict[str, Path], tmp_path: Path, command: Callable[..., Ended], options: Any, said: str
) -> None:
    image_file = folder / "plain" / "dark" / "1.tif"
    out = tmp_path / "out.csv"
    ended = command("predict", image_file, "--model", trained["plain"], *options, "--out", out)
    assert ended.status == 2
    assert said in ended.err
    assert not out.exists()
