"""The baselines against numpy, against the literal three-channel copy, and against BatchNorm's definition."""

import hashlib

import numpy as np
import pytest
import timm
import torch
from torch import nn

from eo_backbones.errors import UserError
from eo_backbones.evaluation import encoders
from eo_backbones.networks.state import state_digest


@pytest.fixture(params=["test_resnet", "resnet50"])
def three_channel_network(request: pytest.FixtureRequest) -> nn.Module:
    """A stock network, small and as in the paper, with random three-channel weights and BatchNorm statistics."""
    torch.manual_seed(0)
    network = timm.create_model(request.param, in_chans=3, num_classes=0)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize("shape", [(16, 16), (5, 7)])
def test_statistics_equal_numpy(shape: tuple[int, int]) -> None:
    images = torch.rand(6, 1, *shape, generator=torch.Generator().manual_seed(1))
    flat = images.flatten(1).double().numpy()
    expected = np.stack(
        [flat.mean(1), flat.std(1), flat.min(1), flat.max(1), *np.percentile(flat, [5, 25, 50, 75, 95], axis=1)], axis=1
    )
    np.testing.assert_allclose(encoders.image_statistics(images), expected, atol=1e-6)
    assert expected.shape[1] == len(encoders.STATISTICS)


def test_raw_keeps_every_pixel_in_order() -> None:
    images = torch.arange(2 * 6).float().view(2, 1, 2, 3)
    np.testing.assert_array_equal(encoders.raw_pixels(images), [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])


def test_random_averaging_is_random_with_other_strided_blocks() -> None:
    plain, averaging = (encoders.random_resnet50(0, averaging=flag) for flag in (False, True))
    assert state_digest(averaging) == state_digest(encoders.random_resnet50(0, averaging=True))
    changed = {
        ".".join(name.split(".")[:2])
        for (name, one), other in zip(plain.state_dict().items(), averaging.state_dict().values(), strict=True)
        if not torch.equal(one, other)
    }
    assert changed == {"layer3.0", "layer4.0"}


def test_random_depends_on_its_seed_only() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (encoders.random_resnet50(seed) for seed in (0, 0, 1))
    torch.testing.assert_close(torch.random.get_rng_state(), before)
    assert state_digest(first) == state_digest(again) != state_digest(other)
    assert not any(module.training for module in first.modules())
    assert first.conv1.in_channels == 1


def test_the_digest_of_a_random_network_is_that_of_earlier_results() -> None:
    """Names, shapes, types and bytes, in the order of the state: what ``weights_digest`` has always held."""
    norm = nn.BatchNorm1d(2)
    names = ("weight(2,)", "bias(2,)", "running_mean(2,)", "running_var(2,)", "num_batches_tracked()")
    one = np.float32([1, 1]).tobytes()
    contents = (one, bytes(8), bytes(8), one, bytes(8))
    text = b"".join(
        f"{name}torch.{'int64' if name.endswith('()') else 'float32'}".encode() + content
        for name, content in zip(names, contents, strict=True)
    )
    assert encoders.baseline_digest(norm) == hashlib.sha256(text).hexdigest()


def test_folding_equals_the_literal_copy(three_channel_network: nn.Module) -> None:
    """Including the border, where three normalised channels must have the same zero padding (docs/decisions/0011)."""
    generator = torch.Generator().manual_seed(2)
    band = (torch.rand(4, 1, 64, 64, generator=generator) - 0.4) / 0.2
    with torch.inference_mode():
        expected = three_channel_network(band.expand(-1, 3, -1, -1))
        folded = encoders.fold_input_channels(three_channel_network)
        assert (folded(band) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.abs().max() > 1e-3
    assert folded.get_submodule(folded.pretrained_cfg["first_conv"]).weight.shape[1] == 1


def test_folding_refuses_a_network_without_a_plain_stem(three_channel_network: nn.Module) -> None:
    three_channel_network.pretrained_cfg = {"first_conv": ("a", "b")}
    with pytest.raises(UserError, match="folded"):
        encoders.fold_input_channels(three_channel_network)
