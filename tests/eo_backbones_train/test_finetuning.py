"""Fine-tuning a user's images: equal to plain loops, to scikit-learn, to itself after a crash; folders that load."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

import eo_backbones
from eo_backbones.contract import unit_range
from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.datasets.splits import seeded_split
from eo_backbones.datasets.synthetic_files import write_class_folders
from eo_backbones.errors import UserError
from eo_backbones.hub.folder import config_json
from eo_backbones.networks.multi_band import MultiBandClassifier
from eo_backbones.prediction.classify import open_classifier, predict
from eo_backbones.push import check_folder
from eo_backbones_train.finetuning.fit import batch_size, class_weights
from eo_backbones_train.finetuning.images import Augmentation
from eo_backbones_train.finetuning.network import build_network, freeze, parameter_groups, train_mode
from eo_backbones_train.finetuning.scores import score
from eo_backbones_train.finetuning.settings import Settings
from support.own_images import (
    PARTED,
    SIZE_PX,
    finetuned,
    out_of_memory_at_step,
    write_encoder,
    write_fields,
    write_parts,
)

EPOCHS, BATCH, RATE, DECAY = 3, 8, 1e-3, 0.05  # as support.own_images and the defaults have them


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("data") / "fields")


@pytest.fixture(scope="module")
def linear(fields: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("linear") / "folder"
    finetuned(fields, encoder, out, license="cc-by-4.0")
    return out


@pytest.fixture(scope="module")
def full(fields: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full") / "folder"
    finetuned(fields, encoder, out, mode="full", bands=["B04", "B02"], fuse="early")
    return out


@pytest.fixture(scope="module")
def joined(fields: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joined") / "folder"
    finetuned(fields, encoder, out, mode="partial", bands=["B04", "B02"], fuse="concat", epochs=2)
    return out


def settings(**changes: Any) -> Settings:
    values = {"model": "eo_resnet50", "pretrained": False, "mode": "full", "fuse": "concat", "size_px": SIZE_PX}
    return Settings(**values | changes)


def answers_of(folder: Path, part: str) -> list[dict[str, str]]:
    with (folder / ".finetuning" / "predictions.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == part]


def test_linear_mode_is_a_plain_loop_on_frozen_features(fields: Path, encoder: Path, linear: Path) -> None:
    data = class_folders(fields)
    split = seeded_split(data.labels, seed=0)
    model: Any = eo_backbones.create_model(f"local-dir:{encoder}").eval()
    prepare = eo_backbones.create_transform(model, band="B03", unit="dn")
    rows = np.concatenate([split.train, split.val])
    with torch.no_grad():
        pixels = torch.stack([prepare(data.read(row, ["B03"])) for row in rows])
        features = model(pixels)
    n = len(split.train)
    mean, std = features[:n].mean(0), features[:n].std(0, correction=0)
    std[std < 1e-6] = 1
    truth = torch.from_numpy(data.labels[rows])
    layer = nn.Linear(features.shape[1], 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(
        [{"params": [layer.weight], "weight_decay": DECAY}, {"params": [layer.bias], "weight_decay": 0.0}], lr=RATE
    )
    states, step, total = [], 0, EPOCHS * math.ceil(n / BATCH)
    place = {row: i for i, row in enumerate(split.train.tolist())}
    for epoch in range(EPOCHS):
        order = split.train[np.random.default_rng([0, epoch]).permutation(n)]
        for start in range(0, n, BATCH):
            chosen = [place[row] for row in order[start : start + BATCH].tolist()]
            warm = max(1, round(0.05 * total))
            rate = RATE if step < warm else RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(layer((features[chosen] - mean) / std), truth[chosen]).backward()
            optimizer.step()
            step += 1
        states.append((layer.weight.detach() / std, layer.bias.detach() - layer.weight.detach() / std @ mean))
    kept = json.loads((linear / "recipe.json").read_text())["best_epoch"]
    weight, bias = states[kept - 1]
    saved = load_file(linear / "model.safetensors")
    torch.testing.assert_close(saved["fc.weight"], weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(saved["fc.bias"], bias, rtol=1e-3, atol=1e-4)
    before = load_file(encoder / "model.safetensors")
    assert all(torch.equal(saved[name], before[name]) for name in before), "the encoder was frozen"


@pytest.mark.parametrize("fuse", ["early", "mean"])
def test_each_block_learns_slower_than_the_next(fuse: str) -> None:
    own = settings(fuse=fuse, layer_decay=0.8)
    network = build_network(own, bands=("B04", "B03"), num_classes=4)
    names = {id(parameter): name.removeprefix("encoder.") for name, parameter in network.named_parameters()}
    scale = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(network, own)
        for parameter in group["params"]
    }
    assert len(scale) == len(names), "every parameter is in one group"
    assert scale["fc.weight"] == (1.0, 0.05)
    assert scale["fc.bias"] == (1.0, 0.0)
    # 3 + 4 + 6 + 3 residual blocks between stem and layer
    for name, blocks in {"layer4.2.conv1.weight": 1, "layer4.0.conv1.weight": 3, "layer3.5.conv1.weight": 4}.items():
        assert scale[name][0] == pytest.approx(0.8**blocks), name
    assert scale["conv1.weight"] == (pytest.approx(0.8**17), 0.05)
    assert scale["bn1.weight"] == (pytest.approx(0.8**17), 0.0)


def test_partial_mode_trains_the_last_stages_only(encoder: Path) -> None:
    own = settings(model=f"local-dir:{encoder}", mode="partial", stages=2)
    network = build_network(own, bands=("B03",), num_classes=3)
    freeze(network, own)
    train_mode(network)
    learning = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learning == {"layer3", "layer4", "fc"}
    updating = {
        name.split(".")[0]
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.training
    }
    assert updating == {"layer3", "layer4"}, "frozen BatchNorm keeps its statistics"


@pytest.mark.parametrize("fuse", ["early", "concat"])
def test_partial_mode_takes_the_last_blocks_of_any_network(fuse: str, tmp_path: Path) -> None:
    """timm counts the last convolution of an EfficientNet with its last block."""
    described = config_json(input=unit_range(["B04", "VV"]), architecture="tf_efficientnet_lite0")
    (tmp_path / "config.json").write_text(json.dumps(described))
    wanted = settings(model=f"local-dir:{tmp_path}", mode="partial", stages=2, fuse=fuse)
    network = build_network(wanted, bands=("B04", "VV"), num_classes=3)
    freeze(network, wanted)
    train_mode(network)
    learning = {name.removeprefix("encoder.") for name, value in network.named_parameters() if value.requires_grad}
    parts = {".".join(name.split(".")[:2]) if name.startswith("blocks") else name.split(".")[0] for name in learning}
    assert parts == {"blocks.5", "blocks.6", "conv_head", "bn2", "classifier" if fuse == "early" else "fc"}
    loss = network(torch.rand(2, 2, 64, 64)).square().sum()
    loss.backward()
    rates = {group["lr_scale"] for group in parameter_groups(network, wanted) if group["params"]}
    assert rates == {1.0}


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 60)
    answers = np.where(rng.random(60) < 0.6, truth, rng.integers(0, 3, 60))
    found = score(truth, answers, ["a", "b", "c"])
    assert found["f1_weighted"] == pytest.approx(f1_score(truth, answers, average="weighted"))
    precision, recall, f1, support = precision_recall_fscore_support(truth, answers)
    for i, name in enumerate("abc"):
        row = found["per_class"][name]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx((precision[i], recall[i], f1[i]))
        assert row["support"] == support[i]
    assert found["confusion"] == confusion_matrix(truth, answers).tolist()
    assert found["f1_low"] < found["f1_weighted"] < found["f1_high"]
    assert score(truth * 0, answers * 0, ["a", "b"])["per_class"]["b"]["precision"] is None


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0] * 7 + [1] * 2 + [2])
    own = class_weights(np.bincount(labels), settings(class_weights="balanced"))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(own, torch.from_numpy(expected).float())


def test_no_image_is_left_alone_in_a_batch() -> None:
    for images in range(2, 70):
        size = batch_size(images, 8)
        assert images % size != 1
        assert size >= min(8, images)


def test_all_bands_of_an_image_get_the_same_view() -> None:
    spec = unit_range(["B02", "B03"])
    augment = Augmentation(spec, size_px=16, seed=3, device=torch.device("cpu"))
    band = torch.rand(4, 1, 16, 16)
    images = torch.cat([band, band / 2], dim=1)
    views = augment(images, 5)
    torch.testing.assert_close(views[:, 1], views[:, 0] / 2)
    torch.testing.assert_close(views, augment(images, 5))
    assert not torch.equal(views, augment(images, 6))
    assert not torch.equal(views, images)
    torch.testing.assert_close(augment(torch.full((4, 2, 16, 16), 0.25), 1), torch.full((4, 2, 16, 16), 0.25))


@pytest.mark.parametrize("kind", ["linear", "full", "joined"])
def test_predict_gives_the_validation_answers(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    expected = answers_of(folder, "val")
    classifier = open_classifier(str(folder), device=torch.device("cpu"))
    rows = list(predict(classifier, [Path(row["path"]) for row in expected], batch=4))
    assert len(rows) == 6
    for row, (path, probabilities) in zip(expected, rows, strict=True):
        assert str(path) == row["path"]
        wanted = [float(row[f"p_{name}"]) for name in classifier.classes]
        assert probabilities.tolist() == pytest.approx(wanted, abs=2e-5)
        assert classifier.classes[int(probabilities.argmax())] == row["class"]


def test_the_metrics_are_those_of_the_answers(full: Path) -> None:
    rows = answers_of(full, "test")
    found = json.loads((full / "metrics.json").read_text())["test"]
    truth, answers = [row["label"] for row in rows], [row["class"] for row in rows]
    assert found["f1_weighted"] == pytest.approx(f1_score(truth, answers, average="weighted"))
    assert f"weighted F1 {found['f1_weighted']:.3f}" in (full / "README.md").read_text()
    (result,) = ModelCard.load(full / "README.md").data.eval_results or ()
    assert (result.dataset_split, result.metric_value) == ("test", round(found["f1_weighted"], 4))


def test_the_folder_loads_with_its_classes_and_can_be_pushed(linear: Path, full: Path) -> None:
    images = torch.rand(2, 2, SIZE_PX, SIZE_PX)
    model: Any = eo_backbones.create_model(f"local-dir:{full}").eval()
    plain = timm.create_model(f"local-dir:{full}", pretrained=True).eval()
    torch.testing.assert_close(model(images), plain(images))
    assert plain.pretrained_cfg["label_names"] == ["AnnualCrop", "Forest", "HerbaceousVegetation"]
    assert model.eo_input.band_names == ("B04", "B02")
    assert check_folder(linear).license == "cc-by-4.0"
    assert not any(name.startswith(".finetuning") for name in check_folder(linear).files)
    assert eo_backbones.create_model(f"local-dir:{linear}", num_classes=0)(images[:, :1]).shape == (2, 96)


def test_a_model_of_joined_bands_loads_here_and_is_refused_by_plain_timm(joined: Path) -> None:
    model = eo_backbones.create_model(f"local-dir:{joined}").eval()
    assert isinstance(model, MultiBandClassifier)
    assert (model.bands, model.fuse, model.num_classes) == (("B04", "B02"), "concat", 3)
    images = torch.rand(2, 2, SIZE_PX, SIZE_PX)
    alone = torch.cat([model.encoder(images[:, :1]), model.encoder(images[:, 1:])], dim=1)
    torch.testing.assert_close(model(images), F.linear(alone, model.fc.weight, model.fc.bias))
    assert eo_backbones.create_model(f"local-dir:{joined}", num_classes=0)(images).shape == (2, 192)
    with pytest.raises(UserError, match="leave in_chans out"):
        eo_backbones.create_model(f"local-dir:{joined}", in_chans=3)
    with pytest.raises(RuntimeError, match="eo_multi_band"):
        timm.create_model(f"local-dir:{joined}", pretrained=True)


def test_transformers_loads_a_classifier_with_its_classes(linear: Path, full: Path, joined: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: uv sync installs it")
    for folder, channels in ((linear, 1), (full, 2)):
        prepare = transformers.AutoImageProcessor.from_pretrained(str(folder))
        model = transformers.AutoModelForImageClassification.from_pretrained(str(folder)).eval()
        assert list(model.config.id2label.values()) == ["AnnualCrop", "Forest", "HerbaceousVegetation"]
        ours: Any = eo_backbones.create_model(f"local-dir:{folder}").eval()
        transform = eo_backbones.create_transform(ours, band=ours.eo_input.band_names, unit=["uint8"] * channels)
        images = torch.randint(0, 256, (2, channels, SIZE_PX, SIZE_PX), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            scores = model(**prepare(images / 255)).logits
            torch.testing.assert_close(scores, ours(transform(images.to(torch.uint8))), atol=1e-4, rtol=0)
        assert "library_name: timm" in (folder / "README.md").read_text()
        assert "AutoModelForImageClassification" in (folder / "README.md").read_text()
    # a network that timm does not have: its image processor still normalises each band
    prepared = transformers.AutoImageProcessor.from_pretrained(str(joined))(images / 255)["pixel_values"]
    torch.testing.assert_close(prepared, transform(images.to(torch.uint8)), atol=1e-4, rtol=0)
    with pytest.raises(ImportError, match="eo_multi_band"):
        transformers.AutoModelForImageClassification.from_pretrained(str(joined))
    assert "library_name: eo-backbones" in (joined / "README.md").read_text()


def test_an_encoder_written_before_is_fine_tuned(fields: Path, encoder: Path, tmp_path: Path) -> None:
    """Its ``config.json`` names the number of classes among the constructor arguments too."""
    old = tmp_path / "old"
    shutil.copytree(encoder, old)
    config = json.loads((old / "config.json").read_text())
    config["model_args"] = {"in_chans": 1, "num_classes": 0}
    (old / "config.json").write_text(json.dumps(config))
    finetuned(fields, old, tmp_path / "new", epochs=1)
    made = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (made["num_classes"], made["model_args"]) == (3, {"in_chans": 1})
    assert eo_backbones.create_model(f"local-dir:{tmp_path / 'new'}").num_classes == 3


def test_a_run_that_died_in_an_epoch_ends_as_if_it_had_not(
    fields: Path, encoder: Path, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same: dict[str, Any] = {"mode": "full", "bands": ["B04", "B02"], "fuse": "early"}
    out_of_memory_at_step(5, monkeypatch)  # in the second of three epochs of three steps
    with pytest.raises(MemoryError):
        finetuned(fields, encoder, tmp_path / "run", **same)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    again = finetuned(fields, encoder, tmp_path / "run", **same, resume=True)
    expected = json.loads((full / "recipe.json").read_text())
    assert again["weights_sha256"] == expected["weights_sha256"]
    assert again["results"] == expected["results"]
    assert (tmp_path / "run" / "training_log.jsonl").read_text() == (full / "training_log.jsonl").read_text()
    assert finetuned(fields, encoder, tmp_path / "run", **same, resume=True)["finished_before"]


def test_a_table_says_who_trains(fields: Path, encoder: Path, tmp_path: Path) -> None:
    paths = sorted(fields.rglob("*.tif"))
    parts = ["train", "train", "val", ""]
    table = tmp_path / "labels.csv"
    rows = [f"{path},{path.parent.name},{parts[int(path.stem[-1]) % 4]}" for path in paths]
    table.write_text("\n".join(["path,label,split", *rows]))
    result = finetuned(table, encoder, tmp_path / "out", shots=2, epochs=1)
    assert (result["data"]["train"], result["data"]["val"], result["data"]["test"]) == (6, 6, 0)
    assert set(result["results"]) == {"val"}
    listed = {row["path"] for row in answers_of(tmp_path / "out", "val")}
    assert listed == {str(path) for path in paths if int(path.stem[-1]) % 4 == 2}


def test_folders_say_who_trains(encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_parts(tmp_path / "own", ("train", "test"))
    for index in range(2):  # ten training images a class, so that a fifth are two
        write_class_folders(root / "more", classes=PARTED, per_class=5, seed=7 + index)
        for path in (root / "more").rglob("*.tif"):
            path.rename(root / "train" / path.parent.name / f"more_{index}_{path.name}")
        shutil.rmtree(root / "more")
    result = finetuned(root, encoder, tmp_path / "out", epochs=1)
    assert (result["data"]["split"], result["data"]["classes"]) == ("given", list(PARTED))
    assert (result["data"]["train"], result["data"]["val"], result["data"]["test"]) == (20, 6, 6)
    assert {Path(row["path"]).parts[-3] for row in answers_of(tmp_path / "out", "test")} == {"test"}
    assert {Path(row["path"]).parts[-3] for row in answers_of(tmp_path / "out", "val")} == {"train"}
    assert "says val for no image: 6 of its 26 training images validate, a fifth of each class" in caplog.text
