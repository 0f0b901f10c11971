from __future__ import annotations

import doctest
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import FleetError
from onecard.evaluation import gate, scorers
from onecard.evaluation.gate import CheckResult, RowRecord, demands_of, judge, suite_digest, verdict
from onecard.evaluation.questions import Question
from onecard.evaluation.suite import ScoredAnswer
from onecard.fleet.schema import Check, Preset, Suite


def an_answer(**changes: object) -> ScoredAnswer:
    fields: dict[str, object] = {
        "text": "What is it?", "finish_reason": "stop", "seconds": 0.1, "tokens": 10, "ended_by_itself": True,
        "repetition": 0.0, "overlap": 1.0,
    }  # fmt: skip
    return ScoredAnswer(**{**fields, **changes})  # type: ignore[arg-type]


def rows_of(answers: Sequence[ScoredAnswer], base: Sequence[ScoredAnswer] | None = None) -> list[RowRecord]:
    return [
        RowRecord(
            line=number + 1, preset="default", prompt="p", reference="r", candidate=answer,
            against={"base": base[number]} if base else {},
        )
        for number, answer in enumerate(answers)
    ]  # fmt: skip


def judged(check: Check, answers: Sequence[ScoredAnswer], base: Sequence[ScoredAnswer] | None = None) -> CheckResult:
    """The only result of a check with one demand."""
    (result,) = judge(Suite(data="d", checks=(check,)), rows_of(answers, base), "digest", 0).checks
    return result


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(gate).failed == 0


@pytest.mark.parametrize(
    ("check", "answer", "kept"),
    [
        (Check(max_tokens=10), an_answer(tokens=10), True),
        (Check(max_tokens=10), an_answer(tokens=11), False),
        (Check(max_tokens=10), an_answer(tokens=3, ended_by_itself=False), False),
        (Check(min_tokens=10), an_answer(tokens=10), True),
        (Check(min_tokens=10), an_answer(tokens=9), False),
        (Check(min_tokens=10), an_answer(tokens=64, ended_by_itself=False), True),
        (Check(min_tokens=5, max_tokens=10), an_answer(tokens=4), False),
        (Check(min_tokens=5, max_tokens=10), an_answer(tokens=7), True),
        (Check(min_tokens=5, max_tokens=10), an_answer(tokens=7, ended_by_itself=False), False),
        (Check(ends_with="?"), an_answer(text="Why? "), True),
        (Check(ends_with="?"), an_answer(text="Because."), False),
        (Check(overlap=0.5), an_answer(overlap=0.5), True),
        (Check(overlap=0.5), an_answer(overlap=0.4999), False),
        (Check(repetition=0.2), an_answer(repetition=0.2), True),
        (Check(repetition=0.2), an_answer(repetition=0.21), False),
    ],
)
def test_what_one_answer_must_keep(check: Check, answer: ScoredAnswer, kept: bool) -> None:
    result = judged(check, [answer])
    assert result.passed is kept
    assert result.failing == (() if kept else (1,))


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.5, 0.7, 0.9, 0.95, 1.0]))
def test_a_share_passes_exactly_when_enough_answers_keep_it(count: int, kept: int, share: float) -> None:
    kept = min(kept, count)
    answers = [an_answer(tokens=5 if number < kept else 50) for number in range(count)]
    result = judged(Check(max_tokens=10, share=share), answers)
    assert result.passed is (kept >= share * count - 1e-9)
    assert result.observed == kept / count
    assert len(result.failing) == count - kept


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_overlap_is_judged_by_the_mean_and_repetition_by_the_worst(values: list[float], threshold: float) -> None:
    answers = [an_answer(overlap=value, repetition=value) for value in values]
    mean, worst = judged(Check(overlap=threshold), answers), judged(Check(repetition=threshold), answers)
    assert mean.observed == pytest.approx(sum(values) / len(values))
    assert mean.passed is (mean.observed >= threshold)
    assert (worst.observed, worst.passed) == (max(values), max(values) <= threshold)


def test_every_demand_of_every_check_must_pass() -> None:
    suite = Suite(data="d", checks=(Check(max_tokens=10, overlap=0.5), Check(ends_with="?")))
    good = judge(suite, rows_of([an_answer()]), "digest", 0)
    assert [result.statistic for result in good.checks] == ["share", "mean", "share"]
    assert good.passed
    assert not judge(suite, rows_of([an_answer(overlap=0.1)]), "digest", 0).passed


