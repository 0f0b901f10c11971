"""Tokens are picked as asked: greedy, by temperature, within top_p, and the same again with the same seed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from onecard.engines.local.sampling import Sampler

LOGITS = st.lists(st.floats(-20, 20), min_size=2, max_size=12).map(torch.tensor)


@given(LOGITS, st.floats(0, 1e-3))
def test_a_temperature_near_zero_is_greedy(logits: torch.Tensor, temperature: float) -> None:
    best = logits.max()
    assert logits[Sampler(0.0, 1.0, 1).pick(logits)] == best
    if (best - logits.sort().values[-2]) > 1e-1:
        assert Sampler(temperature, 1.0, 1).pick(logits) == int(logits.argmax())


@given(LOGITS, st.floats(0.05, 1), st.integers(0, 1000))
def test_only_the_smallest_set_that_reaches_top_p_is_drawn_from(logits: torch.Tensor, top_p: float, seed: int) -> None:
    picked = Sampler(1.0, top_p, seed).pick(logits)
    probabilities = logits.double().softmax(0)
    more_probable = probabilities[probabilities > probabilities[picked]].sum()
    assert more_probable < top_p, "without it the set would be complete"


@given(st.integers(-(2**63), 2**64 - 1))
def test_a_seed_repeats_its_draws(seed: int) -> None:
    logits = torch.zeros(1000)
    first, second = Sampler(1.0, 1.0, seed), Sampler(1.0, 1.0, seed)
    assert [first.pick(logits) for _ in range(5)] == [second.pick(logits) for _ in range(5)]


def test_without_a_seed_draws_differ() -> None:
    assert len({Sampler(1.0, 1.0, None).pick(torch.zeros(100_000)) for _ in range(5)}) > 1


def test_draws_follow_the_temperature() -> None:
    logits = torch.tensor([0.0, 2.0])
    sampler = Sampler(2.0, 1.0, 3)
    share = sum(sampler.pick(logits) for _ in range(2000)) / 2000
    assert abs(share - float(torch.tensor([0.0, 1.0]).softmax(0)[1])) < 0.04


def test_what_is_ruled_out_is_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0])
    sampler = Sampler(5.0, 1.0, 0)
    assert {sampler.pick(logits) for _ in range(50)} == {1, 3}
