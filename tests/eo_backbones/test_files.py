"""Files appear whole or not at all; JSON is read with one-line errors; occupied folders are refused."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from eo_backbones.errors import UserError
from eo_backbones.files import (
    UNFINISHED,
    atomic_file,
    read_json,
    refuse_occupied,
    sha256_of,
    unfinished_path,
    write_atomically,
    write_json,
)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_when_it_is_whole(shared: bool, sync: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_text("before")
    with atomic_file(path, shared=shared, sync=sync) as unfinished:
        unfinished.write_text("after")
        assert path.read_text() == "before"
        assert unfinished == tmp_path / (f".unfinished-{os.getpid()}-x.tif" if shared else ".unfinished-x.tif")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.tif": "after"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_or_interrupt_leaves_what_was_there(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_atomically(path, "before")
    with pytest.raises(type(error)), atomic_file(path) as unfinished:
        unfinished.write_text("half")
        raise error
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.csv": "before"}


def test_a_killed_process_leaves_a_name_that_the_next_one_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    assert unfinished_path(path).name.startswith(UNFINISHED)
    unfinished_path(path).write_text("left behind")
    write_atomically(path, "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.csv": "whole"}


@pytest.mark.usefixtures("umask")
def test_files_have_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"content")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_text_is_utf8_with_plain_line_ends_and_bytes_stay(tmp_path: Path) -> None:
    write_atomically(tmp_path / "text", "Größe\n")
    assert (tmp_path / "text").read_bytes() == "Größe\n".encode()
    write_atomically(tmp_path / "bytes", b"\x00\r\n")
    assert (tmp_path / "bytes").read_bytes() == b"\x00\r\n"


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None]})
    assert (tmp_path / "a.json").read_text() == json.dumps({"b": [1, None]}, indent=2) + "\n"
    assert read_json(tmp_path / "a.json") == {"b": [1, None]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"there is no a\.json in .*; is it a run folder\?"),
        ("{", r"a\.json could not be read as JSON"),
        ("[1]", r"a\.json holds a JSON list, not an object"),
    ],
)
def test_what_is_not_a_json_object_is_said_in_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_json(tmp_path / "a.json", kind="run folder")
    assert "\n" not in str(caught.value)


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"satellite" * 100_000)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"satellite" * 100_000).hexdigest()


def test_missing_empty_and_permitted_folders_are_free(tmp_path: Path) -> None:
    refuse_occupied(tmp_path / "missing", earlier="a run", recognised=False, remedy="add --resume")
    refuse_occupied(tmp_path, earlier="a run", recognised=False, remedy="add --resume")
    (tmp_path / "plan.json").touch()
    refuse_occupied(tmp_path, earlier="a run", recognised=True)


def test_occupied_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not empty and does not hold a run; name a new folder with --out"):
        refuse_occupied(tmp_path, earlier="a run", recognised=False)
    with pytest.raises(UserError, match="already holds a run; add --resume, or name another folder with --out"):
        refuse_occupied(tmp_path, earlier="a run", recognised=True, remedy="add --resume")
    with pytest.raises(UserError, match="file is a file; name a folder with --out"):
        refuse_occupied(tmp_path / "file", earlier="a run", recognised=False)
