"""``evaluate`` on data sets other than EuroSAT: end to end on small synthetic images, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_backbones.cli.main import main
from eo_backbones.datasets.synthetic_files import write_class_folders
from eo_backbones.errors import UserError
from eo_backbones.evaluation.request import Request
from eo_backbones.results import Result
from support.measured import measured
from support.own_images import write_parts
from support.synthetic_layouts import write_dfc2020

Measure = Callable[..., list[Result]]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    def run_request(dataset: str, root: Path, *models: str, **changes: object) -> list[Result]:
        request = Request(dataset=dataset, models=models or ("stats",), sizes=(32,))
        return measured(request, root=root, folder=tmp_path, **changes)

    return run_request


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command; return its one line on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def keep(root: Path, classes: int, first: int) -> None:
    """Leave so many classes, and so many images in the first."""
    folders = sorted(root.iterdir())
    for folder in folders[classes:]:
        folder.rename(root.parent / folder.name)
    for path in sorted(folders[0].iterdir())[first:]:
        path.unlink()


def resize(path: Path) -> None:
    with rasterio.open(path, "w", driver="GTiff", width=8, height=8, count=4, dtype="uint16") as target:
        target.write(np.ones((4, 8, 8), np.uint16))


def flatten(root: Path) -> None:
    for path in list(root.glob("*/*.tif")):
        path.rename(root / f"{path.parent.name}_{path.name}")


def test_scenes_of_dfc2020_in_both_sensors(measure: Measure, tmp_path: Path) -> None:
    root = write_dfc2020(tmp_path / "dfc", validation=40, test=20, size=32)
    rows = measure("dfc2020", root, bands=("B04", "VV", "B04+VH"), split="standard", protocols=("logistic", "knn"))
    assert {row.band for row in rows} == {"B04", "VV", "B04+VH (concat)"}
    assert {row.split for row in rows} == {"standard"}
    assert rows[0].n_train > rows[0].n_test
    text = (tmp_path / "out" / "report.md").read_text()
    assert "the contest's test images" in text
    assert "VV, VH: backscatter in dB" in text


def test_a_users_folder(measure: Measure, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "own", named=False, per_class=5)
    rows = measure("folder", root, bands=("B04=3", "B08=4", "B04=3+B08=4"))
    assert [row.band for row in rows] == ["B04", "B08", "B04+B08 (concat)"]
    assert "--bands B04=3 B08=4 B04=3+B08=4" in (tmp_path / "out" / "commands.txt").read_text()
    with pytest.raises(UserError, match=r"holds results of other images"):
        measure("folder", root, bands=("B04=1",))
    with pytest.raises(UserError, match="B04=3 and B04=1: a band has only one index in the file"):
        measure("folder", root, bands=("B04=3", "red=1"))
    with pytest.raises(UserError, match="folder in this folder has no standard split; pass --split seeded"):
        measure("folder", root, bands=("B04=3",), split="standard")


@pytest.mark.parametrize("nested", [False, True])
def test_folders_of_a_split_are_used_unless_told_otherwise(nested: bool, measure: Measure, tmp_path: Path) -> None:
    root = write_parts(tmp_path / "own", ("train", "val", "test"), nested=nested)
    rows = measure("folder", root, bands=("B04",))
    assert [(row.split, row.n_train, row.n_test) for row in rows] == [("standard", 12, 6)]
    assert "--split standard" in (tmp_path / "out" / "commands.txt").read_text()
    rows = measure("folder", root, bands=("B04",), split="seeded")
    assert [row.split for row in rows] == ["standard", "seeded"]


def test_a_folder_of_radar_only_needs_no_bands_typed(measure: Measure, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "own", bands=("VV", "VH"), named=False)
    assert [row.band for row in measure("folder", root)] == ["VV", "VH"]


def test_values_in_another_unit_than_declared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights_folder: Path
) -> None:
    root = write_class_folders(tmp_path / "own", bands=("B04",))
    for path in root.glob("*/*.tif"):  # as reflectance, which nobody said
        with rasterio.open(path) as source:
            values = source.read()
        with rasterio.open(path, "w", driver="GTiff", width=32, height=32, count=1, dtype="float32") as target:
            target.write((values / 10_000).astype(np.float32))
            target.descriptions = ("B04",)
    options = ("--dataset", "folder", "--root", root, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    model = ("--models", f"local-dir:{weights_folder}", "--size", 32)
    line = fails(capsys, *options, *model)
    assert "are fractions, not digital numbers (reflectance x 10000); pass unit='reflectance'" in line
    line = fails(capsys, *options, *model, "--unit", "db")
    assert "band B04 cannot be in unit 'db'; pass one of dn, reflectance, uint8" in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, (*options, *model, "--unit", "reflectance", "--json"))])
    assert not ended.value.code


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: keep(root, 1, 4), "holds one class only"),
        (lambda root: keep(root, 2, 1), "class AnnualCrop has 1; train, val and test need at least 3 images"),
        (lambda root: resize(root / "Forest" / "image_1.tif"), "images differ in pixels"),
        (flatten, "labels are missing"),
    ],
)
def test_folders_that_cannot_be_evaluated(
    spoil: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = write_class_folders(tmp_path / "own")
    spoil(root)
    line = fails(capsys, "--dataset", "folder", "--root", root, "--models", "stats", "--out", tmp_path / "out")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_results_of_another_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_class_folders(tmp_path / "own")
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("model,score\nstats,1\n")
    line = fails(capsys, "--dataset", "folder", "--root", root, "--models", "stats", "--out", out)
    assert "was written by another version" in line
