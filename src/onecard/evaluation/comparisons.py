"""What becomes of a wish to be better, or no worse, than a rival: passed, failed, undecided, or skipped where there is no rival.

Decided by the whole paired interval (`paired.py`), never by the mean alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onecard.evaluation.demands import Demand, Statistic
from onecard.evaluation.paired import FEWEST_ROWS, Difference, Outcome, better, gain, no_worse
from onecard.evaluation.record import Record

Wish = tuple[str, Literal["no worse", "better"], float]  # a rival, what is wanted of the comparison, the margin


@dataclass(frozen=True)
class Absent:
    """Why a rival was not asked. `excused`: there is nobody to ask (a first version has no production), so nothing is lost to it."""

    reason: str
    excused: bool


class Comparison(Record):
    """A demand to be better or no worse than a rival. `improvement` is positive when the candidate is better; None: not asked."""

    rival: str
    wanted: Literal["no worse", "better"]
    margin: float
    improvement: Difference | None
    outcome: Outcome | Literal["skipped"]
    sentence: str


def comparisons(
    demand: Demand, wishes: Sequence[Wish], against: Mapping[str, Difference], absent: Mapping[str, Absent]
) -> list[Comparison]:
    """What becomes of every wish to be better or no worse than a rival."""
    return [_comparison(demand, rival, wanted, margin, against, absent) for rival, wanted, margin in wishes]


def _comparison(
    demand: Demand,
    rival: str,
    wanted: Literal["no worse", "better"],
    margin: float,
    against: Mapping[str, Difference],
    absent: Mapping[str, Absent],
) -> Comparison:
    outcome: Outcome | Literal["skipped"]
    if rival not in against:
        why = absent.get(rival, Absent("this was measured of the candidate alone", excused=demand.check == "alone"))
        outcome, improvement, said = "skipped" if why.excused else "undecided", None, why.reason
    else:
        improvement = gain(against[rival], demand.at_least)
        outcome = no_worse(improvement, margin) if wanted == "no worse" else better(improvement)
        said = f"improvement {_interval(improvement, demand.statistic)} over {improvement.rows} rows"
        if outcome == "undecided":
            few = improvement.rows < FEWEST_ROWS
            said += f": not enough rows to tell{f', at least {FEWEST_ROWS} are needed' if few else ''}"
    by = f" by more than {amount(margin, demand.statistic)}" if wanted == "no worse" and margin else ""
    text = f"{demand.preset}: {demand.means}, to be {wanted} than {rival}{by}: {outcome}, {said}"
    return Comparison(
        rival=rival, wanted=wanted, margin=margin, improvement=improvement, outcome=outcome, sentence=text
    )


def amount(figure: float, statistic: Statistic, signed: bool = False) -> str:
    """A difference with its unit: percentage points, or nats per token for a perplexity."""
    sign = "+" if signed else ""
    if statistic == "perplexity":
        return f"{figure:{sign}.3f} nats"
    return f"{100 * figure:{sign}.1f} points" if signed else f"{100 * figure:.3g} points"


def _interval(improvement: Difference, statistic: Statistic) -> str:
    mean = amount(improvement.mean, statistic, signed=True)
    if improvement.low is None or improvement.high is None:
        return mean
    low, high = (amount(end, statistic, signed=True).split()[0] for end in (improvement.low, improvement.high))
    return f"{mean} ({low} to {high})"
