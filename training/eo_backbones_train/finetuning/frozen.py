"""Mode ``linear``: features are computed once, one linear layer is trained on them, and put back into the network.

The layer is trained on standardised features, because their scale differs from encoder to encoder by orders of
magnitude; mean and deviation are then folded into its weights, which is exact up to rounding.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from eo_backbones.datasets.splits import Split
from eo_backbones_train.finetuning.network import classifier_of, pooled_features
from eo_backbones_train.finetuning.own_images import Inputs
from eo_backbones_train.finetuning.settings import Settings
from eo_backbones_train.finetuning.training import Learner

_BATCH = 64
_CONSTANT = 1e-6  # deviation below which a feature says nothing


class FrozenFeatures:
    """Standardised features of the images that train and validate."""

    def __init__(self, network: nn.Module, inputs: Inputs, split: Split, tick: Callable[[int], None]) -> None:
        """Compute them with a network in eval mode; ``tick`` is told how many more images were seen."""
        network.eval()
        rows = np.concatenate([split.train, split.val])
        parts = []
        with torch.no_grad():
            for _, images in inputs(rows, _BATCH):
                parts.append(pooled_features(network, images).float())
                tick(len(images))
        features = torch.cat(parts)
        train = features[: len(split.train)]
        self.mean = train.mean(dim=0)
        deviation = train.std(dim=0, correction=0)
        self.std = torch.where(deviation > _CONSTANT, deviation, torch.ones_like(deviation))
        self._features = (features - self.mean) / self.std
        self._place = {int(row): place for place, row in enumerate(rows)}

    def examples(self, labels: Tensor, rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield standardised features with the classes of their images; ``labels`` are those of all images."""
        places = torch.tensor([self._place[int(row)] for row in rows], device=self._features.device)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            yield self._features[places[part]], labels[rows[part]]

    def learner(self, network: nn.Module, labels: Tensor, settings: Settings) -> Learner:
        """Return the training of a linear layer of its own, which starts at zero; ``labels`` are on its device."""
        own = classifier_of(network)
        layer = nn.Linear(own.in_features, own.out_features, device=own.weight.device)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        groups = [
            {"params": [layer.weight], "lr_scale": 1.0, "weight_decay": settings.weight_decay},
            {"params": [layer.bias], "lr_scale": 1.0, "weight_decay": 0.0},
        ]
        return Learner(
            module=layer,
            groups=groups,
            examples=partial(self.examples, labels),
            augment=lambda features, truth, _: (features, truth),
            to_train_mode=layer.train,
        )

    @torch.no_grad()
    def fold(self, layer: nn.Linear, network: nn.Module) -> None:
        """Write a layer for standardised features into the network, as one for plain features."""
        weight = layer.weight.double() / self.std.double()
        own = classifier_of(network)
        own.weight.copy_(weight)
        own.bias.copy_(layer.bias.double() - weight @ self.mean.double())
