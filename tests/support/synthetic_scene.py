"""Small rasters to embed, and what their embeddings must be."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine

import eo_backbones

UTM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
"""10 m pixels whose left edge lies on the central meridian of its zone."""


def numbers(bands: int, height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Digital numbers, uint16, that differ from place to place."""
    return np.random.default_rng(seed).integers(200, 4000, (bands, height, width), dtype=np.uint16)


def write_scene(
    path: Path,
    values: np.ndarray,
    *,
    names: Sequence[str] = (),
    crs: str | None = "EPSG:32632",
    transform: Affine | None = UTM,
    nodata: float | None = None,
) -> Path:
    """Write ``(bands, height, width)`` as a GeoTIFF."""
    profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    if transform is not None:
        profile["transform"] = transform
    with rasterio.open(path, "w", driver="GTiff", crs=crs, nodata=nodata, **profile) as target:
        target.write(values)
        if names:
            target.descriptions = tuple(names)
    return path


def reference(
    model: str,
    values: np.ndarray,
    bands: Sequence[str],
    units: Sequence[str],
    *,
    size: int,
    stride: int,
    fuse: str = "concat",
) -> np.ndarray:
    """Features ``(rows, cols, features)``, computed window by window and band by band."""
    encoder = eo_backbones.create_model(model).eval()
    rows = []
    for top in range(0, values.shape[1] - size + 1, stride):
        row = []
        for left in range(0, values.shape[2] - size + 1, stride):
            parts = []
            for number, (band, unit) in enumerate(zip(bands, units, strict=True)):
                window = torch.tensor(values[number, top : top + size, left : left + size].astype(np.float64))
                prepare = eo_backbones.create_transform(encoder, band=band, unit=unit, check="off")
                with torch.no_grad():
                    parts.append(encoder(prepare(window)[None])[0].numpy())
            row.append(np.concatenate(parts) if fuse == "concat" else np.mean(parts, axis=0))
        rows.append(row)
    return np.array(rows)
