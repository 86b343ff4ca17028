"""Fine-tuning for segmentation: it learns, scores as scikit-learn does, ends the same after a crash, loads again."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import rasterio
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score
from torch import nn
from torch.nn import functional as F

import eo_backbones
from eo_backbones.cli import main as library_cli
from eo_backbones.contract import unit_range
from eo_backbones.datasets.labelled import IGNORED
from eo_backbones.datasets.mask_folders import mask_folders
from eo_backbones.errors import UserError
from eo_backbones.export import export
from eo_backbones.info import info
from eo_backbones.networks.segmentation import SegmentationNetwork
from eo_backbones.prediction.classify import open_classifier
from eo_backbones.prediction.segment import segment
from eo_backbones.push import check_folder
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones_train.cli import main
from eo_backbones_train.finetuning.fit import (
    NO_CLASS,
    Learner,
    class_weights,
    recompute_bn_statistics,
    weighted_cross_entropy,
)
from eo_backbones_train.finetuning.images import Augmentation, as_input, divide
from eo_backbones_train.finetuning.network import build_network, freeze, parameter_groups, train_mode
from eo_backbones_train.finetuning.scores import score_pixels
from eo_backbones_train.finetuning.segmentation import batches_with_masks, pixels_per_class
from eo_backbones_train.finetuning.settings import Settings
from support.masked_images import SIZE_PX, VALUES, segmented, write_masked, write_tiff
from support.own_images import out_of_memory_at_step, write_encoder

CLASSES = ["ground", "field", "roof"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masked(tmp_path_factory.mktemp("data") / "land")


@pytest.fixture(scope="module")
def learned(land: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One band, everything trained until it works."""
    out = tmp_path_factory.mktemp("learned") / "folder"
    segmented(land, encoder, out, mode="full", epochs=8, patience=8, license="cc-by-4.0")
    return out


