"""The paper's probe written down plainly: the reference for the probes that are trained together."""

import numpy as np
import torch
from torch import Tensor, nn

from eo_backbones.evaluation.probes.mlp import Perceptrons

BATCH = 256


def trained_plainly(
    start: Perceptrons,
    features: Tensor,
    truth: Tensor,
    rows: np.ndarray,
    *,
    loss: nn.Module,
    seed: int,
    epochs: int,
) -> nn.Sequential:
    """Train one perceptron from the first start: ``nn.Sequential``, Adam, one image order an epoch."""
    width, classes = start.hidden.shape[1], start.output.shape[2]
    plain = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, classes))
    with torch.no_grad():
        plain[0].weight.copy_(start.hidden[0].T)
        plain[0].bias.copy_(start.hidden_bias[0, 0])
        plain[2].weight.copy_(start.output[0].T)
        plain[2].bias.copy_(start.output_bias[0, 0])
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-3)
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        shuffled = order.permutation(len(rows))
        for begin in range(0, len(rows), BATCH):
            batch = rows[shuffled[begin : begin + BATCH]]
            difference = loss(plain(features[batch]), truth[batch])
            optimiser.zero_grad()
            difference.backward()
            optimiser.step()
    return plain
