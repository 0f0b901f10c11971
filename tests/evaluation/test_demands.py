"""Each check's figure: kept by what is right, lost by what is broken."""

from __future__ import annotations

import doctest
import math

import pytest

from onecard.evaluation import demands
from onecard.evaluation.demands import NO_LIMIT, Demand, demands_of, figure_text, sentence
from onecard.evaluation.questions import Question
from onecard.evaluation.suite import Answer, Likelihoods, score
from onecard.fleet.schema import Check, Deadline


def scored(text: str, makes, likely: Likelihoods | None = None, **changes):
    return score(makes.a_question(**changes), Answer(text, "stop", 0.1), makes.count_words, likely)


def only(check: Check, deadline: Deadline | None = None) -> Demand:
    (demand,) = demands_of(check, deadline)
    return demand


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(demands).failed == 0


@pytest.mark.parametrize(
    ("check", "row", "good", "bad"),
    [
        (Check(exact=1), {"completion": "The heap."}, "heap", "a stack"),
        (Check(exact=1), {"completion": "four", "accepted": ("4",)}, " 4. ", "5"),
        (Check(choice=1), {"candidates": ("stack", "heap"), "best": 0}, "It is the stack.", "stack or heap"),
        (Check(valid_json=True), {}, '{"a": [1, null]}', '{"a": 1,}'),
        (Check(matches="[0-9]+ kg"), {}, "12 kg", "12 kg or so"),
        (Check(ends_with="?"), {}, "Why?", "Because."),
        (Check(overlap=0.9), {"completion": "a heap is a tree"}, "a heap is a tree", "no idea"),
    ],
)
def test_a_right_answer_keeps_it_and_a_broken_one_does_not(check: Check, row, good: str, bad: str, makes) -> None:
    demand = only(check)
    right, wrong = demand.value(scored(good, makes, **row)), demand.value(scored(bad, makes, **row))
    assert not demand.fails_alone(right) and demand.fails_alone(wrong)
    assert demand.keeps(demand.figure([right])) and not demand.keeps(demand.figure([wrong]))


RANKED = {"candidates": ("x", "y", "z"), "best": 1}


@pytest.mark.parametrize(
    ("likely", "accuracy", "mrr"),
    [((-2.0, -1.0, -3.0), 1, 1), ((-1.0, -2.0, -3.0), 0, 0.5), ((-1.0, -3.0, -2.0), 0, 1 / 3)],
)
def test_ranks_of_the_best_candidate(likely: tuple[float, ...], accuracy: float, mrr: float, makes) -> None:
    answer = scored("", makes, Likelihoods(likely), **RANKED)
    assert only(Check(accuracy=0.5)).value(answer) == accuracy
    assert only(Check(mrr=0.5)).value(answer) == pytest.approx(mrr)


def test_perplexity_is_e_to_the_mean_and_less_is_better(makes) -> None:
    demand = only(Check(perplexity=3))
    answers = [scored("", makes, Likelihoods(reference=-value)) for value in (math.log(2), math.log(4))]
    figure = demand.figure([demand.value(answer) for answer in answers])
    assert figure == pytest.approx(math.sqrt(8))
    assert demand.keeps(figure) and not demand.keeps(3.1)
    assert demand.figure([1e6]) < math.inf
    assert "perplexity of the reference answers is 2.828 over 2 rows; at most 3" in sentence(demand, [0.7, 1.4], figure)


@pytest.mark.parametrize(
    "check", [Check(accuracy=0.5), Check(mrr=0.5), Check(perplexity=3), Check(exact=1), Check(choice=1)]
)
def test_what_was_not_measured_is_nan_and_never_a_figure(check: Check, makes) -> None:
    assert math.isnan(only(check).value(score(makes.a_question(), None, None)))


def test_latency_gives_two_figures_and_none_without_a_deadline() -> None:
    deadline = Deadline(seconds=2, prompt_tokens=1, new_tokens=1, percentile=95)
    both = demands_of(Check(in_time=True), deadline, 6)
    assert [d.means for d in both] == ["come within 2 s, one caller", "come within 2 s, 6 callers at once"]
    assert {(d.threshold, d.fewest) for d in both} == {(0.95, 20)}
    assert demands_of(Check(in_time=True)) == []
    assert len(demands_of(Check(in_time=True), deadline, 1)) == 1


def test_a_demand_that_only_compares_says_no_threshold() -> None:
    for check in (Check(overlap=0.0), Check(perplexity=NO_LIMIT)):
        demand = only(check)
        assert demand.compares_only
        assert "needed" not in sentence(demand, [0.5], 0.5) and "allowed" not in sentence(demand, [0.5], 0.5)
    assert not only(Check(overlap=0.1)).compares_only
    assert figure_text("perplexity", 12.3456) == "12.35"


def test_a_question_with_candidates_has_content_of_its_own(makes) -> None:
    plain: Question = makes.a_question()
    assert plain.content != makes.a_question(**RANKED).content
    assert len(plain.content) == 3
