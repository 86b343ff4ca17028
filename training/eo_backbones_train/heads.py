"""Projector and predictor: the small networks that are trained with the encoder and thrown away after it.

A Linear layer that a BatchNorm follows has no bias here, because the BatchNorm takes it away again; reference codes
differ (lightly and SimSiam leave it out, lucidrains/byol-pytorch keeps it).
"""

from typing import Literal

from torch import nn


def projector(in_features: int, hidden: int, out: int, *, layers: Literal[2, 3]) -> nn.Sequential:
    """Return a projector from encoder features to the space in which views are compared.

    Two layers: Jain et al. (IGARSS 2021) and BYOL (section 3.3). Three: SimSiam (section 3, "projection MLP"), with a
    BatchNorm after every layer, the last without scale and offset (facebookresearch/simsiam, simsiam/builder.py).
    """
    if layers == 2:
        return predictor(in_features, hidden, out)
    return nn.Sequential(
        nn.Linear(in_features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out, bias=False),
        nn.BatchNorm1d(out, affine=False),
    )


def predictor(in_features: int, hidden: int, out: int) -> nn.Sequential:
    """Return the head Linear, BatchNorm, ReLU, Linear that the paper, BYOL and SimSiam use as predictor."""
    return nn.Sequential(
        nn.Linear(in_features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
    )
