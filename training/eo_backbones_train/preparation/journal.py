"""The journal of a source that is being added: which blocks are done, so that a killed job continues where it was.

A line is written after its shards have got their names. A line that was cut short by a crash is dropped, and its block
is done again, with the same bytes.
"""

import json
import os
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones_train.preparation.convert_block import BlockResult
from eo_backbones_train.store_format import canonical_json


class Journal:
    """Lines of JSON: first what is being added, then one per finished block."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Open or begin the journal of one source.

        Args:
            path: the file.
            identity: what is being added, as JSON values: the first line.

        Raises:
            UserError: the journal is of another source, or of the same one with other options or files.
        """
        self._path = path
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        if lines:
            begun = json.loads(lines[0])
            if begun != identity:
                different = ", ".join(key for key in identity if begun.get(key) != identity[key])
                raise UserError(
                    f"{path.parent} holds an unfinished source ({begun['layout']} {begun['root']}) that differs from "
                    f"this one in {different}; finish that one first, or remove {path} to give it up"
                )
        self.done: dict[int, BlockResult] = {}
        for line in lines[1:]:
            result = BlockResult.from_dict(json.loads(line))
            if all(_has_size(path.parent / shard.file, shard.size) for shard in result.shards):
                self.done[result.number] = result
        kept = [canonical_json(identity), *(canonical_json(result.to_dict()) for result in self.done.values())]
        fresh = path.with_suffix(".part")
        fresh.write_text("".join(f"{line}\n" for line in kept))
        fresh.replace(path)

    def add(self, result: BlockResult) -> None:
        """Record a finished block; it is on the disk when this returns."""
        with self._path.open("a") as stream:
            stream.write(canonical_json(result.to_dict()) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.done[result.number] = result

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
