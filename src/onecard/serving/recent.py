"""The last minutes of a service, agent by agent: how long answers took, how many were in time, how fast tokens came.

/metrics counts from the start into fixed steps of seconds, which is right for a server that collects it and too coarse for a person who
looks. So the last answers are kept as they were, a bounded number of each agent. What they amount to is pure: samples and a clock's
reading in, figures out.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onecard.evidence.summaries import percentile, shown_percentile
from onecard.wire.chat import Answered

WINDOW_S = 300.0
STEP_S = 10.0  # of the small curve
RATE_S = 60.0  # tokens a second are those of the last minute
KEPT = 5000  # answers of an agent; a busy one's window is shorter

# `failed`: the service could not (5xx, 429, a stream that broke); `refused`: the request was at fault; `left`: nobody waited.
Outcome = Literal["answered", "failed", "refused", "left"]


@dataclass(frozen=True)
class Sample:
    """One request that is over. Seconds of a monotonic clock, and from arrival to last byte; `queue_s` of it was waiting."""

    ended_s: float
    seconds: float
    outcome: Outcome
    queue_s: float = 0.0
    tokens: int = 0


class Figures(Answered):
    """What an agent's last minutes amount to. Percentiles are of answered requests; None: too few to say.

    `in_time` of `judged` requests were answered within the deadline: judged are the answered and the failed ones. The curve has one place
    every `STEP_S` seconds, oldest first; None: nothing was answered then.
    """

    answered: int
    failed: int
    p50_s: float | None
    p95_s: float | None
    queue_p95_s: float | None
    tokens_s: float
    in_time: int | None
    judged: int
    median_curve_s: tuple[float | None, ...]
    slowest_curve_s: tuple[float | None, ...]


class Recent:
    """Samples by agent, and how many requests of each outcome there were since the start. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[str, deque[Sample]] = {}
        self._counts: dict[str, Counter[Outcome]] = {}

    def add(self, agent: str, sample: Sample) -> None:
        """A request of this agent is over. Agents come from the fleet, so there are not many."""
        with self._lock:
            self._samples.setdefault(agent, deque(maxlen=KEPT)).append(sample)
            self._counts.setdefault(agent, Counter())[sample.outcome] += 1

    def counts(self, agent: str) -> dict[Outcome, int]:
        """Requests since the start by outcome."""
        with self._lock:
            return dict(self._counts.get(agent, {}))

    def of(self, agent: str | None = None) -> list[Sample]:
        """The kept samples of an agent, or of all of them."""
        with self._lock:
            return [one for name, kept in self._samples.items() if agent in (None, name) for one in kept]


def figures(samples: Sequence[Sample], now_s: float, deadline_s: float | None = None) -> Figures:
    """What the samples of the last `WINDOW_S` seconds before `now_s` amount to."""
    late = [one for one in samples if one.ended_s > now_s - WINDOW_S]
    answered = [one for one in late if one.outcome == "answered"]
    failed = sum(one.outcome == "failed" for one in late)
    in_time = None if deadline_s is None else sum(one.seconds <= deadline_s for one in answered)
    steps = _by_step(answered, now_s)
    seconds = [one.seconds for one in answered]
    return Figures(
        answered=len(answered),
        failed=failed,
        p50_s=_rounded(shown_percentile(seconds, 50)),
        p95_s=_rounded(shown_percentile(seconds, 95)),
        queue_p95_s=_rounded(shown_percentile([one.queue_s for one in answered], 95)),
        tokens_s=round(sum(one.tokens * _share(one, now_s) for one in late) / RATE_S, 3),
        in_time=in_time,
        judged=len(answered) + failed,
        median_curve_s=tuple(_rounded(percentile(step, 50)) if step else None for step in steps),
        slowest_curve_s=tuple(_rounded(max(step)) if step else None for step in steps),
    )


def _share(sample: Sample, now_s: float) -> float:
    """How much of an answer lies in the last `RATE_S` seconds, its tokens taken as coming evenly."""
    inside = sample.ended_s - max(now_s - RATE_S, sample.ended_s - sample.seconds)
    return 1.0 if sample.seconds <= 0 else min(max(inside / sample.seconds, 0.0), 1.0)


def _by_step(answered: Sequence[Sample], now_s: float) -> list[list[float]]:
    """Latencies by the step in which they ended; the steps' borders are multiples of `STEP_S`, so that a curve moves without flickering."""
    steps: list[list[float]] = [[] for _ in range(round(WINDOW_S / STEP_S))]
    last = int(now_s // STEP_S)
    for one in answered:
        place = len(steps) - 1 - (last - int(one.ended_s // STEP_S))
        if 0 <= place < len(steps):
            steps[place].append(one.seconds)
    return steps


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
