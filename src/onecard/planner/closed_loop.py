"""How requests differ from one another under load: callers who each send the next request when the last is answered.

What the engine does comes from `course.py`, in passes; here they are given the times of an engine, and become seconds of requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil
from random import Random
from typing import Protocol

from onecard.evidence.summaries import percentile
from onecard.planner.course import (
    COURSES_KEPT,
    RETURN_S,
    TINY_S,
    Course,
    Joining,
    Passes,
    Times,
    own_course,
    usual_course,
)
from onecard.planner.load import LENGTHS, SEED, Load, quantile_factors

MOST_LINES = 512  # above this several lines are reckoned as one
MOST_WAITING = 256  # above this the queue's length is reckoned from the rate
SEEN_KEPT = 256  # loads with times of their own
MOST_COUNTED = 2048  # requests of a computation, so that an agent with a small part is seen often enough

Seen = tuple[list[float], float]  # seconds of an agent's requests, and how many of them are answered a second


class Timed(Protocol):
    """What is needed of an engine: seconds of a decode step and of a prefill."""

    def step_s(self, lines: int, tokens_each: int) -> float: ...

    def prefill_s(self, lines: int, tokens_each: int) -> float: ...


def steady(load: Load, timed: Timed, agent: str) -> Seen:
    """Seconds of the agent's requests once every caller has been answered twice, and how many of them are answered a second."""
    watch = _watch(load, agent)
    passes = _TimedPasses(load, timed, watch.weight)
    times = watch.usual_times(passes)
    return watch.seen(times) if times else watch.seen_with(passes)


def steady_percentiles(load: Load, timed: Timed, agent: str, percents: tuple[float, ...]) -> tuple[list[float], float]:
    """These percentiles of what `steady` gives, and how many of the agent's requests are answered a second.

    Remembered by the times of the passes: forms and cards often differ in what this load never meets, and ways are tried again.
    """
    watch = _watch(load, agent)
    passes = _TimedPasses(load, timed, watch.weight)
    times = watch.usual_times(passes)
    ordered, rate = _usually_seen(load, agent, times) if times else _in_order(watch.seen_with(passes))
    return [percentile(ordered, percent) for percent in percents], rate


@lru_cache(maxsize=SEEN_KEPT)
def _usually_seen(load: Load, agent: str, times: Times) -> Seen:
    return _in_order(_watch(load, agent).seen(times))


def _in_order(seen: Seen) -> Seen:
    return sorted(seen[0]), seen[1]


def drained_s(load: Load, timed: Timed, requests: int) -> float:
    """Seconds until so many requests are answered, from an idle engine, with nobody left to ask at the end."""
    few = min(requests, max(MOST_COUNTED, 4 * min(load.callers, load.lines)))
    callers = min(load.callers, few)
    weight = ceil(min(callers, load.lines) / MOST_LINES)
    everybody = ceil(few / weight)
    passes = _TimedPasses(load, timed, weight)
    course = usual_course(load, callers, weight, everybody, everybody)
    if not course.holds(course.times(passes)):
        course = own_course(load, passes, callers, weight, everybody, everybody)
    agent = load.shapes[0].agent
    more_s = (requests - few) * load.part(agent) / steady(load, timed, agent)[1] if requests > few else 0.0
    return course.moments_s(course.times(passes))[-1] + more_s


