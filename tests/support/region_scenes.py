"""Folders of small scenes to embed together, and what their embeddings must be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine

from eo_backbones.regions import RegionRequest, RegionSummary, embed_region, open_region
from eo_backbones.scenes import EmbedRequest, embed_scene
from eo_backbones.scenes.embedding_file import open_embedding
from support.synthetic_scene import numbers, write_scene

BANDS = ("B04", "B08")
CELLS_PER_BLOCK = 12
"""Small scenes then have several blocks."""
SETTINGS: dict[str, Any] = {"bands": BANDS, "size": 32, "stride": 16}


def write_scenes(folder: Path, count: int = 3, *, names: Sequence[str] = BANDS) -> list[Path]:
    """Write scenes of different size, place, zone and date; the last one has missing pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        values = numbers(2, 96 + 16 * number, 112, seed=number).astype(np.float32)
        if number == count - 1:
            values[:, :64, :48] = np.nan
        place = Affine(10.0, 0.0, 500_000.0 + 2000 * number, 0.0, -10.0, 5_000_000.0)
        path = folder / f"s_2022060{number + 1}T102031.tif"
        crs = "EPSG:32633" if number == 1 else "EPSG:32632"
        paths.append(write_scene(path, values, names=names, crs=crs, transform=place))
    return paths


def embed(scenes: Sequence[Path], model: str, out: Path, **options: Any) -> RegionSummary:
    """Embed scenes into a folder, on the CPU."""
    how = {name: options.pop(name) for name in ("workers", "scheduler", "progress") if name in options}
    request = RegionRequest(**{"scenes": tuple(map(str, scenes)), "model": model, "out": out, **SETTINGS, **options})
    return embed_region(request, device="cpu", cells_per_block=CELLS_PER_BLOCK, **how)


def embed_alone(scene: Path, model: str, out: Path, *, dtype: torch.dtype, **options: Any) -> np.ndarray:
    """Embed one scene as the command for one scene does; return its cells."""
    request = EmbedRequest(**{"scene": (str(scene),), "model": model, "out": out, **SETTINGS, **options})
    embed_scene(request, device=torch.device("cpu"), dtype=dtype, cells_per_block=CELLS_PER_BLOCK)
    return cells_of(out)


def cells_of(path: Path) -> np.ndarray:
    """Return all cells of an embedding, ``(rows, cols, numbers)``."""
    return np.concatenate([block for _, block in open_embedding(path).blocks()])


def cells_by_scene(folder: Path) -> dict[str, np.ndarray]:
    """Return all cells of all scenes of a region."""
    return {scene.id: cells_of(scene.path) for scene in open_region(folder).scenes}


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the embeddings of a region as they lie on the disk."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/s_*.tif"))}
