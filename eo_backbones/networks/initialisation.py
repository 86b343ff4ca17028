"""Initial values for a ResNet50 that preserve the content of small images up to the last stage.

A strided block halves height and width of its input. Its shortcut is a 1 x 1 convolution of stride 2, which looks at
one of four positions (He et al., "Bag of Tricks", CVPR 2019, section 4.2), and timm starts the other branch at zero. An
image of 64 pixels leaves 2 x 2 positions for the last mean, so an untrained network averages four samples of what it
saw at 64 positions two stages before; benchmarks/2026-11-24-features-by-depth.md shows what that costs, and that short
training does not repair it. Here the strided 3 x 3 convolution starts as a smoothing filter, and carries the signal.
"""

import torch
from torch import nn

STAGES = 4
"""Of a ResNet50, each of which begins by halving height and width of its input, except for the first."""

_BINOMIAL = (1.0, 2.0, 1.0)  # / 4 a side: the smallest filter that weighs every position alike at stride 2
_OFFSET = 1.0  # deviations by which BatchNorm lifts activations, so that ReLU lets most of them pass unchanged


@torch.no_grad()
def average_when_downsampling(network: nn.Module, *, after: int) -> None:
    """Draw the first block of late stages anew, so that it averages its input over space; the rest stays.

    Main branch: rotations of the channels (orthogonal matrices) around a 3 x 3 binomial filter of stride 2, through
    ReLUs that mostly pass. Shortcut: switched off by its BatchNorm scale, for training to switch on. Draws from torch's
    global generator.

    Args:
        network: timm's or torchvision's ``resnet50`` by structure; changed in place.
        after: number of the last stage that is left alone, 1 to 4. The first stage has no stride.
    """
    side = torch.tensor(_BINOMIAL)
    binomial = torch.outer(side, side) / side.sum() ** 2
    for stage in range(after + 1, STAGES + 1):
        block = f"layer{stage}.0"
        nn.init.orthogonal_(network.get_parameter(f"{block}.conv1.weight"))
        nn.init.orthogonal_(network.get_parameter(f"{block}.conv3.weight"))
        spatial = network.get_parameter(f"{block}.conv2.weight")
        rotation = nn.init.orthogonal_(spatial.new_empty(spatial.shape[:2]))
        spatial.copy_(rotation[:, :, None, None] * binomial)
        nn.init.constant_(network.get_parameter(f"{block}.bn1.bias"), _OFFSET)
        nn.init.constant_(network.get_parameter(f"{block}.bn2.bias"), _OFFSET)
        nn.init.ones_(network.get_parameter(f"{block}.bn3.weight"))
        nn.init.zeros_(network.get_parameter(f"{block}.downsample.1.weight"))
