"""Wheel and source distribution in bare environments of several Pythons: what it takes, and whether all runs there.

    uv run python benchmarks/installs.py [--pythons 3.11 3.12 3.13 3.14] [--interpreter PATH ...] [--routes NAME ...]
        [--cold] [--out FILE]

Both files are built from this checkout. Each Python gets an environment with nothing in it, first for the wheel, in
which every route runs, then for the source distribution, which is only imported. An interpreter is one that uv finds
or can install; one that it cannot is named with the reason, and is no failure. A route that fails is: exit status 1.

``--cold`` installs once more from the registry with an empty cache, to time the download. The size is that of the files
of the environment on the disk, without the interpreter.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eo_backbones.cards.tables import markdown_table
from eo_backbones.weights import DEFAULT
from eo_backbones_train.pretraining.run_folder import git_commit

REPOSITORY = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NAME = DEFAULT.name

# What it shows -> Python code, or words of a command. All run in one folder, in this order, without a network.
ROUTES: dict[str, str | Sequence[str]] = {
    "import": """
import sys, eo_backbones
assert "site-packages" in eo_backbones.__file__
assert not {"rasterio", "matplotlib", "typer", "tensorboard"} & set(sys.modules)
""",
    "list": ("eo-backbones", "list"),
    "save": ("eo-backbones", "save", NAME, "encoder"),
    "load (timm alone, create_model, timm's registry, torch.hub)": f"""
import sys, timm, torch
images = torch.ones(1, 1, 64, 64)
expected = timm.create_model("local-dir:encoder", pretrained=True).eval()(images)
assert not [name for name in sys.modules if name.startswith("eo_backbones")]
import eo_backbones
for model in (
    eo_backbones.create_model({NAME!r}), eo_backbones.create_model("local-dir:encoder"),
    timm.create_model({NAME!r}, pretrained=True),
    torch.hub.load("sdist", {DEFAULT.hub_entry[0]!r}, source="local", weights={DEFAULT.hub_entry[1]!r}),
):
    torch.testing.assert_close(model.eval()(images), expected)
""",
    "demo": ("eo-backbones", "demo", "--out", "demo"),
    "finetune, predict": """
from pathlib import Path
from eo_backbones.cli import main as library
from eo_backbones.datasets.synthetic_files import write_class_folders
from eo_backbones_train.cli import main as trainer
write_class_folders(Path("fields"), per_class=6, size=32)
image = str(next(Path("fields").rglob("*.tif")))
for run, words in (
    (trainer.main, ["finetune", "--data", "fields", "--model", "local-dir:encoder", "--bands", "B04", "--epochs", "2",
                    "--out", "classifier"]),
    (library.main, ["predict", image, "--model", "classifier", "--out", "answers.csv"]),
):
    try:
        run(words)
    except SystemExit as end:
        assert not end.code, words
assert Path("answers.csv").read_text().startswith("path,class")
""",
    "eo-train": ("eo-train", "recipes"),
}
SHORT = ("import",)


class RouteFailedError(Exception):
    """A command in a bare environment ended with a status other than 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What an installation took: seconds, packages, bytes on the disk, and how many of them are PyTorch and CUDA's."""

    seconds: float
    packages: int
    size: int
    torch: int


