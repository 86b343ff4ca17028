"""A one-minute demonstration, offline: one encoder against two baselines, band by band, on synthetic scenes.

Everything is as in ``eo-backbones evaluate`` (input contract, frozen features, logistic probe, bootstrap interval),
except that the scenes are synthetic and held in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from eo_backbones import weights as rows
from eo_backbones.bands import BANDS
from eo_backbones.contract import InputSpec, unit_range
from eo_backbones.datasets.eurosat import EUROSAT_CLASSES
from eo_backbones.datasets.splits import Split, seeded_split
from eo_backbones.datasets.synthetic import synthetic_images
from eo_backbones.device import fast_dtype, inference, seeded
from eo_backbones.evaluation import encoders, metrics, plots
from eo_backbones.evaluation.probes import logistic
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.files import atomic_file
from eo_backbones.inputs import InputTransform
from eo_backbones.models import create_model
from eo_backbones.progress import Progress
from eo_backbones.results import Estimate, Result, Section, sections

DEMO_BANDS = ("VV", "B04", "B08", "B11")
"""Radar, red, near infrared and short-wave infrared: four different views of the same ground."""
PER_CLASS = 80
FIGURE_FILE = "demo.png"

_FRACTIONS = (0.5, 0.1, 0.4)  # a larger test part than usual, for a narrow interval from 800 scenes
_SCENES_SEED = 1
_STAND_IN_SEED = 20_211  # unlike the seed of the `random` line, or the two would be the same network
_BATCH = 100


@dataclass(frozen=True, eq=False, slots=True)
class DemoEncoder:
    """The encoder to show.

    Attributes:
        line: its line in the table.
        network: in eval mode.
        spec: its input contract.
        note: what to tell the user about it first.
        models: its names for ``evaluate --models``; none for a stand-in.
    """

    line: str
    network: nn.Module
    spec: InputSpec
    note: str
    models: tuple[str, ...]


def load_encoder() -> DemoEncoder:
    """Return the default row's encoder; while that row is unpublished, a random one that says so."""
    row = rows.DEFAULT
    if row.published:
        network = create_model(row.name).eval()
        return DemoEncoder(row.name, network, row.input, f"Encoder: {row.name}.", (row.name,))
    with seeded(_STAND_IN_SEED):
        network = create_model(row.name, pretrained=False).eval()
    note = (
        f"The weights of {row.name} are not published yet: a randomly initialised network stands in for them, so "
        "its scores say nothing about the method."
    )
    return DemoEncoder("stand-in (random weights)", network, row.input, note, ())


@dataclass(frozen=True, eq=False, slots=True)
class Demo:
    """Results of the demonstration: the table, and the scenes ``(n, bands, H, W)`` with their labels behind it."""

    section: Section
    scenes: np.ndarray
    labels: np.ndarray


def run(encoder: DemoEncoder, progress: Progress, *, per_class: int = PER_CLASS, size: int = 64) -> Demo:
    """Make scenes, embed every band with every model, train the probes.

    Args:
        encoder: from :func:`load_encoder`.
        progress: told how far it is.
        per_class: synthetic scenes of each of the ten classes.
        size: their height and width in pixels of 10 m.
    """
    with progress.stage("making synthetic scenes", 1):
        scenes, labels = synthetic_images(per_class, DEMO_BANDS, seed=_SCENES_SEED, size=size)
    split = seeded_split(labels, seed=0, fractions=_FRACTIONS)
    lines: dict[str, tuple[Callable[[Tensor], Tensor], InputSpec]] = {
        encoder.line: (encoder.network, encoder.spec),
        "random": (encoders.random_resnet50(0), unit_range()),
        "stats": (encoders.image_statistics, unit_range()),
    }
    results = []
    with progress.stage(f"{len(lines)} models on {len(DEMO_BANDS)} bands", len(lines) * len(DEMO_BANDS)) as tick:
        for channel, band in enumerate(DEMO_BANDS):
            raw = torch.from_numpy(scenes[:, channel : channel + 1])
            for line, (embed, spec) in lines.items():
                images = InputTransform(spec, band=band, unit=BANDS[band].unit, offset=0.0)(raw)
                f1, accuracy = _probe(_features(embed, images), labels, split)
                results.append(
                    Result(
                        model=line,
                        dataset="synthetic scenes",
                        band=band,
                        protocol="logistic",
                        split=split.name,
                        fraction="1",
                        size=size,
                        input_scaling="contract",
                        seed=0,
                        n_train=len(split.train) + len(split.val),
                        n_test=len(split.test),
                        f1_weighted=f1.value,
                        accuracy=accuracy,
                        f1_low=f1.low,
                        f1_high=f1.high,
                        weights_digest="",
                        data_digest="",
                        versions="",
                    )
                )
                tick(1)
    (section,) = sections(results)
    return Demo(section, scenes, labels)


def _features(embed: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with inference(images.device, fast_dtype(images.device)):
        return torch.cat([embed(batch).float() for batch in torch.split(images, _BATCH)])


def _probe(features: Tensor, labels: np.ndarray, split: Split) -> tuple[Estimate, float]:
    classes = len(EUROSAT_CLASSES)
    task = Task(features=features.clone(), labels=torch.from_numpy(labels), split=split, num_classes=classes, seed=0)
    confusion = metrics.confusion_matrix(labels[split.test], logistic.fit_predict(task), classes)
    return metrics.f1_estimate(confusion), float(metrics.accuracy(confusion))


def draw(demo: Demo, path: Path) -> None:
    """Write the figure: the first scene of every class in every band, above the bar chart of results."""
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.2, 1), squeeze=False)[:, 0]
    top.suptitle("Synthetic scenes, one of each class, as each band sees them", fontsize=11, fontweight="bold")
    grid = top.subplots(len(DEMO_BANDS), len(EUROSAT_CLASSES))
    for channel, band in enumerate(DEMO_BANDS):
        low, high = np.percentile(demo.scenes[:, channel], (1, 99))
        for label, name in enumerate(EUROSAT_CLASSES):
            axes: Axes = grid[channel, label]
            scene = demo.scenes[np.flatnonzero(demo.labels == label)[0], channel]
            axes.imshow(scene, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            _bare(axes)
            if channel == 0:
                axes.set_title(_broken(name), fontsize=8)
            if label == 0:
                axes.set_ylabel(band, fontsize=10, fontweight="bold", rotation=0, ha="right", va="center")
    plots.draw_section(bottom.subplots(), demo.section)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=140, format="png")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _broken(name: str) -> str:
    """Return a class name with a line break before every further capital: HerbaceousVegetation is too wide."""
    words: Sequence[str] = "".join(f" {letter}" if letter.isupper() else letter for letter in name).split()
    return "\n".join(words)
