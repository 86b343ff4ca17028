"""Gathering tiles of many scenes into one buffer: from the memory maps of a store, or from a copy on a device."""

import mmap
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eo_backbones_train.store.codings import Array
from eo_backbones_train.store.store import Store


def max_tile_px(store: Store, scenes: Array) -> int:
    """Return the largest height or width of the tiles of some scenes."""
    used = [store.groups[int(index)] for index in np.unique(store.scene_group[scenes])]
    return max(max(group.height, group.width) for group in used)


def codes_dtype(store: Store, scenes: Array) -> torch.dtype:
    """Return the dtype of gathered codes: uint8, or int32 where a group has 16-bit codes."""
    used = np.unique(store.scene_group[scenes])
    wide = any(store.groups[int(index)].dtype == np.uint16 for index in used)
    return torch.int32 if wide else torch.uint8


class MappedTiles:
    """The shards of a store as memory maps.

    A cold store is read tile by tile, and not with the kernel's read-ahead, which reads 23 times too much; the tiles of
    a batch are announced together, which makes a cold read 16 times faster (docs/decisions/0009). A store that fits the
    page cache is announced once only, because announcing costs a third of a warm gather.
    """

    def __init__(self, store: Store, *, memory_bytes: int | None = None) -> None:
        """Map all shards.

        Args:
            store: the store.
            memory_bytes: memory for the page cache; default: half of this machine's.
        """
        shards = [
            (group, shard) for group in range(len(store.groups)) for shard in range(len(store.groups[group].shards))
        ]
        maps = [store.groups[group].arrays[shard] for group, shard in shards]
        self._maps = [_mapping(array) for array in maps]
        self._offset = np.array([array.offset % mmap.ALLOCATIONGRANULARITY for array in maps], np.int64)  # type: ignore[attr-defined]
        # Plain arrays: indexing a memmap object costs ten times as much.
        self._tiles = [np.asarray(array).reshape(-1, *array.shape[2:]) for array in maps]
        self._size = [array.shape[2:] for array in maps]
        self._bands = np.array([array.shape[1] for array in maps], np.int64)
        self._bytes = np.array([tiles[0].nbytes for tiles in self._tiles], np.int64)
        self._scene_shard, self._scene_row = _locate_scenes(store, shards)
        first = np.cumsum([0, *(len(tiles) for tiles in self._tiles)])
        self._first, total = first[:-1], int(first[-1])
        if memory_bytes is None:
            memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        fits = sum(tiles.nbytes for tiles in self._tiles) < memory_bytes
        self._announced = np.zeros(total, bool) if fits else None
        for mapping in self._maps:
            mapping.madvise(mmap.MADV_RANDOM)

    def announce(self, scenes: Array, bands: Array) -> list[tuple[int, int, int]]:
        """Tell the kernel which tiles are read next.

        Args:
            scenes: indices of scenes.
            bands: for each of them, the index of a band among the bands of its group.

        Returns:
            What was announced: number of the shard, counted through all groups, first byte in its mapping, and length.
        """
        shard = self._scene_shard[scenes]
        tile = self._scene_row[scenes] * self._bands[shard] + bands
        if self._announced is not None:
            number = self._first[shard] + tile
            new = ~self._announced[number]
            if not new.any():
                return []
            self._announced[number] = True
            shard, tile = shard[new], tile[new]
        start = self._offset[shard] + tile * self._bytes[shard]
        page_start = start - start % mmap.PAGESIZE
        length = start + self._bytes[shard] - page_start
        ranges = list(zip(shard.tolist(), page_start.tolist(), length.tolist(), strict=True))
        for index, begin, size in ranges:
            self._maps[index].madvise(mmap.MADV_WILLNEED, begin, size)
        return ranges

    def gather(self, scenes: Array, bands: Array, out: Array) -> None:
        """Copy tiles into ``out`` of shape ``(len(scenes), S, S)``, each into the upper left corner.

        The rest becomes 0.
        """
        shard = self._scene_shard[scenes]
        tile = (self._scene_row[scenes] * self._bands[shard] + bands).tolist()
        tiles, size = self._tiles, self._size
        full_size = out.shape[1:]
        for position, index in enumerate(shard.tolist()):
            if size[index] == full_size:
                out[position] = tiles[index][tile[position]]
                continue
            height, width = size[index]
            out[position] = 0  # what the buffer held before must not show
            out[position, :height, :width] = tiles[index][tile[position]]


