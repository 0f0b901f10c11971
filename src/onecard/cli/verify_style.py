"""Answers as checks: lengths, endings, repetition, the same style again under other seeds, in time, and by whom. Pure.

What a style is stands in the agent's suite; its demands are judged by the gate's own rules. Where a few answers stand for many, so many
misses are let pass as a share that just holds would show in 99 of 100 draws.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

from onecard.cli.verify_records import Check, judged, not_asked, unseen
from onecard.evaluation.gate import demands_of, percent

if TYPE_CHECKING:
    from onecard.evaluation.gate import Demand, GateReport, RowRecord
    from onecard.evaluation.suite import ScoredAnswer
    from onecard.fleet.schema import AgentSpec
    from onecard.fleet.schema import Check as Demanded

BY_CHANCE = 0.01
NOT_COMPARED = "not compared here"
TIMED = "held-out rows: come within"
MOST_REPETITION = 0.5  # for a preset whose suite says nothing: an answer that goes round in circles has more


@dataclass(frozen=True)
class Generated:
    """One answer of POST /generate, or `problem` why there is none. `answer` is scored with the server's own count of tokens."""

    preset: str
    prompt: str
    answer: ScoredAnswer | None = None
    said_style: str = ""
    adapter: str = ""
    digest: str = ""
    problem: str = ""


def suite_checks(agent: str, gate: GateReport, rows_of_suite: int, evidence: str, next_step: str) -> Iterator[Check]:
    """Every demand of the suite on the answers that came over HTTP. What it demands beside rivals is the gate's: nobody else is asked."""
    for result in gate.checks:
        what, subject = f"held-out rows: {result.check}", f"{agent}/{result.preset}"
        rivals = {one.rival for one in result.comparisons}
        if result.compares_only:
            yield not_asked("style", subject, what, not_compared(rivals))
            continue
        seen, _, needed = result.sentence.partition(": ")[2].rpartition("; ")
        if result.undecided:
            yield unseen("style", subject, what, f"{seen}; {needed}", "", "more held-out rows in the suite")
            continue
        tokens = [row.candidate.tokens for row in gate.rows if row.preset == result.preset]
        part = "" if result.asked >= rows_of_suite else f"; {result.asked} of at most {rows_of_suite} rows of the suite"
        failing = f"; lines {', '.join(map(str, result.failing[:5]))}" if result.failing and not result.passed else ""
        part += f"; {not_compared(rivals)}" if rivals else ""
        yield judged(
            "style", subject, what, result.passed, seen, needed, f"{span(tokens)} tokens; {evidence}{part}{failing}", next_step,
        )  # fmt: skip


def not_compared(rivals: Collection[str]) -> str:
    """Why nothing is said of a demand beside these rivals."""
    named = [rival for rival in ("production", "base") if rival in rivals]
    return f"{NOT_COMPARED} with {' and '.join(named) or 'anybody'}: the gate does that"


def repetition_check(agent: str, preset: str, rows: Sequence[RowRecord], evidence: str, next_step: str) -> Check:
    """For a preset whose suite does not speak of repetition."""
    worst = max(row.candidate.repetition for row in rows)
    return judged(
        "style", f"{agent}/{preset}", "no repetition", worst <= MOST_REPETITION,
        f"{percent(worst, MOST_REPETITION)} of the 4-word sequences repeat in the worst of {len(rows)} answers",
        f"at most {percent(MOST_REPETITION)}", evidence, next_step,
    )  # fmt: skip


def time_check(
    agent: str, preset: str, rows: Sequence[RowRecord], limit_s: float, callers: int, next_step: str
) -> Check:
    """The slowest answer, end to end over HTTP, with the model's callers asking at once."""
    worst = max(rows, key=lambda row: row.candidate.seconds)
    return judged(
        "style", f"{agent}/{preset}", "answered in time, end to end", worst.candidate.seconds <= limit_s,
        f"{worst.candidate.seconds:.2f} s, the slowest of {len(rows)}", f"at most {limit_s:g} s",
        f"{callers} asking at once; {worst.candidate.tokens} tokens, line {worst.line}", next_step,
    )  # fmt: skip


