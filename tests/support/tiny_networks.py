"""Networks and views small enough for exact comparisons of training steps."""

import torch
from torch import Tensor, nn


class TinyResidual(nn.Module):
    """A convolution, a residual block and a pooled output of 12 features, with BatchNorm as in a ResNet."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        return torch.relu(x + self.block(x)).mean((2, 3))


def tiny_views(*, pairs: int, size_px: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Views [2, pairs, 1, size, size] of two sensors with different means and deviations."""
    noise = torch.randn(2, pairs, 1, size_px, size_px, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return noise * torch.tensor([1.0, 0.3], dtype=dtype).view(2, 1, 1, 1, 1) + torch.tensor(
        [0.0, 0.7], dtype=dtype
    ).view(2, 1, 1, 1, 1)
