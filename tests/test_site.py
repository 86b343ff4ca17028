"""What the documentation site is made of, without building it (``.ci/run`` does): its reference leaves nothing out.

Every command with every option that ``--help`` prints is on a page, and every name that a package exports.
"""

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

REPOSITORY = Path(__file__).parent.parent
REFERENCE = REPOSITORY / "docs" / "reference"
SHOWN = sorted({name for page in REFERENCE.glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)})
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FIRST_COLUMNS = re.compile(r"│[ *]*(?:-[\w-]+[ ,]*)+")
ADDED_BY_TYPER = {"--help", "--install-completion", "--show-completion"}


def command_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_pages", REPOSITORY / "docs" / "hooks" / "command_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROGRAMS = command_pages().PROGRAMS
COMMANDS = [
    (program, command.name or command.callback.__name__)
    for program, app in PROGRAMS.items()
    for command in app.registered_commands
]


@pytest.fixture(scope="module")
def sections() -> dict[tuple[str, str], str]:
    """(program, command) -> its section on the page of the program."""
    found = {}
    for program, app in PROGRAMS.items():
        for section in command_pages().program_page(program, app).split("\n## ")[1:]:
            command, text = section.split("\n", 1)
            found[program, command] = text
    return found


def test_every_command_has_a_section(sections: dict[tuple[str, str], str]) -> None:
    assert sorted(sections) == sorted(COMMANDS)
    assert len(COMMANDS) > 15


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_every_option_is_in_its_section(sections: dict[tuple[str, str], str], program: str, command: str) -> None:
    printed = CliRunner().invoke(PROGRAMS[program], [command, "--help"], env={"COLUMNS": "400"}, color=False).output
    panels = printed.split("─ Options ─")[1].split("╯")[0]
    names = [match[0] for line in panels.splitlines() if (match := FIRST_COLUMNS.match(line))]
    declared = {option for name in names for option in OPTION.findall(name)} - ADDED_BY_TYPER
    terms = [line for line in sections[program, command].splitlines() if line.startswith("`--")]
    assert declared == {option for term in terms for option in OPTION.findall(term)}
    assert declared or command == "recipes"


def exported() -> Iterator[str]:
    for root in ("eo_backbones", "eo_backbones_train"):
        package = importlib.import_module(root)
        inner = (each.name for each in pkgutil.walk_packages(package.__path__, f"{root}.") if each.ispkg)
        for found in (root, *inner):
            names = getattr(importlib.import_module(found), "__all__", ())
            yield from (f"{found}.{name}" for name in names if not name.startswith("__"))


@pytest.mark.parametrize("name", list(exported()))
def test_every_exported_name_is_in_the_reference(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    thing = getattr(importlib.import_module(module), attribute)
    defined_in = getattr(thing, "__module__", module)
    places = {name, module, f"{defined_in}.{attribute}", defined_in}
    assert places & set(SHOWN), f"add '::: {name}' to a page of docs/reference"


@pytest.mark.parametrize("name", SHOWN)
def test_every_name_in_the_reference_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        found = getattr(importlib.import_module(module), attribute)
    assert found.__doc__ or not callable(found)