def consistency_check(
    agent: str, demanded: Demanded, by_seed: Mapping[int, Sequence[RowRecord]], temperature: float, next_step: str
) -> Check | None:
    """The same prompts under several seeds: the style holds in all but what chance explains. None: the preset demands no style."""
    shares = [demand for demand in demands_of(demanded) if demand.statistic == "share"]
    rows = [row for several in by_seed.values() for row in several if row.preset == demanded.preset]
    if not shares or not rows:
        return None
    missed = sum(not _keeps(shares, row.candidate) for row in rows)
    allowed = allowed_misses(len(rows), demanded.share)
    prompts = {row.line for row in rows}
    texts = len({(row.line, row.candidate.text) for row in rows})
    how = "greedy, so seeds change nothing" if temperature == 0 else f"temperature {temperature:g}"
    return judged(
        "style", f"{agent}/{demanded.preset}", "the same style again", missed <= allowed,
        f"{len(rows) - missed} of {len(rows)} answers keep it: {len(prompts)} prompts under {len(by_seed)} seeds",
        f"at most {allowed} may miss, for a share of {percent(demanded.share)}",
        f"{texts} different texts ({how}); {span([row.candidate.tokens for row in rows])} tokens", next_step,
    )  # fmt: skip


def generate_check(
    agent: str, spec: AgentSpec, preset: str, answers: Sequence[Generated], digest: str | None, next_step: str
) -> Check:
    """POST /generate: answered, in this style, by this very adapter, within what the suite demands of the preset."""
    checks = spec.suite.checks if spec.suite else ()
    demands = [d for c in checks if c.preset == preset for d in demands_of(c) if d.statistic == "share"]
    share = min((demand.threshold for demand in demands), default=1.0)
    problem = next((problem for one in answers if (problem := _not_itself(one, preset, digest))), None)
    scored = [one.answer for one in answers if one.answer is not None]
    missed = sum(not _keeps(demands, answer) for answer in scored)
    allowed = allowed_misses(len(answers), share)
    limits = "; ".join(demand.means for demand in demands) or f"1 to {spec.presets[preset].max_new_tokens} tokens"
    if problem is None and missed > allowed:
        problem = f"{missed} of {len(answers)} answers do not: {span([answer.tokens for answer in scored])} tokens"
    seen = f"{len(answers)} answers of {span([a.tokens for a in scored])} tokens"
    asked = (
        f'POST /generate {{"style": "{preset}", "prompt": "{answers[0].prompt[:40]}"}}' if answers else "nothing asked"
    )
    said = f': "{scored[0].text[:50]}"' if scored else ""
    return judged(
        "style", f"{agent}/{preset}", "POST /generate obeys the style, by this adapter", problem is None, problem or seen,
        f"{limits}; x-onecard-digest {(digest or 'none')[:12]}", asked + said, next_step,
    )  # fmt: skip


def allowed_misses(count: int, share: float) -> int:
    """The most misses of `count` answers that a true share of exactly `share` stays within in 99 of 100 draws.

    >>> allowed_misses(9, 0.95), allowed_misses(3, 1.0)
    (2, 0)
    """
    beyond, miss = 1.0, 1.0 - share
    for misses in range(count + 1):
        beyond -= comb(count, misses) * miss**misses * share ** (count - misses)
        if beyond < BY_CHANCE:
            return misses
    return count


def span(values: Sequence[int]) -> str:
    """`28 to 49`, or the one value.

    >>> span([3, 9, 4]), span([7]), span([])
    ('3 to 9', '7', 'no')
    """
    if not values:
        return "no"
    return f"{min(values)} to {max(values)}" if min(values) != max(values) else str(values[0])


def _keeps(demands: Sequence[Demand], answer: ScoredAnswer) -> bool:
    return all(demand.value(answer) > 0 for demand in demands)


def _not_itself(one: Generated, preset: str, digest: str | None) -> str | None:
    """Why an answer is not one of this preset by this adapter."""
    if one.problem or one.answer is None:
        return one.problem or "no answer"
    if one.answer.tokens < 1:
        return "answered nothing"
    if one.said_style != preset:
        return f"answered in the style '{one.said_style}'"
    if one.digest != (digest or "none"):
        return f"answered by {one.adapter or 'nobody'} ({one.digest[:12] or 'no digest'})"
    return None
