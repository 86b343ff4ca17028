"""The commands eo-train finetune and eo-backbones predict, and all that can be wrong with what they are given."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_backbones.cli import main as library_cli
from eo_backbones.datasets.synthetic_files import write_class_folders
from eo_backbones_train.cli import main
from support.own_images import BANDS, SIZE_PX, write_encoder, write_fields


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    return write_fields(tmp_path / "fields")


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command as the shell does; it must end with status 2 and one line, which is returned."""
    program, *arguments = map(str, words)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as end:
        (main if program == "eo-train" else library_cli).main()
    assert end.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def options(encoder: Path, data: Path, out: Path, *more: object) -> list[object]:
    return [
        "finetune", "--data", data, "--model", f"local-dir:{encoder}", "--out", out, "--epochs", 1, "--device", "cpu",
        "--no-tensorboard", *more,
    ]  # fmt: skip


def test_finetune_and_predict_as_a_user_types_them(
    fields: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, new = tmp_path / "out", tmp_path / "new"
    more = ["--bands", "B02", "B03", "B04", "--fuse", "mean", "--json"]
    monkeypatch.setattr(sys, "argv", list(map(str, ["eo-train", *options(encoder, fields, out, *more)])))
    with pytest.raises(SystemExit) as end:
        main.main()
    assert not end.value.code
    assert json.loads(capsys.readouterr().out)["data"]["bands"] == list(BANDS)
    write_class_folders(new, per_class=1, bands=BANDS, size=48, seed=5)  # of another size
    files = sorted(new.rglob("*.tif"))
    table = tmp_path / "answers.csv"
    monkeypatch.setattr(
        sys, "argv", ["eo-backbones", "predict", *map(str, files), "--model", str(out), "--out", str(table)]
    )
    with pytest.raises(SystemExit) as end:
        library_cli.main()
    assert not end.value.code
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(map(str, files))
    for row in rows:
        values = {name.removeprefix("p_"): float(value) for name, value in row.items() if name.startswith("p_")}
        assert row["class"] == max(values, key=lambda name: values[name])
        assert sum(values.values()) == pytest.approx(1, abs=1e-5)


def spoil_one_image(fields: Path) -> str:
    for path in list((fields / "Forest").iterdir())[1:]:
        path.unlink()
    return "class Forest has 1"


def spoil_one_class(fields: Path) -> str:
    shutil.rmtree(fields / "Forest")
    shutil.rmtree(fields / "HerbaceousVegetation")
    return "holds one class only, AnnualCrop"


def spoil_size(fields: Path) -> str:
    write_class_folders(fields / "other", per_class=1, bands=BANDS, size=SIZE_PX + 4)
    shutil.move(fields / "other" / "Forest" / "image_0.tif", fields / "Forest" / "image_x.tif")
    shutil.rmtree(fields / "other")
    return f"images differ in pixels: .*{SIZE_PX + 4} x {SIZE_PX + 4}"


def spoil_unit(fields: Path) -> str:
    for path in fields.rglob("*.tif"):
        with rasterio.open(path) as file:
            profile, values, names = file.profile, file.read(), file.descriptions
        with rasterio.open(path, "w", **profile | {"dtype": "float32"}) as file:
            file.write(values.astype(np.float32) / 10_000)
            file.descriptions = names
    return r"image_0.tif: band B03: .* pass --unit reflectance \(it was read as --unit B03=dn\)"


@pytest.mark.parametrize("spoil", [spoil_one_image, spoil_one_class, spoil_size, spoil_unit])
def test_images_that_cannot_be_used(
    spoil: Callable[[Path], str],
    fields: Path,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = spoil(fields)
    line = refused(monkeypatch, capsys, "eo-train", *options(encoder, fields, tmp_path / "out", "--bands", "B03"))
    assert re.search(said, line), line
    assert not (tmp_path / "out").exists(), "the corrected command needs no --resume"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--bands", "B08"], "folder has no band B08; it has B02, B03, B04"),
        ([], "say with --bands which to use"),
        (["--bands", "B02=1", "B03"], "some bands have an index and some have none"),
        (["--bands", "B03", "--mode", "most"], "unknown --mode 'most'; allowed: linear, partial, full"),
        (["--bands", "B03", "--shots", "100"], "a class has only 6 images"),
        (["--bands", "B03", "--task", "segmentation"], "holds no folder images; segmentation takes the images from"),
        (["--bands", "B03", "--mode", "partial", "--stages", "9"], "the encoder has 5; use --mode full"),
        (["--bands", "B03", "--unit", "db"], "cannot be in unit 'db'"),
        (["--bands", "B03", "--license", "My Own"], "is not a licence identifier"),
    ],
)
def test_options_that_cannot_be_meant(
    more: list[str], said: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fields = write_fields(tmp_path / "fields")
    line = refused(monkeypatch, capsys, "eo-train", *options(encoder, fields, tmp_path / "out", *more))
    assert said in line
    assert not (tmp_path / "out").exists()


def test_missing_files_of_a_table_are_all_named(
    fields: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "labels.csv"
    names = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(fields.rglob("*.tif"))]
    table.write_text("\n".join(["path,label", *names, "fields/gone.tif,Forest", "lost.tif,Forest"]))
    arguments = options(encoder, table, tmp_path / "out", "--bands", "B03")
    line = refused(monkeypatch, capsys, "eo-train", *arguments)
    assert "2 of the 32 files" in line
    assert "fields/gone.tif, lost.tif;" in line
    for text, said in (
        ("path,class\na.tif,x", "has no column label"),
        ("path,label", "lists no image"),
        ("path,label\na.tif,", "line 2: path or label is empty"),
        ("path,label\na.tif,x\na.tif,y", "line 3: a.tif is listed twice"),
        ("path,label,split\na.tif,x,dev", "split 'dev' is unknown"),
        (f"path,label\n{names[0]}", "has one class only, AnnualCrop"),
    ):
        table.write_text(text)
        assert said in refused(monkeypatch, capsys, "eo-train", *arguments)


def test_a_folder_in_the_way_and_a_run_of_other_settings(
    fields: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    arguments = options(encoder, fields, out, "--bands", "B03")
    assert "does not hold a run of eo-train finetune" in refused(monkeypatch, capsys, "eo-train", *arguments)
    (out / "mine.txt").unlink()
    monkeypatch.setattr(sys, "argv", list(map(str, ["eo-train", *arguments])))
    with pytest.raises(SystemExit):
        main.main()
    assert (out / "model.safetensors").is_file()
    assert "add --resume to continue it" in refused(monkeypatch, capsys, "eo-train", *arguments)
    line = refused(monkeypatch, capsys, "eo-train", *arguments, "--resume", "--lr", 0.5)
    assert "settings.learning_rate was 0.001 and is now 0.5" in line
    (fields / "Forest" / "image_0.tif").unlink()
    assert "data_digest was" in refused(monkeypatch, capsys, "eo-train", *arguments, "--resume")

    predict = ["eo-backbones", "predict", fields / "Forest" / "image_1.tif"]
    table = tmp_path / "answers.csv"
    more = ["--model", out, "--out", table]
    line = refused(monkeypatch, capsys, *predict, tmp_path / "a.tif", tmp_path / "b.tif", *more)
    assert f"2 of 3 files are missing: {tmp_path / 'a.tif'}, {tmp_path / 'b.tif'};" in line
    assert "no input statistics for band B8A" in refused(monkeypatch, capsys, *predict, *more, "--bands", "B8A=1")
    assert "encoder without named classes" in refused(monkeypatch, capsys, *predict, "--model", encoder)
    assert "pass --unit dn" in refused(monkeypatch, capsys, *predict, *more, "--unit", "reflectance")
    assert not table.exists()
    assert not list(tmp_path.glob(".answers*"))
