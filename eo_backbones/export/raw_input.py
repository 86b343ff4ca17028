"""Networks that take raw pixels: the input contract as part of the graph.

A file for another runtime is used without this package, so nobody there checks a unit or divides by the right number.
Preprocessing that is in the graph cannot be left out; whether the values could be in the declared unit is its second
output, which the caller has to look at.
"""

import torch
from torch import Tensor, nn

from eo_backbones.contract import DN_PER_REFLECTANCE
from eo_backbones.inputs import InputTransform, possible_in_unit


class RawInputNetwork(nn.Module):
    """A network behind its input transform.

    Args:
        network: from model input ``(B, C, H, W)`` to one tensor.
        transform: from raw pixels to model input.
    """

    def __init__(self, network: nn.Module, transform: InputTransform) -> None:
        super().__init__()
        self.network = network
        self.transform = transform

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network gives, and whether the values of each image and band could be in their unit.

        Args:
            pixels: float32 ``(B, C, H, W)``, as stored.

        Returns:
            Outputs, and bool ``(B, C)``.
        """
        values = self.transform.in_units(pixels)
        entries, units = self.transform.entries, self.transform.units
        possible = [possible_in_unit(*of_band) for of_band in zip(values, entries, units, strict=True)]
        return self.network(self.transform(pixels)), torch.stack(possible, dim=1)


DEEPNESS_SCALE = 255.0  # QGIS Deepness divides 8-bit layers by it: deepness/processing/models/preprocessing_utils.py


class DeepnessSegmenter(nn.Module):
    """A segmentation network as the QGIS plugin Deepness runs it: 8-bit layers divided by 255 in, probabilities out.

    Args:
        network: from model input to ``(B, classes, H, W)``.
        transform: from display values to model input.
    """

    def __init__(self, network: nn.Module, transform: InputTransform) -> None:
        super().__init__()
        self.network = network
        self.transform = transform

    def forward(self, pixels: Tensor) -> Tensor:
        """Return probabilities ``(B, classes, H, W)`` of ``(B, C, H, W)`` in 0 to 1."""
        probabilities: Tensor = self.network(self.transform(pixels)).softmax(dim=1)
        return probabilities


def raw_example(transform: InputTransform, shape: tuple[int, int, int], random: torch.Generator) -> Tensor:
    """Return random raw pixels as the transform takes them, float32 ``(B, C, H, W)``.

    Args:
        transform: says bands, units, scale and offset; its contract gives mean and deviation.
        shape: images, height, width.
        random: where they come from.
    """
    channels = []
    for entry, unit, scale, offset in zip(
        transform.entries, transform.units, transform.scales, transform.offsets, strict=True
    ):
        low, high = entry.clip
        values = (entry.mean + entry.std * torch.randn(shape, generator=random)).clamp(low, high)
        if unit == "dn":
            values = values * DN_PER_REFLECTANCE
        elif unit == "linear":
            values = 10 ** (values / 10)
        elif unit == "uint8":
            dark, bright = entry.display
            values = ((values - dark) / (bright - dark) * 255).clamp(0, 255).round()
        channels.append((values - offset) / scale)
    return torch.stack(channels, dim=1)
