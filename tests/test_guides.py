"""The guides work as written: every block is run, in order, in an empty folder, against the loopback Hub.

Commands are called in this process (their ``main``, with the words of the line), because importing torch for each would
take longer than the commands. Nothing in a block is replaced. While the embedded weights are not published, random ones
are declared in their place, so that the guide's name for them loads; from then on, the real ones are used.
"""

import csv
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import timm
import torch
from matplotlib import pyplot as plt

import eo_backbones.cli.main
import eo_backbones_train.cli.main
from eo_backbones import weights
from eo_backbones.files import sha256_of
from eo_backbones.hub.folder import WEIGHTS_FILE
from support.hub_http import Hub
from support.real_region import write_real_region

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "eo-backbones": eo_backbones.cli.main.main,
    "eo-train": eo_backbones_train.cli.main.main,
}


NOTEBOOK = GUIDES.parent / "notebooks" / "eo_backbones_tour.ipynb"


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def words(line: str) -> list[str]:
    """As the shell takes a line apart: quotes, comments, file patterns."""
    found: list[str] = []
    for word in shlex.split(line, comments=True):
        matches = sorted(path.as_posix() for path in Path().glob(word)) if "*" in word else []
        found += matches or [word]
    return found


def run_command(line: str) -> None:
    command, *arguments = words(line)
    with pytest.raises(SystemExit) as end:
        COMMANDS[command](arguments)
    assert not end.value.code, line


def run_blocks(text: str) -> dict[str, Any]:
    """Run all blocks; Python blocks share their names, as in one session. Returns these names."""
    session: dict[str, Any] = {"__name__": "guide"}
    for language, code in blocks(text):
        if language == "python":
            exec(compile(code, "<guide>", "exec"), session)
        else:
            assert language == "bash", f"a block of {language!r} would not be tested"
            for line in code.replace("\\\n", " ").splitlines():
                if line.strip():
                    run_command(line)
    return session


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an empty cache of features."""
    monkeypatch.setenv("EO_BACKBONES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def mini(weights_folder: Path, declare: Callable[..., None]) -> str:
    """sha256 of the embedded weights, or of random ones declared in their place."""
    if not weights.DEFAULT.published:
        file = weights_folder / WEIGHTS_FILE
        declare(replace(weights.DEFAULT, sha256=sha256_of(file), embedded=str(file)))
    assert weights.DEFAULT.sha256 is not None
    return weights.DEFAULT.sha256


@pytest.mark.slow
def test_load_and_embed(mini: str, empty: Path) -> None:
    session = run_blocks((GUIDES / "load-and-embed.md").read_text())
    assert session["features"].shape == (1, 1280)
    assert session["about"]["weights_sha256"] == mini
    assert session["red_input"]["unit"] == "reflectance"
    written = {path.name for path in empty.iterdir()}
    assert {"red.tif", "red.png", "red_similar.tif", "encoder", "encoder.ckpt", "encoder.pt2", "raw.pt2"} <= written
    assert session["cells"].shape == (1280, 7, 7)
    assert session["possible"].item() is True
    np.testing.assert_allclose(session["embedded"].numpy(), session["features"].numpy(), atol=1e-4)
    x = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(session["plain"](x), session["model"](x), atol=1e-5, rtol=1e-4)
    checkpoint = torch.load(empty / "encoder.ckpt", weights_only=True)
    network = timm.create_model(checkpoint["hyper_parameters"]["model"], in_chans=1, num_classes=0)
    assert {f"model.{name}" for name in network.state_dict()} == checkpoint["state_dict"].keys()
    with rasterio.open(empty / "red.tif") as embedding:
        assert (embedding.count, *embedding.shape, *embedding.res) == (3, 7, 7, 320.0, 320.0)


@pytest.mark.slow
@pytest.mark.usefixtures("mini")
def test_fine_tune_on_a_class_folder(empty: Path) -> None:
    session = run_blocks((GUIDES / "fine-tune-on-a-class-folder.md").read_text())
    assert session["model"].num_classes == 3
    with (empty / "predictions.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 9  # image_1, image_10 and image_11 of three classes
    assert {answer["class"] for answer in answers} <= {"AnnualCrop", "Forest", "HerbaceousVegetation"}


@pytest.mark.slow
@pytest.mark.usefixtures("mini")
def test_segment_your_own_images(empty: Path) -> None:
    session = run_blocks((GUIDES / "segment-your-own-images.md").read_text())
    with (empty / "land" / "classes.csv").open(newline="") as file:
        values = {int(row["value"]) for row in csv.DictReader(file)}
    assert session["scores"].shape == (2, len(values), 50, 70)
    for name in ("image_1.tif", "image_2.tif"):
        with rasterio.open(empty / "masks" / name) as mask, rasterio.open(empty / "land" / "images" / name) as image:
            assert set(np.unique(mask.read(1)).tolist()) <= values
            assert (mask.transform, mask.crs, mask.nodata) == (image.transform, image.crs, 255)


@pytest.mark.slow
@pytest.mark.usefixtures("mini")
def test_map_a_region(empty: Path) -> None:
    session = run_blocks((GUIDES / "map-a-region.md").read_text())
    report = session["report"]
    assert (report["points"]["listed"], report["region"]["scenes"]) == (48, 4)
    assert {entry["class"] for entry in report["classes"]} == {"AnnualCrop", "Forest", "Residential", "SeaLake"}
    hits = json.loads((empty / "hits.geojson").read_text())["features"]
    assert len(hits) == 5
    for name in ("region/region.png", "hits.png", "map/map.png"):
        assert plt.imread(empty / name).ndim == 3
    for number in range(4):
        with rasterio.open(empty / "map" / f"scene_{number}" / f"scene_{number}_classes.tif") as classes:
            assert (classes.shape, classes.res, classes.nodata) == ((15, 15), (320, 320), 255)


@pytest.mark.slow
@pytest.mark.usefixtures("mini")
def test_map_a_region_of_real_scenes(empty: Path, shared_data: Path) -> None:
    """The same blocks, but for the one that writes synthetic scenes."""
    write_real_region(empty / "land", shared_data)
    text = (GUIDES / "map-a-region.md").read_text()
    made = 'write_region(Path("land"))'
    assert made in text
    report = run_blocks(text.replace(made, ""))["report"]
    assert (report["points"]["listed"], report["region"]["scenes"]) == (80, 5)
    assert report["coverage"]["high"] >= 0.9
    counted = np.array(report["confusion"]).sum(axis=1)
    assert report["f1_weighted"]["low"] > (counted**2).sum() / counted.sum() ** 2  # classes drawn by their shares


@pytest.mark.slow
@pytest.mark.usefixtures("mini", "empty")
def test_use_with_lightning() -> None:
    pytest.importorskip("pytorch_lightning", reason="it comes with lightly, a development dependency")
    session = run_blocks((GUIDES / "use-with-lightning.md").read_text())
    assert session["trainer"].callback_metrics["val_accuracy"] > 0.5  # three classes
    images = torch.stack([session["held_out"][i][0] for i in range(4)])
    with torch.no_grad():
        expected = session["module"].eval()(images)
        torch.testing.assert_close(session["again"].to(expected.device)(images), expected)


@pytest.mark.slow
def test_retrain_and_publish(hub: Hub, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    run_blocks((GUIDES / "retrain-and-publish.md").read_text())
    assert set(hub.store.repositories["acme/eo_resnet50.byol_mydata"].tags) == {"v1"}
    assert "0." in (empty / "results" / "report.md").read_text()


def run_notebook(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run its code cells in one session, where it lies; returns the session's names."""
    monkeypatch.chdir(NOTEBOOK.parent)
    session: dict[str, Any] = {"__name__": "notebook"}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), session)
    return session


