"""A predicted mask on disk: a GeoTIFF of class values with colours and names, that says what it was made from."""

import json
import warnings
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
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file
from eo_backbones.prediction.windows import Span
from eo_backbones.scenes.outputs import TAG

_BLOCK_PX = 256
_LARGEST_BYTE = 254  # 255 is nodata


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskForm:
    """What all masks of one model have in common.

    Attributes:
        values: value of each class, ascending.
        classes: their names.
    """

    values: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """Number format: ``uint8`` where the values and nodata fit into it, else ``uint16``."""
        return "uint8" if max(self.values) <= _LARGEST_BYTE else "uint16"

    @property
    def nodata(self) -> int:
        """Value of pixels without an answer: 255, or 65,535 in ``uint16``."""
        return int(np.iinfo(self.dtype).max)


class MaskFile:
    """A mask that is being written; see :func:`new_mask`."""

    def __init__(self, dataset: Any, form: MaskForm) -> None:
        self._dataset, self._form = dataset, form
        self._lookup = np.array([*form.values, form.nodata], form.dtype)
        self._counts = np.zeros(len(form.values) + 1, np.int64)

    def write(self, places: np.ndarray, rows: Span, columns: Span) -> None:
        """Write one window's core: places of the classes, int64 ``(height, width)``; -1: no answer."""
        self._dataset.write(
            self._lookup[places],
            1,
            window=Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start),
        )
        self._counts += np.bincount(places.ravel() % len(self._counts), minlength=len(self._counts))

    @property
    def pixels(self) -> tuple[int, ...]:
        """Pixels of each class so far."""
        return tuple(self._counts[:-1].tolist())


@contextmanager
def new_mask(
    path: Path,
    form: MaskForm,
    *,
    height: int,
    width: int,
    crs: CRS | None,
    transform: Affine,
    facts: Mapping[str, Any],
) -> Iterator[MaskFile]:
    """Make a mask, and its folder; it appears under its name when the block ends well.

    Args:
        path: the file.
        form: values and names.
        height: in pixels.
        width: likewise.
        crs: of the image.
        transform: of the image, pixel to coordinates.
        facts: what it is made from, as JSON types; the pixels of each class are added.

    Raises:
        UserError: it cannot be written.
    """
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": form.dtype,
        "nodata": form.nodata,
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
        with atomic_file(path) as unfinished, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a mask of a picture has no coordinates either
            with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(unfinished, "w", **profile) as dataset:
                colours = class_colours(len(form.values))
                dataset.write_colormap(1, dict(zip(form.values, colours, strict=True)))
                dataset.set_band_description(1, "class")
                names = zip(form.values, form.classes, strict=True)
                dataset.update_tags(1, **{f"CLASS_{value}": name for value, name in names})
                mask = MaskFile(dataset, form)
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
    found: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                found = json.loads(dataset.tags().get(TAG, "{}"))
    except (RasterioError, ValueError):
        pass  # no mask of ours; said below
    pixels: Sequence[int] = found.pop("pixels", ())
    if found != dict(facts):
        raise UserError(
            f"{path} is there already, and is no mask of the same image, bands and units by the same model; move it "
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
    for place in range(number - len(colours)):
        saturation, brightness = _SATURATION[place % 2], _BRIGHTNESS[place % 3]
        red, green, blue = hsv_to_rgb(place * _TURN % 1, saturation, brightness)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours
