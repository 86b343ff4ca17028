"""What it costs to keep fewer or coarser values of a cell: weighted F1 of a classifier on them, and bytes a cell.

    python benchmarks/compression.py EUROSAT_RGB CLASSES --out FILE

EUROSAT_RGB holds EuroSAT RGB (B02, B03, B04; 165 labels a class, the budget of the project's other tables). CLASSES
holds folders of grey images of VV, one for each class (``sen12_five``; all labels). Protocol ``logistic``. Features are
taken from the cache (EO_BACKBONES_CACHE) and added to it where they are missing.

Components are fitted on the features of the whole training part, as ``embed --components`` does on a scene, without
labels. int8 spans the range of each value over all images, as the GeoTIFF's does over a scene. ``binary`` keeps the
sign of each centred value (not a format of ``embed``). The intervals of the differences are paired: the same test
images are drawn for both, 95 %, mean over bands and seeds.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from affine import Affine

from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.datasets.splits import Split
from eo_backbones.device import fast_dtype
from eo_backbones.evaluation.budgets import Budget, make_splits
from eo_backbones.evaluation.columns import BandChoice, choose_columns
from eo_backbones.evaluation.encoders import open_model
from eo_backbones.evaluation.features import (
    FeatureFile,
    FeatureJob,
    default_cache_folder,
    extract_features,
    feature_key,
)
from eo_backbones.evaluation.metrics import confusion_matrix, weighted_f1
from eo_backbones.evaluation.probes import logistic
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones.scenes.cog import write_cog
from eo_backbones.scenes.components import principal_components
from eo_backbones.scenes.encoding import Int8Codes, to_half
from eo_backbones.scenes.geotiff import write_geotiff
from eo_backbones.scenes.grid import Grid
from eo_backbones.weights import DEFAULT

COUNTS = (None, 256, 64, 32, 16)
DTYPES = ("float32", "float16", "int8", "binary")
SIZE = 64
RESAMPLES = 1000
Setting = tuple[int | None, str]


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("eurosat", type=Path)
    parser.add_argument("radar", type=Path)
    parser.add_argument("--model", default=DEFAULT.name)
    parser.add_argument("--seeds", type=int, default=5, help="of EuroSAT; VV, with fewer images, takes four more")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optical = open_dataset("eurosat-rgb", options.eurosat)
    radar = open_dataset("folder", options.radar, positions={"VV": 1}, reading=ReadingOptions.of(("uint8",)))
    few = Budget(shots=165)
    groups = {
        "optical": _measured(optical, ["B02", "B03", "B04"], options.model, range(options.seeds), few),
        "VV": _measured(radar, ["VV"], options.model, range(options.seeds + 4), Budget()),
    }
    features = _features(optical, choose_columns(optical, ["B04"])[0].parts[0], options.model)
    options.out.write_text(_report(options, groups, _sizes(features), features.shape[1]))
    print(options.out.read_text())


def _features(data: LabelledImages, band: BandChoice, model: str) -> np.ndarray:
    """Return the features of all images, float32 ``(n, d)``."""
    opened = open_model(model, [SIZE])
    setting, encoder, dtype = opened.settings[0], opened.build(0), fast_dtype(torch.device("cpu"))
    file = FeatureFile(default_cache_folder(), feature_key(data, encoder.digest, setting, band), dtype)
    if not file.exists(len(data)):
        job = FeatureJob(encoder=encoder, setting=setting, band=band, file=file)
        extract_features(data, [job], device=torch.device("cpu"), dtype=dtype, tick=lambda _: None)
    return file.read().float().numpy()


def _measured(
    data: LabelledImages, bands: list[str], model: str, seeds: range, budget: Budget
) -> dict[Setting, list[np.ndarray]]:
    """Return for each setting and each band and seed the weighted F1: as measured, then of resampled test images."""
    found: dict[Setting, list[np.ndarray]] = {(count, dtype): [] for count in COUNTS for dtype in DTYPES}
    splits = make_splits(data, "seeded", seeds, lists=None)
    for column in choose_columns(data, bands):
        features = _features(data, column.parts[0], model)
        for seed, split in splits.items():
            components = _components(features[split.train], features)
            for count in COUNTS:
                values = features if count is None else components[:, :count]
                for dtype in DTYPES:
                    f1 = _score(data, _stored(values, split, dtype), budget.apply(split, data.labels, seed), seed)
                    found[count, dtype].append(f1)
                    print(column.label, seed, count, dtype, f"{f1[0]:.4f}", file=sys.stderr, flush=True)
    return found


def _components(sample: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return as many principal components as any setting keeps; those that keep fewer take the first."""
    count = max(count or 0 for count in COUNTS)
    if count >= min(sample.shape):
        raise SystemExit(f"{len(sample)} training images are too few for {count} components")
    fitted = principal_components([sample], np.ones((1, len(sample)), bool), count, belongs_to="")
    return fitted.project(features)


