"""Raw pixels of a data set in batches, read ahead by threads: each file is opened once for all bands of a pass."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from eo_backbones.datasets import LabelledImages
from eo_backbones.errors import UserError

BATCH = 128
_MAX_READERS = 8  # files are small; more readers only wait for each other


def batches(
    data: LabelledImages, bands: Sequence[str], rows: np.ndarray, *, size: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield (position of the first image in ``rows``, raw values ``(batch, bands, H, W)``) in order.

    Args:
        data: the images.
        bands: what to read of each.
        rows: which images, in which order.
        size: images in a batch; default: :data:`BATCH`.

    Raises:
        UserError: a file is missing, damaged, or of another size than the images before it.
    """
    size = size or BATCH
    parts = [(start, rows[start : start + size]) for start in range(0, len(rows), size)]
    readers = min(_MAX_READERS, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="pixels") as pool:
        try:
            for start, part in parts:
                waiting.append((start, pool.submit(_read, data, bands, part)))
                if len(waiting) > readers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(data: LabelledImages, bands: Sequence[str], rows: np.ndarray) -> Tensor:
    images = [data.read(int(row), bands) for row in rows]
    for row, image in zip(rows, images, strict=True):
        if image.shape != images[0].shape:
            (_, height, width), (_, expected_height, expected_width) = image.shape, images[0].shape
            raise UserError(
                f"{data.paths[row]} has {width} x {height} pixels, other images have {expected_width} x "
                f"{expected_height}; remove it, or bring all images to one size"
            )
    return torch.from_numpy(np.stack(images))
