"""All generated text of the repository: written, or compared with what is there."""

from pathlib import Path

from eo_backbones.errors import UserError
from eo_backbones.weights import WEIGHTS
from eo_backbones_train.publish.readme import README_FILE, readme_text
from eo_backbones_train.publish.row_folders import CARDS_FOLDER, INSTALLED_FILES, row_folder, row_texts


def require_checkout(folder: Path) -> Path:
    """Return the folder, if it is a checkout of this project.

    Raises:
        UserError: it is not.
    """
    if not ((folder / CARDS_FOLDER).is_dir() and (folder / "eo_backbones" / "weights.py").is_file()):
        raise UserError(f"{folder.resolve()} is no checkout of eo_backbones; change to its root, or pass --checkout")
    return folder


def generated(checkout: Path) -> dict[Path, str]:
    """Return path -> content of everything that is generated."""
    texts = {
        row_folder(checkout, row) / name: text
        for row in WEIGHTS.values()
        for name, text in row_texts(checkout, row).items()
    }
    return {**texts, checkout / README_FILE: readme_text(checkout)}


def left_over(checkout: Path) -> list[Path]:
    """Return files in the folders of the rows that are neither generated nor installed."""
    made = generated(checkout).keys()
    installed = {
        row_folder(checkout, row) / name for row in WEIGHTS.values() if row.published for name in INSTALLED_FILES
    }
    found = {path for path in (checkout / CARDS_FOLDER).rglob("*") if path.is_file()}
    return sorted(found - made - installed - {checkout / CARDS_FOLDER / "README.md"})


def differences(checkout: Path) -> list[str]:
    """Return what writing would change, one line per file, relative to the checkout."""
    lines = []
    for path, text in generated(checkout).items():
        there = path.read_text(encoding="utf-8") if path.is_file() else None
        if there != text:
            lines.append(f"{'differs' if there is not None else 'is missing'}: {path.relative_to(checkout)}")
    return lines + [f"is left over: {path.relative_to(checkout)}" for path in left_over(checkout)]


def write(checkout: Path) -> list[Path]:
    """Write everything, remove what is left over, and return what changed."""
    changed = []
    for path in left_over(checkout):
        path.unlink()
        changed.append(path)
    for path, text in generated(checkout).items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed
