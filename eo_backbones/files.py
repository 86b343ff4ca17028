"""Files that appear whole or not at all, JSON files, digests of files, and folders that must be free."""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError

UNFINISHED = ".unfinished-"
"""Beginning of the names of files that are being written; what a killed process leaves behind is called that too."""


_LONGEST_NAME = 220
"""Bytes of a file name: disks allow 255, and :func:`unfinished_path` puts something before it."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_IN_THE_WAY = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO}
)


def unfinished_path(path: Path, *, shared: bool = False) -> Path:
    """Return the name beside ``path`` that it is written under: ``.unfinished-NAME``, so that its suffix stays.

    Args:
        path: the file.
        shared: whether several processes may write it at the same time; the name then has the number of the process.
            Otherwise what a killed process left is overwritten by the next one.
    """
    return path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}" if shared else f"{UNFINISHED}{path.name}")


@contextmanager
def atomic_file(path: Path, *, shared: bool = False, sync: bool = False) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and rename it to ``path`` when the block ends without an error.

    No reader ever sees half a file, and an earlier one stays until the new one is whole. After an error or an interrupt
    nothing is left behind.

    Args:
        path: the file; its folder must exist.
        shared: as for :func:`unfinished_path`.
        sync: whether content and name are on the disk when the block ends, so that a power cut cannot undo them.
    """
    temporary = unfinished_path(path, shared=shared)
    try:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(path)
        if sync:
            _sync(path.parent)  # the rename itself, or a power cut brings the old directory back
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder beside ``out`` that takes its place if all goes well, and is gone if not.

    Args:
        out: the folder; its parent is made too.
        overwrite: replace what is there; otherwise ``out`` is missing or an empty folder.

    Raises:
        UserError: the disk is full, or nothing can be written there.
    """
    folder = out.absolute().with_name(f".{out.absolute().name}.unfinished")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write beside {out}: {error.strerror}; name another folder") from error
    try:
        yield folder
        replaced = folder.with_name(f".{out.absolute().name}.replaced")
        if overwrite and out.exists():
            out.replace(replaced)
        folder.replace(out)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"could not write {out}: {error.strerror or error}; make room or name another folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: Path, content: str | bytes, *, shared: bool = False, sync: bool = False) -> None:
    """Write a file (text as :func:`utf8`) as :func:`atomic_file` does."""
    with atomic_file(path, shared=shared, sync=sync) as temporary:
        temporary.write_bytes(utf8(content) if isinstance(content, str) else content)


def utf8(text: str) -> bytes:
    r"""Return text as UTF-8; bytes of a file name that are no text are written as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, as :func:`atomic_file` does."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path, *, kind: str = "weights folder") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        kind: what its folder should be, for the message about a missing file.

    Raises:
        UserError: missing file, no JSON, or something other than an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path.name} in {path.parent}; is it a {kind}?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} could not be read as JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a JSON {type(data).__name__}, not an object")
    return data


