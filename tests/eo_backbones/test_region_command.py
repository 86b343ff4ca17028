"""``eo-backbones embed`` with a folder for ``--out``, as a user types it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from eo_backbones.cli import main
from eo_backbones.regions import open_region
from support.region_scenes import write_scenes
from support.synthetic_scene import numbers, write_scene
from support.tiny_encoders import write_tiny_encoder


def typed(*arguments: str) -> int:
    """Run the command; return its exit status."""
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


def options(model: str, out: Path) -> list[str]:
    return [
        "--model", model, "--bands", "B04", "B08", "--size", "32", "--stride", "16", "--device", "cpu",
        "--out", str(out),
    ]  # fmt: skip


def test_a_folder_of_scenes_becomes_a_folder_of_embeddings(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path / "in")
    out = tmp_path / "deep" / "region"
    arguments = ["embed", str(tmp_path / "in"), *options(model, out), "--components", "3", "--preview", "--json"]
    assert typed(*arguments) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["scenes"], made["embedded"], made["failed"], made["numbers"]) == (3, 3, [], 3)
    assert made["km2_per_s"] == pytest.approx(made["km2"] / made["seconds"])
    assert Path(made["catalog"]).is_file()
    assert len(open_region(out).scenes) == 3
    with Image.open(made["preview"]) as picture:
        assert min(picture.size) > 100
    assert typed(*arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["earlier"], again["computed_cells"], again["cells"]) == (3, 0, made["cells"])


def test_a_scene_that_cannot_be_embedded_makes_the_status_1(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = write_scenes(tmp_path / "in", 2)
    write_scene(tmp_path / "in" / "other.tif", numbers(2, 96, 112), names=("B02", "B03"))
    assert typed("embed", str(tmp_path / "in"), *options(model, tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "scenes: 2 of 3" in said.out
    assert "other.tif" in said.out
    assert "warning: left out: " in said.err
    with (tmp_path / "out" / "failed.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [str(tmp_path / "in" / "other.tif")]
    assert typed("embed", *map(str, scenes), *options(model, tmp_path / "out")) == 0


def test_scenes_of_a_list_and_scenes_of_several_files(tmp_path: Path, model: str) -> None:
    first, second = write_scenes(tmp_path / "in", 2)
    bands = tmp_path / "bands" / "S2A_20220701T102031"
    bands.mkdir(parents=True)
    for name, values in zip(("B04", "B08"), numbers(2, 96, 112, seed=7), strict=True):
        write_scene(bands / f"{name}.tif", values[None])
    (tmp_path / "list.txt").write_text(f"in/{first.name}  # a comment\n{second}\n{bands}\n")
    assert typed("embed", str(tmp_path / "list.txt"), *options(model, tmp_path / "out")) == 0
    assert len(open_region(tmp_path / "out").scenes) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "region.png"], "its suffix names no format; end it in .tif, .parquet"),
        (["--out", "one.tif", "--workers", "2"], "--workers has no effect here: one.tif holds one scene"),
        (["--out", "one.tif", "--scheduler", "tcp://h:1"], "--scheduler has no effect here"),
        (["--out", "many", "--workers", "0"], "--workers 0: pass 1 or more"),
        (["--out", "many", "--format", "cgo"], "unknown --format 'cgo'; did you mean cog"),
        (["--out", "many", "--components", "0"], "--components 0: pass 1 or more"),
        (["--out", "many", "--components", "999"], "there are 192 features; pass fewer"),
        (["--out", "in"], "in is not empty and does not hold a region"),
        (["--out", "in/s_20220601T102031.tif/x"], "is a file, not a folder"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "in", 1)
    assert typed("embed", "in", *options(model, Path("unused"))[:-2], *arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert message in said[-1]
    assert said[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_suffix_of_the_output_says_one_scene_or_many(tmp_path: Path, model: str) -> None:
    scene = write_scenes(tmp_path / "in", 1)[0]
    for out, file_format, is_file in (
        ("one.tif", None, True),
        ("one", "geotiff", True),
        ("many", None, False),
        ("region_2.5", None, False),
        ("tables", "parquet", False),
    ):
        extra = [] if file_format is None else ["--format", file_format]
        assert typed("embed", str(scene), *options(model, tmp_path / out), *extra) == 0
        assert (tmp_path / out).is_file() == is_file
    with (
        rasterio.open(tmp_path / "one.tif") as alone,
        rasterio.open(tmp_path / "many" / scene.stem / scene.name) as cog,
    ):
        np.testing.assert_array_equal(alone.read(), cog.read())
        assert alone.transform == cog.transform


def test_help_teaches_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("embed", "--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "One scene: --out names a file" in shown
    assert "Many scenes: --out names a folder" in shown
    assert "--scheduler tcp://HOST:8786" in shown