def main() -> None:
    """Build, install, run the routes, print the table; ``--out`` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", nargs="+", default=list(PYTHONS))
    parser.add_argument("--interpreter", nargs="*", default=[], type=Path, help="also these, which uv does not find")
    parser.add_argument("--routes", nargs="+", help="only routes that begin with these words, say import save load")
    parser.add_argument("--cold", action="store_true", help="time one installation with an empty cache")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    chosen = [name for name in ROUTES if not options.routes or name.startswith(tuple(options.routes))]
    rows, notes, failed = [], [], False
    with tempfile.TemporaryDirectory(prefix="eo-installs-") as folder:
        wheel, sdist = build(Path(folder) / "dist")
        found = [(python, find_python(python)) for python in options.pythons]
        found += [(str(path), str(path)) for path in options.interpreter]
        for python, where in found:
            if not Path(where).exists():
                notes.append(f"Python {python}: {where}")
                say(notes[-1])
                continue
            for file, routes in ((wheel, chosen), (sdist, SHORT)):
                work = Path(folder) / f"work-{len(rows)}"
                try:
                    taken = install(file, where, work / "venv")
                    done = run_routes(routes, work, sdist)
                except RouteFailedError as error:
                    failed = True
                    rows.append([version_of(where), file.name, "", "", "", f"**failed**: {error}"])
                else:
                    rows.append([version_of(where), file.name, *cells(taken), ", ".join(done)])
                say(" | ".join(rows[-1]))
                shutil.rmtree(work, ignore_errors=True)
        if options.cold:
            where = found[0][1]
            taken = install(wheel, where, Path(folder) / "cold", cache=Path(folder) / "cache")
            notes.append(f"With an empty cache, from the registry: {taken.seconds:.0f} s (Python {version_of(where)}).")
            say(notes[-1])
        sizes = f"The wheel has {mib(wheel.stat().st_size)}, the source distribution {mib(sdist.stat().st_size)}."
    columns = [
        "Python",
        "file",
        "seconds, cached",
        "packages",
        "on the disk (of it PyTorch and CUDA)",
        "what ran there",
    ]
    text = "\n\n".join([markdown_table(columns, rows), sizes, *notes])
    print(text)
    if options.out:
        options.out.write_text(f"{heading()}\n\n{text}\n", encoding="utf-8")
    sys.exit(1 if failed else 0)


def build(folder: Path) -> tuple[Path, Path]:
    """Return the wheel and the source distribution."""
    run(["uv", "build", "--quiet", "--out-dir", str(folder), str(REPOSITORY)])
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def find_python(version: str) -> str:
    """Return the path of an interpreter, installed by uv if need be, or why there is none."""
    done = subprocess.run(["uv", "python", "find", "--system", version], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    done = subprocess.run(["uv", "python", "install", version], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return find_python(version)
    reasons = re.findall(r"(?:error|cause): (.+)", done.stderr)
    return f"not found, and uv cannot install it here ({without_hosts(reasons[-1] if reasons else done.stderr)})"


def install(file: Path, python: str, venv: Path, *, cache: Path | None = None) -> Installed:
    """Install a file with its dependencies into a new environment."""
    run(["uv", "venv", "--quiet", "--no-project", "--python", python, str(venv)])
    began = time.monotonic()
    run(
        ["uv", "pip", "install", "--quiet", "--python", str(venv), str(file)],
        UV_CACHE_DIR=str(cache) if cache else None,
    )
    seconds = time.monotonic() - began
    (packages,) = venv.glob("lib/python*/site-packages")
    return Installed(
        seconds=seconds,
        packages=len(list(packages.glob("*.dist-info"))),
        size=size_of(packages),
        torch=sum(size_of(path) for name in ("torch", "nvidia*", "triton") for path in packages.glob(name)),
    )


def run_routes(names: Sequence[str], work: Path, sdist: Path) -> list[str]:
    """Run routes in the environment ``venv`` of a folder; return their names."""
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    (work / sdist.name.removesuffix(".tar.gz")).rename(work / "sdist")
    tools = work / "venv" / "bin"
    for name in names:
        route = ROUTES[name]
        words = [str(tools / "python"), "-c", route] if isinstance(route, str) else [str(tools / route[0]), *route[1:]]
        run(words, cwd=work, what=name, HF_HUB_OFFLINE="1", HF_HOME=str(work / "hub"))
    return list(names)


def run(words: Sequence[str], *, cwd: Path | None = None, what: str = "", **variables: str | None) -> None:
    """Run a command; its output is shown only if it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {key: value for key, value in variables.items() if value is not None}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RouteFailedError(f"{what or ' '.join(words[:3])}: {without_hosts(last)}")


def size_of(folder: Path) -> int:
    """Return bytes on the disk of the files in a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def version_of(python: str) -> str:
    """Return the version of an interpreter."""
    code = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def cells(taken: Installed) -> list[str]:
    """Return seconds, packages and sizes for the table."""
    return [f"{taken.seconds:.0f}", str(taken.packages), f"{mib(taken.size)} ({mib(taken.torch)})"]


def mib(size: int) -> str:
    """Return a size in MiB."""
    return f"{size / 2**20:,.0f} MiB"


def without_hosts(text: str) -> str:
    """Return a message of uv without addresses, which differ from machine to machine."""
    return re.sub(r"`?https?://\S+", "an address", text)


def heading() -> str:
    """Return the title of the report, with date, machine and command."""
    words = " ".join(word for word in sys.argv[1:] if not word.startswith("/"))
    return "\n\n".join(
        [
            f"# Installed in bare environments, {datetime.now(UTC):%Y-%m-%d}",
            f"`python benchmarks/installs.py {words}`; {platform.system()} {platform.machine()}, commit {git_commit()}",
        ]
    )


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
