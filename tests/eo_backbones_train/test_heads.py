"""Heads compute what lightly's heads compute on equal weights, and are built as the papers say."""

import pytest
import torch
from lightly.models.modules.heads import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
)
from torch import nn

from eo_backbones_train.methods.modules import predictor, projector


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(projector(10, 8, 6, layers=2), BYOLProjectionHead(10, 8, 6), id="byol-projector"),
        pytest.param(predictor(6, 8, 6), BYOLPredictionHead(6, 8, 6), id="byol-predictor"),
        pytest.param(projector(10, 8, 6, layers=3), SimSiamProjectionHead(10, 8, 6), id="simsiam-projector"),
        pytest.param(predictor(6, 4, 6), SimSiamPredictionHead(6, 4, 6), id="simsiam-predictor"),
    ],
)
def test_equal_weights_give_the_outputs_and_gradients_of_lightly(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict({name.removeprefix("layers."): value for name, value in theirs.state_dict().items()})
    inputs = torch.randn(5, next(ours.parameters()).shape[1], generator=torch.Generator().manual_seed(0))
    results = [head(inputs) for head in (ours, theirs)]
    torch.testing.assert_close(*results)
    for result in results:
        result.square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_only_the_three_layer_projector_ends_in_a_batch_norm_without_scale() -> None:
    assert isinstance(projector(4, 4, 4, layers=2)[-1], nn.Linear)
    last = projector(4, 4, 4, layers=3)[-1]
    assert isinstance(last, nn.BatchNorm1d)
    assert not last.affine
