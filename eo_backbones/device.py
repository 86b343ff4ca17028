"""Where to compute and in which number format."""

import torch

from eo_backbones.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> torch.device:
    """Return the device of ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: another name, or CUDA without a GPU.
    """
    if name not in DEVICES:
        raise UserError(f"device {name!r} is unknown; pass one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that torch can use; pass --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where it is faster than float32: on CUDA and on CPUs with AVX512_BF16 instructions.

    Measured on an AVX512_BF16 CPU: 1.8 times as many images a second through a ResNet50. CPUs without these
    instructions emulate them and lose time.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def bytes_for_columns(device: torch.device) -> int:
    """Return how much the features of several columns of the table may take to be worked on together.

    Nothing on a CPU, which gains nothing by it: one column at a time. On CUDA a quarter of the free memory.
    """
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 0


def bytes_for_probes(device: torch.device) -> int:
    """Return how much the standardised features of probes that are trained together may take, at least 1 GiB."""
    return max(2**30, bytes_for_columns(device))
