"""A long step told in two parts, and what drifts in it."""

from __future__ import annotations

from onecard.benchmark.long_run import course_of
from onecard.evidence.results import MemorySample, RequestRecord, Step


def step(latencies_ms: list[float]) -> Step:
    requests = [
        RequestRecord(
            caller=0, prompt=0, agent="a", intended_s=n * 0.5, sent_s=n * 0.5, end_s=n * 0.5 + ms / 1000, outcome="ok"
        )
        for n, ms in enumerate(latencies_ms)
    ]
    memory = (
        MemorySample(moment="before", kind="gpu", bytes=2**30),
        MemorySample(moment="after", kind="gpu", bytes=2**31),
    )
    return Step(callers=1, repeat=1, started_at="", requests=tuple(requests), memory=memory)


def test_warm_up_and_steady_state_are_told_apart() -> None:
    course = course_of(step([900.0] * 20 + [100.0 + n * 7 % 10 for n in range(280)]))
    warm, steady = course.parts
    assert (warm.name, steady.name) == ("warm-up", "steady")
    assert warm.requests >= 20 and warm.requests + steady.requests == 300
    assert steady.latency[95.0] is not None and steady.latency[95.0].value < 120
    assert sum(window.requests for window in course.windows) == steady.requests
    assert course.grown_gib == 1.0
    assert any("warm-up: the first" in said for said in course.sentences)
    assert any("no drift" in said for said in course.sentences)


def test_a_drift_is_said() -> None:
    course = course_of(step([100.0 + n * 0.2 + n * 7 % 30 for n in range(300)]))
    found = dict(course.drifts)["p50"]
    assert found is not None and found.sure and found.change > 0.1
    assert any("median latency drifts by +" in said for said in course.sentences)
    assert dict(course.drifts)["rps"] is None or not dict(course.drifts)["rps"].sure  # type: ignore[union-attr]


def test_a_short_run_claims_nothing() -> None:
    course = course_of(step([100.0] * 5))
    assert [part.name for part in course.parts] == ["steady"] and course.warm_up.settled is None
