"""The commands in training/README.md and the launch files exist as written."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from eo_backbones_train.cli.main import app
from eo_backbones_train.recipes.published import RECIPES


def options(command: str) -> set[str]:
    """Every option that a command of eo-train takes."""
    parameters = get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(command, words) of every line that calls eo-train or its module."""
    found = re.findall(r"^(?:eo-train|\s*-m eo_backbones_train) (\w+)(.*)$", text, re.MULTILINE)
    return [(command, rest.split("   ")[0].split()) for command, rest in found]


@pytest.mark.parametrize(
    ("file", "at_least"),
    [("README.md", 12), ("launch/one_machine.sh", 1), ("launch/several_machines.sh", 1), ("launch/slurm.sbatch", 1)],
)
def test_commands_use_options_and_recipes_that_exist(file: str, at_least: int, repository: Path) -> None:
    found = commands((repository / "training" / file).read_text())
    assert len(found) >= at_least
    for command, words in found:
        unknown = {word for word in words if word.startswith("--")} - options(command)
        assert not unknown, f"{command}: {unknown}"
        if command == "pretrain" and words[0] not in {"RECIPE", '"$recipe"', "--config"}:  # the file names the recipe
            assert words[0] in RECIPES


def test_the_table_names_every_recipe(repository: Path) -> None:
    table = (repository / "training" / "README.md").read_text()
    named = set(re.findall(r"`((?:byol|simsiam|distill)-[\w-]+)`", table))
    assert set(RECIPES) - named <= {"simsiam-mini"}  # declared, not to be published (docs/decisions/0013)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("file", ["one_machine.sh", "several_machines.sh", "slurm.sbatch"])
def test_launch_files_are_valid_shell_and_name_what_is_missing(file: str, repository: Path) -> None:
    script = repository / "training" / "launch" / file
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    bare = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert bare.returncode != 0
    assert "recipe, see: eo-train recipes" in bare.stderr