@pytest.fixture(scope="module")
def joined(land: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bands side by side, encoder frozen, two epochs."""
    out = tmp_path_factory.mktemp("joined") / "folder"
    segmented(land, encoder, out, bands=["B04", "B03"], epochs=2)
    return out


def settings(**changes: Any) -> Settings:
    values = {"task": "segmentation", "model": "eo_resnet50", "pretrained": False, "mode": "full", "fuse": "early"}
    return Settings(**values | {"size_px": 32} | changes)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)  # type: ignore[no-any-return]


def test_it_learns_what_the_most_frequent_class_cannot_explain(learned: Path) -> None:
    found = json.loads((learned / "metrics.json").read_text())["test"]
    share = np.array([found["per_class"][name]["support"] for name in CLASSES]) / found["pixels"]
    assert found["miou"] > 0.6
    assert found["miou"] > 2 * share.max() / len(CLASSES), "what answering the most frequent class would give"
    assert found["accuracy"] > share.max() + 0.1
    assert found["miou_low"] <= found["miou"] <= found["miou_high"]


def test_the_figures_are_those_of_masks_predicted_from_the_folder(learned: Path, land: Path, tmp_path: Path) -> None:
    results = json.loads((learned / "metrics.json").read_text())
    with (learned / ".finetuning" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    model = open_classifier(str(learned), device=torch.device("cpu"))
    for part in ("val", "test"):
        own = [row for row in rows if row["split"] == part]
        made = segment(model, [Path(row["path"]) for row in own], tmp_path / part)
        truth = [read(land / "masks" / "a" / Path(row["path"]).name) for row in own]
        answers = [read(one.mask) for one in made]
        for row, wanted, found in zip(own, truth, answers, strict=True):
            known = wanted != 255
            assert int(row["pixels"]) == known.sum()
            assert float(row["accuracy"]) == pytest.approx((wanted == found)[known].mean(), abs=1e-3)
            assert set(np.unique(found)) <= set(VALUES), "the user's own values"
        wanted, found = np.concatenate(truth).ravel(), np.concatenate(answers).ravel()
        wanted, found = wanted[wanted != 255], found[wanted != 255]
        expected = jaccard_score(wanted, found, average=None)
        assert results[part]["miou"] == pytest.approx(expected.mean(), abs=2e-3)
        for name, iou in zip(CLASSES, expected, strict=True):
            assert results[part]["per_class"][name]["iou"] == pytest.approx(iou, abs=2e-3)


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, (5, 200))
    answers = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 3, truth.shape))
    confusions = np.zeros((5, 3, 3), np.int64)
    np.add.at(confusions, (np.arange(5)[:, None], truth, answers), 1)
    found = score_pixels(confusions, CLASSES)
    wanted, given = truth.ravel(), answers.ravel()
    assert found["miou"] == pytest.approx(jaccard_score(wanted, given, average="macro"))
    assert found["accuracy"] == pytest.approx((wanted == given).mean())
    assert (found["images"], found["pixels"]) == (5, 1000)
    for key, figure in {
        "iou": jaccard_score, "f1": f1_score, "precision": precision_score, "recall": recall_score,
    }.items():  # fmt: skip
        expected = figure(wanted, given, average=None)
        assert [found["per_class"][name][key] for name in CLASSES] == pytest.approx(expected.tolist()), key
    absent = score_pixels(confusions * np.array([1, 1, 0])[None, :, None], CLASSES)
    assert absent["per_class"]["roof"]["iou"] is None
    assert absent["miou"] == pytest.approx(np.mean([absent["per_class"][name]["iou"] for name in CLASSES[:2]]))


def test_masks_get_the_view_of_their_image() -> None:
    spec = unit_range(["B02", "B03"])
    augment = Augmentation(spec, size_px=32, seed=3, device=torch.device("cpu"))
    maps = torch.zeros(4, 48, 80, dtype=torch.int64)
    maps[:, 10:30, 20:60] = 2
    maps[:, 25:40, 5:45] = 1
    maps[:, :6] = IGNORED
    shown = (maps == 2).float()
    images = torch.stack([shown, (maps == IGNORED).float()], dim=1)
    views, seen = augment.with_maps(images, maps, 5)
    assert views.shape == (4, 2, 32, 32)
    assert set(seen.unique().tolist()) <= {0, 1, 2, IGNORED}
    # a plane of 0 and 1 is above one half where its class has most of the weight (or all that is not shared by two)
    sure = (views - 0.5).abs() > 0.2
    torch.testing.assert_close((seen == 2)[sure[:, 0]], (views[:, 0] > 0.5)[sure[:, 0]])
    torch.testing.assert_close((seen == IGNORED)[sure[:, 1]], (views[:, 1] > 0.5)[sure[:, 1]])
    again = augment.with_maps(images, maps, 5)
    assert torch.equal(again[0], views)
    assert torch.equal(again[1], seen)
    assert not torch.equal(augment.with_maps(images, maps, 6)[1], seen)


def test_pieces_are_cut_at_their_own_resolution() -> None:
    """A pattern of one pixel's width stays; shrinking 96 pixels to 32 would turn it into grey."""
    augment = Augmentation(unit_range(["B02"]), size_px=32, seed=0, device=torch.device("cpu"))
    stripes = (torch.arange(96) % 2).float().expand(8, 1, 96, 96).contiguous()
    views, _ = augment.with_maps(stripes, torch.zeros(8, 96, 96, dtype=torch.int64), 1)
    assert float(views.std(dim=(1, 2, 3)).min()) > 0.2


def test_the_loss_is_the_weighted_mean_over_pixels_with_a_class() -> None:
    answers, weights = torch.randn(2, 3, 4, 4), torch.tensor([1.0, 2.0, 0.5])
    truth = torch.randint(0, 3, (2, 4, 4))
    truth[0, :2] = NO_CLASS
    torch.testing.assert_close(
        weighted_cross_entropy(answers, truth, weights),
        F.cross_entropy(answers, truth, weight=weights, ignore_index=NO_CLASS),
    )
    nothing = weighted_cross_entropy(answers, torch.full_like(truth, NO_CLASS), weights)
    assert float(nothing) == 0.0, "not NaN, as the mean over no pixel would be"
    many, last = torch.randn(4, 300), torch.full((4,), IGNORED)
    torch.testing.assert_close(weighted_cross_entropy(many, last, torch.ones(300)), F.cross_entropy(many, last))


def test_missing_pixels_of_an_image_count_nowhere(encoder: Path, tmp_path: Path) -> None:
    """As in prediction, which gives them no class: their truth is left out, and what is stored there has no effect."""
    seen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for stored in (9999, 1):
        land = write_masked(tmp_path / str(stored), count=5)
        for place in range(5):
            path = land / "images" / "a" / f"image_{place}.tif"
            with rasterio.open(path) as file:
                values, names = file.read(), file.descriptions
            values[0, 8:24, 8:24] = stored
            write_tiff(path, values, place, names=names, nodata=stored)
        opened = mask_folders(land)
        spec = unit_range(["B03", "B04"])
        device = torch.device("cpu")
        images = as_input(opened.data, ("B03", "B04"), spec, size_px=SIZE_PX, device=device)
        seen[stored] = list(batches_with_masks(images, np.arange(5), 2))
    for (inputs, truth), (others, same) in zip(seen[9999], seen[1], strict=True):
        assert bool((truth[:, 8:24, 8:24] == NO_CLASS).all())
        assert bool((truth[:, 24:, 24:] >= 0).all())
        torch.testing.assert_close(truth, same)
        torch.testing.assert_close(inputs, others)


def test_one_small_image_is_too_little_for_an_encoder_to_learn_from(tmp_path: Path, encoder: Path) -> None:
    land = write_masked(tmp_path / "land", count=3, size=32)
    out = tmp_path / "out"
    rows = [f"images/a/image_{i}.tif,masks/a/image_{i}.tif,{part}" for i, part in enumerate(("train", "val", "test"))]
    (land / "list.csv").write_text("\n".join(["path,mask,split", *rows]))
    with pytest.raises(UserError, match="--mode full cannot learn from one training image of 32 pixels"):
        segmented(land / "list.csv", encoder, out, mode="full")
    assert not out.exists()


def test_a_segmentation_is_no_encoder_for_a_classifier(learned: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives every pixel a class; pass the encoder that it was made from"):
        build_network(settings(model=f"local-dir:{learned}", task="classification"), bands=("B03",), num_classes=3)


def test_balanced_weights_count_training_pixels(land: Path, encoder: Path, joined: Path, tmp_path: Path) -> None:
    data = mask_folders(land).data
    rows = divide(data, seed=0, shots=None).train
    assert data.maps is not None
    pixels = np.concatenate([data.maps.reader(data.paths[row]).ravel() for row in rows])
    counts = np.bincount(pixels[pixels != IGNORED])
    images = as_input(data, ("B03",), unit_range(["B03"]), size_px=SIZE_PX, device=torch.device("cpu"))
    np.testing.assert_array_equal(pixels_per_class(images, rows), counts)
    balanced = class_weights(counts, settings(class_weights="balanced"))
    torch.testing.assert_close(balanced, torch.from_numpy(counts.sum() / (3 * counts)).float())
    torch.testing.assert_close(class_weights(counts, settings()), torch.ones(3))
    same: dict[str, Any] = {"bands": ["B04", "B03"], "epochs": 2}
    weighted = segmented(land, encoder, tmp_path / "out", **same, class_weights="balanced")
    assert weighted["weights_sha256"] != json.loads((joined / "recipe.json").read_text())["weights_sha256"]


def test_statistics_are_those_of_the_batches_at_the_weights_that_are_judged() -> None:
    norm = nn.BatchNorm2d(2)
    batches = [torch.randn(4, 2, 3, 3) * 5 + number for number in range(3)]
    nn.init.constant_(norm.running_mean, 99.0)  # type: ignore[arg-type]
    learner = Learner(
        module=norm.train(),
        groups=[],
        batches=lambda rows, size: iter([(batch, batch) for batch in batches]),
        augment=lambda inputs, targets, step: (inputs, targets),
        to_train_mode=norm.train,
        recomputed_bn=[norm],
    )
    recompute_bn_statistics(learner, np.arange(12), 4, 0)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0))


