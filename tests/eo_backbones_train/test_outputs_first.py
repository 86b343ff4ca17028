"""What would end a command of the trainer after its work is found before it: outputs, idle options, palettes, pairs."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones_train.cli import main
from eo_backbones_train.store.prepare import prepare
from support.masked_images import write_masked
from support.own_images import finetuned, write_encoder, write_fields


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run ``eo-train`` and return its one line."""
    monkeypatch.setattr(sys, "argv", list(map(str, ["eo-train", *words])))
    with pytest.raises(SystemExit) as ended:
        main.main()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2
    return line


@pytest.mark.parametrize(
    "words",
    [
        ("prepare", "--layout", "pairs", "--root", "pairs", "--out", "file/store"),
        ("prepare", "--layout", "pairs", "--root", "pairs", "--out", "file"),
        ("pretrain", "byol-mini", "--store", "store", "--out", "file/run"),
        ("export", "run", "--out", "file/folder"),
        ("finetune", "--data", "fields", "--model", "local-dir:encoder", "--bands", "B03", "--out", "file/x"),
        ("bench", "--quick", "--out", "file/x"),
        ("bench", "--quick", "--out", "file"),
    ],
)
def test_no_command_works_for_a_place_that_cannot_be_written(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    write_pairs(tmp_path / "pairs", count=2, sizes=(32,))
    write_fields(tmp_path / "fields")
    write_encoder(tmp_path / "encoder")
    before = sorted(tmp_path.rglob("*"))
    assert "is a file" in refused(monkeypatch, capsys, *words)
    assert sorted(tmp_path.rglob("*")) == before


FINETUNE = ("finetune", "--data", "fields", "--model", "local-dir:encoder", "--out", "out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*FINETUNE, "--bands", "B03", "--mode", "linear", "--stages", 3), "--stages has no effect here"),
        ((*FINETUNE, "--bands", "B03", "--mode", "full", "--stages", 1), "--stages has no effect here"),
        ((*FINETUNE, "--bands", "B03", "--layer-decay", 0.5), "--layer-decay has no effect here"),
        ((*FINETUNE, "--bands", "B03", "--mode", "partial", "--layer-decay", 0.85), "it is for --mode full"),
        ((*FINETUNE, "--bands", "B03", "--fuse", "mean"), "--fuse has no effect here: it joins several --bands"),
        ((*FINETUNE, "--bands", "B03", "--mode", "full", "--fuse", "early"), "--fuse has no effect here"),
        (("pretrain", "byol-mini", "--store", "s", "--out", "out", "--probe-every", 1), "--probe-every has no effect"),
        (
            ("pretrain", "byol-mini", "--store", "s", "--out", "out", "--epochs", 2, "--set", "epochs=3"),
            "--epochs and --set epochs= both say how many",
        ),
    ],
)
def test_options_without_effect_are_refused(
    words: tuple[object, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(monkeypatch, capsys, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"stages": 3}, {"mode": "full", "stages": 2}, {"layer_decay": 0.5}])
def test_fields_without_effect_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no effect with --mode"):
        finetuned(tmp_path / "fields", tmp_path / "encoder", tmp_path / "out", **change)
    assert list(tmp_path.iterdir()) == []


def into_palette(path: Path) -> None:
    """Write the first band of a GeoTIFF as numbers of colours."""
    with rasterio.open(path) as source:
        values, place = source.read(1), {"crs": source.crs, "transform": source.transform}
    height, width = values.shape
    path.unlink()
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": "uint8", **place}
    with rasterio.open(path, "w", **profile) as target:
        target.write_colormap(1, {number: (number, 0, 255 - number, 255) for number in range(256)})
        target.write(values.astype(np.uint16).astype(np.uint8), 1)


def test_palettes_are_no_imagery_but_masks_may_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, encoder, out = write_fields(tmp_path / "fields"), write_encoder(tmp_path / "encoder"), tmp_path / "out"
    for path in fields.rglob("*.tif"):
        into_palette(path)
    line = refused(
        monkeypatch, capsys, "finetune", "--data", fields, "--model", f"local-dir:{encoder}", "--bands", "B03=1",
        "--out", out,
    )  # fmt: skip
    assert "is a palette image: the numbers in band 1 stand for colours" in line
    assert not out.exists()
    pairs = write_pairs(tmp_path / "pairs", count=2, sizes=(32,))
    for path in (pairs / "s2").iterdir():
        into_palette(path)
    with pytest.raises(UserError, match=r"s2/synthetic_0000\.tif is a palette image"):
        prepare("pairs", pairs, tmp_path / "store", bands=["B04=1", "VV"], units=["B04=uint8"], workers=1)
    assert not (tmp_path / "store").exists()

    from eo_backbones.datasets.mask_folders import mask_folders

    land = write_masked(tmp_path / "land", count=2)
    for path in (land / "masks").rglob("*.tif"):
        into_palette(path)
    assert mask_folders(land).data.classes == ("ground", "field", "roof")


# Pairs


def test_hidden_files_make_no_pair(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", count=2, sizes=(32,))
    for sensor in ("s1", "s2"):
        (pairs / sensor / "._synthetic_0000.tif").write_bytes(b"Mac OS X")
    made = prepare("pairs", pairs, tmp_path / "store", workers=1)
    assert (made.found, made.stored, made.skipped) == (2, 2, 0)


def test_two_files_of_one_name_make_no_pair(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", count=2, sizes=(32,))
    (pairs / "s2" / "synthetic_0001.png").write_bytes(b"the picture of it")
    with pytest.raises(UserError, match=r"synthetic_0001\.png and \S+synthetic_0001\.tif have the same name but"):
        prepare("pairs", pairs, tmp_path / "store", workers=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda place: {"crs": "EPSG:32633"}, "is in EPSG:32633, its image in EPSG:"),
        (lambda place: {"transform": place @ Affine.translation(5, 0)}, "lies up to 5 columns and 0 rows beside"),
        (lambda place: {"transform": place @ Affine.translation(0.5, 0.5)}, None),
        (lambda place: {"transform": None, "crs": None}, None),
    ],
)
def test_pairs_of_two_places_are_skipped(change: object, reason: str | None, tmp_path: Path) -> None:
    assert callable(change)
    pairs = write_pairs(tmp_path / "pairs", count=2, sizes=(32,))
    path = pairs / "s1" / "synthetic_0001.tif"
    with rasterio.open(path) as source:
        values, names, profile = source.read(), source.descriptions, source.profile
    path.unlink()
    with rasterio.open(path, "w", **{**profile, **change(profile["transform"])}) as target:
        target.write(values)
        target.descriptions = names
    made = prepare("pairs", pairs, tmp_path / "store", workers=1)
    assert made.stored == (2 if reason is None else 1)
    with (tmp_path / "store" / "skipped.csv").open() as file:
        skipped = list(csv.DictReader(file))
    if reason is not None:
        assert skipped[0]["scene"] == "synthetic_0001"
        assert f"grid mismatch: s1/synthetic_0001.tif {reason}" in skipped[0]["reason"]
