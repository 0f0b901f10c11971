"""Shares over agents: they sum to one, and the requests follow them."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.mixes import drawn_agents, parse_mix
from onecard.errors import InputError, UnknownName

AGENTS = ["explainer", "quizmaster", "critic"]


@given(exponent=st.floats(0, 5), count=st.integers(1, 30))
def test_popularity_falls_and_sums_to_one(exponent: float, count: int) -> None:
    shares = list(parse_mix(f"zipf:{exponent}", [f"agent{n}" for n in range(count)]).values())
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] / shares[-1] == pytest.approx(count**exponent)


def test_words_of_a_mix() -> None:
    assert parse_mix("equal", AGENTS) == pytest.approx(dict.fromkeys(AGENTS, 1 / 3))
    assert parse_mix("explainer=3,critic=1", AGENTS) == {"explainer": 0.75, "critic": 0.25}
    assert parse_mix("zipf", AGENTS[:2]) == pytest.approx({"explainer": 2 / 3, "quizmaster": 1 / 3})


def test_requests_follow_the_shares() -> None:
    drawn = list(islice(drawn_agents({"explainer": 0.8, "critic": 0.2}, random.Random(1)), 5000))
    assert drawn.count("explainer") / 5000 == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("text", ["", "explainer", "explainer=x", "explainer=-1", "explainer=0", "zipf:x", "zipf:nan"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_mix(text, AGENTS)


def test_an_agent_that_is_not_asked_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'explainer'"):
        parse_mix("explaner=1", AGENTS)
