"""Digest of parameters and buffers, and BatchNorm statistics estimated anew."""

import hashlib
import struct

import numpy as np
import pytest
import torch
from torch import nn

from eo_backbones.networks.state import batch_norm_layers, estimating_batch_norm, state_digest


def test_the_state_digest_is_that_of_names_types_shapes_and_bytes() -> None:
    module = nn.Module()
    module.register_buffer("b", torch.tensor(3, dtype=torch.int64))
    module.a = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    expected = hashlib.sha256(
        b"a torch.float32 (1, 2)\n" + struct.pack("<2f", 1, 2) + b"b torch.int64 ()\n" + struct.pack("<q", 3)
    ).hexdigest()
    assert state_digest(module) == expected


def test_the_state_digest_ignores_memory_layout_and_sees_one_bit() -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 3)
    before = state_digest(module)
    assert state_digest(module.to(memory_format=torch.channels_last)) == before  # type: ignore[call-overload]
    with torch.no_grad():
        module.bias[0] = torch.nextafter(module.bias[0], torch.tensor(9.0))
    assert state_digest(module) != before


def test_state_digest_sees_buffers() -> None:
    norm = nn.BatchNorm1d(3)
    before = state_digest(norm)
    norm.running_mean += 1
    assert state_digest(norm) != before


def test_estimated_statistics_are_those_of_the_images() -> None:
    """Two batches of equal size count equally; what was there before is forgotten; eval mode comes back."""
    network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    network[0].running_mean.fill_(100)
    batches = [torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(s)) * 2 + s for s in (1, 5)]
    with torch.inference_mode(), estimating_batch_norm(batch_norm_layers(network)):
        for batch in batches:
            network(batch)
    assert network[0].running_mean.item() == pytest.approx(np.mean([b.mean() for b in batches]), abs=1e-5)
    assert network[0].running_var.item() == pytest.approx(np.mean([b.var() for b in batches]), rel=1e-5)
    assert not network.training and not network[0].training
    assert network[0].momentum == nn.BatchNorm2d(1).momentum


@pytest.mark.parametrize("training", [False, True])
def test_mode_and_momentum_come_back_after_an_interrupt(training: bool) -> None:
    network = nn.Sequential(nn.BatchNorm1d(2, momentum=0.25), nn.BatchNorm2d(2, momentum=None)).train(training)
    network[0].eval()
    with pytest.raises(KeyboardInterrupt), estimating_batch_norm(batch_norm_layers(network)):
        assert all(layer.training and layer.momentum is None for layer in network)
        raise KeyboardInterrupt
    assert [layer.momentum for layer in network] == [0.25, None]
    assert [layer.training for layer in network] == [False, training]
