"""The pass over a scene: windows in batches through the encoder, rows of cells to disk as they are finished."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from eo_backbones.inputs import InputTransform
from eo_backbones.multi_band import MultiBand
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.scene import Scene, cell_rows
from eo_backbones.scenes.unfinished import UnfinishedEmbedding

Tick = Callable[[int], None]
"""Told how many more cells are finished."""

_CELLS_A_BLOCK = 2048  # rows of cells are kept in blocks of at least so many: a few seconds of a CPU core
# Pixels in a batch, all bands together: 256 windows of 64 pixels on a CPU, where the caches set the limit; a GPU needs
# more to be busy.
_PIXELS_A_BATCH = {"cpu": 256 * 64 * 64, "cuda": 2048 * 64 * 64}


def compute(
    scene: Scene,
    grid: Grid,
    network: MultiBand,
    prepare: InputTransform,
    unfinished: UnfinishedEmbedding,
    *,
    max_nodata: float,
    device: torch.device,
    dtype: torch.dtype,
    tick: Tick,
) -> int:
    """Compute the rows of cells that are not there yet; return how many cells were computed.

    Args:
        scene: the open scene.
        grid: its windows.
        network: the encoder, in eval mode; it is moved to the device.
        prepare: raw values to its input.
        unfinished: where the rows go.
        max_nodata: a window has no value if more than this share of its pixels is missing in any band.
        device: where to compute.
        dtype: number format; bfloat16 runs under autocast.
        tick: told after each block.
    """
    done, block = unfinished.rows_done, -(-_CELLS_A_BLOCK // grid.cols)
    if done == grid.rows:
        tick(grid.rows * grid.cols)
        return 0
    start = done // block * block  # whole blocks only: the same batches, hence the same features, as without a kill
    unfinished.resume_at(start)
    tick(start * grid.cols)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = max(1, _PIXELS_A_BATCH[device.type] // (len(scene.bands) * grid.size**2))
    rows = cell_rows(scene, grid, start, grid.rows)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        for first in range(start, grid.rows, block):
            count = min(block, grid.rows - first)
            values = np.full((count * grid.cols, unfinished.features), np.nan, np.float32)
            found = _windows(islice(rows, count), grid, first, batch, max_nodata, device)
            for places, windows in _batches(found, batch):
                values[places] = network(prepare(windows)).float().cpu().numpy()
            unfinished.append(values)
            tick(count * grid.cols)
    return (grid.rows - start) * grid.cols


def _windows(
    rows: Iterable[tuple[int, np.ndarray]], grid: Grid, first: int, most: int, max_nodata: float, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield the windows that have a value, a copy ``(n, bands, size, size)``, and their places counted from a row."""
    for row, pixels in rows:
        views = torch.from_numpy(pixels).to(device).unfold(-1, grid.size, grid.stride).permute(2, 0, 1, 3)
        for start in range(0, grid.cols, most):
            part = views[start : start + most]
            missing = part.isnan().float().mean(dim=(2, 3)).amax(dim=1)
            kept = (missing <= max_nodata).nonzero()[:, 0]
            if len(kept):
                yield (row - first) * grid.cols + start + kept.cpu().numpy(), part[kept]


def _batches(found: Iterable[tuple[np.ndarray, Tensor]], size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Put windows of several rows together into batches of the given size; the last may be smaller."""
    waiting: list[tuple[np.ndarray, Tensor]] = []
    for item in found:
        waiting.append(item)
        if sum(len(places) for places, _ in waiting) >= size:
            places, windows = _joined(waiting)
            yield places[:size], windows[:size]
            waiting = [(places[size:], windows[size:])] if len(places) > size else []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[np.ndarray, Tensor]]) -> tuple[np.ndarray, Tensor]:
    return np.concatenate([places for places, _ in parts]), torch.cat([windows for _, windows in parts])
