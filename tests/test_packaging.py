"""What is shipped, and what a bare checkout needs: the wheel, the import, torch.hub."""

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import eo_backbones
from eo_backbones.weights import families
from support.hub_fixtures import RunPython

# What `import eo_backbones` and hubconf.py must do without: the commands' libraries and the trainer's.
NOT_IMPORTED = ("rasterio", "matplotlib", "typer", "rich", "tensorboard", "sklearn", "lightly", "eo_backbones_train")


def build(repository: Path, folder: Path, kind: str) -> Path:
    """Build with the hatchling of this environment, which needs no network; return the one file that it makes."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder), str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel."""
    return zipfile.ZipFile(build(repository, tmp_path_factory.mktemp("wheel"), "wheel"))


def package_files(repository: Path, *patterns: str) -> set[str]:
    """Files of the two packages that match a pattern, under the names that they have in a wheel."""
    return {
        path.relative_to(root).as_posix()
        for root, package in ((repository, "eo_backbones"), (repository / "training", "eo_backbones_train"))
        for pattern in patterns
        for path in (root / package).rglob(pattern)
    }


def test_the_wheel_holds_the_modules_of_the_two_packages_and_no_others(
    wheel: zipfile.ZipFile, repository: Path
) -> None:
    """No maintainers' tools, and no top-level `publish`, `training` or `tests`, which would collide with others."""
    names = wheel.namelist()
    info = f"eo_backbones-{eo_backbones.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"eo_backbones", "eo_backbones_train", info}
    modules = {name for name in names if name.endswith(".py")}
    assert modules == package_files(repository, "*.py")
    assert {"eo_backbones/hub/download.py", "eo_backbones_train/methods/byol.py"} <= modules
    assert not [name for name in modules if {"publish", "tests", "support"} & set(name.split("/"))]


def test_the_wheel_holds_the_package_data(wheel: zipfile.ZipFile, repository: Path) -> None:
    expected = package_files(repository, "py.typed", "*.safetensors", "*.json", "*.csv", "*.jsonl", "*.png")
    assert {
        "eo_backbones/py.typed",
        "eo_backbones_train/py.typed",
        "eo_backbones/embedded/golden.safetensors",
        "eo_backbones/embedded/results.csv",
    } <= expected
    assert expected <= set(wheel.namelist())
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_source_distribution_holds_what_a_wheel_is_built_from(repository: Path, tmp_path: Path) -> None:
    with tarfile.open(build(repository, tmp_path, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        name.replace("eo_backbones_train", "training/eo_backbones_train") for name in package_files(repository, "*.py")
    }
    assert sources == {name for name in names if name.endswith(".py")} - {"hubconf.py"}
    assert {"pyproject.toml", "README.md", "LICENSE", "hubconf.py", "eo_backbones/embedded/golden.safetensors"} <= names
    assert {name.split("/")[0] for name in names} == {
        "eo_backbones", "training", "model_cards", "hubconf.py", "pyproject.toml", "README.md", "LICENSE",
        "CHANGELOG.md", "PKG-INFO", ".gitignore",
    }  # fmt: skip


def metadata(wheel: zipfile.ZipFile) -> Message:
    """What an index is told: fields, and the description as the payload."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_string(wheel.read(name).decode())


def test_the_description_is_one_that_pypi_shows(wheel: zipfile.ZipFile, repository: Path) -> None:
    """It renders, and no link leads to a file that only the repository has."""
    assert wheel.filename is not None
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel.filename]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = metadata(wheel).get_payload()
    links = re.findall(r"\]\(([^)]+)\)", str(text))
    assert not [link for link in links if not link.startswith(("https://", "http://", "#"))]
    card = "model_cards/eo_resnet50.byol_s1s2_mini/README.md"
    assert f"https://github.com/OWNER/eo_backbones/blob/main/{card}" in links
    relative = [
        link for link in re.findall(r"\]\(([^)]+)\)", (repository / "README.md").read_text()) if ":" not in link
    ]
    assert len(relative) > 10
    assert not [link for link in relative if not (repository / link.partition("#")[0]).exists()]


def test_the_classifiers_name_every_python_from_the_oldest_on(wheel: zipfile.ZipFile) -> None:
    named = re.findall(
        r"Programming Language :: Python :: 3\.(\d+)", "\n".join(metadata(wheel).get_all("Classifier", []))
    )
    assert f">=3.{named[0]}" == metadata(wheel)["Requires-Python"]
    assert list(map(int, named)) == list(range(11, 15))


def test_every_extra_is_named_in_the_readme(wheel: zipfile.ZipFile, repository: Path) -> None:
    part = (repository / "README.md").read_text().split("## Install\n")[1].split("\n## ")[0]
    assert set(metadata(wheel).get_all("Provides-Extra", [])) == set(re.findall(r"`([a-z]+)`", part))


def test_the_wheel_declares_the_two_commands(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert wheel.read(name).decode().split() == [
        "[console_scripts]",
        *("eo-backbones", "=", "eo_backbones.cli.main:main"),
        *("eo-train", "=", "eo_backbones_train.cli.main:main"),
    ]


def test_no_dependency_has_an_upper_bound(wheel: zipfile.ZipFile) -> None:
    required = [line for line in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in line]
    required.append(metadata(wheel)["Requires-Python"])
    assert "timm>=1.0.31" in required
    assert not [line for line in required if "<" in line or "==" in line]


def test_the_version_is_written_the_same_twice(repository: Path) -> None:
    """A checkout that torch.hub downloaded has no metadata to read it from."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert eo_backbones.__version__ == project["version"]


def test_a_bare_checkout_is_enough_for_torch_hub(repository: Path, run_python: RunPython, tmp_path: Path) -> None:
    """Only the repository root is on the path, no connection is opened, and no extra is imported."""
    code = f"""
import importlib.util, json, socket, sys
from pathlib import Path

root = Path({str(repository)!r})
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in (root, root / "training", Path.cwd())]
assert importlib.util.find_spec("eo_backbones") is None and importlib.util.find_spec("eo_backbones_train") is None

def refuse(*arguments, **named):
    raise AssertionError(f"a connection was opened: {{arguments}}")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse

import torch
before = set(sys.modules)
model = torch.hub.load(str(root), "byol_resnet50", source="local", pretrained=False).eval()
import eo_backbones, timm
print(json.dumps({{
    "file": eo_backbones.__file__,
    "shape": list(model(torch.zeros(1, 1, 32, 32)).shape),
    "path": [entry for entry in sys.path if entry.startswith(str(root)) and "site-packages" not in entry],
    "modules": sorted({{name.partition(".")[0] for name in sys.modules}}),
    "registered": timm.list_models("eo_*"),
}}))
"""
    done = run_python(code, cwd=tmp_path, PYTHONPATH=None)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["file"] == str(repository / "eo_backbones" / "__init__.py")
    assert (seen["shape"], seen["path"], seen["registered"]) == ([1, 2048], [], sorted(families()))
    assert not set(NOT_IMPORTED) & set(seen["modules"])
