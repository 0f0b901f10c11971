"""Schedules of arrivals: decided by words and seed alone, at the rate they say, and traces as they were recorded."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.arrivals import parse_arrivals
from onecard.errors import DataError, InputError

RATES = st.floats(0.01, 5000)


@given(rate=RATES, seed=st.integers(0, 2**31), kind=st.sampled_from(["poisson:{}", "constant:{}", "bursts:{}:7"]))
def test_a_schedule_never_runs_backwards_and_repeats_with_its_seed(rate: float, seed: int, kind: str) -> None:
    words = kind.format(rate)
    moments = [arrival.at_s for arrival in parse_arrivals(words).first(50, seed)]
    assert all(later >= earlier >= 0 for earlier, later in pairwise(moments))
    assert moments == [arrival.at_s for arrival in parse_arrivals(words).first(50, seed)]


@given(rate=RATES, count=st.integers(2, 60))
def test_constant_and_bursts_keep_their_rate_exactly(rate: float, count: int) -> None:
    moments = [a.at_s for a in parse_arrivals(f"constant:{rate}").first(count, 0)]
    assert moments[-1] == pytest.approx((count - 1) / rate)
    bursts = [a.at_s for a in parse_arrivals(f"bursts:{rate}:5").first(10, 0)]
    assert bursts[:5] == [0.0] * 5 and bursts[5:] == [pytest.approx(5 / rate)] * 5


def test_poisson_gaps_are_exponential() -> None:
    moments = [a.at_s for a in parse_arrivals("poisson:20").first(20_000, 3)]
    gaps = [later - earlier for earlier, later in zip([0.0, *moments], moments, strict=False)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 20, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)  # as of an exponential, whose deviation is its mean
    assert moments != [a.at_s for a in parse_arrivals("poisson:20").first(20_000, 4)]


def test_another_rate_keeps_the_shape() -> None:
    slow, fast = parse_arrivals("poisson:2"), parse_arrivals("poisson:2").at_rate(8)
    assert [a.at_s / 4 for a in slow.first(20, 1)] == pytest.approx([a.at_s for a in fast.first(20, 1)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "poisson",
        "poisson:",
        "poisson:0",
        "poisson:-1",
        "poisson:nan",
        "bursts:3",
        "bursts:3:1.5",
        "waves:3",
        "poisson:1:2",
        "poisson:1e9",
    ],
)
def test_other_words_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_arrivals(text)
    assert caught.value.where == "--arrivals" and caught.value.allowed


def test_traces_are_replayed_from_their_first_arrival(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:05.9799600,4808,10\n2023-11-16 18:17:03.9799600,3180,8\n"
    )
    first, second = parse_arrivals(f"trace:{azure}").trace
    assert (first.at_s, first.prompt_tokens, first.new_tokens) == (0, 3180, 8)
    assert second.at_s == pytest.approx(2)
    mooncake = tmp_path / "mooncake.jsonl"
    mooncake.write_text(
        '{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [1]}\n'
        '{"timestamp": 3000, "input_length": 7, "output_length": 3}\n'
    )
    assert [a.at_s for a in parse_arrivals(f"trace:{mooncake}:2").trace] == [0, 1.5]
    own = tmp_path / "own.jsonl"
    own.write_text('{"at_s": 5, "agent": "quizmaster"}\n{"at_s": 6.5}\n')
    assert [(a.at_s, a.agent) for a in parse_arrivals(f"trace:{own}").trace] == [(0, "quizmaster"), (1.5, None)]


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no arrivals"), ("at_s,prompt_tokens\nsoon,3\n", "no moment"), ('{"at_s": 1}\n{oops\n', "not a JSON object"),
     ('{"at_s": 1, "prompt_tokens": 2.5}\n', "not a number of tokens"), ("at_s\nnan\n", "no moment")],
)  # fmt: skip
def test_a_broken_trace_is_said_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "trace"
    file.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        parse_arrivals(f"trace:{file}")
    assert str(file) in str(caught.value.where)
    with pytest.raises(DataError, match="no such trace"):
        parse_arrivals(f"trace:{tmp_path / 'nope'}")