def test_a_check_is_judged_on_its_own_presets_answers_only() -> None:
    suite = Suite(data="d", checks=(Check(preset="terse", max_tokens=10), Check(preset="default", min_tokens=20)))
    long, short = rows_of([an_answer(tokens=30)]), rows_of([an_answer(tokens=5)])
    rows = [*long, short[0].model_copy(update={"preset": "terse"})]
    assert [(result.asked, result.passed) for result in judge(suite, rows, "", 0).checks] == [(1, True), (1, True)]


def test_a_check_that_demands_nothing_is_an_error() -> None:
    with pytest.raises(FleetError, match=r"suite.checks.1: the check demands nothing.*Allowed: max_tokens"):
        judge(Suite(data="d", checks=(Check(max_tokens=1), Check())), rows_of([an_answer()]), "", 0)


def test_sentences_say_what_was_seen_and_what_is_needed() -> None:
    answers = [an_answer()] * 19 + [an_answer(tokens=60)]
    said = [
        judged(Check(max_tokens=49, share=0.96), answers).sentence,
        judged(Check(min_tokens=5, max_tokens=49), answers).sentence,
        judged(Check(overlap=0.5), [an_answer(overlap=0.49996)]).sentence,
        judged(Check(repetition=0.2), [an_answer(repetition=0.5)]).sentence,
        judged(Check(ends_with="?"), answers).sentence,
    ]
    assert said == [
        "default: 19 of 20 answers (95%) end by themselves within 49 tokens; at least 96% must",
        "default: 19 of 20 answers (95%) end by themselves with 5 to 49 tokens; at least 95% must",
        "default: words shared with the reference are 49.996% (mean F1 of 1 answers); at least 50% is needed",
        "default: repeated 4-word sequences are 50% in the worst of 1 answers; at most 20% is allowed",
        "default: 20 of 20 answers (100%) end with '?'; at least 95% must",
    ]


def test_the_difference_to_the_base_stands_beside_and_decides_nothing() -> None:
    good, bad = [an_answer(overlap=0.9)] * 4, [an_answer(overlap=0.2)] * 4
    better, worse = judged(Check(overlap=0.8), good, bad), judged(Check(overlap=0.1), bad, good)
    assert better.against["base"].mean == pytest.approx(0.7)
    assert worse.against["base"].mean == pytest.approx(-0.7)
    assert better.passed and worse.passed


def test_a_verdict_carries_the_digests_and_the_failing_sentences() -> None:
    report = judge(Suite(data="d", checks=(Check(max_tokens=5),)), rows_of([an_answer()]), "a" * 64, 0)
    given_verdict = verdict(report, at="2026-11-21T12:00:00+00:00", digest="b" * 64, file="results/x.json")
    assert (given_verdict.passed, given_verdict.suite_digest, given_verdict.digest) == (False, "a" * 64, "b" * 64)
    assert given_verdict.summary["asked"] == 1
    assert given_verdict.summary["failed"] == [report.checks[0].sentence]
    assert given_verdict.summary["checks"][0]["observed"] == 0.0
    assert given_verdict.report == "results/x.json"


def test_the_suite_digest_changes_with_everything_a_verdict_depends_on(makes, monkeypatch) -> None:
    suite, presets, questions = makes.a_suite(), makes.PRESETS, makes.some_questions(3)
    digest = suite_digest(suite, presets, questions)
    elsewhere: list[Question] = [makes.a_question(q.line, q.preset, file="other/place.jsonl") for q in questions]
    assert digest == suite_digest(suite.model_copy(update={"data": "other.jsonl"}), presets, elsewhere)
    unused = {**presets, "spare": Preset()}
    assert digest == suite_digest(suite, unused, questions)
    others = [
        suite_digest(makes.a_suite(rows=7), presets, questions),
        suite_digest(makes.a_suite(checks=suite.checks[:1]), presets, questions),
        suite_digest(suite, {**presets, "terse": Preset(max_new_tokens=33)}, questions),
        suite_digest(suite, presets, questions[:-1]),
        suite_digest(suite, presets, [*questions[:-1], makes.a_question(99, "verbose")]),
    ]
    monkeypatch.setattr(scorers, "SCORERS", 2)
    others.append(suite_digest(suite, presets, questions))
    assert len({digest, *others}) == 7


def test_a_check_without_demands_gives_none() -> None:
    assert demands_of(Check()) == []
