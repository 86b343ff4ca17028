"""Windows of a scene through the encoder, in blocks of rows of cells.

The blocks of a scene do not depend on where a computation begins or ends, so a cell is always in the same batch: a run
that was killed, and one that is spread over several processes, give the same features.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from eo_backbones.device import inference
from eo_backbones.inputs import InputTransform
from eo_backbones.networks.multi_band import MultiBand
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.scene import PixelSource, cell_rows

CELLS_PER_BLOCK = 2048
"""Rows of cells go to disk in blocks of at least so many cells: a few seconds of a CPU core."""
PIXELS_PER_BATCH: Mapping[str, int] = MappingProxyType({"cpu": 256 * 64 * 64, "cuda": 2048 * 64 * 64})
"""Kind of device -> pixels in a batch, all bands together: 256 windows of 64 pixels on a CPU, where the caches set the
limit; a GPU needs more to be busy."""


def rows_per_block(grid: Grid, cells_per_block: int = CELLS_PER_BLOCK) -> int:
    """Return how many rows of cells a block has (the last one of a scene may have fewer).

    Args:
        grid: windows of the scene.
        cells_per_block: cells of a block, at least.
    """
    return -(-cells_per_block // grid.cols)


def compute_blocks(
    scene: PixelSource,
    grid: Grid,
    network: MultiBand,
    prepare: InputTransform,
    *,
    first: int,
    last: int,
    rows: int,
    max_nodata: float,
    device: torch.device,
    dtype: torch.dtype,
    pixels_per_batch: int | None = None,
) -> Iterator[np.ndarray]:
    """Compute rows of cells, block by block.

    Args:
        scene: the open scene, or pixels in memory.
        grid: its windows.
        network: the encoder, in eval mode; it is moved to the device.
        prepare: raw values to its input.
        first: row of cells to begin with, the first one of a block.
        last: row to end before.
        rows: of a block, see :func:`rows_per_block`.
        max_nodata: a window has no value if more than this share of its pixels is missing in any band.
        device: where to compute.
        dtype: of the network's computation; bfloat16 runs under autocast.
        pixels_per_batch: pixels of a batch, all bands together, at most (but one window); default: what suits the
            device, see :data:`PIXELS_PER_BATCH`.

    Yields:
        Features of a block, float32 ``(rows * cols, features)``, NaN where a cell has no value.
    """
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = _batch_size(scene, grid, device, pixels_per_batch)
    pixels = cell_rows(scene, grid, first, last)
    for top in range(first, last, rows):
        count = min(rows, last - top)
        values = np.full((count * grid.cols, network.num_features), np.nan, np.float32)
        windows = _valid_windows(islice(pixels, count), grid, top, batch, max_nodata, device)
        with inference(device, dtype):
            for cells, images in _batches(windows, batch):
                values[cells] = network(prepare(images)).float().cpu().numpy()
        yield values


def compute_cells(
    scene: PixelSource,
    grid: Grid,
    network: MultiBand,
    prepare: InputTransform,
    cells: np.ndarray,
    *,
    max_nodata: float,
    device: torch.device,
    dtype: torch.dtype,
    pixels_per_batch: int | None = None,
) -> np.ndarray:
    """Return the features of chosen cells, float32 ``(n, features)``, NaN where a cell has no value.

    Args:
        scene: the open scene.
        grid: its windows.
        network: the encoder, in eval mode; it is moved to the device.
        prepare: raw values to its input.
        cells: their numbers in the grid, row by row; ascending, so that a file's tiles are read once.
        max_nodata: as for :func:`compute_blocks`, like all that follow.
        device: where to compute.
        dtype: of the network's computation.
        pixels_per_batch: of a batch.
    """
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = _batch_size(scene, grid, device, pixels_per_batch)
    found = np.full((len(cells), network.num_features), np.nan, np.float32)

    def windows() -> Iterator[tuple[np.ndarray, Tensor]]:
        for number, cell in enumerate(cells.tolist()):
            row, col = divmod(cell, grid.cols)
            pixels = np.empty((len(scene.bands), grid.size, grid.size), np.float32)
            scene.read(pixels, top=row * grid.stride, left=col * grid.stride)
            if np.isnan(pixels).mean(axis=(1, 2), dtype=np.float32).max() <= max_nodata:
                yield np.array([number]), torch.from_numpy(pixels[None]).to(device)

    with inference(device, dtype):
        for numbers, images in _batches(windows(), batch):
            found[numbers] = network(prepare(images)).float().cpu().numpy()
    return found


def _batch_size(scene: PixelSource, grid: Grid, device: torch.device, pixels_per_batch: int | None) -> int:
    """Return how many windows are computed at once."""
    return max(1, (pixels_per_batch or PIXELS_PER_BATCH[device.type]) // (len(scene.bands) * grid.size**2))


def _valid_windows(
    rows: Iterable[tuple[int, np.ndarray]],
    grid: Grid,
    first: int,
    at_once: int,
    max_nodata: float,
    device: torch.device,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield windows that have a value: indices of their cells, counted from row ``first``, and their pixels.

    Yields:
        int64 ``(n,)``, and a copy ``(n, bands, size, size)``; at most ``at_once`` windows.
    """
    for row, pixels in rows:
        views = torch.from_numpy(pixels).to(device).unfold(-1, grid.size, grid.stride).permute(2, 0, 1, 3)
        for start in range(0, grid.cols, at_once):
            part = views[start : start + at_once]
            missing = part.isnan().float().mean(dim=(2, 3)).amax(dim=1)
            kept = (missing <= max_nodata).nonzero()[:, 0]
            if len(kept):
                yield (row - first) * grid.cols + start + kept.cpu().numpy(), part[kept]


def _batches(windows: Iterable[tuple[np.ndarray, Tensor]], size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Combine windows of several rows into batches of the given size; the last may be smaller."""
    waiting: list[tuple[np.ndarray, Tensor]] = []
    for item in windows:
        waiting.append(item)
        if sum(len(cells) for cells, _ in waiting) >= size:
            cells, images = _joined(waiting)
            yield cells[:size], images[:size]
            waiting = [(cells[size:], images[size:])] if len(cells) > size else []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[np.ndarray, Tensor]]) -> tuple[np.ndarray, Tensor]:
    return np.concatenate([cells for cells, _ in parts]), torch.cat([images for _, images in parts])
