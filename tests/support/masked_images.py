"""Images with masks whose classes a small network can tell apart: dark ground, bright and very bright rectangles."""

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

BANDS = ("B03", "B04")
SIZE_PX = 64
VALUES = {2: "ground", 7: "field", 40: "roof"}
_LEVELS = {2: 600, 7: 2200, 40: 5000}
_NO_CLASS = 255


def write_masked(root: Path, *, count: int = 10, size: int | tuple[int, int] = SIZE_PX, named: bool = True) -> Path:
    """Write ``images/a/image_0.tif`` (uint16 digital numbers), its mask, and ``classes.csv``; return ``root``."""
    height, width = (size, size) if isinstance(size, int) else size
    for index in range(count):
        values, mask = scene(index, height, width)
        write_tiff(root / "images" / "a" / f"image_{index}.tif", values, index, names=BANDS)
        write_tiff(root / "masks" / "a" / f"image_{index}.tif", mask[None], index)
    if named:
        rows = [f"{value},{name}" for value, name in VALUES.items()]
        (root / "classes.csv").write_text("\n".join(["value,name", *rows]))
    return root


def scene(index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return digital numbers uint16 ``(2, height, width)`` and class values uint8 ``(height, width)``."""
    rng = np.random.default_rng(index)
    mask = np.full((height, width), 2, np.uint8)
    for value in (7, 40, 7, 40):
        top, left = rng.integers(0, height - 16), rng.integers(0, width - 16)
        mask[top : top + rng.integers(12, height // 2), left : left + rng.integers(12, width // 2)] = value
    level = np.select([mask == value for value in _LEVELS], list(_LEVELS.values()))
    noise = rng.normal(0, 100, (2, height, width))
    values = (level * np.array([1.0, 0.8])[:, None, None] + noise).clip(1, 9000).astype(np.uint16)
    mask[: height // 16] = _NO_CLASS
    return values, mask


def write_tiff(
    path: Path, values: np.ndarray, place: int = 0, *, names: tuple[str, ...] = (), **profile: object
) -> None:
    """Write bands ``(bands, height, width)`` as a GeoTIFF in UTM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    transform = Affine(10, 0, 600_000 + 10 * width * place, 0, -10, 5_400_000)
    facts = {"driver": "GTiff", "dtype": values.dtype, "crs": "EPSG:32632", "transform": transform, **profile}
    with rasterio.open(path, "w", width=width, height=height, count=count, **facts) as file:
        file.write(values)
        if names:
            file.descriptions = names


def segmented(data: Path, encoder: Path, out: Path, **changes: object) -> dict[str, object]:
    """Fine-tune a segmentation on the CPU in a few epochs."""
    from support.own_images import finetuned

    values = {"task": "segmentation", "bands": ["B03"], "learning_rate": 3e-3, "batch": 4, "epochs": 4}
    return finetuned(data, encoder, out, **values | changes)
