"""The rows of an embedding that are finished, on disk until the output is whole."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.errors import UserError

_UNFINISHED_FORMAT = 1  # part of every job: changed when the same job would give other rows
_JOB_FILE, _FEATURES_FILE = "job.json", "features.f32"


class UnfinishedEmbedding:
    """The rows of features that are finished, in a folder beside the output that survives a kill.

    ``features.f32`` holds rows of cells, float32 ``(cols, features)``, NaN where a cell has no value; its length says
    how far it got. ``job.json`` says what it belongs to. The folder is removed when the output is whole.

    Args:
        out: the output that they belong to.
        job: everything that determines the features, as JSON types.
        rows, cols, features: how many there will be.

    Raises:
        UserError: the folder holds rows of another job, or the disk is too small.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], *, rows: int, cols: int, features: int) -> None:
        self.folder = out.with_name(f"{out.name}.part")
        self.rows, self.cols, self.features = rows, cols, features
        self._file = self.folder / _FEATURES_FILE
        self._begin(json.dumps({"format": _UNFINISHED_FORMAT, **job}, sort_keys=True, indent=1))

    def _begin(self, job: str) -> None:
        job_file = self.folder / _JOB_FILE
        if job_file.is_file():
            if job_file.read_text(encoding="utf-8") != job:
                raise UserError(
                    f"{self.folder} holds the unfinished embedding of another scene, model or setting; delete it to "
                    "start anew, or repeat its command to finish it"
                )
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot write into {self.folder.parent}: {error.strerror}; pass another --out") from (
                    error
                )
            job_file.write_text(job, encoding="utf-8")
        needed = (self.rows - self.rows_done) * self.row_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{needed / 1e9:.1f} GB of features do not fit {self.folder.parent} ({free / 1e9:.1f} GB free); pass a "
                "larger --stride, or --out on another disk"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of cells."""
        return self.cols * self.features * 4

    @property
    def rows_done(self) -> int:
        """Number of whole rows in the file."""
        return self._file.stat().st_size // self.row_bytes if self._file.is_file() else 0

    def resume_at(self, row: int) -> None:
        """Drop everything from a row on: the part of a block that a kill left behind."""
        with self._file.open("ab") as file:
            file.truncate(row * self.row_bytes)

    def append(self, block: np.ndarray) -> None:
        """Add finished rows, float32 ``(n, cols, features)``."""
        with self._file.open("ab") as file:
            file.write(np.ascontiguousarray(block, np.float32).data)

    def read(self) -> Iterator[np.ndarray]:
        """Yield the rows in the file, float32 ``(cols, features)`` each."""
        with self._file.open("rb") as file:
            for _ in range(self.rows_done):
                values = np.frombuffer(file.read(self.row_bytes), np.float32)
                yield values.reshape(self.cols, self.features)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)
