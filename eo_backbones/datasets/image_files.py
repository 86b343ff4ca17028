"""A user's image files: which of those in a folder count, which paths are one file, and which files are copies."""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from eo_backbones.errors import UserError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")
_OTHER_IMAGES = (".img", ".vrt", ".bmp", ".gif", ".webp", ".nc", ".hdf", ".h5", ".npy")
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)
"""Lower-case names of what operating systems and network drives put into any folder, besides hidden files."""
_SAMPLE_BYTES = 4096


def hidden(path: PurePath) -> bool:
    """Return whether a path, relative to the folder that was named, is or lies in a hidden or system folder or file."""
    return any(part.startswith(".") or part.casefold() in _SYSTEM_FOLDERS for part in path.parts)


def files_below(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the files of these kinds at any depth of a folder, sorted; what is hidden does not count.

    Images of other kinds are left out with a warning.
    """
    found, others = [], Counter[str]()
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if hidden(path.relative_to(folder)) or not path.is_file():
            continue
        if suffix in suffixes:
            found.append(path)
        elif suffix in _OTHER_IMAGES:
            others[suffix] += 1
    if others:
        logger.warning(
            "%s: %s left out; only %s are read, so convert them (gdal_translate)",
            folder,
            ", ".join(f"{count} {suffix} file{'s' if count > 1 else ''}" for suffix, count in others.items()),
            ", ".join(suffixes),
        )
    return found


def same_file(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Return the places of the first two paths that lead to one file, by whatever way, or ``None``."""
    seen: dict[object, int] = {}
    for place, path in enumerate(paths):
        status = path.stat()
        # The number of the file sees through links, and through upper and lower case where the disk does not tell them
        # apart; some network drives have none.
        first = seen.setdefault((status.st_dev, status.st_ino) if status.st_ino else path.resolve(), place)
        if first != place:
            return first, place
    return None


def identical_files(paths: Sequence[Path]) -> list[list[int]]:
    """Return groups of places whose files have the same bytes, each group and its places ascending.

    Only files of the same size, and with the same few kilobytes in their middle, are read whole.

    Raises:
        UserError: a file cannot be read.
    """
    groups = [list(range(len(paths)))]
    for characteristic in (lambda path: path.stat().st_size, _middle, _digest):
        groups = list(_divided(groups, paths, characteristic))
    return sorted(groups)


def _divided(
    groups: Iterable[Sequence[int]], paths: Sequence[Path], characteristic: Callable[[Path], object]
) -> Iterator[list[int]]:
    """Divide groups by what their files have in common; a file alone is dropped."""
    for group in groups:
        alike: defaultdict[object, list[int]] = defaultdict(list)
        for place in group:
            try:
                alike[characteristic(paths[place])].append(place)
            except OSError as error:
                raise UserError(f"cannot read {paths[place]} ({error.strerror}); restore it, or remove it") from error
        yield from (places for places in alike.values() if len(places) > 1)


def _middle(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _SAMPLE_BYTES) // 2)
        return file.read(_SAMPLE_BYTES)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
