"""One block of scenes to shards: the unit of work of a conversion process, and of resuming.

A block is a fixed run of scenes of the source's list, so its shards have the same bytes whichever process writes them.
Shards are ``.npy`` files that are written one scene at a time: little memory is needed, and no half-written file ever
stands under its final name.
"""

import hashlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from eo_backbones.files import unfinished_path
from eo_backbones.rasters.offset_test import refuse_shifted
from eo_backbones.rasters.reader import gdal_environment, without_georeference_warnings
from eo_backbones.rasters.scaling import BandReading
from eo_backbones_train.store.codings import Array
from eo_backbones_train.store.format import GroupKey, shard_file
from eo_backbones_train.store.layouts import SceneFiles
from eo_backbones_train.store.read_scene import (
    DeclarationProblem,
    ReadOptions,
    SceneProblem,
    read_optical,
    read_scene,
)

HEADER_BYTES = 4096
SHARD_BYTES = 512 * 1024**2  # a shard never exceeds this, unless one scene does
PROBED_SCENES = 16  # read before the conversion begins, to find wrong declarations


class ShardRecord(NamedTuple):
    """A finished shard: file name, group name, scenes, bytes of the file, sha256 of the array's bytes."""

    file: str
    group: str
    scenes: int
    size: int
    sha256: str


class ShardWriter:
    """A ``.npy`` file that grows along its first axis and gets its final name when it is closed.

    The temporary name holds the process id: two processes that write the same shard (one of them an orphan of a killed
    run) write the same bytes and cannot disturb each other.
    """

    def __init__(self, folder: Path, file: str, group: str, tile: Array) -> None:
        """Open a file for scenes of the shape and dtype of ``tile``, ``(bands, height, width)``."""
        self.file, self.group = file, group
        self.scenes = 0
        self._folder = folder
        self._temporary = unfinished_path(folder / file, shared=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The task of converting some scenes: ``number`` names the shards and is unique in the store."""

    number: int
    root: Path
    store: Path
    scenes: tuple[SceneFiles, ...]
    options: ReadOptions
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """The outcome of a block, which becomes a line of the journal.

    Attributes:
        number: the block's number.
        rows: ``(scene, roi, group name, shard file, row)`` in the order of the source's list.
        skipped: ``(scene, reason)``.
        groups: group name -> group.
        shards: one record per file.
        notes: what was guessed about files.
        levels: processing levels of the Sentinel-2 images; ``None`` among them: some are not known.
    """

    number: int
    rows: tuple[tuple[str, str, str, str, int], ...]
    skipped: tuple[tuple[str, str], ...]
    groups: dict[str, GroupKey]
    shards: tuple[ShardRecord, ...]
    notes: tuple[str, ...]
    levels: tuple[str | None, ...] = (None,)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"groups": {name: key.to_dict() for name, key in self.groups.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BlockResult":
        """Read the JSON form back."""
        return cls(
            number=data["number"],
            rows=tuple((scene, roi, group, file, row) for scene, roi, group, file, row in data["rows"]),
            skipped=tuple((scene, reason) for scene, reason in data["skipped"]),
            groups={name: GroupKey.from_dict(key) for name, key in data["groups"].items()},
            shards=tuple(ShardRecord(*record) for record in data["shards"]),
            notes=tuple(data["notes"]),
            levels=tuple(data.get("levels", (None,))),
        )


def end_with_parent() -> None:
    """Let a conversion process end when its parent does, also if the parent is killed with ``kill -9``."""
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def exit_with_parent() -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=exit_with_parent, daemon=True).start()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch, which checks the values, to one thread: every core has its own process, and tiles are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def convert_block(block: Block) -> BlockResult:
    """Convert the scenes of a block and write their shards.

    Raises:
        OSError: the store cannot be written; nothing unfinished is left behind.
    """
    open_shards: dict[str, ShardWriter] = {}
    parts: dict[str, int] = {}
    groups: dict[str, GroupKey] = {}
    shards: list[ShardRecord] = []
    rows: list[tuple[str, str, str, str, int]] = []
    skipped: list[tuple[str, str]] = []
    notes: set[str] = set()
    levels: set[str | None] = set()
    try:
        with gdal_environment(), without_georeference_warnings(), _one_thread():
            for scene in block.scenes:
                try:
                    coded = read_scene(block.root, scene, block.options)
                except SceneProblem as problem:
                    skipped.append((scene.scene, str(problem)))
                    continue
                notes |= coded.notes
                levels |= coded.levels
                height, width = coded.codes.shape[1:]
                key = GroupKey(height=height, width=width, bands=coded.bands, codings=coded.codings)
                groups[key.name] = key
                writer = open_shards.get(key.name)
                if writer is not None and (writer.scenes + 1) * writer.tile_bytes > block.shard_bytes:
                    shards.append(writer.close())
                    parts[key.name] = parts.get(key.name, 0) + 1
                    writer = None
                if writer is None:
                    file = shard_file(key.name, block.number, parts.get(key.name, 0))
                    writer = open_shards[key.name] = ShardWriter(block.store, file, key.name, coded.codes)
                rows.append((scene.scene, scene.roi, key.name, writer.file, writer.append(coded.codes)))
        shards += [writer.close() for writer in open_shards.values()]
    finally:
        for writer in open_shards.values():
            writer.discard()
    return BlockResult(
        number=block.number,
        rows=tuple(rows),
        skipped=tuple(skipped),
        groups=groups,
        shards=tuple(sorted(shards)),
        notes=tuple(sorted(notes)),
        levels=tuple(sorted(levels, key=str)),
    )


def check_declarations(root: Path, scenes: Sequence[SceneFiles], options: ReadOptions) -> None:
    """Read a few scenes, so that a wrong declaration is found before hours of work.

    Raises:
        DeclarationProblem: none of the first ones is usable, and what was declared does not fit at least one of them.
        UnitError: scenes of the user's own carry the offset of newer Sentinel-2 products, and nothing says so.
    """
    first_problem: DeclarationProblem | None = None
    with gdal_environment(), without_georeference_warnings(), _one_thread():
        for scene in scenes[:PROBED_SCENES]:
            try:
                read_scene(root, scene, options)
            except DeclarationProblem as problem:
                first_problem = first_problem or problem
            except SceneProblem:
                continue
            else:
                break
        else:
            if first_problem is not None:
                raise first_problem
        if options.layout.of_the_user:
            spread = scenes[:: max(len(scenes) // PROBED_SCENES, 1)][:PROBED_SCENES]  # neighbours show the same ground
            refuse_shifted(_optical_values(root, spread, options), root)


def _optical_values(
    root: Path, scenes: Sequence[SceneFiles], options: ReadOptions
) -> Iterator[tuple[Array, tuple[BandReading, ...]]]:
    """Yield the Sentinel-2 bands of scenes that can be read."""
    for scene in scenes:
        try:
            yield read_optical(root, scene, options)
        except SceneProblem:
            continue