def dotted(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of everything in nested mappings; tuples become lists, as JSON has them."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from dotted(entry, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


class JsonFields:
    """Fields of an object that was read from JSON, each checked as it is taken.

    Args:
        data: what should be the object.
        where: what it is, for messages: "config.json: band B04".
        remedy: what to do about a damaged file.

    Raises:
        UserError: on every access: the field is missing or holds something else; on creation: it is no object.
    """

    def __init__(self, data: Any, where: str, remedy: str = "export the folder again") -> None:
        self._where, self._remedy = where, remedy
        if not isinstance(data, Mapping):
            raise self.error(f"{_shown(data)} is not an object")
        self._data = data

    def error(self, problem: str) -> UserError:
        """Return the error that says what is wrong where."""
        return UserError(f"{self._where} is damaged: {problem}; {self._remedy}")

    def __contains__(self, key: str) -> bool:
        """Return whether the field is there."""
        return key in self._data

    def value(self, key: str) -> Any:
        """Return a field, whatever it holds."""
        if key not in self._data:
            raise self.error(f"{key} is missing")
        return self._data[key]

    def text(self, key: str, allowed: Sequence[str] = ()) -> str:
        """Return a text that is not empty, one of the allowed ones if some are named."""
        value = self.value(key)
        if not isinstance(value, str) or not value or (allowed and value not in allowed):
            raise self.error(f"{key} is {_shown(value)}, not {' or '.join(allowed) or 'a text'}")
        return value

    def integer(self, key: str, least: int) -> int:
        """Return an integer of at least ``least``."""
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(f"{key} is {_shown(value)}, not an integer of {least} or more")
        return value

    def number(self, key: str) -> float:
        """Return a finite number."""
        return self._number(key, self.value(key))

    def interval(self, key: str) -> tuple[float, float]:
        """Return two finite numbers, the lower one first."""
        value = self.value(key)
        if not isinstance(value, list) or len(value) != 2:
            raise self.error(f"{key} is {_shown(value)}, not a list of two numbers")
        low, high = (self._number(key, end) for end in value)
        if low >= high:
            raise self.error(f"{key} is {_shown(value)}, not the lower number first")
        return low, high

    def values(self, key: str, kind: type) -> tuple[Any, ...]:
        """Return a list of different values of a type; an empty text is none."""
        value = self.value(key)
        if not isinstance(value, list) or any(type(one) is not kind or one == "" for one in value):
            names = {str: "texts", int: "integers", dict: "objects"}
            raise self.error(f"{key} is {_shown(value)}, not a list of {names[kind]}")
        repeated = next((one for number, one in enumerate(value) if one in value[:number]), None)
        if repeated is not None:
            raise self.error(f"{key} holds {_shown(repeated)} twice")
        return tuple(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return an object."""
        value = self.value(key)
        if not isinstance(value, Mapping):
            raise self.error(f"{key} is {_shown(value)}, not an object")
        return value

    def _number(self, key: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.error(f"{key} is {_shown(value)}, not a finite number")
        return float(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_unwritable(path: Path, *, option: str = "--out", folder: bool = False) -> None:
    """Check, before any work, that a file or folder can be written; nothing is made.

    Args:
        path: what will be written; folders above it are made if need be.
        option: that names it, for messages.
        folder: whether it is a folder.

    Raises:
        UserError: something of the other kind is there, a file stands where a folder is needed, the name is too long
            for a disk, or the folder is not writable.
    """
    try:
        problem = _problem_of(path, folder=folder)
    except OSError as error:
        problem = f": {write_problem(error)}; name another place"
    if problem:
        raise UserError(f"{option} {path}{problem}")


def _problem_of(path: Path, *, folder: bool) -> str:
    """Return what is wrong with a place to write to, as the end of a message; empty if nothing is."""
    if path.exists() and path.is_dir() != folder:
        return " is a file; name a folder" if folder else " is a folder; name the file to write in it"
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        return f": its name has more than {_LONGEST_NAME} bytes; name another place"
    above = path.absolute() if folder else path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        return f": {above} is a file, not a folder; name another place"
    if not os.access(above, os.W_OK | os.X_OK):
        return f": nothing can be written into {above}; name another place"
    return ""


def write_problem(error: Exception) -> str:
    """Return in a few words why something could not be written or read."""
    strerror = getattr(error, "strerror", None)
    return str(strerror or error.__cause__ or error or type(error).__name__).splitlines()[0]


def as_user_error(error: OSError) -> UserError | None:
    """Return what to tell the user about a disk that is full, read-only or in the way; ``None`` for other errors."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return UserError(
            f"cannot write{where}: {write_problem(error)}; make room, or name another place, and start again"
        )
    if error.errno in _IN_THE_WAY:
        return UserError(f"cannot read or write{where}: {write_problem(error)}; correct this, or name another place")
    return None


def refuse_occupied(folder: Path, *, earlier: str, recognised: bool, remedy: str | None = None) -> None:
    """Accept a folder to write to if it is missing or empty, or holds an earlier result that may be built upon.

    Args:
        folder: named with ``--out``.
        earlier: what an earlier result is called: "a run of eo-train".
        recognised: whether the folder holds such a result.
        remedy: how to allow it to be continued or replaced: "add --resume to continue it"; ``None`` if it is allowed.

    Raises:
        UserError: something else is there, or an earlier result that is not to be touched.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder with --out")
    if not recognised:
        raise UserError(f"{folder} is not empty and does not hold {earlier}; name a new folder with --out")
    if remedy is not None:
        raise UserError(f"{folder} already holds {earlier}; {remedy}, or name another folder with --out")


def _sync(path: Path) -> None:
    """Bring a file, or the list of names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
