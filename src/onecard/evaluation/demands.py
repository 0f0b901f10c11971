"""A check of the fleet file taken apart into demands: one figure each, what one answer adds to it, and how it reads in words.

A figure is a share of answers, a mean, the highest value of any answer, or a perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from onecard.evaluation import scorers
from onecard.evaluation.suite import ScoredAnswer
from onecard.evidence.summaries import needed_for
from onecard.fleet.schema import Check, Deadline

Statistic = Literal["share", "mean", "highest", "perplexity"]

GENERATED = ("max_tokens", "min_tokens", "overlap", "repetition", "ends_with", "exact", "choice", "matches")
WITH_CANDIDATES = ("choice", "accuracy", "mrr")
SCORED_CANDIDATES = ("accuracy", "mrr")
ALL = (*GENERATED, "valid_json", *SCORED_CANDIDATES, "perplexity", "in_time")
NO_LIMIT = 1e9  # a perplexity that any model keeps: a demand that only compares


@dataclass(frozen=True)
class Demand:
    """One figure asked of all answers under one preset; `value` is what one answer adds to it, `means` completes "answers ...".

    `value` is NaN for an answer of which it was not measured. With fewer than `fewest` answers the figure cannot be told.
    """

    preset: str
    check: str
    means: str
    statistic: Statistic
    threshold: float
    at_least: bool
    value: Callable[[ScoredAnswer], float]
    fewest: int = 1

    def figure(self, values: Sequence[float]) -> float:
        """What the answers amount to; `values` not empty. Perplexity: e to the mean negative log-likelihood per token of a row."""
        if self.statistic == "highest":
            return max(values)
        mean = math.fsum(values) / len(values)
        return math.exp(min(mean, 700.0)) if self.statistic == "perplexity" else mean

    def keeps(self, figure: float) -> bool:
        return figure >= self.threshold if self.at_least else figure <= self.threshold

    def fails_alone(self, value: float) -> bool:
        """Whether one answer does not keep the demand by itself."""
        return value == 0 if self.statistic == "share" else not self.keeps(self.figure([value]))

    @property
    def compares_only(self) -> bool:
        """Whether any figure keeps it, so that only comparisons decide."""
        return no_limit(self.threshold, self.at_least)


def no_limit(threshold: float, at_least: bool) -> bool:
    """Whether any figure keeps a threshold."""
    return threshold == 0 if at_least else threshold >= NO_LIMIT


def demands_of(check: Check, deadline: Deadline | None = None, concurrency: int = 1) -> list[Demand]:
    """The figures a check asks for; empty when it asks for none. Without a deadline `in_time` gives none."""
    demands = [*_limits(check), *_shares(check), *_means(check)]
    if check.repetition is not None:
        means = "repeated 4-word sequences"
        demands.append(
            Demand(check.preset, "repetition", means, "highest", check.repetition, False, lambda a: a.repetition)
        )
    if check.perplexity is not None:
        means = "perplexity of the reference answers"
        demands.append(
            Demand(
                check.preset,
                "perplexity",
                means,
                "perplexity",
                check.perplexity,
                False,
                lambda a: _known(a.reference_nats),
            )
        )
    return [*demands, *_in_time(check, deadline, concurrency)]


def _limits(check: Check) -> list[Demand]:
    if check.max_tokens is None and check.min_tokens is None:
        return []
    means = _limits_text(check.min_tokens, check.max_tokens)
    return [Demand(check.preset, "length", means, "share", check.share, True, _keeps_limits(check))]


def _shares(check: Check) -> list[Demand]:
    """What an answer keeps or does not keep."""
    demands = []

    def add(name: str, means: str, threshold: float, keeps: Callable[[ScoredAnswer], bool | None]) -> None:
        def value(answer: ScoredAnswer) -> float:
            kept = keeps(answer)
            return math.nan if kept is None else float(kept)

        demands.append(Demand(check.preset, name, means, "share", threshold, True, value))

    if (ending := check.ends_with) is not None:
        add("ending", f"end with '{ending}'", check.share, lambda a: scorers.ends_with(a.text, ending))
    if check.exact is not None:
        add("exact", "are the reference or accepted beside it", check.exact, lambda a: a.exact)
    if check.choice is not None:
        add("choice", "name the best candidate alone", check.choice, lambda a: a.chose_best)
    if check.valid_json:
        add("json", "are valid JSON", check.share, lambda a: scorers.valid_json(a.text))
    if (pattern := check.matches) is not None:
        add("pattern", f"match {pattern}", check.share, lambda a: scorers.matches(a.text, pattern))
    if check.accuracy is not None:
        add("accuracy", "find the best candidate the most likely", check.accuracy, _ranked_first)
    return demands


def _means(check: Check) -> list[Demand]:
    demands = []
    if check.overlap is not None:
        means = "words shared with the reference"
        demands.append(Demand(check.preset, "overlap", means, "mean", check.overlap, True, lambda a: a.overlap))
    if check.mrr is not None:
        means = "reciprocal ranks of the best candidate"
        demands.append(Demand(check.preset, "mrr", means, "mean", check.mrr, True, lambda a: _known(a.reciprocal_rank)))
    return demands


def _in_time(check: Check, deadline: Deadline | None, concurrency: int) -> list[Demand]:
    """The deadline's percentile of answers within its seconds: with nobody else, and with as many callers as the fleet says."""
    if not check.in_time or deadline is None:
        return []
    seconds, share, fewest = deadline.seconds, deadline.percentile / 100, needed_for(deadline.percentile)
    means = f"come within {seconds:g} s"

    def in_time(measured: Callable[[ScoredAnswer], float | None]) -> Callable[[ScoredAnswer], float]:
        def value(answer: ScoredAnswer) -> float:
            took = measured(answer)
            return math.nan if took is None else float(took <= seconds)

        return value

    alone, loaded = in_time(lambda a: a.alone_seconds), in_time(lambda a: a.seconds if a.generated else None)
    demands = [Demand(check.preset, "alone", f"{means}, one caller", "share", share, True, alone, fewest)]
    if concurrency > 1:
        means = f"{means}, {concurrency} callers at once"
        demands.append(Demand(check.preset, "loaded", means, "share", share, True, loaded, fewest))
    return demands