@dataclass(frozen=True)
class _Watch:
    """What is looked at of a load: `counted` answers after the first `settled`, those of one agent, whose part of the load is `part`.

    Of more than `callers` only these are reckoned, `weight` as one; the queue of the others, `waiting`, follows from the rate.
    """

    load: Load
    agent: str
    part: float
    callers: int
    waiting: int
    weight: int
    settled: int
    counted: int

    @cached_property
    def usual(self) -> Course:
        return usual_course(self.load, self.callers, self.weight, self.settled + self.counted)

    @cached_property
    def _usual_own(self) -> list[tuple[int, int, float]]:
        return self._own(self.usual)

    def usual_times(self, passes: Passes) -> Times | None:
        """Times of the usual course's passes, None where it does not hold.

        At the beginning all callers come one after the other while the first is answered: where that takes longer than a prefill and
        a step, the course need not be made to know.
        """
        longest = max(shape.prompt_tokens for shape in self.load.shapes)
        fixed, each = passes.step_s(1)
        if passes.prefill_s((1, longest)) + fixed + each * (longest + 1) < (self.callers - self.weight) * RETURN_S:
            return None
        times = self.usual.times(passes)
        return times if self.usual.holds(times) else None

    def seen(self, times: Times) -> Seen:
        """What there is to see where the usual course holds."""
        return self._seen(self.usual, self._usual_own, times)

    def seen_with(self, passes: Passes) -> Seen:
        """The same where it does not."""
        course = own_course(self.load, passes, self.callers, self.weight, self.settled + self.counted)
        return self._seen(course, self._own(course), course.times(passes))

    def _seen(self, course: Course, own: list[tuple[int, int, float]], times: Times) -> Seen:
        moments = course.moments_s(times)
        begun, ended = moments[course.answers[self.settled - 1][2]], moments[course.answers[-1][2]]
        rate = self.weight * self.counted / max(ended - begun, TINY_S)
        more_s = self.waiting / rate  # each further caller in the queue is one more answer to wait for
        seconds = [(moments[end] - moments[free] + more_s) * mood for free, end, mood in own]
        return seconds, rate * self.part

    def _own(self, course: Course) -> list[tuple[int, int, float]]:
        """The agent's requests, everybody's where it has none among them: the moments its caller was free and it was answered, and how
        much longer or shorter it takes because of the machine."""
        seen = course.answers[self.settled :]
        own = [answer for answer in seen if answer[0] == self.agent] or seen
        moods = quantile_factors(self.load.machine_spread, Random(SEED + 1))
        return [(free, end, next(moods)) for _, free, end in own]


@lru_cache(maxsize=COURSES_KEPT)
def _watch(load: Load, agent: str) -> _Watch:
    callers = min(load.callers, load.lines + MOST_WAITING)
    weight = ceil(min(callers, load.lines) / MOST_LINES)
    part = load.part(agent)
    return _Watch(
        load=load,
        agent=agent,
        part=part,
        callers=callers,
        waiting=load.callers - callers,
        weight=weight,
        settled=2 * ceil(callers / weight),
        counted=min(ceil(LENGTHS * min(callers, 4) / min(4 * part, 1)), MOST_COUNTED),
    )


class _TimedPasses:
    """The passes of an engine; `weight` lines are reckoned as one.

    A prefill is padded to the longest prompt of those who join, as the local engine does. Steps are timed for a few numbers of lines
    and taken to be between them otherwise, each a straight line in the tokens of a line.
    """

    def __init__(self, load: Load, timed: Timed, weight: int) -> None:
        self._timed, self._weight = timed, weight
        self._short = min(shape.prompt_tokens for shape in load.shapes)
        self._long = max(shape.prompt_tokens + min(2 * shape.new_tokens, shape.longest) for shape in load.shapes) + 1
        typical = sum(load.part(shape.agent) * shape.new_tokens for shape in load.shapes)
        self._together = max(1, round(min(load.callers, load.lines) / typical))  # who end by the same step, on average
        self._prefills: dict[Joining, float] = {}
        self._sampled: dict[int, tuple[float, float]] = {}
        self._steps: dict[int, tuple[float, float]] = {}

    def prefill_s(self, joining: Joining) -> float:
        if joining not in self._prefills:
            lines = joining[0] * self._weight
            group = lines if self._weight == 1 else min(lines, self._together)
            self._prefills[joining] = self._timed.prefill_s(group, joining[1]) * lines / group
        return self._prefills[joining]

    def step_s(self, lines: int) -> tuple[float, float]:
        if lines not in self._steps:
            unit = max(1, 2 ** (lines.bit_length() - 3))  # 1 to 8 each, then four between one power of two and the next
            below = lines - lines % unit
            share = (lines - below) / unit
            low = self._sample(below)
            high = self._sample(below + unit) if share else low
            self._steps[lines] = low[0] + share * (high[0] - low[0]), low[1] + share * (high[1] - low[1])
        return self._steps[lines]

    def _sample(self, lines: int) -> tuple[float, float]:
        if lines not in self._sampled:
            first, last = (self._timed.step_s(lines * self._weight, tokens) for tokens in (self._short, self._long))
            slope = (last - first) / (self._long - self._short)
            self._sampled[lines] = first - slope * self._short, slope
        return self._sampled[lines]
