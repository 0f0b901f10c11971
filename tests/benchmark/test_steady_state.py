"""Warm-up and drift are found where they were put, and not where there are none."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.steady_state import drift, steady_part, warm_up, windows
from onecard.evidence.results import RequestRecord


def noisy(count: int, seed: int, middle: float = 100.0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(middle, 5) for _ in range(count)]


def test_a_slow_begin_is_cut_and_nothing_else() -> None:
    found = [warm_up([*noisy(30, seed, 300), *noisy(270, seed + 100)]) for seed in range(21)]
    assert all(one.cut >= 30 for one in found if one.settled) and "MSER-5" in found[0].sentence
    assert sum(one.settled is False for one in found) <= 3
    assert 30 <= sorted(one.cut for one in found)[10] <= 60
    even = [warm_up(noisy(300, seed)) for seed in range(21)]
    assert sorted(one.cut for one in even)[10] <= 30
    assert sum(one.settled is False for one in even) <= 2


def test_a_series_that_grows_never_settles() -> None:
    assert warm_up([float(n) for n in range(400)]).settled is False


def test_a_short_series_says_nothing() -> None:
    assert warm_up(noisy(49, 1)).settled is None


@given(st.lists(st.floats(0.001, 1e6), max_size=200))
def test_a_cut_leaves_half_at_least(values: list[float]) -> None:
    found = warm_up(values)
    assert 0 <= found.cut <= len(values) / 2 + 5


def request(at_s: float, latency_s: float) -> RequestRecord:
    return RequestRecord(
        caller=0, prompt=0, agent="a", intended_s=at_s, sent_s=at_s, end_s=at_s + latency_s, outcome="ok"
    )


def test_the_steady_part_begins_after_the_warm_up() -> None:
    latencies = [*noisy(40, 1, 900), *noisy(260, 2)]
    requests = [request(n * 0.1, latency / 1000) for n, latency in enumerate(latencies)]
    steady, found = steady_part(list(reversed(requests)))
    assert found.cut >= 40 and len(steady) == 300 - found.cut
    assert min(one.intended_s for one in steady) == pytest.approx(found.cut * 0.1)


def test_a_drift_is_seen_with_its_size() -> None:
    at_s = [float(n) for n in range(20)]
    rising = drift(at_s, [100 + n + noise / 50 for n, noise in zip(at_s, noisy(20, 1, 0), strict=True)])
    assert rising is not None and rising.sure and rising.change == pytest.approx(19 / 109.5, rel=0.05)
    level = drift(at_s, noisy(20, 5))
    assert level is not None and not level.sure
    assert drift(at_s[:7], noisy(7, 1)) is None


def test_windows_hold_every_request_once() -> None:
    requests = [request(n * 0.37, 0.1) for n in range(101)]
    spans = windows(requests)
    assert len(spans) == 20 and sum(len(span) for _, span in spans) == 101
    assert windows([]) == []
