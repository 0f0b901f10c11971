"""What an engine does under a closed loop of callers: its passes one after the other, and which requests lie between which of them.

Events after the local engine's own rule (`engines/local/worker.py`): whoever waits joins as soon as a line is free, those who join are
prefilled together, then all lines decode together. Steps between two events are taken at once, so that the number of requests counts and
not their tokens. As long as everybody is back before the pass that follows its answer ends, nothing of it depends on how long passes
take: the same course holds for every engine and card, and is reckoned once.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import ceil
from typing import Protocol

from onecard.planner.load import Load, Shape, asked_for

# The next request of a caller is on its way for a moment, so it misses the step that begins then, and callers answered by the same
# step come back one after the other. Only the order matters; the time itself is in the engine's time for a prefill.
RETURN_S = 0.0002
COURSES_KEPT = 32
TINY_S = 1e-12

Joining = tuple[int, int]  # how many are prefilled together, and the longest prompt among them


class Passes(Protocol):
    """Seconds of an engine's passes. A step takes `fixed + each * tokens`, so many tokens a line has in the cache."""

    def prefill_s(self, joining: Joining) -> float: ...

    def step_s(self, lines: int) -> tuple[float, float]: ...


@dataclass(frozen=True)
class LongPasses:
    """Passes that take longer than anybody needs to come back."""

    seconds: float

    def prefill_s(self, joining: Joining) -> float:
        return self.seconds

    def step_s(self, lines: int) -> tuple[float, float]:
        return self.seconds, 0.0


@dataclass(frozen=True)
class Start:
    """What comes before the steps of a stretch: seconds the engine stands idle, and a prefill."""

    idle_s: float = 0.0
    joining: Joining | None = None


@dataclass(frozen=True)
class Times:
    """Seconds of a course's passes: of every start, and of a step by lines (`fixed` and `each` as in Passes; 0 where it has none)."""

    starts: tuple[float, ...]
    fixed: tuple[float, ...]
    each: tuple[float, ...]


@dataclass(frozen=True)
class Course:
    """The passes of an engine in stretches: a start, then steps during which nobody joins or ends.

    A stretch is (number of its start, lines, steps, steps x tokens a line has meanwhile). A moment k is the end of the first k stretches.
    `answers` are (agent, moment its caller was free to ask, moment of the last token), in the order they end. `ways` says how long
    somebody was on the way when a stretch with this start and these lines began. `shortest`: the least tokens
    a line has.
    """

    starts: tuple[Start, ...]
    stretches: tuple[tuple[int, int, int, float], ...]
    answers: tuple[tuple[str, int, int], ...]
    ways: tuple[tuple[tuple[int, int], float], ...]
    shortest: int

    @cached_property
    def lines(self) -> frozenset[int]:
        """Numbers of lines that decode together in it."""
        return frozenset(lines for _, lines, _, _ in self.stretches) - {0}

    def times(self, passes: Passes) -> Times:
        """The passes it is made of."""
        starts = [start.idle_s + (passes.prefill_s(start.joining) if start.joining else 0.0) for start in self.starts]
        steps = [
            passes.step_s(lines) if lines in self.lines else (0.0, 0.0)
            for lines in range(max(self.lines, default=0) + 1)
        ]
        return Times(tuple(starts), tuple(fixed for fixed, _ in steps), tuple(each for _, each in steps))

    def holds(self, times: Times) -> bool:
        """Whether everybody is back before the first step of the next stretch ends, so that with these times the course is the same."""
        return all(
            times.starts[start] + times.fixed[lines] + times.each[lines] * self.shortest >= way_s
            for (start, lines), way_s in self.ways
        )

    def moments_s(self, times: Times) -> list[float]:
        """Seconds from the beginning to every moment."""
        starts, fixed, each = times.starts, times.fixed, times.each
        lasting = [
            starts[start] + steps * fixed[lines] + tokens * each[lines]
            for start, lines, steps, tokens in self.stretches
        ]
        return list(accumulate(lasting, initial=0.0))


@lru_cache(maxsize=COURSES_KEPT)
def usual_course(load: Load, callers: int, weight: int, answers: int, most: int | None = None) -> Course:
    """So many answers of a load where nobody's way back is longer than a pass; `weight` lines and callers are reckoned as one.

    `most`: so many requests are asked for.
    """
    longest_way_s = weight * RETURN_S * ceil(callers / weight)
    return _Loop(load, LongPasses(2 * longest_way_s), callers, weight, most).course(answers)


