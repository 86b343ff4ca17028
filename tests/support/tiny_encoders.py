"""Small encoders of one band with an input contract, as folders to evaluate."""

from pathlib import Path

import timm
import torch

from eo_backbones.contract import InputSpec, standardized


def write_tiny_encoder(folder: Path, *, seed: int = 0, spec: InputSpec | None = None) -> str:
    """Write a folder with random weights and return its name for ``create_model`` and ``--models``.

    The default contract takes every band, standardised by its own mean and deviation.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model("test_resnet", in_chans=1, num_classes=0)
    block = {"format_version": 1, "input": (spec or standardized()).to_dict(), "classes": []}
    timm.models.save_for_hf(network, str(folder), model_config={"eo_backbones": block}, safe_serialization=True)
    return f"local-dir:{folder}"
