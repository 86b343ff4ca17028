"""Files beside an image, read once: thousands of images of one folder share its metadata file."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

Facts = TypeVar("Facts")


def names_in(folder: Path, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sorted names in a folder that end in one of some suffixes (in lower case); none if it has none.

    The folder is listed once as long as it does not change.
    """
    try:
        return _names(folder, suffixes, folder.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=1024)
def _names(folder: Path, suffixes: tuple[str, ...], _modified: int) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.name.lower().endswith(suffixes)))


def read_once(path: Path, parse: Callable[[Path], Facts]) -> Facts | None:
    """Return what ``parse`` makes of a file, once as long as the file does not change; ``None`` if there is none.

    Args:
        path: the file.
        parse: a function of a module, so that it is the same at every call.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    facts: Facts = _parsed(path, parse, status.st_mtime_ns, status.st_size)
    return facts


@lru_cache(maxsize=2048)
def _parsed(path: Path, parse: Callable[[Path], Any], _modified: int, _size: int) -> Any:
    return parse(path)
