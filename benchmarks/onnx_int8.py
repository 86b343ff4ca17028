"""What int8 costs an exported encoder: weighted F1, size and time against the same file in float32.

    python benchmarks/onnx_int8.py DIR [--model NAME] [--band B03] [--calibration N]

DIR holds EuroSAT RGB. The encoder is exported with its preprocessing, and quantised after training by ONNX Runtime's
own tool (static, weights and activations int8, each channel of a convolution by its own scale) with N unlabelled images
of the training part. Logistic regression on the features of both files, 1,650 labels, seeded split, 64 px; the
difference is paired over the test images. The preprocessing stays in float32: its range is 1 : 10,000.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from eo_backbones.datasets import open_dataset
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.evaluation.budgets import Budget, make_splits
from eo_backbones.evaluation.features import read_batches
from eo_backbones.evaluation.metrics import confusion_matrix, f1_difference, f1_estimate
from eo_backbones.evaluation.probes.protocols import fit_predict
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.export import export
from eo_backbones.rasters.options import ReadingOptions

QUANTISED = ("Conv", "Gemm", "MatMul")


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # it has no types
    """Gives the images to ONNX Runtime, a batch a call."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input, ``None`` at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def batches(data: LabelledImages, band: str, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield raw pixels, float32 ``(B, 1, H, W)``."""
    for _, raw in read_batches(data, [band], rows):
        yield raw.float().numpy()


def features(path: Path, data: LabelledImages, band: str, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return features ``(n, d)`` of a file's network, and milliseconds of its computation per image, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    made, seconds = [], 0.0
    for pixels in batches(data, band, rows):
        started = time.perf_counter()
        made.append(session.run(["outputs"], {"images": pixels})[0])
        seconds += time.perf_counter() - started
    return np.concatenate(made), 1000 * seconds / len(rows)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", default="eo_efficientnet_lite0.distill_s1s2_mini")
    parser.add_argument("--band", default="B03")
    parser.add_argument("--calibration", type=int, default=256, help="images (default: 256)")
    options = parser.parse_args()
    data = open_dataset("eurosat-rgb", options.root)
    split = make_splits(data, "seeded", [0], lists=None)[0]
    some = np.random.default_rng(0).permutation(split.train)[: options.calibration]
    split = Budget(shots=165).apply(split, data.labels, 0)
    rows = np.concatenate([split.train, split.val, split.test])
    with tempfile.TemporaryDirectory() as folder:
        full, ready, small = (Path(folder) / f"{name}.onnx" for name in ("full", "ready", "small"))
        raw = ReadingOptions.of([data.unit_of(options.band)])
        export(options.model, full, format="onnx", bands=[options.band], raw=raw)
        quant_pre_process(full, ready)
        quantize_static(
            ready,
            small,
            Calibration(batches(data, options.band, some)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        predicted, labels = {}, torch.from_numpy(data.labels)
        print("| file | MB | ms an image | weighted F1 |\n| --- | --- | --- | --- |")
        for name, path in (("float32", full), ("int8", small)):
            values, milliseconds = features(path, data, options.band, rows)
            of_all = torch.zeros(len(data), values.shape[1])
            of_all[rows] = torch.from_numpy(values)
            task = Task(features=of_all, labels=labels, split=split, num_classes=len(data.classes), seed=0)
            predicted[name] = fit_predict(["logistic"], [task], torch.float32)["logistic"][0]
            matrix = confusion_matrix(data.labels[split.test], predicted[name], len(data.classes))
            f1 = f1_estimate(matrix)
            size = path.stat().st_size / 1e6
            print(f"| {name} | {size:.1f} | {milliseconds:.2f} | {f1.value:.3f} [{f1.low:.3f}, {f1.high:.3f}] |")
    truth = data.labels[split.test]
    change = f1_difference(truth, predicted["int8"], predicted["float32"], len(data.classes))
    print(
        f"\nint8 less float32, {len(truth):,} test images: {100 * change.value:+.1f} points, paired interval "
        f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    )


if __name__ == "__main__":
    main()
