"""Parameters and buffers of a network: their digest, and BatchNorm statistics estimated anew."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def state_digest(network: nn.Module) -> str:
    """Return the sha256 of a network's parameters and buffers: names, types, shapes and values, in order of name.

    It depends on nothing else (no file format, device or memory layout), so that two runs can be compared.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def batch_norm_layers(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm layers of a network, whatever their number of dimensions."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def estimating_batch_norm(layers: Iterable[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Within the block, every batch that passes the layers counts equally in their running statistics.

    Statistics from before are forgotten. Mode and momentum of each layer are as before when the block ends.
    """
    before = [(layer, layer.momentum, layer.training) for layer in layers]
    try:
        for layer, _, _ in before:
            layer.reset_running_stats()
            layer.momentum = None  # torch's spelling of a plain average over all batches
            layer.train()
        yield
    finally:
        for layer, momentum, training in before:
            layer.momentum = momentum
            layer.train(training)
