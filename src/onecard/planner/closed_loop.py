"""How requests differ from one another under load: callers who each send the next request when the last is answered.

A computation of events after the local engine's own rule (`engines/local/worker.py`): whoever waits joins as soon as a line is free,
those who join are prefilled together, then all lines decode together. Steps between two events are taken at once, so its cost depends
on the number of requests and not on their tokens.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from random import Random
from typing import Protocol

from onecard.planner.load import LENGTHS, SEED, Load, Shape, asked_for, quantile_factors

# The next request of a caller is on its way for a moment, so it misses the step that begins then, and callers answered by the same
# step come back one after the other. Only the order matters; the time itself is in the engine's time for a prefill.
RETURN_S = 0.0002
MOST_LINES = 512  # above this several lines are reckoned as one
MOST_WAITING = 256  # above this the queue's length is reckoned from the rate
MOST_COUNTED = 2048  # requests of a computation, so that an agent with a small part is seen often enough
TINY_S = 1e-12


class Timed(Protocol):
    """What is needed of an engine: seconds of a decode step and of a prefill."""

    def step_s(self, lines: int, tokens_each: int) -> float: ...

    def prefill_s(self, lines: int, tokens_each: int) -> float: ...


@dataclass(frozen=True)
class Answered:
    """One request: whose, seconds from when its caller was free to its last token, and the moment that was."""

    agent: str
    seconds: float
    at_s: float


def steady(load: Load, timed: Timed, agent: str) -> tuple[list[float], float]:
    """Seconds of the agent's requests once every caller has been answered twice, and how many of them are answered a second."""
    callers = min(load.callers, load.lines + MOST_WAITING)
    weight = ceil(min(callers, load.lines) / MOST_LINES)
    part = load.part(agent)
    counted = min(ceil(LENGTHS * min(callers, 4) / min(4 * part, 1)), MOST_COUNTED)
    settled = 2 * ceil(callers / weight)
    answers = list(islice(_Loop(load, timed, callers, weight, None).answers(), settled + counted))
    begun, ended = answers[settled - 1].at_s, answers[-1].at_s
    rate = weight * counted / max(ended - begun, TINY_S)
    more_s = (load.callers - callers) / rate  # each further caller in the queue is one more answer to wait for
    seen = answers[settled:]
    own = [answer.seconds for answer in seen if answer.agent == agent] or [answer.seconds for answer in seen]
    moods = quantile_factors(load.machine_spread, Random(SEED + 1))
    return [(seconds + more_s) * next(moods) for seconds in own], rate * part


def drained_s(load: Load, timed: Timed, requests: int) -> float:
    """Seconds until so many requests are answered, from an idle engine, with nobody left to ask at the end."""
    few = min(requests, max(MOST_COUNTED, 4 * min(load.callers, load.lines)))
    callers = min(load.callers, few)
    weight = ceil(min(callers, load.lines) / MOST_LINES)
    answers = list(_Loop(load, timed, callers, weight, ceil(few / weight)).answers())
    agent = load.shapes[0].agent
    more_s = (requests - few) * load.part(agent) / steady(load, timed, agent)[1] if requests > few else 0.0
    return answers[-1].at_s + more_s


@dataclass(frozen=True)
class _Asked:
    shape: Shape
    new_tokens: int
    free_s: float  # when its caller was free to ask
    arrives_s: float
    order: int


