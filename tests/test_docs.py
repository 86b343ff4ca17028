"""The pages of documentation name, and lead to, only what exists: above all docs/architecture.md."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
PACKAGES = ("eo_backbones", "eo_backbones_train")
ROOTS = (".", "docs", "eo_backbones", "training/eo_backbones_train", "training")
FILES = r"\.(py|md|csv|json|jsonl|npy|npz|f32|bin|faiss|png|html|safetensors)$"

WORDS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL))
NAMES = sorted({word for word in WORDS if re.fullmatch(r"[a-z_]+(\.\w+)+", word) and not re.search(FILES, word)})
PATHS = sorted(
    {word for word in WORDS if re.fullmatch(r"[\w./-]+(/|\.py)", word) and not word.startswith((".", "test_"))}
)
TESTS = sorted({word for word in WORDS if re.fullmatch(r"test_\w+\.py", word)})


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something that can be reached from one by attributes."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_every_function_on_the_page_exists(name: str) -> None:
    assert any(exists(f"{package}.{name}") for package in PACKAGES) or exists(name)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_on_the_page_exists(repository: Path, path: str) -> None:
    assert any((repository / root / path).exists() for root in ROOTS)


@pytest.mark.parametrize("name", TESTS)
def test_every_test_on_the_page_exists(repository: Path, name: str) -> None:
    assert list((repository / "tests").rglob(name))


def test_every_client_names_its_tests(repository: Path) -> None:
    rows = re.findall(r"^\| .*$", (repository / "docs" / "works-with.md").read_text(), flags=re.MULTILINE)[2:]
    assert rows
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)`", row.split("|")[-2])
        assert named, row
        assert all(list((repository / "tests").rglob(name)) for name in named), row


def test_the_page_is_read() -> None:
    assert len(NAMES) > 60
    assert len(PATHS) > 20


@pytest.mark.parametrize("folder", [".", "docs", "docs/decisions", "training", "benchmarks", "model_cards"])
def test_links_lead_somewhere(repository: Path, folder: str) -> None:
    pages = list((repository / folder).glob("*.md"))
    assert pages
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_decisions_that_the_code_names_exist(repository: Path) -> None:
    numbers = {path.name[:4] for path in (repository / "docs" / "decisions").glob("*.md")}
    named = {
        number
        for root in ("eo_backbones", "training", "tests", "benchmarks")
        for path in (repository / root).rglob("*.py")
        for number in re.findall(r"docs/decisions/(\d{4})", path.read_text())
    }
    assert named
    assert named <= numbers
