"""Tokens are picked as asked: greedy, by temperature, within top_p, and the same again with the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onecard.engines.local.sampling import BLOCK, Sampler
from onecard.errors import EngineFailed

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


@pytest.mark.parametrize("highest", [-torch.inf, torch.inf])
def test_logits_that_leave_nothing_to_draw_are_said(highest: float) -> None:
    with pytest.raises(EngineFailed, match="no token can be drawn"):
        Sampler(1.0, 0.9, 0).pick(torch.tensor([-torch.inf, highest, -torch.inf]))


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The share of each token by the definition: everything sorted, equal ones by id, cut where top_p is reached."""
    shares, tokens = logits.double().softmax(0).sort(descending=True, stable=True)
    shares[shares.cumsum(0) - shares >= top_p] = 0.0
    return torch.zeros_like(shares).scatter(0, tokens, shares / shares.sum())


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("vocabulary", [1, 7, BLOCK, 2 * BLOCK, 3 * BLOCK + 5])
def test_draws_are_distributed_as_the_sorted_set_says(vocabulary: int, top_p: float) -> None:
    """Many of the logits are equal, so that the set ends within equals; over one block, at its edges and over several."""
    logits = (1.5 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary))).round()
    sampler, draws = Sampler(1.0, top_p, 5), 3000
    drawn = torch.bincount(torch.tensor([sampler.pick(logits) for _ in range(draws)]), minlength=vocabulary)
    shares = nucleus(logits, top_p)
    assert not drawn[shares == 0].any()
    # Groups of about a tenth each, by share and then by id: beyond 4.5 standard deviations is no accident.
    order = shares.sort(descending=True, stable=True).indices
    group = (shares[order].cumsum(0) * 10).long().clamp(max=9)
    expected = torch.zeros(10, dtype=torch.float64).index_add(0, group, shares[order])
    found = torch.zeros(10, dtype=torch.float64).index_add(0, group, drawn[order].double()) / draws
    assert ((found - expected).abs() <= 4.5 * (expected * (1 - expected) / draws).sqrt() + 1e-9).all()


@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.5, 0.95, 1.0]))
def test_whatever_the_seed_only_the_set_is_drawn_from(seed: int, top_p: float) -> None:
    logits = torch.tensor([1.0, 3.0, -torch.inf, 3.0, 2.0, 3.0, 1.0, 0.0])
    assert nucleus(logits, top_p)[Sampler(1.0, top_p, seed).pick(logits)] > 0


@pytest.mark.parametrize("top_p", [0.95, 1.0])
def test_a_rounding_error_of_the_logits_rarely_changes_the_token(top_p: float) -> None:
    """What neighbours in a batch do to a row: the shapes of the matrices change, and with them the last bits."""
    source = torch.Generator().manual_seed(0)
    changed = 0
    for seed in range(300):
        logits = 3 * torch.randn(8000, generator=source)
        moved = logits + 0.01 * torch.randn(8000, generator=source)
        changed += Sampler(1.0, top_p, seed).pick(logits) != Sampler(1.0, top_p, seed).pick(moved)
    assert changed < 15


def test_draws_of_one_row_and_of_neighbouring_seeds_are_independent() -> None:
    logits = torch.zeros(4)
    first, second = (Sampler(1.0, 1.0, seed) for seed in (1, 2))
    pairs = torch.zeros(4, 4)
    for _ in range(2000):
        pairs[first.pick(logits), second.pick(logits)] += 1
    assert (pairs / 2000 - 1 / 16).abs().max() < 0.025
