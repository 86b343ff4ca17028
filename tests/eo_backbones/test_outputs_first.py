"""What would end a command after its work is found before it, or survived: outputs, caches, names, idle options."""

import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from eo_backbones.cards.tables import markdown_table
from eo_backbones.cli.options import error_line, speak_any_name
from eo_backbones.datasets.synthetic_files import write_class_folders
from eo_backbones.errors import UserError
from eo_backbones.evaluation.features import FeatureFile
from eo_backbones.evaluation.plots import png
from eo_backbones.evaluation.predictions import NO_PROJECTION, Predictions, read_predictions, write_predictions
from eo_backbones.evaluation.probes.protocols import fit_predict
from eo_backbones.evaluation.request import Request
from eo_backbones.files import as_user_error, refuse_unwritable, utf8, write_atomically
from eo_backbones.rasters.reader import read_bands
from eo_backbones.results import Key
from support.measured import measured
from support.synthetic_scene import numbers, write_scene
from support.tiny_encoders import write_tiny_encoder
from support.typed_command import Ended

EVALUATE = ("evaluate", "--dataset", "folder", "--root", "own", "--models", "stats")


def only_error(ended: Ended) -> str:
    assert ended.status == 2
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    return line


# Places to write to


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("file/out.tif", False, r"--out \S+file/out\.tif: \S+file is a file, not a folder; name another place"),
        ("file/deep/out", True, r"--out \S+file/deep/out: \S+file is a file, not a folder"),
        ("file", True, r"--out \S+file is a file; name a folder"),
        ("folder", False, r"--out \S+folder is a folder; name the file to write in it"),
        ("x" * 240, False, r"its name has more than 220 bytes"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(name: str, folder: bool, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=said) as error:
        refuse_unwritable(tmp_path / name, folder=folder)
    assert "\n" not in str(error.value)


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "deep" / "out.tif")
    refuse_unwritable(tmp_path / "new", folder=True)
    refuse_unwritable(tmp_path, folder=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_the_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=r"--cache \S+/a: nothing can be written into \S+; name another place"):
        refuse_unwritable(tmp_path / "a", option="--cache", folder=True)


@pytest.mark.parametrize(
    "arguments",
    [
        (*EVALUATE, "--out", "file/x"),
        (*EVALUATE, "--out", "o", "--cache", "file/x"),
        (*EVALUATE, "--out", "o", "--cache", "file"),
        (*EVALUATE, "--protocol", "retrieval", "--bands", "B02", "B04", "--out", "file/x"),
        ("embed", "scene.tif", "--model", "MODEL", "--bands", "B04", "--out", "file/x.tif"),
        ("similar", "out.tif", "--cell", "0,0", "--out", "file/x.tif"),
        ("export", "MODEL", "--format", "torch", "--out", "folder.pt2"),
        ("demo", "--out", "file/x"),
        ("demo", "--out", "file"),
    ],
)
def test_no_command_works_for_a_place_that_cannot_be_written(
    arguments: tuple[str, ...], command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_, **__: pytest.fail("a network ran"))
    write_class_folders(tmp_path / "own", per_class=3, size=32)
    write_scene(tmp_path / "scene.tif", numbers(1, 64, 64), names=("B04",))
    (tmp_path / "file").touch()
    (tmp_path / "folder.pt2").mkdir()
    model = write_tiny_encoder(tmp_path / "model") if "MODEL" in arguments else ""
    before = sorted(tmp_path.rglob("*"))
    line = only_error(command(*(model if word == "MODEL" else word for word in arguments)))
    assert "is a file" in line or "is a folder" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_full_is_one_line(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "results.csv"))

    monkeypatch.setattr("eo_backbones.demo.load_encoder", full)
    line = only_error(command("demo", "--out", tmp_path / "o"))
    assert line == (
        f"error: cannot write {tmp_path / 'results.csv'}: No space left on device; make room, or name another place, "
        "and start again"
    )
    assert as_user_error(OSError(104, "Connection reset by peer")) is None


# The cache


