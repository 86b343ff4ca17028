"""Protocol ``retrieval``: is a place found again by another band? Needs no labels.

The feature of place p in band a is looked up among the features of N places in band b; recall@k is the share of places
whose own is among the k most similar. So an encoder is judged by whether it serves any band of any sensor, which no set
of labelled images of ten bands could show here.

Features are compared by their cosine, after each band's are standardised by their own mean and deviation over the N
places. What all images of a band have in common says nothing about the place, and it would favour models that were
trained to remove it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from eo_backbones.bands import BANDS, band
from eo_backbones.errors import UserError
from eo_backbones.evaluation.encoders import EvaluatedModel, Setting
from eo_backbones.inputs import InputTransform

RANKS = (1, 5)
"""Lengths of the list of answers that are scored."""

_BATCH = 64
_SMALLEST_DEVIATION = 1e-6  # of a feature that is the same everywhere
_CELL_INCHES = 0.42

Places = Mapping[str, np.ndarray]
"""Band -> values (N, side, side) in the band's unit, the same N places in every band."""


def read_places(root: Path, names: Sequence[str], bands: Sequence[str], *, side: int) -> Places:
    """Cut pairs of GeoTIFFs into tiles that do not overlap.

    Args:
        root: holds folders ``s1`` and ``s2`` whose files have equal names and band descriptions.
        names: of the pairs, without suffix.
        bands: that all of them have.
        side: of a tile in pixels; what is left over at the right and the lower edge is not used.

    Returns:
        float32 (N, side, side) for each band: digital numbers, or dB.

    Raises:
        UserError: a file or one of its bands is missing, or none of them holds a tile.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in bands}
    for name in names:
        for sensor in ("s2", "s1"):
            wanted = [entry for entry in bands if BANDS[entry].sensor == sensor]
            for entry, image in zip(wanted, _read(root / sensor / f"{name}.tif", wanted), strict=True):
                found[entry] += _tiles(image, side)
    if not all(found.values()):
        raise UserError(f"{root} holds no tile of {side} pixels; take a smaller side, or name larger pairs")
    return {name: np.stack(tiles) for name, tiles in found.items()}


def features(model: EvaluatedModel, setting: Setting, places: Places, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the features (N, D) of all places in each band.

    Args:
        model: whose encoder is asked, in eval mode, on the CPU.
        setting: how images are brought to it.
        places: as :func:`read_places` gives them.
        seed: of models that are drawn at random.
    """
    embed = model.build(seed).embed
    found: dict[str, np.ndarray] = {}
    for name, tiles in places.items():
        prepare = InputTransform(setting.spec, band=name, unit="dn" if BANDS[name].sensor == "s2" else "db")
        with torch.inference_mode():
            parts = []
            for start in range(0, len(tiles), _BATCH):
                images = prepare(torch.from_numpy(tiles[start : start + _BATCH])[:, None])
                if images.shape[-1] != setting.size:
                    images = F.interpolate(images, (setting.size, setting.size), mode="bilinear", antialias=True)
                parts.append(embed(images).float())
        found[name] = torch.cat(parts).numpy()
    return found


def recall_matrix(found: Mapping[str, np.ndarray], *, rank: int) -> np.ndarray:
    """Return the recall of each band (row) among the places of each band (column), in [0, 1].

    Args:
        found: features (N, D) of the same N places in each band.
        rank: length of the list of answers. Of equal similarities, the place itself counts as the last.
    """
    directions = [_directions(values) for values in found.values()]
    matrix = np.empty((len(directions), len(directions)))
    for row, asked in enumerate(directions):
        for column, answers in enumerate(directions):
            similarity = asked @ answers.T
            own = similarity.diagonal()[:, None]
            better = (similarity >= own).sum(axis=1) - 1
            matrix[row, column] = float((better < rank).mean())
    return matrix


def between(matrix: np.ndarray, bands: Sequence[str], first: Sequence[str], second: Sequence[str]) -> float:
    """Return the mean recall between two groups of bands, both directions, a band with itself left out."""
    places = {name: place for place, name in enumerate(bands)}
    pairs = [(a, b) for a in first for b in second if a != b]
    cells = [matrix[places[a], places[b]] for a, b in pairs] + [matrix[places[b], places[a]] for a, b in pairs]
    return float(np.mean(cells))


def write_matrices(path: Path, matrices: Mapping[str, np.ndarray], bands: Sequence[str], *, rank: int) -> None:
    """Draw one matrix a model side by side and write the picture (PNG)."""
    width = max(3.2, _CELL_INCHES * len(bands) + 1.0)
    figure = Figure(figsize=(width * len(matrices), width + 0.6), layout="constrained")
    for axes, (model, matrix) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        axes.set_title(model, fontsize=9)
        axes.set_xticks(range(len(bands)), bands, rotation=90, fontsize=7)
        axes.set_yticks(range(len(bands)), bands, fontsize=7)
        axes.set_xlabel("found in")
        axes.set_ylabel("asked by")
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if value < 0.6 else "black"  # on the dark and the bright end of the colours
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=colour)
    figure.suptitle(f"recall@{rank} in percent", fontsize=10)
    figure.savefig(path, dpi=150, format="png")


def _directions(values: np.ndarray) -> np.ndarray:
    standardised: np.ndarray = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), _SMALLEST_DEVIATION)
    lengths = np.linalg.norm(standardised, axis=1, keepdims=True)
    directions: np.ndarray = standardised / np.maximum(lengths, _SMALLEST_DEVIATION)
    return directions


def _read(path: Path, wanted: Sequence[str]) -> Iterator[np.ndarray]:
    if not path.is_file():
        raise UserError(f"there is no {path}; the root holds folders s1 and s2 with equal file names")
    with rasterio.open(path) as file:
        places = {band(text).name: place for place, text in enumerate(file.descriptions, 1) if text}
        missing = [name for name in wanted if name not in places]
        if missing:
            raise UserError(f"{path} has no {', '.join(missing)}; its band descriptions name {', '.join(places)}")
        for name in wanted:
            yield file.read(places[name]).astype(np.float32)


def _tiles(image: np.ndarray, side: int) -> list[np.ndarray]:
    height, width = image.shape
    return [
        image[y : y + side, x : x + side]
        for y in range(0, height - side + 1, side)
        for x in range(0, width - side + 1, side)
    ]
