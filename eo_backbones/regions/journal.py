"""What has become of each scene, one line of JSON each, on the disk before anything else goes on.

The last line of a scene holds. A line that a kill cut off at the end of the file is dropped.
"""

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from eo_backbones.errors import UserError
from eo_backbones.files import write_atomically
from eo_backbones.regions.layout import FAILED_FILE, JOURNAL_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line about one scene.

    Attributes:
        scene: its id.
        state: ``"done"`` or ``"failed"``.
        typed: how the user knows the scene.
        identity: digest of its files, see :func:`eo_backbones.regions.job.source_identity`.
        reason: why it failed.
        cells: of its grid.
        nodata_cells: how many of them have no value.
        km2: area of the grid; ``None`` without a coordinate system.
        bytes: size of the embedding.
        components_sha256: of the file with the components that it holds; ``None``: it holds features.
        seconds: of computing it, in all processes together.
    """

    scene: str
    state: Literal["done", "failed"]
    typed: str
    identity: str
    reason: str | None = None
    cells: int = 0
    nodata_cells: int = 0
    km2: float | None = None
    bytes: int = 0
    components_sha256: str | None = None
    seconds: float = 0.0


class Journal:
    """The lines in a folder.

    Args:
        folder: of the region.

    Attributes:
        entries: scene -> its last line.

    Raises:
        UserError: the file is damaged before its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / JOURNAL_FILE
        self.entries: dict[str, Entry] = {}
        if self._file.is_file():
            self._read()

    def _read(self) -> None:
        content = self._file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._file, len(whole))
        names = {field.name for field in fields(Entry)}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = Entry(**{key: value for key, value in json.loads(line).items() if key in names})
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{self._file} is damaged in line {number}; delete that line to embed its scene again"
                ) from error
            self.entries[entry.scene] = entry

    def add(self, entry: Entry) -> None:
        """Write a line; it is on the disk when this returns."""
        with self._file.open("ab") as file:
            file.write(json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[entry.scene] = entry

    def write_failed(self, scenes: Iterable[str]) -> tuple[Entry, ...]:
        """Write the table of those scenes that failed, or remove it if none did; return their lines."""
        failed = tuple(
            entry for scene in scenes if (entry := self.entries.get(scene)) is not None and entry.state == "failed"
        )
        path = self._folder / FAILED_FILE
        if not failed:
            path.unlink(missing_ok=True)
            return failed
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("scene", "path", "reason"))
        table.writerows((entry.scene, entry.typed, entry.reason) for entry in failed)
        write_atomically(path, text.getvalue())
        return failed
