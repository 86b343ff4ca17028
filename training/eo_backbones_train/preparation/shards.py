"""Writing tiles to ``.npy`` files one scene at a time: flat memory, never a half-written file under its name."""

import hashlib
import math
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from eo_backbones_train.codings import Array
from eo_backbones_train.store_format import TEMPORARY

HEADER_BYTES = 4096


class ShardRecord(NamedTuple):
    """A finished shard: file name, group name, scenes, bytes of the file, sha256 of the array's bytes."""

    file: str
    group: str
    scenes: int
    size: int
    sha256: str


class ShardWriter:
    """A ``.npy`` file that grows along its first axis and appears under its name when it is closed.

    The temporary name holds the process id: two processes that write the same shard (one of them a forgotten child of
    a killed run) write the same bytes and cannot disturb each other.
    """

    def __init__(self, folder: Path, file: str, group: str, tile: Array) -> None:
        """Open a file for scenes of the shape and dtype of ``tile``, ``(bands, height, width)``."""
        self.file, self.group = file, group
        self.scenes = 0
        self._folder = folder
        self._temporary = folder / f"{TEMPORARY}{os.getpid()}-{file}"
        self._shape, self._dtype = tile.shape, tile.dtype.newbyteorder("<")
        self._hash = hashlib.sha256()
        self._stream: BinaryIO = self._temporary.open("wb")
        self._header()

    @property
    def tile_bytes(self) -> int:
        """Bytes of one scene."""
        return math.prod(self._shape) * int(self._dtype.itemsize)

    def _header(self) -> None:
        """Write numpy's header (format 1.0), padded to a memory page.

        Tiles of 256 pixels then cover whole pages, so that reading one touches 64 KiB and not 68; and the header keeps
        its length when it is written again with the number of scenes.
        """
        shape = (self.scenes, *self._shape)
        text = f"{{'descr': {self._dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
        magic = np.lib.format.magic(1, 0)
        length = HEADER_BYTES - len(magic) - 2
        self._stream.write(magic + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n")

    def append(self, codes: Array) -> int:
        """Write one scene and return its row."""
        data = np.ascontiguousarray(codes, dtype=self._dtype).data
        self._hash.update(data)
        self._stream.write(data)
        self.scenes += 1
        return self.scenes - 1

    def close(self) -> ShardRecord:
        """Complete the header and give the file its name."""
        self._stream.seek(0)
        self._header()
        self._stream.close()
        size = self._temporary.stat().st_size
        self._temporary.replace(self._folder / self.file)
        return ShardRecord(self.file, self.group, self.scenes, size, self._hash.hexdigest())

    def discard(self) -> None:
        """Remove what was written so far."""
        self._temporary.unlink(missing_ok=True)  # before closing, which may fail again on a full disk
        try:
            self._stream.close()
        except OSError:
            return