def _stored(values: np.ndarray, split: Split, dtype: str) -> np.ndarray:
    """Return the values as they come back from a file."""
    if dtype == "float16":
        return to_half(values)
    if dtype == "int8":
        codes = Int8Codes.of([values], values.shape[1])
        return codes.decode(codes.encode(values))
    if dtype == "binary":
        return np.sign(values - values[split.train].mean(axis=0)).astype(np.float32)
    return values


def _score(data: LabelledImages, values: np.ndarray, split: Split, seed: int) -> np.ndarray:
    classes = len(data.classes)
    task = Task(
        features=torch.from_numpy(values),
        labels=torch.from_numpy(data.labels),
        split=split,
        num_classes=classes,
        seed=seed,
    )
    predicted, true = logistic.fit_predict(task), data.labels[split.test]
    rng = np.random.default_rng(seed)  # the same images for all settings of this seed
    drawn = [rng.integers(len(true), size=len(true)) for _ in range(RESAMPLES)]
    matrices = [confusion_matrix(true[rows], predicted[rows], classes) for rows in [np.arange(len(true)), *drawn]]
    return weighted_f1(np.stack(matrices))


def _sizes(features: np.ndarray) -> dict[Setting, tuple[float, float]]:
    """Return the bytes a cell in a cloud-optimised and in a plain GeoTIFF, of a square of as many cells as images."""
    side = int(len(features) ** 0.5)
    grid = Grid(
        height=side * SIZE, width=side * SIZE, size=SIZE, stride=SIZE, scene_transform=Affine.identity(), crs=None
    )
    sizes = {}
    components = _components(features, features)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.tif"
        for count in COUNTS:
            kept = features if count is None else components[:, :count]
            values = kept[: side**2].reshape(side, side, -1)
            for dtype in ("float32", "float16", "int8"):
                made = []
                for write in (write_cog, write_geotiff):
                    write(path, lambda: iter(values), grid=grid, bands=values.shape[2], dtype=dtype, facts={})  # noqa: B023
                    made.append(path.stat().st_size / side**2)
                sizes[count, dtype] = (made[0], made[1])
    return sizes


def _report(
    options: argparse.Namespace,
    groups: dict[str, dict[Setting, list[np.ndarray]]],
    sizes: dict[Setting, tuple[float, float]],
    width: int,
) -> str:
    today = datetime.now(UTC)
    lines = [
        "# What compression costs",
        "",
        f"{today:%d %B %Y}, weights `{options.model}`, torch {torch.__version__}, CPU, network in "
        f"{str(fast_dtype(torch.device('cpu'))).removeprefix('torch.')}. Command:",
        "",
        "```",
        f"python benchmarks/compression.py EUROSAT_RGB CLASSES --seeds {options.seeds} --out FILE",
        "```",
        "",
        "Weighted F1 in percent, with its 95 % interval, of the protocol `logistic`; the difference to all features in "
        "float32 in points, with its paired interval. Optical: EuroSAT RGB, mean over B02, B03, B04 and "
        f"{options.seeds} seeds, 1,650 labels. VV: `sen12_five`, mean over {options.seeds + 4} seeds. Bytes a cell: "
        "of the values alone; of a cloud-optimised GeoTIFF (DEFLATE, overviews where it has them) and of a plain one, "
        "whole files of the features of B04.",
        "",
        "| components | dtype | bytes a cell | COG | GeoTIFF | optical F1 | difference | VV F1 | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count, dtype in groups["optical"]:
        bits = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}[dtype]
        cog, plain = sizes.get((count, dtype), (None, None))
        row = [
            "all" if count is None else str(count),
            dtype,
            f"{(count or width) * bits // 8:,}",
            "" if cog is None else f"{cog:,.0f}",
            "" if plain is None else f"{plain:,.0f}",
        ]
        for measured in groups.values():
            own = np.stack(measured[count, dtype])
            moved = own - np.stack(measured[None, "float32"])
            row += [_percent(own, "{:.1f}"), _percent(moved, "{:+.1f}")]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _percent(f1: np.ndarray, form: str) -> str:
    """Return the mean over bands and seeds of ``(n, 1 + resamples)``, with the mean of the intervals."""
    low, high = (100 * np.percentile(f1[:, 1:], end, axis=1).mean() for end in (2.5, 97.5))
    return f"{form.format(100 * f1[:, 0].mean())} ({form.format(low)} to {form.format(high)})"


if __name__ == "__main__":
    main()
