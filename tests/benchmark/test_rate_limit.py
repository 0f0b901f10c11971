"""The search for the largest rate: its bounds hold a true limit it cannot see, in few probes, and it says when it cannot tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.rate_limit import (
    Probe,
    hopeless,
    in_time,
    limit_of,
    needed_to_keep,
    next_rate,
    still_growing,
    verdict,
)
from onecard.evidence.results import RequestRecord


def searched(truth: float, guess: float, precision: float = 0.1, most: int = 40) -> list[Probe]:
    probes: list[Probe] = []
    while (rate := next_rate(probes, guess, precision, most)) is not None:
        kept = rate <= truth
        probes.append(Probe(rate, 100 if kept else 50, 100, "kept" if kept else "missed"))
    return probes


@given(truth=st.floats(0.01, 1000), off=st.floats(0.2, 5))
def test_the_true_limit_lies_between_the_bounds(truth: float, off: float) -> None:
    probes = searched(truth, truth * off)
    found = limit_of(probes)
    assert found.low_rps is not None and found.high_rps is not None
    assert found.low_rps <= truth < found.high_rps <= found.low_rps * 1.1 * (1 + 1e-9)
    assert len(probes) <= 10


def test_a_good_guess_saves_probes() -> None:
    assert len(searched(10, 9.5)) < len(searched(10, 0.5))
    assert len(searched(10, 0.001, most=4)) == 4


def test_a_probe_that_the_generator_spoilt_is_no_evidence() -> None:
    spoilt = Probe(5, 0, 100, "missed", fair=False)
    assert limit_of([spoilt]).high_rps is None
    assert next_rate([spoilt], 5, 0.1, 10) == 5
    assert next_rate([spoilt] * 3, 5, 0.1, 10) is None


def test_an_undecided_rate_is_not_tried_again() -> None:
    probes = [Probe(4, 100, 100, "kept"), Probe(8, 10, 100, "missed"), Probe(32**0.5, 95, 100, "undecided")]
    following = next_rate(probes, 4, 0.1, 10)
    assert following is not None and following not in [probe.rate_rps for probe in probes] and 4 < following < 8


def test_verdicts_need_their_confidence() -> None:
    assert needed_to_keep(95) == 72
    assert [verdict(71, 71, 95), verdict(72, 72, 95)] == ["undecided", "kept"]
    assert [verdict(90, 100, 95), verdict(85, 100, 95), verdict(0, 0, 95)] == ["undecided", "missed", "undecided"]
    assert hopeless(30, 100, 95) and not hopeless(3, 100, 95)


def request(at_s: float, latency_s: float, outcome: str = "ok") -> RequestRecord:
    times = {"intended_s": at_s, "sent_s": at_s, "end_s": at_s + latency_s}
    return RequestRecord.model_validate({"caller": 0, "prompt": 0, "agent": "a", "outcome": outcome, **times})


def test_failures_are_late() -> None:
    assert in_time([request(0, 0.1), request(0, 0.3), request(0, 0.1, "error")], 200) == 1


def test_a_queue_that_grows_is_seen_before_it_is_late() -> None:
    assert still_growing([request(n * 0.1, 0.1 + n * 0.01) for n in range(100)])
    assert not still_growing([request(n * 0.1, 0.1 + (n * 7 % 10) * 0.01) for n in range(100)])
    assert not still_growing([request(n * 0.1, 0.1 + n * 0.01) for n in range(20)])


def test_bounds_of_noise_promise_the_lower_rate() -> None:
    found = limit_of([Probe(4, 1, 1, "kept"), Probe(5, 1, 1, "missed"), Probe(6, 1, 1, "kept")])
    assert (found.low_rps, found.high_rps) == (4, 5)
    assert limit_of([]).low_rps is None