@pytest.mark.parametrize(
    ("mode", "learning"),
    [("linear", set()), ("partial", {"layer3", "layer4"}), ("full", {"conv1", "layer1", "layer4"})],
)
def test_what_each_mode_trains(mode: str, learning: set[str], encoder: Path) -> None:
    own = settings(model=f"local-dir:{encoder}", mode=mode, stages=2, layer_decay=0.5)
    network = build_network(own, bands=("B03",), num_classes=3)
    assert isinstance(network, SegmentationNetwork)
    freeze(network, own)
    train_mode(network)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[1] for name in names if name.startswith("encoder")} >= learning
    assert {name.split(".")[0] for name in names} == {"decoder", "head", *(["encoder"] if learning else [])}
    updating = {
        name.split(".")[1]
        for name, module in network.encoder.named_modules(prefix="encoder")
        if isinstance(module, nn.BatchNorm2d) and module.training
    }
    assert (updating & {"bn1", "layer1", "layer4"}) == (learning & {"layer1", "layer4"}) | (
        {"bn1"} if mode == "full" else set()
    )
    assert all(module.training for module in network.decoder.modules())
    scales = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(network, own)
        for parameter in group["params"]
    }
    by_name = dict(network.named_parameters())
    assert {id(by_name[name]) for name in names} == set(scales)
    assert scales[id(by_name["decoder.blocks.0.conv1.0.weight"])] == (1.0, 0.05)
    assert scales[id(by_name["decoder.blocks.0.conv1.1.weight"])] == (1.0, 0.0), "of BatchNorm"
    assert scales[id(by_name["head.0.bias"])] == (1.0, 0.0)
    if mode == "full":
        first, last = (
            scales[id(by_name[f"encoder.{name}"])][0] for name in ("conv1.0.weight", "layer4.0.conv1.weight")
        )
        assert first < last < 1


