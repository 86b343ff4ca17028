"""A block with a seed of its own leaves no trace in torch's generators."""

import pytest
import torch

from eo_backbones.device import seeded


def test_draws_depend_on_the_seed_and_the_callers_generator_does_not_move() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    with seeded(5):
        first = torch.rand(4)
    with seeded(5, torch.device("cpu")):
        torch.testing.assert_close(torch.rand(4), first, atol=0, rtol=0)
    torch.testing.assert_close(torch.rand(4, generator=torch.Generator().manual_seed(5)), first, atol=0, rtol=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_interrupt_restores_the_generator() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt), seeded(5):
        torch.rand(4)
        raise KeyboardInterrupt
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_generator_of_a_gpu_is_restored_too() -> None:
    before = torch.cuda.get_rng_state()
    with seeded(5):
        torch.rand(4)
    assert torch.equal(torch.cuda.get_rng_state(), before), "not asked for"
    with seeded(5, torch.device("cuda")):
        first = torch.rand(4, device="cuda")
    with seeded(5, torch.device("cuda")):
        assert torch.equal(torch.rand(4, device="cuda"), first)
    assert torch.equal(torch.cuda.get_rng_state(), before)