def _ranked_first(answer: ScoredAnswer) -> bool | None:
    return None if answer.reciprocal_rank is None else answer.reciprocal_rank == 1


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _keeps_limits(check: Check) -> Callable[[ScoredAnswer], float]:
    """1 for an answer within the limits. One that was cut did not keep `max_tokens`, however few tokens it has."""

    def value(answer: ScoredAnswer) -> float:
        long_enough = check.min_tokens is None or answer.tokens >= check.min_tokens
        short_enough = check.max_tokens is None or (answer.ended_by_itself and answer.tokens <= check.max_tokens)
        return float(long_enough and short_enough)

    return value


def _limits_text(low: int | None, high: int | None) -> str:
    if high is None:
        return f"have at least {low} tokens"
    return (
        f"end by themselves within {high} tokens" if low is None else f"end by themselves with {low} to {high} tokens"
    )


def figure_text(statistic: Statistic, figure: float, beside: float | None = None) -> str:
    """A figure as people read it: perplexities as numbers, all others as percent."""
    return f"{figure:.4g}" if statistic == "perplexity" else percent(figure, beside)


def needed_text(demand: Demand) -> str:
    return figure_text(demand.statistic, demand.threshold)


def sentence(demand: Demand, values: Sequence[float], observed: float) -> str:
    """What was seen and what is needed, in words."""
    count, where = len(values), f"{demand.preset}: "
    needed, seen = needed_text(demand), figure_text(demand.statistic, observed, demand.threshold)
    if demand.compares_only:
        return f"{where}{demand.means}: {seen} of {count} answers"
    if demand.statistic == "share":
        return f"{where}{int(sum(values))} of {count} answers ({seen}) {demand.means}; at least {needed} must"
    if demand.statistic == "mean":
        kind = "mean F1 of" if demand.check == "overlap" else "mean of"
        return f"{where}{demand.means} are {seen} ({kind} {count} answers); at least {needed} is needed"
    if demand.statistic == "perplexity":
        return f"{where}{demand.means} is {seen} over {count} rows; at most {needed} is allowed"
    return f"{where}{demand.means} are {seen} in the worst of {count} answers; at most {needed} is allowed"


def percent(figure: float, beside: float | None = None) -> str:
    """A share as text, with as many decimals as it takes to tell it from `beside`.

    >>> percent(0.95), percent(46 / 48, 0.95), percent(0.94996, 0.95)
    ('95%', '95.8%', '94.996%')
    """
    for decimals in range(1, 9):
        text = f"{100 * figure:.{decimals}f}"
        if beside is None or figure == beside or text != f"{100 * beside:.{decimals}f}":
            break
    return text.rstrip("0").rstrip(".") + "%"
