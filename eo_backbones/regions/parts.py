"""Finished blocks of a scene that is not finished, each a file that appears when it is whole."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_backbones.files import UNFINISHED, write_json
from eo_backbones.regions.layout import PARTS_FOLDER

_JOB_FILE = "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The blocks of one scene, in ``.parts/ID``: rows of cells, float32 ``(rows, cols, numbers)``.

    Attributes:
        folder: of the region.
        scene: id of the scene.
        job: digest of everything that decides the values.
        rows, cols: of the grid.
        rows_a_block: rows of a block; the last one may have fewer.
        numbers: values of a cell.
    """

    folder: Path
    scene: str
    job: str
    rows: int
    cols: int
    rows_a_block: int
    numbers: int

    @property
    def place(self) -> Path:
        """Where the blocks are."""
        return self.folder / PARTS_FOLDER / self.scene

    @property
    def blocks(self) -> int:
        """How many blocks there will be."""
        return -(-self.rows // self.rows_a_block)

    def cells_of(self, block: int) -> int:
        """Return how many cells a block has."""
        return min(self.rows_a_block, self.rows - block * self.rows_a_block) * self.cols

    def begin(self) -> None:
        """Make the folder; blocks of another job are removed."""
        told = {"job": self.job}
        job_file = self.place / _JOB_FILE
        if self.place.is_dir():
            try:
                if json.loads(job_file.read_text(encoding="utf-8")) == told:
                    return
            except (OSError, ValueError):
                pass
            shutil.rmtree(self.place)
        self.place.mkdir(parents=True)
        write_json(job_file, told)

    def missing(self) -> list[int]:
        """Return the blocks that are not there yet."""
        return [block for block in range(self.blocks) if not self.has(block)]

    def has(self, block: int) -> bool:
        """Return whether a block is there."""
        path = self._path(block)
        return path.is_file() and path.stat().st_size == self.cells_of(block) * self.numbers * 4

    def write(self, block: int, values: np.ndarray) -> None:
        """Write a block; two processes that write the same one do not disturb each other."""
        path = self._path(block)
        unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}-{path.name}")
        try:
            with unfinished.open("wb") as file:
                file.write(np.ascontiguousarray(values, np.float32).data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def read(self) -> Iterator[np.ndarray]:
        """Yield the rows of all blocks, float32 ``(cols, numbers)`` each."""
        for block in range(self.blocks):
            values = np.fromfile(self._path(block), np.float32)
            yield from values.reshape(-1, self.cols, self.numbers)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.place, ignore_errors=True)

    def _path(self, block: int) -> Path:
        return self.place / f"block-{block:06d}.f32"