def own_course(load: Load, passes: Passes, callers: int, weight: int, answers: int, most: int | None = None) -> Course:
    """The same where passes may be so short that it matters when somebody is back."""
    return _Loop(load, passes, callers, weight, most).course(answers)


@dataclass(frozen=True)
class _Asked:
    shape: Shape
    new_tokens: int
    free: int  # the moment its caller was free to ask
    arrives_s: float
    order: int


class _Loop:
    """The engine between two events.

    `step` counts decode steps: a line that joined at step s with n tokens to write ends at step s + n - 1, its first token being the
    prefill's. `held` is how many tokens all lines have in the cache.
    """

    def __init__(self, load: Load, passes: Passes, callers: int, weight: int, most: int | None) -> None:
        self._load, self._passes, self._coming, self._most = load, passes, asked_for(load), most
        self._lines, self._return_s = ceil(min(load.lines, callers) / weight), weight * RETURN_S
        self._running: list[tuple[int, int, _Asked]] = []  # a heap: (step it ends at, order, request)
        self._waiting: deque[_Asked] = deque()
        self._now, self._step, self._held, self._asked = 0.0, 0, 0, 0
        self._starts: dict[Start, int] = {Start(): 0}
        self._stretches: list[tuple[int, int, int, float]] = []
        self._answers: list[tuple[str, int, int]] = []
        self._ways: dict[tuple[int, int], float] = {}
        self._start, self._began_s = 0, 0.0  # of the stretch under way
        for number in range(ceil(callers / weight)):
            self._ask(number * self._return_s)

    def course(self, answers: int) -> Course:
        """Until so many have been answered, or nobody asks any more."""
        while (self._running or self._waiting) and len(self._answers) < answers:
            self._join()
            if self._running[0][0] <= self._step:
                self._stretch(0, 0, 0.0)
                self._end()
            if self._running:
                self._decode()
                self._end()
        shortest = min(shape.prompt_tokens for shape in self._load.shapes)
        ended = tuple(self._answers[:answers])
        return Course(tuple(self._starts), tuple(self._stretches), ended, tuple(self._ways.items()), shortest)

    def _ask(self, arrives_s: float) -> None:
        if self._most is None or self._asked < self._most:
            self._waiting.append(_Asked(*next(self._coming), len(self._stretches), arrives_s, self._asked))
            self._asked += 1

    def _join(self) -> None:
        """Whoever waits joins while lines are free, in one prefill."""
        idle_s = 0.0
        if not self._running:
            idle_s = max(0.0, self._waiting[0].arrives_s - self._now)
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
        together = len(joining), max(request.shape.prompt_tokens for request in joining)
        self._now += self._passes.prefill_s(together)
        start = Start(round(idle_s, 10), together)  # rounded, so that equal ones are one
        self._start = self._starts.setdefault(start, len(self._starts))
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
            until = (self._waiting[0].arrives_s - self._now) / self._steps_s(lines, 1, self._held / lines + 1)
            steps = min(steps, max(1, ceil(until)))
        tokens = steps * (self._held / lines + (steps + 1) / 2)
        self._now += self._steps_s(lines, steps, tokens)
        self._step, self._held = self._step + steps, self._held + steps * lines
        self._stretch(lines, steps, tokens)

    def _steps_s(self, lines: int, steps: int, tokens: float) -> float:
        fixed, each = self._passes.step_s(lines)
        return max(steps * fixed + tokens * each, TINY_S)

    def _stretch(self, lines: int, steps: int, tokens: float) -> None:
        """The stretch under way ends now."""
        if self._waiting and self._waiting[-1].arrives_s > self._began_s:
            kind = self._start, lines
            self._ways[kind] = max(self._ways.get(kind, 0.0), self._waiting[-1].arrives_s - self._began_s)
        self._stretches.append((self._start, lines, steps, tokens))
        self._start, self._began_s = 0, self._now

    def _end(self) -> None:
        """Lines that are done; their callers ask again, one after the other."""
        back = 0
        while self._running and self._running[0][0] <= self._step:
            request = heapq.heappop(self._running)[2]
            self._held -= request.shape.prompt_tokens + request.new_tokens - 1
            back += 1
            self._ask(self._now + back * self._return_s)
            self._answers.append((request.shape.agent, request.free, len(self._stretches)))