class _Loop:
    """The engine between two events; `weight` lines and callers are reckoned as one.

    `step` counts decode steps: a line that joined at step s with n tokens to write ends at step s + n - 1, its first token being the
    prefill's. `held` is how many tokens all lines have in the cache.
    """

    def __init__(self, load: Load, timed: Timed, callers: int, weight: int, most: int | None) -> None:
        self._load, self._coming, self._most = load, asked_for(load), most
        self._step_s, self._prefill_s = _step_times(load, timed, weight), _prefill_times(load, timed, weight)
        self._lines, self._return_s = ceil(min(load.lines, callers) / weight), weight * RETURN_S
        self._running: list[tuple[int, int, _Asked]] = []  # a heap: (step it ends at, order, request)
        self._waiting: deque[_Asked] = deque()
        self._now, self._step, self._held, self._asked = 0.0, 0, 0, 0
        for number in range(ceil(callers / weight)):
            self._ask(0.0, number * self._return_s)

    def answers(self) -> Iterator[Answered]:
        """Every answer when it ends, without end unless only so many are asked for."""
        while self._running or self._waiting:
            self._join()
            yield from self._ended()
            if self._running:
                self._decode()
                yield from self._ended()

    def _ask(self, free_s: float, arrives_s: float) -> None:
        if self._most is None or self._asked < self._most:
            self._waiting.append(_Asked(*next(self._coming), free_s, arrives_s, self._asked))
            self._asked += 1

    def _join(self) -> None:
        """Whoever waits joins while lines are free, in one prefill."""
        if not self._running:
            self._now = max(self._now, self._waiting[0].arrives_s)
        joining: list[_Asked] = []
        while (
            self._waiting
            and len(self._running) + len(joining) < self._lines
            and self._waiting[0].arrives_s <= self._now
        ):
            joining.append(self._waiting.popleft())
        if not joining:
            return
        self._now += self._prefill_s(joining)
        if self._running and self._load.piece_tokens is not None:  # the others decode on, a step with every piece
            tokens = sum(request.shape.prompt_tokens for request in joining)
            pieces = min(ceil(tokens / self._load.piece_tokens), self._running[0][0] - self._step)
            self._step, self._held = self._step + pieces, self._held + pieces * len(self._running)
        for request in joining:
            heapq.heappush(self._running, (self._step + request.new_tokens - 1, request.order, request))
            self._held += request.shape.prompt_tokens

    def _decode(self) -> None:
        """All steps until a line ends or somebody joins, at once."""
        lines, steps = len(self._running), self._running[0][0] - self._step
        if self._waiting and lines < self._lines:  # somebody joins after the step in which it arrives
            until = (self._waiting[0].arrives_s - self._now) / self._step_s(lines, self._held / lines + 1)
            steps = min(steps, max(1, ceil(until)))
        self._now += steps * self._step_s(lines, self._held / lines + (steps + 1) / 2)
        self._step, self._held = self._step + steps, self._held + steps * lines

    def _ended(self) -> Iterator[Answered]:
        """Lines that are done; their callers ask again, one after the other."""
        back = 0
        while self._running and self._running[0][0] <= self._step:
            request = heapq.heappop(self._running)[2]
            self._held -= request.shape.prompt_tokens + request.new_tokens - 1
            back += 1
            self._ask(self._now, self._now + back * self._return_s)
            yield Answered(request.shape.agent, self._now - request.free_s, self._now)


def _prefill_times(load: Load, timed: Timed, weight: int) -> Callable[[Sequence[_Asked]], float]:
    """Seconds to prefill those who join: padded to the longest prompt of them, as the local engine does."""
    typical = sum(load.part(shape.agent) * shape.new_tokens for shape in load.shapes)
    together = max(1, round(min(load.callers, load.lines) / typical))  # who end by the same step, on average
    known: dict[tuple[int, int], float] = {}

    def seconds(joining: Sequence[_Asked]) -> float:
        key = len(joining), max(request.shape.prompt_tokens for request in joining)
        if key not in known:
            lines = key[0] * weight
            group = lines if weight == 1 else min(lines, together)
            known[key] = timed.prefill_s(group, key[1]) * lines / group
        return known[key]

    return seconds


def _step_times(load: Load, timed: Timed, weight: int) -> Callable[[int, float], float]:
    """Seconds of a step as a straight line in the tokens of a line, for a few numbers of lines and between them."""
    short = min(shape.prompt_tokens for shape in load.shapes)
    long = max(shape.prompt_tokens + min(2 * shape.new_tokens, shape.longest) for shape in load.shapes) + 1
    sampled: dict[int, tuple[float, float]] = {}
    known: dict[int, tuple[float, float]] = {}

    def sample(lines: int) -> tuple[float, float]:
        if lines not in sampled:
            first, last = (timed.step_s(lines * weight, tokens) for tokens in (short, long))
            slope = (last - first) / (long - short)
            sampled[lines] = first - slope * short, slope
        return sampled[lines]

    def straight(lines: int) -> tuple[float, float]:
        if lines not in known:
            unit = max(1, 2 ** (lines.bit_length() - 3))  # 1 to 8 each, then four between one power of two and the next
            below = lines - lines % unit
            share = (lines - below) / unit
            low, high = sample(below), sample(below + unit) if share else sample(below)
            known[lines] = low[0] + share * (high[0] - low[0]), low[1] + share * (high[1] - low[1])
        return known[lines]

    def seconds(lines: int, tokens_each: float) -> float:
        fixed, each = straight(lines)
        return max(fixed + each * tokens_each, TINY_S)

    return seconds