def _mapping(array: Array) -> mmap.mmap:
    mapping = array.base
    assert isinstance(mapping, mmap.mmap)
    return mapping


def _locate_scenes(store: Store, shards: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """Return each scene's index into ``shards`` and its row in that shard."""
    scene_shard = np.zeros(len(store), np.int64)
    scene_row = np.zeros(len(store), np.int64)
    for group_index, group in enumerate(store.groups):
        scenes = np.flatnonzero(store.scene_group == group_index)
        within = np.searchsorted(group.first_rows, store.scene_row[scenes], side="right") - 1
        scene_shard[scenes] = within + shards.index((group_index, 0))
        scene_row[scenes] = store.scene_row[scenes] - group.first_rows[within]
    return scene_shard, scene_row


def resident_bytes(store: Store, scenes: Array, bands: Sequence[str]) -> int:
    """Return the memory that :class:`ResidentTiles` needs."""
    counts = np.bincount(store.scene_group[scenes], minlength=len(store.groups))
    return sum(
        int(count) * sum(name in bands for name in group.bands) * group.height * group.width * group.dtype.itemsize
        for count, group in zip(counts, store.groups, strict=True)
    )


class ResidentTiles:
    """The tiles of some scenes and bands, kept on a device."""

    def __init__(self, store: Store, scenes: Array, bands: Sequence[str], device: torch.device) -> None:
        """Copy the tiles, shard by shard."""
        self._device = device
        self._group = store.scene_group
        self._row = np.full(len(store), -1, np.int64)
        self._data: dict[int, Tensor] = {}
        self._column: dict[int, Array] = {}
        self._size = [(group.height, group.width) for group in store.groups]
        for index in np.unique(store.scene_group[scenes]).tolist():
            group = store.groups[index]
            members = scenes[store.scene_group[scenes] == index]
            members = members[np.argsort(store.scene_row[members], kind="stable")]
            self._row[members] = np.arange(len(members))
            columns = [position for position, name in enumerate(group.bands) if name in bands]
            self._column[index] = np.full(len(group.bands), -1, np.int64)
            self._column[index][columns] = np.arange(len(columns))
            # torch supports few operations on uint16: the bits are kept as int16 and widened when they are gathered.
            dtype = torch.int16 if group.dtype == np.uint16 else torch.uint8
            data = torch.empty((len(members), len(columns), group.height, group.width), dtype=dtype, device=device)
            rows = store.scene_row[members]
            for array, first in zip(group.arrays, group.first_rows.tolist(), strict=True):
                inside = np.flatnonzero((rows >= first) & (rows < first + len(array)))
                if len(inside):
                    part = np.array(array[rows[inside] - first][:, columns])
                    signed = part.view(np.int16) if dtype == torch.int16 else part
                    data[int(inside[0]) : int(inside[-1]) + 1].copy_(torch.from_numpy(signed))
            self._data[index] = data.view(-1, group.height, group.width)

    @property
    def nbytes(self) -> int:
        """Memory of the tiles."""
        return sum(data.nbytes for data in self._data.values())

    def gather(self, scenes: Array, bands: Array, out: Tensor) -> None:
        """Copy tiles into ``out`` of shape ``(len(scenes), S, S)`` on the device, each into the upper left corner.

        The rest becomes 0.
        """
        groups = self._group[scenes]
        if any(size != out.shape[1:] for size in self._size):
            out.zero_()
        for index, data in self._data.items():
            positions = np.flatnonzero(groups == index)
            if not len(positions):
                continue
            column = self._column[index]
            band_count = int((column >= 0).sum())
            tile = torch.from_numpy(self._row[scenes[positions]] * band_count + column[bands[positions]])
            tile = tile.to(self._device, non_blocking=True)
            height, width = self._size[index]
            if len(positions) == len(scenes) and out.shape[1:] == (height, width) and out.dtype == data.dtype:
                torch.index_select(data, 0, tile, out=out)
                continue
            codes = data.index_select(0, tile).to(out.dtype)
            if data.dtype == torch.int16:
                codes &= 0xFFFF
            corner = out[:, :height, :width]
            corner.index_copy_(0, torch.from_numpy(positions).to(self._device, non_blocking=True), codes)
