"""A user's labelled images and a small encoder for their bands, to fine-tune with."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from eo_backbones.datasets.synthetic_files import write_class_folders
from support.tiny_encoders import write_tiny_encoder

BANDS = ("B02", "B03", "B04")
PER_CLASS = 10
SIZE_PX = 32
PARTED = ("AnnualCrop", "Forest")
"""Classes of :func:`write_parts`."""


def write_encoder(path: Path, *, bands: tuple[str, ...] = BANDS) -> Path:
    """Write a one-channel encoder of a small architecture, with our block in its config."""
    from eo_backbones.contract import unit_range

    write_tiny_encoder(path, seed=11, spec=unit_range(bands))
    return path


def write_fields(path: Path) -> Path:
    """Write three classes of ten images of three bands, uint16 digital numbers."""
    return write_class_folders(path, per_class=PER_CLASS, bands=BANDS, size=SIZE_PX)


def write_parts(root: Path, parts: tuple[str, ...], *, nested: bool = False) -> Path:
    """Write three images of two classes into each part: ``train/Forest``, or ``Forest/train``."""
    for number, part in enumerate(parts):
        made = write_class_folders(root / f".made-{number}", classes=PARTED, per_class=3, seed=number)
        for name in PARTED:
            target = root / name / part if nested else root / part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (made / name).rename(target)
        shutil.rmtree(made)
    return root


def finetuned(data: Path, encoder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Fine-tune on the CPU in a few epochs."""
    from eo_backbones_train.finetuning.finetune import finetune

    values: dict[str, Any] = {
        "bands": ["B03"],
        "mode": "linear",
        "fuse": "concat",
        "pretrained": True,
        "epochs": 3,
        "batch": 8,
        "device": "cpu",
        "tensorboard": False,
    }
    return finetune(data, out, model=f"local-dir:{encoder}", **values | changes)


def out_of_memory_at_step(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's optimiser fail at its ``step``-th step, counted from 1, as when memory runs out within an epoch."""
    from torch.optim import AdamW

    whole = AdamW.step
    steps = itertools.count(1)

    def dies(self: AdamW, *arguments: Any, **named: Any) -> Any:
        if next(steps) == step:
            raise MemoryError
        return whole(self, *arguments, **named)

    monkeypatch.setattr(AdamW, "step", dies)
