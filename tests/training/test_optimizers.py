"""An optimizer's state as tensors: put back or started over, the next steps are those of one that was never touched."""

from __future__ import annotations

import pytest
import torch

from onecard.fleet.recipe import OptimizerSection
from onecard.training.optimizers import make_optimizer, restore_state, start_over, state_of

NAMES = ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"]


def made(name):
    """Weights of more than 4,096 values, which bitsandbytes holds in 8 bits, and one of fewer, which it does not."""
    chance = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(size, generator=chance)) for size in ((64, 128), (10,))]
    return weights, make_optimizer(weights, OptimizerSection(name=name, learning_rate=1e-2))


def step(weights, optimizer, number):
    chance = torch.Generator().manual_seed(number)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=chance)
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_a_state_put_back_goes_on_bit_for_bit(name):
    weights, optimizer = made(name)
    step(weights, optimizer, 1)
    step(weights, optimizer, 2)
    saved, then = state_of(optimizer), [weight.detach().clone() for weight in weights]
    assert name == "adamw_torch" or saved["0.state1"].dtype == torch.uint8
    step(weights, optimizer, 3)
    others, other = made(name)
    with torch.no_grad():
        for weight, value in zip(others, then, strict=True):
            weight.copy_(value)
    restore_state(other, saved)
    step(others, other, 3)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(others, weights, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_one_that_starts_over_is_new_in_the_memory_it_has(name):
    """The trap: bitsandbytes keeps paged memory for good, so a new optimizer after the rehearsal holds its state twice."""
    (fresh, new), (weights, used) = made(name), made(name)
    start = [weight.detach().clone() for weight in weights]
    step(weights, used, 7)
    places = {value.data_ptr() for value in used.state[weights[0]].values() if isinstance(value, torch.Tensor)}
    used.param_groups[0]["lr"] = 0.5
    start_over(used, 1e-2)
    with torch.no_grad():
        for weight, value in zip(weights, start, strict=True):
            weight.copy_(value)
    for number in (1, 2):
        step(fresh, new, number)
        step(weights, used, number)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, fresh, strict=True))
    assert places == {value.data_ptr() for value in used.state[weights[0]].values() if isinstance(value, torch.Tensor)}
