from __future__ import annotations

import doctest
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import FleetError
from onecard.evaluation import gate, scorers
from onecard.evaluation.gate import Absent, CheckResult, RowRecord, demands_of, judge, suite_digest, verdict
from onecard.evaluation.questions import Question
from onecard.evaluation.suite import ScoredAnswer
from onecard.fleet.schema import Check, Deadline, Preset, Suite


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
    monkeypatch.setattr(scorers, "SCORERS", scorers.SCORERS + 1)
    others.append(suite_digest(suite, presets, questions))
    assert len({digest, *others}) == 7


def test_a_check_without_demands_gives_none() -> None:
    assert demands_of(Check()) == []


def compared(
    check: Check, ours: Sequence[ScoredAnswer], theirs: Sequence[ScoredAnswer], rival: str = "base"
) -> CheckResult:
    """The result of a check on answers beside those of one rival."""
    rows = [
        row.model_copy(update={"against": {rival: other}}) for row, other in zip(rows_of(ours), theirs, strict=True)
    ]
    (result,) = judge(Suite(data="d", checks=(check,)), rows, "digest", 0).checks
    return result


def overlaps(*values: float) -> list[ScoredAnswer]:
    return [an_answer(overlap=value) for value in values]


def test_a_clear_fall_fails_a_small_one_passes_and_few_rows_cannot_tell() -> None:
    check = Check(overlap=0.0, no_worse_than={"production": 0.05})
    before = overlaps(*[0.5, 0.6, 0.7, 0.8] * 10)
    small = compared(check, overlaps(*[0.49, 0.6, 0.7, 0.79] * 10), before, "production")
    large = compared(check, overlaps(*[0.3, 0.4, 0.5, 0.6] * 10), before, "production")
    few = compared(check, overlaps(0.5, 0.6), overlaps(0.5, 0.6), "production")
    wavering = compared(check, overlaps(*[0.0, 1.0] * 10), overlaps(*[1.0, 0.0] * 10), "production")
    assert [result.outcome for result in (small, large, few, wavering)] == [
        "passed",
        "failed",
        "undecided",
        "undecided",
    ]
    assert not few.passed and "not enough rows to tell, at least 20 are needed" in few.why[0]
    assert "not enough rows to tell" in wavering.why[0] and "over 20 rows" in wavering.why[0]
    assert "-20.0 points (-20.0 to -20.0) over 40 rows" in large.why[0]


def test_better_than_the_base_needs_the_whole_interval_above_it() -> None:
    check = Check(overlap=0.0, better_than="base")
    base = overlaps(*[0.2, 0.4] * 15)
    assert compared(check, overlaps(*[0.3, 0.6] * 15), base).outcome == "passed"
    assert compared(check, base, base).outcome == "failed"
    assert compared(check, overlaps(*[0.9, 0.0] * 15), base).outcome == "undecided"


def test_less_repetition_is_an_improvement() -> None:
    check = Check(repetition=1.0, better_than="base")
    none, much = [an_answer(repetition=0.0)] * 30, [an_answer(repetition=0.4 + n / 100) for n in range(30)]
    assert compared(check, none, much).outcome == "passed"
    assert compared(check, much, none).outcome == "failed"


def test_a_rival_that_is_not_there_is_skipped_only_with_an_excuse() -> None:
    suite = Suite(data="d", checks=(Check(overlap=0.0, no_worse_than={"production": 0.1}),))
    rows = rows_of(overlaps(*[0.5] * 30))
    first = judge(suite, rows, "", 0, absent={"production": Absent("nothing is in production yet", excused=True)})
    left_out = judge(suite, rows, "", 0, absent={"production": Absent("--against left it out", excused=False)})
    silent = judge(suite, rows, "", 0)
    assert [report.outcome for report in (first, left_out, silent)] == ["passed", "undecided", "undecided"]
    assert "nothing is in production yet" in first.checks[0].comparisons[0].sentence


def test_a_failed_figure_is_a_failure_whatever_the_comparison_says() -> None:
    check = Check(overlap=0.9, better_than="base")
    result = compared(check, overlaps(*[0.5, 0.6] * 15), overlaps(*[0.1, 0.2] * 15))
    assert result.outcome == "failed" and "at least 90% is needed" in result.why[0]


def test_latency_is_judged_alone_and_at_full_load_and_needs_enough_rows() -> None:
    deadline = Deadline(seconds=2, prompt_tokens=10, new_tokens=10, percentile=90)
    suite = Suite(data="d", checks=(Check(in_time=True),))

    def outcomes(rows: int, alone: float, loaded: float) -> list[str]:
        answers = [an_answer(seconds=loaded, alone_seconds=alone)] * rows
        return [r.outcome for r in judge(suite, rows_of(answers), "", 0, deadline=deadline, concurrency=6).checks]

    assert outcomes(10, 1, 1.9) == ["passed", "passed"]
    assert outcomes(10, 1, 2.1) == ["passed", "failed"]
    assert outcomes(10, 2.1, 1) == ["failed", "passed"]
    assert outcomes(9, 1, 1) == ["undecided", "undecided"]
    assert outcomes(9, 3, 3) == ["failed", "failed"]
    with pytest.raises(FleetError, match="no deadline"):
        judge(suite, rows_of([an_answer()]), "", 0)


def test_a_verdict_knows_what_it_was_judged_against() -> None:
    report = judge(Suite(data="d", checks=(Check(max_tokens=50),)), rows_of([an_answer()]), "a" * 64, 3)
    against = {"production": "b" * 64, "base_fingerprint": "c" * 64}
    given_verdict = verdict(report, at="now", digest="d" * 64, judged_against=against)
    assert given_verdict.summary["judged_against"] == against
    assert given_verdict.summary["seed"] == 3