@pytest.fixture
def figures() -> Iterator[None]:
    """Figures stay in memory, also where there is a screen."""
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.mark.slow
@pytest.mark.usefixtures("mini", "figures")
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
def test_the_notebook_runs_on_synthetic_scenes_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_SHARED_DATA", str(tmp_path))
    session = run_notebook(monkeypatch)
    assert session["both"].shape == (60, 2560)
    np.testing.assert_allclose(session["both"], np.hstack([session["red"], session["radar"]]), atol=1e-4)
    assert "no real patches in" in capsys.readouterr().out
    assert len(plt.get_fignums()) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("mini", "figures")
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
def test_the_notebook_shows_real_patches_where_they_are(monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    monkeypatch.setenv("EO_SHARED_DATA", str(shared_data))
    session = run_notebook(monkeypatch)
    assert session["real"].shape == (8, 64, 64)
    np.testing.assert_allclose(np.diag(session["real_cosines"]), 1, atol=1e-4)
    assert len(plt.get_fignums()) == 4


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize(
    "text", ["```python\nassert 1 == 2\n```", "```bash\neo-backbones info nonsense\n```", "```sh\nls\n```"]
)
def test_a_block_that_does_not_work_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError):
        run_blocks(text + "\n")


def test_the_readme_links_every_guide(repository: Path) -> None:
    readme = (repository / "README.md").read_text()
    for guide in GUIDES.glob("*.md"):
        assert f"(docs/guides/{guide.name})" in readme


def test_links_between_guides_lead_somewhere() -> None:
    for guide in (*GUIDES.glob("*.md"), NOTEBOOK):
        for target in re.findall(r"\]\(([^)#:]+)\)", guide.read_text()):
            assert (guide.parent / target).exists(), f"{guide.name}: {target}"
