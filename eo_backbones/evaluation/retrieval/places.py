"""Places to find again: tiles of equal size that do not overlap, cut from images of several bands."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from eo_backbones.datasets import LabelledImages
from eo_backbones.errors import UserError

PLACE_PX = 64
"""Side of a place in pixels: 640 m of a Sentinel-2 image, EuroSAT's size."""
MOST_PLACES = 2048
"""Where there are more, images are drawn until they hold as many: finding one among 2,048 is hard enough."""
FEWEST_PLACES = 10
"""Among fewer, recall@5 says little: guessing finds half."""
_KEPT_IMAGES = 8  # read for one tile, and needed for the next


def cut_places(data: LabelledImages, *, side: int = PLACE_PX, most: int = MOST_PLACES) -> LabelledImages:
    """Return the tiles of images as a data set of its own; what is left over at the right and lower edge is not used.

    Of tiles with the same pixels one is kept: neighbouring patches of SEN12MS show half of their ground twice, and a
    place that is there twice cannot be told from itself.

    Args:
        data: the images, which may differ in size.
        side: of a tile in pixels.
        most: images are drawn in a fixed random order until their tiles are at least as many.

    Raises:
        UserError: there are too few tiles, or an image cannot be read.
    """
    tiles: list[tuple[int, int, int]] = []
    seen: set[bytes] = set()
    used = 0
    for row in np.random.default_rng(0).permutation(len(data)).tolist():
        if len(tiles) >= most:
            break
        (image_of_band,) = data.read(row, data.bands[:1])
        height, width = image_of_band.shape
        for y in range(0, height - side + 1, side):
            for x in range(0, width - side + 1, side):
                pixels = hashlib.blake2b(image_of_band[y : y + side, x : x + side].tobytes()).digest()
                if pixels not in seen:
                    seen.add(pixels)
                    tiles.append((row, y, x))
        used += 1
    if len(tiles) < FEWEST_PLACES:
        raise UserError(
            f"{used} images of {data.name} hold {len(tiles)} different tiles of {side} x {side} pixels; retrieval "
            f"needs at least {FEWEST_PLACES}, so pass more or larger images"
        )
    tiles.sort()
    origins = {_named(data.paths[row], y, x): (data.paths[row], y, x) for row, y, x in tiles}
    first_tiles = {path: tile for tile, (path, _, _) in reversed(origins.items())}

    @lru_cache(maxsize=_KEPT_IMAGES)
    def image(path: Path, bands: tuple[str, ...]) -> np.ndarray:
        return data.reader(path, bands)

    def read(tile: Path, bands: Sequence[str]) -> np.ndarray:
        path, y, x = origins[tile]
        return image(path, tuple(bands))[:, y : y + side, x : x + side]

    def load_bytes(tile: Path) -> bytes:
        path = origins[tile][0]
        return data.load_bytes(path) if first_tiles[path] == tile else b""  # each image once

    return replace(
        data,
        paths=tuple(origins),
        labels=data.labels[[row for row, _, _ in tiles]],
        reader=read,
        load_bytes=load_bytes,
        reading=f"{data.reading} tiles of {side} pixels",
        official=None,
        maps=None,
    )


def _named(path: Path, y: int, x: int) -> Path:
    """Return a name for a tile; there is no such file."""
    return path.with_name(f"{path.stem}@{y},{x}{path.suffix}")
