"""Answers judged: what chance lets pass, who answered, and whether the style held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onecard.cli.verify_style import (
    Generated,
    allowed_misses,
    consistency_check,
    generate_check,
    repetition_check,
    time_check,
)
from onecard.evaluation.gate import RowRecord
from onecard.evaluation.suite import ScoredAnswer
from onecard.fleet.schema import AgentSpec, Check

TERSE = Check(preset="terse", max_tokens=49, share=0.95)
SPEC = AgentSpec.model_validate(
    {
        "model": "base",
        "presets": {"terse": {"max_new_tokens": 64}, "free": {}},
        "suite": {"data": "test.jsonl", "checks": [TERSE.model_dump()]},
    }
)


def answer(tokens: int = 30, repetition: float = 0.0, seconds: float = 1.0) -> ScoredAnswer:
    return ScoredAnswer(
        text=f"{tokens} words", finish_reason="stop", seconds=seconds, tokens=tokens, ended_by_itself=True,
        repetition=repetition, overlap=1.0,
    )  # fmt: skip


def row(line: int, candidate: ScoredAnswer) -> RowRecord:
    return RowRecord(line=line, preset="terse", prompt="What?", reference="That.", candidate=candidate)


@given(st.integers(1, 200), st.floats(0.01, 1))
def test_so_many_misses_pass_as_a_share_that_just_holds_would_show(count: int, share: float) -> None:
    allowed = allowed_misses(count, share)
    assert 0 <= allowed <= count
    assert allowed_misses(count, 1.0) == 0
    assert allowed >= (1 - share) * count - 1  # never stricter than the share itself


def test_nine_answers_of_a_style_that_holds_in_95_of_100_may_miss_twice() -> None:
    assert [allowed_misses(count, 0.95) for count in (1, 3, 9, 48)] == [1, 1, 2, 6]


def test_a_style_that_does_not_hold_under_another_seed_is_not_consistent() -> None:
    steady = {seed: [row(line, answer()) for line in (1, 2, 3)] for seed in (0, 1, 2)}
    check = consistency_check("writer", TERSE, steady, 0.0, "train")
    assert check is not None and check.outcome == "pass" and "9 of 9" in check.seen and "greedy" in check.evidence
    drifting = {**steady, 2: [row(line, answer(tokens=90)) for line in (1, 2, 3)]}
    check = consistency_check("writer", TERSE, drifting, 0.7, "train")
    assert check is not None and check.outcome == "fail" and "6 of 9" in check.seen and check.next_step == "train"
    assert consistency_check("writer", Check(preset="terse", repetition=0.2), steady, 0.0, "train") is None


def test_repetition_and_time_are_those_of_the_worst_answer() -> None:
    rows = [row(1, answer()), row(7, answer(repetition=0.8, seconds=31.0))]
    failed = repetition_check("writer", "terse", rows, "file", "train")
    assert failed.outcome == "fail" and "80%" in failed.seen
    late = time_check("writer", "terse", rows, 30.0, 4, "plan")
    assert late.outcome == "fail" and "31.00 s" in late.seen and "line 7" in late.evidence
    assert time_check("writer", "terse", rows[:1], 30.0, 4, "plan").outcome == "pass"


def generated(tokens: int = 30, style: str = "terse", digest: str = "d" * 64, problem: str = "") -> Generated:
    return Generated("terse", "What is a heap?", answer(tokens), style, "style@v0001", digest, problem)


def outcome(*answers: Generated, preset: str = "terse", digest: str | None = "d" * 64) -> tuple[str, str]:
    check = generate_check("writer", SPEC, preset, answers, digest, "train")
    return check.outcome, check.seen


def test_generate_must_be_answered_in_the_style_and_by_the_adapter_of_the_store() -> None:
    assert outcome(generated(), generated(), generated()) == ("pass", "3 answers of 30 tokens")
    assert outcome(generated(), generated(digest="e" * 64))[0] == "fail"
    assert outcome(generated(digest="none"), digest=None)[0] == "pass"
    assert outcome(generated(style="verbose")) == ("fail", "answered in the style 'verbose'")
    assert outcome(generated(problem="answered 500: oh")) == ("fail", "answered 500: oh")
    assert outcome(*[generated(tokens=90)] * 3)[0] == "fail"
    assert outcome(generated(tokens=0))[0] == "fail"
