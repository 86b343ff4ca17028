"""The commands where little is there: no home, nothing writable, no display, plain C locale, an old console, not root.

Real processes, with an environment of their own; all at once, as in a locked-down container.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

from eo_backbones.datasets.synthetic_files import write_class_folders
from support.tiny_encoders import write_tiny_encoder

PROGRAM = Path(sys.executable).with_name("eo-backbones")
BARE = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C",
    "PYTHONIOENCODING": "cp1252",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}
SEALED = """
mount --bind "$1" "$1" && mount -o remount,bind,ro / && cd / && shift || exit 99
exec unshare --user --map-user=1000 -- "$@"
"""
"""The first argument stays writable, the rest of the disk does not; the command runs as a user with no rights."""


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, words)), env=BARE | variables, capture_output=True, timeout=280, check=False, cwd="/",
        encoding="cp1252",
    )  # fmt: skip


@pytest.fixture(scope="module")
def can_be_sealed(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux), which makes the disk read-only for one process, is not installed")
    probe = sealed(tmp_path_factory.mktemp("probe"), "sh", "-c", "id -u; touch /eo-backbones-probe")
    if probe.stdout.strip() != "1000" or "Read-only" not in probe.stderr:
        pytest.skip(f"this machine lets nobody make the disk read-only for one process ({probe.stderr.strip()[:80]})")


def sealed(out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run("unshare", "--mount", "sh", "-c", SEALED, "sh", out, *words)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene whose name the console cannot show."""
    made = write_class_folders(tmp_path_factory.mktemp("scenes"), per_class=1, bands=("B04",), size=96)
    return next(made.rglob("*.tif")).rename(made / "Fluß 河 ☃.tif")


@pytest.mark.usefixtures("can_be_sealed")
def test_a_scene_is_embedded_where_nothing_else_can_be_written(encoder: str, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = ["--model", encoder, "--bands", "B04", "--components", "3", "--preview", "--out", out / "河.tif"]
    done = sealed(out, PROGRAM, "embed", image, *words)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert r"\u6cb3.tif" in done.stdout, "shown as an escape"
    assert {path.suffix for path in out.iterdir()} == {".tif", ".png", ".npz"}
    with rasterio.open(out / "河.tif") as embedding:
        assert (embedding.count, embedding.shape) == (3, (2, 2))


@pytest.mark.usefixtures("can_be_sealed")
def test_what_cannot_be_written_is_said_in_one_line(encoder: str, image: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    words = ["--model", encoder, "--bands", "B04", "--out", tmp_path / "elsewhere.tif"]
    done = sealed(tmp_path / "out", PROGRAM, "embed", image, *words)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert "elsewhere.tif" in errors[0]
    assert not list((tmp_path / "out").iterdir())


def test_facts_and_mistakes_on_a_console_of_cp1252_without_a_home() -> None:
    done = run(PROGRAM, "info", "eo_resnet50.byol_s1s2_mini", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published"] is True
    done = run(PROGRAM, "info", "local-dir:河", LC_ALL="C")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: there is no folder")


def test_without_any_folder_for_temporary_files_the_import_says_what_to_do() -> None:
    code = """
import os, tempfile
def none(): raise FileNotFoundError(2, "No usable temporary directory found")
tempfile.gettempdir, os.access = none, lambda *_: False
try:
    import eo_backbones
except ImportError as error:
    print(error)
"""
    done = run(sys.executable, "-c", code, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    assert done.stdout == (
        "PyTorch needs a folder for temporary files, and none can be written; set TMPDIR to one that can\n"
    ), done.stderr
