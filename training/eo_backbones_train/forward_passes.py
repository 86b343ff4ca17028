"""How the views of two sensors go through a network, and what a step's forward pass returns.

One pass for both sensors, or one for each: the difference is BatchNorm, which normalises by the statistics of what is
in the pass. The running statistics, which evaluation uses, see every sensor that the network is given, either way.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Passes = Literal["joint", "separate"]


class StepOutput(NamedTuple):
    """What one step's forward pass returns.

    Attributes:
        loss: scalar.
        embeddings: [2, B, D] features of the Sentinel-2 and Sentinel-1 views that the loss sees, detached.
    """

    loss: Tensor
    embeddings: Tensor


def per_sensor(network: Callable[[Tensor], Tensor], views: Tensor, passes: Passes) -> Tensor:
    """Apply a network to the views of one or two sensors.

    Args:
        network: maps [N, ...] to [N, D].
        views: [V, B, ...], one sensor after the other.
        passes: ``"joint"``: one call with V * B samples; ``"separate"``: V calls with B samples.

    Returns:
        [V, B, D].
    """
    if passes == "joint":
        return network(views.flatten(0, 1)).view(*views.shape[:2], -1)
    return torch.stack([network(view) for view in views])
