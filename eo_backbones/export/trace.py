"""A network as a graph of ``torch.export``, for any batch size, height and width."""

import copy
from collections.abc import Collection

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F


class _MirroredConvolution(nn.Module):
    """A convolution of stride 2 with TensorFlow's SAME padding, without arithmetic on the size of the image.

    SAME pads the far edges by an amount that depends on the size: for the five such layers of an EfficientNet the
    tracer needs more than ten minutes to simplify the sizes. In the mirrored image, under the mirrored kernel, it is
    ordinary padding, the same on all sides: with an even size the last column is one that no step reaches.
    """

    def __init__(self, convolution: Conv2dSame) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flip((2, 3)))
        self.bias = convolution.bias
        self.padding = tuple((side - 1) // 2 for side in convolution.kernel_size)
        self.groups = convolution.groups

    def forward(self, images: Tensor) -> Tensor:
        """Return what the convolution gives."""
        mirrored = F.conv2d(images.flip((2, 3)), self.weight, self.bias, 2, self.padding, groups=self.groups)
        return mirrored.flip((2, 3))


def _is_mirrored_exactly(convolution: Conv2dSame) -> bool:
    odd = all(side % 2 for side in convolution.kernel_size)
    return odd and (convolution.stride, convolution.dilation) == ((2, 2), (1, 1))


def _traceable(network: nn.Module) -> nn.Module:
    """Return a network with the same outputs whose sizes the tracer can follow; the given one stays as it is."""
    if not any(isinstance(module, Conv2dSame) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, Conv2dSame) and _is_mirrored_exactly(module):
            network.set_submodule(name, _MirroredConvolution(module))
    return network


def trace(network: nn.Module, example: Tensor, axes: Collection[int]) -> ExportedProgram:
    """Return a network as a graph.

    Args:
        network: takes one tensor; it stays as it is.
        example: an input of more than one image (a length of 1 would become a constant).
        axes: those of the input that may have any length.
    """
    with torch.no_grad():
        return torch.export.export(_traceable(network), (example,), dynamic_shapes=(dict.fromkeys(axes, Dim.AUTO),))