def results_of(root: Path, folder: Path) -> list[float]:
    request = Request(dataset="folder", models=("stats",), bands=("B04",), sizes=(32,))
    return [row.f1_weighted for row in measured(request, root=root, folder=folder)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(path.read_bytes()[:5]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no features at all"),
        lambda path: np.save(path, np.zeros((3, 8), np.float32)),
        lambda path: np.save(path, np.zeros(12, np.float64)),
        lambda path: np.save(path, np.asfortranarray(np.ones((12, 8), np.float32))),
    ],
)
def test_a_cut_or_foreign_file_in_the_cache_is_computed_again(
    spoil: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_class_folders(tmp_path / "own", per_class=4, size=32)
    expected = results_of(root, tmp_path)
    (tmp_path / "out" / "results.csv").unlink()
    (features,) = (tmp_path / "cache").rglob("*.npy")
    whole = features.read_bytes()
    spoil(features)
    assert results_of(root, tmp_path) == expected
    assert features.read_bytes() == whole
    assert "is cut or holds something else; the features are computed again" in caplog.text


def test_features_are_ordinary_npy_files(tmp_path: Path) -> None:
    values = torch.rand(5, 3)
    file = FeatureFile(tmp_path, {"a": 1}, torch.float32)
    with file.writing(5) as writer:
        writer.put(0, values[:3])
        writer.put(3, values[3:])
    np.testing.assert_array_equal(np.load(file.path), values.numpy())
    assert (file.exists(), file.exists(5), file.exists(6)) == (True, True, False)


def test_damaged_predictions_are_compared_with_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = Key("m", "d", "B04", "logistic", "seeded", "1", 64, "contract", 0, "w")
    write_predictions(tmp_path, key, Predictions(np.arange(3), np.zeros(3, int), NO_PROJECTION))
    assert read_predictions(tmp_path, key) is not None
    (path,) = (tmp_path / "predictions").iterdir()
    for content in (path.read_bytes()[:40], b"", path.read_bytes()[:-30]):
        path.write_bytes(content)
        assert read_predictions(tmp_path, key) is None
    assert "is damaged" in caplog.text


# Scenes


def test_a_scene_of_one_cell_has_a_picture(
    command: Callable[..., Ended], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(1, 32, 32), names=("B04",))
    model = write_tiny_encoder(tmp_path / "model")
    shared = ("embed", scene, "--model", model, "--bands", "B04", "--size", 32, "--stride", 32, "--device", "cpu")
    assert command(*shared, "--out", tmp_path / "one.tif", "--preview").status == 0
    with Image.open(tmp_path / "one.png") as picture:
        assert len(set(picture.convert("RGBA").get_flattened_data())) == 1
    ended = command(*shared, "--out", tmp_path / "two.tif", "--components", 1)
    assert "--components 1 need more cells than the 1 of this scene" in only_error(ended)
    assert not (tmp_path / "two.tif.part").exists()


def test_a_picture_does_not_replace_the_scene(command: Callable[..., Ended], tmp_path: Path) -> None:
    scene = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(scene)
    model = write_tiny_encoder(tmp_path / "model")
    before = scene.read_bytes()
    ended = command(
        "embed", scene, "--model", model, "--bands", "B04", "--out", tmp_path / "a.tif", "--preview", "--device", "cpu"
    )
    assert "--preview would replace" in only_error(ended)
    assert scene.read_bytes() == before


def test_similarity_in_a_cut_file_is_one_line(command: Callable[..., Ended], tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(1, 96, 96), names=("B04",))
    model = write_tiny_encoder(tmp_path / "model")
    out = tmp_path / "out.tif"
    assert command("embed", scene, "--model", model, "--bands", "B04", "--size", 32, "--out", out).status == 0
    assert "names a GeoTIFF, and its picture gets the same name with .png; pass map.tif" in only_error(
        command("similar", out, "--cell", "0,0", "--out", tmp_path / "map.png")
    )
    whole = out.read_bytes()
    for length in (len(whole) - 1000, len(whole) // 2, 20):
        out.write_bytes(whole[:length])
        line = only_error(command("similar", out, "--cell", "0,0"))
        assert "cannot read" in line
    assert not (tmp_path / "out_similar.tif").exists()


# Names that an encoding lacks


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_name_can_be_printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    speak_any_name()
    print("ł→\udcff ok")
    stream.flush()
    assert content.getvalue().endswith(b"\\udcff ok\n")


def test_a_name_that_is_no_text_ends_up_in_files_as_an_escape(tmp_path: Path) -> None:
    assert utf8("a\udcffé") == b"a\\udcff\xc3\xa9"
    write_atomically(tmp_path / "report.md", "local-dir:\udcff")
    assert (tmp_path / "report.md").read_text() == "local-dir:\\udcff"


@pytest.mark.parametrize("name", ["$x^$", "a_$b$_c^", "\udcff.tif", "{\\frac"])
def test_any_name_can_be_drawn(name: str) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set_title(name)
    axes.set_xticks([0, 1], [name if name.isprintable() else "class", "other"])  # a class must be text
    axes.plot([0, 1], label=name)
    axes.legend()
    assert png(figure).startswith(b"\x89PNG")
    assert utf8(name).decode() in {text.get_text() for text in figure.findobj(Text)}  # type: ignore[union-attr]


def test_a_bar_in_a_name_divides_no_cell() -> None:
    table = markdown_table(["class"], [["bare | rock"]])
    assert table.splitlines()[-1] == r"| bare \| rock |"


def test_a_message_is_one_line_whatever_it_names() -> None:
    assert error_line(UserError("no file a\nb; check")) == "error: no file a b; check"


# Options without effect


@pytest.mark.parametrize(
    "arguments",
    [
        ("embed", "s.tif", "--model", "M", "--bands", "B04", "--out", "o.tif", "--fuse", "mean"),
        ("embed", "s.tif", "--model", "M", "--bands", "B04", "--out", "o.tif", "--fuse", "concat"),
        ("export", "M", "--format", "torch", "--out", "o.pt2", "--fuse", "mean"),
        ("export", "M", "--format", "torch", "--out", "o.pt2", "--bands", "B04", "--fuse", "concat"),
        (*EVALUATE, "--out", "o", "--bands", "B04", "--fuse", "mean"),
    ],
)
def test_fusion_of_one_band_is_refused(
    arguments: tuple[str, ...], command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "own", per_class=3, size=32)
    before = sorted(tmp_path.iterdir())
    assert "--fuse" in only_error(command(*arguments))
    assert sorted(tmp_path.iterdir()) == before


def test_an_unknown_protocol_is_no_other_one() -> None:
    with pytest.raises(UserError, match="unknown protocol 'papr'; did you mean paper"):
        fit_predict(["papr"], [], torch.float32)


# Palettes


def write_palette(path: Path, *, grey: bool = False) -> Path:
    values = np.random.default_rng(0).integers(0, 8, (1, 64, 64), np.uint8)
    colours = {i: (i, i, i, 255) if grey else (30 * i, 255 - i, 7, 255) for i in range(256)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8") as target:
            target.write(values)
            target.write_colormap(1, {i: tuple(c % 256 for c in colour) for i, colour in colours.items()})
    return path


def test_a_palette_image_is_no_imagery(command: Callable[..., Ended], tmp_path: Path) -> None:
    path = write_palette(tmp_path / "own" / "a" / "p.tif")
    write_palette(tmp_path / "own" / "b" / "p.tif")
    model = write_tiny_encoder(tmp_path / "model")
    data = ("--dataset", "folder", "--root", tmp_path / "own", "--models", "stats", "--out", tmp_path / "o")
    runs = [
        ("embed", path, "--model", model, "--bands", "B04=1", "--out", tmp_path / "o.tif"),
        ("evaluate", *data, "--bands", "B04=1"),
        ("evaluate", *data),
    ]
    for arguments in runs:
        line = only_error(command(*arguments))
        assert "is a palette image: the numbers in band 1 stand for colours, not for values" in line
        assert "gdal_translate -expand rgb " in line
    assert {entry.name for entry in tmp_path.iterdir()} == {"own", "model"}


def test_a_palette_that_is_a_ramp_of_grey_is_read(tmp_path: Path) -> None:
    path = write_palette(tmp_path / "grey.tif", grey=True)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(read_bands(path, ["B04=1"]), source.read())