def test_a_frozen_encoder_stays_as_it_was(joined: Path, encoder: Path) -> None:
    saved, before = load_file(joined / "model.safetensors"), load_file(encoder / "model.safetensors")
    assert {name.split(".")[0] for name in saved} == {"encoder", "decoder", "head"}
    for name, tensor in before.items():
        torch.testing.assert_close(saved[f"encoder.{name}"], tensor, rtol=0, atol=0)


def test_the_folder_loads_here_and_is_refused_by_plain_timm(joined: Path, learned: Path) -> None:
    model = eo_backbones.create_model(f"local-dir:{joined}").eval()
    assert isinstance(model, SegmentationNetwork)
    assert (model.bands, model.fuse, model.num_classes) == (("B04", "B03"), "concat", 3)
    assert model.eo_input is not None
    assert model.eo_input.band_names == ("B04", "B03")
    assert model(torch.rand(2, 2, 40, 50)).shape == (2, 3, 40, 50)
    with pytest.raises(RuntimeError, match="eo_segmentation"):
        timm.create_model(f"local-dir:{joined}", pretrained=True)
    for changes, said in (
        ({"in_chans": 3}, "leave in_chans out"),
        ({"num_classes": 0}, "it is not an encoder of images"),
        ({"features_only": True}, "it is not an encoder of images"),
    ):
        with pytest.raises(UserError, match=said):
            eo_backbones.create_model(f"local-dir:{joined}", **changes)  # type: ignore[arg-type]
    checked = check_folder(learned)
    assert checked.golden < 1e-4
    assert "examples.png" in checked.files
    assert not any(name.startswith(".finetuning") for name in checked.files)
    assert eo_backbones.create_model(f"local-dir:{joined}", pretrained=False)(torch.rand(2, 2, 32, 32)).shape[1] == 3


def test_card_and_config_say_what_it_does(learned: Path) -> None:
    config = json.loads((learned / "config.json").read_text())
    assert config["architecture"] == "eo_segmentation"
    assert config["eo_backbones"]["segmentation"] == {
        "encoder": "test_resnet", "fuse": "concat", "mask_values": [2, 7, 40],
    }  # fmt: skip
    text = (learned / "README.md").read_text()
    figures = json.loads((learned / "metrics.json").read_text())["test"]
    card = ModelCard(text).data
    assert card.pipeline_tag == "image-segmentation"
    (result,) = card.eval_results or ()
    assert (result.metric_type, result.metric_value) == ("mean_iou", round(figures["miou"], 4))
    assert f"mIoU {figures['miou']:.3f} [{figures['miou_low']:.3f}, {figures['miou_high']:.3f}]" in text
    assert "| roof | 40 |" in text
    facts = info(f"local-dir:{learned}")
    assert (facts["classes"], facts["mask_values"]) == (CLASSES, [2, 7, 40])
    with Image.open(learned / "examples.png") as picture:
        assert picture.width > 300


