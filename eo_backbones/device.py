"""Where to compute and with which precision: one rule for training, evaluation and embedding.

* Device: ``auto`` is CUDA where torch sees a GPU, else the CPU.
* Precision: ``auto`` is bfloat16 where the device computes in it, else float32. That holds for GPUs (Ampere and later)
  and for CPUs (AVX512_BF16 or AMX instructions) alike; where bfloat16 is only emulated, it costs time. Weights,
  optimiser state and losses stay float32: networks run under autocast.

What a user compares with recorded values computes in float32 everywhere: ``verify``, ``export``, fine-tuning, and the
predictions of a fine-tuned model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eo_backbones.errors import UserError, unknown_name

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "fp32")


def pick_device(name: str, *, local_rank: int | None = None) -> torch.device:
    """Return the device of ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``.

    Args:
        name: one of :data:`DEVICES`.
        local_rank: number of this process among those of this machine; with CUDA each takes the GPU of its number.
            ``None``: torch's current GPU.

    Raises:
        UserError: another name, CUDA without a GPU, or more processes than GPUs.
    """
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that torch can use; pass --device cpu")
    if local_rank is None:
        return torch.device("cuda")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU: torch sees {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs"
        )
    return torch.device("cuda", local_rank)


def pick_precision(name: str, device: torch.device) -> str:
    """Return ``bf16`` or ``fp32``; ``auto`` is what is fast on the device.

    Raises:
        UserError: another name.
    """
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name != "auto":
        return name
    return "bf16" if fast_dtype(device) == torch.bfloat16 else "fp32"


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device has instructions for it, else float32.

    Measured on a CPU with AVX512_BF16: 1.8 times as many images a second through a ResNet50. CPUs without such
    instructions, and GPUs before Ampere, emulate them and lose time.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which networks compute in ``dtype``: bfloat16 by autocast, float32 as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


@contextmanager
def inference(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, and networks compute in ``dtype``; entered once a pass, so that weights are converted once."""
    with torch.inference_mode(), autocast(device, dtype):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within the block, torch draws from this seed on the CPU, and on ``device`` if that is a GPU.

    Afterwards their generators are as they were; those of other GPUs are never touched (``torch.manual_seed`` seeds
    all).
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def bytes_for_columns(device: torch.device) -> int:
    """Return how much the features of several columns of the table may take to be worked on together.

    Nothing on a CPU, which gains nothing by it: one column at a time. On CUDA a quarter of the free memory.
    """
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 0


def bytes_for_probes(device: torch.device) -> int:
    """Return how much the standardised features of probes that are trained together may take, at least 1 GiB."""
    return max(2**30, bytes_for_columns(device))
