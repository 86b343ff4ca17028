"""What is lost between the stages of a ResNet50: the same probes on the pooled features of each stage.

    python benchmarks/features_by_depth.py DIR MODEL... [--band B03] [--sizes 64] [--out FILE]

DIR holds EuroSAT RGB. MODEL: ``random`` or ``random-averaging`` (their BatchNorm is estimated on the images that are
learnt from), a row, or ``local-dir:FOLDER``. As in ``mini_validation.py``: of the seeded split with seed 0, 1,650
training images are learnt from and 2,400 validation images are scored; the test part is not touched.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mini_validation import validation_part
from torch import Tensor, nn

from eo_backbones.cards.tables import markdown_table
from eo_backbones.datasets import LabelledImages
from eo_backbones.datasets.splits import Split
from eo_backbones.evaluation import features, metrics
from eo_backbones.evaluation.columns import choose_columns
from eo_backbones.evaluation.encoders import open_model
from eo_backbones.evaluation.features import ModelInput
from eo_backbones.evaluation.probes import protocols
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.networks.state import batch_norm_layers, estimating_batch_norm
from eo_backbones.progress import ProgressBars

STAGES = ("layer1", "layer2", "layer3", "layer4")
PROTOCOLS = ("logistic", "paper")


def main() -> None:
    """Print a table, and write it with ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--band", default="B03")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[64], help="height and width that images are resized to, pixels"
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    data, split = validation_part(options.root)
    (column,) = choose_columns(data, [options.band])
    (band,) = column.parts
    rows = []
    for name in options.models:
        model = open_model(name, options.sizes)
        network = model.build(0).network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = [ModelInput(data, setting, band) for setting in model.settings]
        if model.seeded:
            with estimating_batch_norm(batch_norm_layers(network)), torch.no_grad():
                pooled(network, data, inputs[0], band.source, split.train, f"{name}: BatchNorm")
        for model_input in inputs:
            with torch.inference_mode():
                means = pooled(
                    network, data, model_input, band.source, np.arange(len(data)), f"{name}, {model_input.size} px"
                )
            for stage, stage_features in means.items():
                scores = probed(stage_features, data, split)
                shown = [f"{scores[protocol]:.3f}" for protocol in PROTOCOLS]
                rows.append([f"`{name}`", str(model_input.size), stage, str(stage_features.shape[1]), *shown])
    table = markdown_table(["model", "size", "stage", "width", *PROTOCOLS], rows)
    command = " ".join("DIR" if word == str(options.root) else word for word in sys.argv[1:])
    text = f"Command: `python benchmarks/features_by_depth.py {command}`\n\n{table}\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def pooled(
    network: nn.Module, data: LabelledImages, inputs: ModelInput, source: str, rows: np.ndarray, what: str
) -> Mapping[str, Tensor]:
    """Return for each stage the spatial means of its output ``(images, channels)``."""
    means: dict[str, list[Tensor]] = {stage: [] for stage in STAGES}
    with ProgressBars() as progress, progress.stage(what, len(rows)) as tick:
        for _, raw in features.read_batches(data, [source], rows):
            maps = network.forward_intermediates(  # type: ignore[operator]
                inputs(raw[:, 0]), indices=[1, 2, 3, 4], intermediates_only=True
            )
            for stage, stage_map in zip(STAGES, maps, strict=True):
                means[stage].append(stage_map.mean(dim=(2, 3)))
            tick(len(raw))
    return {stage: torch.cat(parts) for stage, parts in means.items()}


def probed(features: Tensor, data: LabelledImages, split: Split) -> dict[str, float]:
    """Return protocol -> weighted F1 on the scored images."""
    task = Task(
        features=features.float(),
        labels=torch.from_numpy(data.labels),
        split=split,
        num_classes=len(data.classes),
        seed=0,
    )
    true = data.labels[split.test]
    predicted = {name: protocols.fit_predict([name], [task], torch.float32)[name][0] for name in PROTOCOLS}
    confusions = {
        name: metrics.confusion_matrix(true, of_protocol, len(data.classes)) for name, of_protocol in predicted.items()
    }
    return {name: float(metrics.weighted_f1(confusion)) for name, confusion in confusions.items()}


if __name__ == "__main__":
    main()