def test_a_run_that_died_in_an_epoch_ends_as_if_it_had_not(
    land: Path, encoder: Path, joined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same: dict[str, Any] = {"bands": ["B04", "B03"], "epochs": 2}
    out_of_memory_at_step(4, monkeypatch)  # in the second of two epochs of two steps
    with pytest.raises(MemoryError):
        segmented(land, encoder, tmp_path / "run", **same)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    again = segmented(land, encoder, tmp_path / "run", **same, resume=True)
    expected = json.loads((joined / "recipe.json").read_text())
    assert again["weights_sha256"] == expected["weights_sha256"]
    assert again["results"] == expected["results"]
    assert (tmp_path / "run" / "training_log.jsonl").read_text() == (joined / "training_log.jsonl").read_text()
    assert segmented(land, encoder, tmp_path / "run", **same, resume=True)["finished_before"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(program: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        with pytest.raises(SystemExit) as end:
            (main if program == "eo-train" else library_cli).main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def options(data: Path, encoder: Path, out: Path, *more: object) -> list[object]:
    return [
        "finetune", "--task", "segmentation", "--data", data, "--model", f"local-dir:{encoder}", "--out", out,
        "--device", "cpu", "--no-tensorboard", *more,
    ]  # fmt: skip


def test_train_and_predict_as_a_user_types_them(
    encoder: Path, tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    data, out = write_masked(tmp_path / "land", count=5, size=(48, 80)), tmp_path / "out"
    more = ["--bands", "B03", "B04", "--fuse", "mean", "--epochs", 1, "--size", 32]
    status, shown, _ = typed("eo-train", *options(data, encoder, out, *more))
    assert status == 0
    lines = shown.splitlines()
    assert lines[0].split() == ["class", "IoU", "precision", "recall", "F1", "pixels", "(test)"]
    assert [line.split()[0] for line in lines[1:4]] == CLASSES
    assert "mIoU" in lines[4]
    files = sorted((data / "images").rglob("*.tif"))
    predict = ["predict", *files, "--model", out]
    status, shown, _ = typed("eo-backbones", *predict, "--out", tmp_path / "masks")
    assert (status, shown.startswith(f"{tmp_path / 'masks'}: 5 masks (")) == (0, True)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [
        *(path.name for path in files), "predictions.csv",
    ]  # fmt: skip
    _, shown, _ = typed("eo-backbones", *predict, "--out", tmp_path / "masks")
    assert "5 masks, 5 of them there before" in shown
    for more, said in (
        (["--out", "a.csv"], "--out names a folder for the masks, not a.csv; pass --out a"),
        (["--batch", 4], "leave it out"),
    ):
        status, _, errors = typed("eo-backbones", *predict, *more)
        assert status == 2
        assert said in errors
    status, _, errors = typed(
        "eo-backbones", "embed", files[0], "--model", f"local-dir:{out}", "--bands", "B03", "--out", tmp_path / "e.tif"
    )
    assert (status, "it is not an encoder of images" in errors) == (2, True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shots", 3], "--shots counts images of a class, but an image to segment has several classes; leave it out"),
        (["--size", 100], f"the images' shorter side has {SIZE_PX} pixels, and images to segment are cut"),
        (["--task", "detection"], "unknown --task 'detection'; did you mean segmentation, classification?"),
        (["--bands", "B08"], "folder has no band B08; it has B03, B04"),
        (["--batch", 0], "--batch is 0"),
        (["--task", "classification"], "holds the folders images and masks, no classes; add --task segmentation"),
    ],
)
def test_options_that_cannot_be_meant(
    more: Sequence[object],
    said: str,
    land: Path,
    encoder: Path,
    tmp_path: Path,
    typed: Callable[..., tuple[int, str, str]],
) -> None:
    bands = [] if "--bands" in more else ["--bands", "B03"]
    status, _, errors = typed("eo-train", *options(land, encoder, tmp_path / "out", *bands, *more))
    assert status == 2
    assert said in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_used_leaves_nothing_behind(
    encoder: Path, tmp_path: Path, typed: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_masked(tmp_path / "land", count=6), tmp_path / "out"
    command = ["eo-train", *options(data, encoder, out, "--bands", "B03")]

    def refused(*words: object) -> str:
        status, _, errors = typed(*words)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert (status, len(lines), out.exists()) == (2, 1, False)
        return lines[0]

    write_tiff(data / "masks" / "a" / "image_2.tif", np.full((1, SIZE_PX, SIZE_PX - 1), 2, np.uint8))
    assert "image_2.tif has 63 x 64 pixels, its image 64 x 64" in refused(*command)
    (data / "masks" / "a" / "image_2.tif").unlink()
    assert "1 images have no mask" in refused(*command)
    (data / "images" / "a" / "image_2.tif").unlink()
    rows = [f"images/a/image_{i}.tif,masks/a/image_{i}.tif" for i in (0, 1)]
    (data / "two.csv").write_text("\n".join(["path,mask", *rows]))
    table = ["eo-train", *options(data / "two.csv", encoder, out, "--bands", "B03")]
    assert "2 images are too few" in refused(*table)
    rows = [f"{row},{part}" for row, part in zip(rows, ("train", "val"), strict=True)]
    write_tiff(data / "masks" / "a" / "image_1.tif", np.full((1, SIZE_PX, SIZE_PX), 90, np.uint8), 1)
    (data / "classes.csv").unlink()
    (data / "two.csv").write_text("\n".join(["path,mask,split", *rows]))
    assert "no image of 90 is in the training part" in refused(*table)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    assert "type: pip install 'eo-backbones[segmentation]'" in refused(*command)


@pytest.mark.slow
def test_one_file_of_it_says_which_values_its_classes_have(learned: Path, tmp_path: Path) -> None:
    made = export(f"local-dir:{learned}", tmp_path / "a.pt2", format="torch")
    assert (made.metadata["classes"], made.metadata["mask_values"]) == (CLASSES, [2, 7, 40])


@pytest.mark.slow
def test_qgis_deepness_gets_probabilities_of_its_8_bit_layers(learned: Path, tmp_path: Path) -> None:
    px, out = 64, tmp_path / "land.onnx"
    export(f"local-dir:{learned}", out, format="onnx", deepness_px=px)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    # what the plugin demands: one output (N, C, H, W) of square tiles, JSON in the metadata
    (shape,) = [output.shape for output in session.get_outputs()]
    assert shape[1:] == [len(CLASSES), px, px]
    said = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert (said["model_type"], said["resolution"], said["tile_size"]) == ("Segmentor", 1000.0, px)
    assert said["class_names"] == {str(i): name for i, name in enumerate(CLASSES)}
    levels = torch.randint(0, 256, (2, 1, px, px), generator=torch.Generator().manual_seed(0))
    transform = eo_backbones.create_transform(f"local-dir:{learned}", band="B03", unit="uint8", check="off")
    with torch.no_grad():
        expected = eo_backbones.create_model(f"local-dir:{learned}").eval()(transform(levels.to(torch.uint8)))
    (found,) = session.run(None, {session.get_inputs()[0].name: (levels / 255).numpy()})
    np.testing.assert_allclose(found, expected.softmax(dim=1).numpy(), atol=1e-5)


def test_qgis_deepness_refuses_what_it_cannot_run(learned: Path, tmp_path: Path) -> None:
    name = f"local-dir:{learned}"
    with pytest.raises(UserError, match="reads ONNX only; pass --format onnx"):
        export(name, tmp_path / "a.pt2", format="torch", deepness_px=64)
    with pytest.raises(UserError, match="--deepness 100: tiles are squares whose side is a multiple of 32"):
        export(name, tmp_path / "a.onnx", format="onnx", deepness_px=100)
    with pytest.raises(UserError, match="leave --with-preprocessing out, or --deepness"):
        export(name, tmp_path / "a.onnx", format="onnx", deepness_px=64, raw=ReadingOptions.of(["dn"]))
