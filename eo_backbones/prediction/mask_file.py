"""A predicted mask on disk: a GeoTIFF of class values with colours and names that records what it was made from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from colorsys import hsv_to_rgb
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file
from eo_backbones.prediction.windows import Span
from eo_backbones.rasters.reader import without_georeference_warnings
from eo_backbones.scenes.encoding import TAG

_BLOCK_PX = 256
_LARGEST_BYTE = 254  # 255 is nodata


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFormat:
    """What all masks of one model have in common.

    Attributes:
        values: value of each class, ascending.
        classes: their names.
    """

    values: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """``uint8`` where the values and nodata fit into it, else ``uint16``."""
        return "uint8" if max(self.values) <= _LARGEST_BYTE else "uint16"

    @property
    def nodata(self) -> int:
        """Value of pixels without a prediction: 255, or 65,535 in ``uint16``."""
        return int(np.iinfo(self.dtype).max)


class MaskFile:
    """A mask that is being written; see :func:`new_mask`."""

    def __init__(self, dataset: Any, mask_format: MaskFormat) -> None:
        self._dataset = dataset
        self._lookup = np.array([*mask_format.values, mask_format.nodata], mask_format.dtype)
        self._counts = np.zeros(len(mask_format.values) + 1, np.int64)

    def write(self, class_indices: np.ndarray, rows: Span, columns: Span) -> None:
        """Write one window's core: indices of the classes, int64 ``(height, width)``; -1: no prediction."""
        self._dataset.write(
            self._lookup[class_indices],
            1,
            window=Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start),
        )
        self._counts += np.bincount(class_indices.ravel() % len(self._counts), minlength=len(self._counts))

    @property
    def pixels(self) -> tuple[int, ...]:
        """Pixels of each class so far."""
        return tuple(self._counts[:-1].tolist())


@contextmanager
def new_mask(
    path: Path,
    mask_format: MaskFormat,
    *,
    height: int,
    width: int,
    crs: CRS | None,
    transform: Affine,
    facts: Mapping[str, Any],
) -> Iterator[MaskFile]:
    """Make a mask, and its folder; it appears under its name when the block ends without an error.

    Args:
        path: the file.
        mask_format: values and names.
        height: in pixels.
        width: likewise.
        crs: of the image.
        transform: of the image, pixel to coordinates.
        facts: what it is made from, as JSON types; the number of pixels of each class is added.

    Raises:
        UserError: it cannot be written.
    """
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": mask_format.dtype,
        "nodata": mask_format.nodata,
        "crs": crs,
        "transform": transform,
        "tiled": True,
        "blockxsize": _BLOCK_PX,
        "blockysize": _BLOCK_PX,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(path) as unfinished,
            rasterio.Env(GDAL_PAM_ENABLED="NO"),
            without_georeference_warnings(),  # a mask of a picture has no coordinates either
            rasterio.open(unfinished, "w", **profile) as dataset,
        ):
            colours = class_colours(len(mask_format.values))
            dataset.write_colormap(1, dict(zip(mask_format.values, colours, strict=True)))
            dataset.set_band_description(1, "class")
            names = zip(mask_format.values, mask_format.classes, strict=True)
            dataset.update_tags(1, **{f"CLASS_{value}": name for value, name in names})
            mask = MaskFile(dataset, mask_format)
            yield mask
            dataset.update_tags(**{TAG: json.dumps({**facts, "pixels": mask.pixels})})
    except (RasterioError, OSError) as error:
        raise UserError(
            f"cannot write {path} ({str(error).splitlines()[0]}); name another folder with --out"
        ) from error


def pixels_of(path: Path, facts: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the pixels of each class of a mask that an earlier call made; ``None`` if the file is not there.

    Args:
        path: of the mask.
        facts: what it must have been made from.

    Raises:
        UserError: the file is something else.
    """
    if not path.exists():
        return None
    recorded: dict[str, Any] = {}
    try:
        with without_georeference_warnings(), rasterio.open(path) as dataset:
            recorded = json.loads(dataset.tags().get(TAG, "{}"))
    except (RasterioError, ValueError):
        pass  # not a mask that was predicted; refused below
    pixels: Sequence[int] = recorded.pop("pixels", ())
    if recorded != dict(facts):
        raise UserError(
            f"{path} is there already and is not a mask of the same image, bands and units by the same model; move it "
            "away, or name another folder with --out"
        )
    return tuple(pixels)


Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

# The first eight are Okabe and Ito's colours, which people with colour blindness tell apart; black comes last of them.
_FIRST: tuple[Colour, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (0, 114, 178),
    (204, 121, 167),
    (30, 30, 30),
)
_TURN = 0.618_034  # golden section: neighbouring numbers get hues far from each other
_SATURATION, _BRIGHTNESS = (0.55, 0.85), (0.95, 0.75, 0.55)


def class_colours(number: int) -> list[Colour]:
    """Return a colour for each class: a fixed list of eight, then hues around the circle."""
    colours = list(_FIRST[:number])
    for index in range(number - len(colours)):
        saturation, brightness = _SATURATION[index % 2], _BRIGHTNESS[index % 3]
        red, green, blue = hsv_to_rgb(index * _TURN % 1, saturation, brightness)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours
