"""``eo-backbones embed`` and ``similar`` as a user types them."""

import json
from pathlib import Path

import pytest

from eo_backbones.cli import main
from support.synthetic_scene import numbers, write_scene
from support.tiny_encoders import write_tiny_encoder


def typed(*arguments: str) -> int:
    """Run the command; return its exit status."""
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    return int(caught.value.code or 0)


def test_a_scene_is_embedded_and_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(2, 96, 96), names=("B04", "B08"))
    model = write_tiny_encoder(tmp_path / "model")
    out = tmp_path / "deep" / "out.tif"
    shared = ["--model", model, "--size", "32", "--stride", "16", "--device", "cpu"]
    options = ["--bands", "B04", "B08", "--unit", "dn", "dn", "--components", "4", "--preview", "--out", str(out)]
    assert typed("embed", str(scene), *shared, *options, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["rows"], made["cols"], made["numbers"], made["units"]) == (5, 5, 4, ["dn", "dn"])
    assert made["km2"] == pytest.approx(0.8**2)
    assert made["km2_per_s"] == pytest.approx(made["km2"] / made["seconds"])
    names = ["out.components.npz", "out.png", "out.tif"]
    assert sorted(path.name for path in out.parent.iterdir()) == names
    assert typed("similar", str(out), "--at", "9.005,45.149", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["out"] == str(out.parent / "out_similar.tif")
    assert Path(found["preview"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "none.tif", "--model", "M", "--bands", "B04", "--out", "o.tif"], "error: no file none.tif"),
        (["embed", "SCENE", "--model", "M", "--bands", "B99", "--out", "o.tif"], "error: unknown band 'B99'"),
        (["embed", "SCENE", "--model", "no_such", "--bands", "B04", "--out", "o.tif"], "error: unknown"),
        (["similar", "SCENE", "--at", "9,45"], "is not an embedding; make one with eo-backbones embed"),
        (["similar", "SCENE", "--at", "9 45"], "error: --at LON,LAT takes two numbers"),
        (["similar", "none.tif", "--at", "9,45"], "error: no file none.tif"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "SCENE", numbers(1, 64, 64), names=("B04",))
    assert typed(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["SCENE"]


def test_help_says_how_large_it_gets(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("embed", "--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--components 16 keeps 128 times less" in shown
    assert "A window with more than --max-nodata" in shown
