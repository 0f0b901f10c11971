"""Finds the largest rate within a deadline by probing: effects only, the decisions stand in `rate_limit.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from onecard.benchmark.arrivals import Arrivals
from onecard.benchmark.breakdown import generator_verdict
from onecard.benchmark.campaign import Keep, run_campaign
from onecard.benchmark.load import StepRun, closed_loop
from onecard.benchmark.rate_limit import (
    Limit,
    Probe,
    Verdict,
    hopeless,
    in_time,
    limit_of,
    next_rate,
    still_growing,
    verdict,
)
from onecard.benchmark.traffic import Traffic, TrafficPlan, Watching, questions
from onecard.errors import InputError
from onecard.evidence.results import ResultFile, Step
from onecard.evidence.summaries import latency_ms, mean


@dataclass(frozen=True)
class LimitPlan(TrafficPlan):
    """`guess_rps` is where to begin (None: what one caller alone gets); `precision` how close the bounds are to come."""

    guess_rps: float | None = None
    precision: float = 0.1
    probes: int = 10


@dataclass
class _Lateness:
    """A stop rule: a probe is over when its requests are in, or when it misses whatever comes."""

    plan: LimitPlan
    late: int = 0
    seen: int = 0

    def __call__(self, run: StepRun) -> bool:
        for request in run.requests[self.seen :]:
            self.late += not in_time([request], self.plan.deadline_ms or 0)
        self.seen = len(run.requests)
        return hopeless(self.late, self.plan.requests, self.plan.percentile) if self.late else False


class LimitSearch:
    """One search. `limit` is what the probes say so far."""

    def __init__(
        self,
        plan: LimitPlan,
        watching: Watching | None = None,
        *,
        keep: Keep | None = None,
        done: ResultFile | None = None,
    ) -> None:
        if plan.deadline_ms is None:
            raise InputError("within which deadline?", where="--deadline", allowed="seconds above 0")
        self.plan = plan
        self.traffic = Traffic(plan, "limit", watching, keep=keep, done=done)

    def run(self) -> ResultFile:
        return run_campaign(self.traffic.campaign, self.measure)

    @property
    def limit(self) -> Limit:
        return limit_in(self.traffic.campaign.steps, self.plan)

    async def measure(self) -> None:
        plan, campaign = self.plan, self.traffic.campaign
        async with campaign:
            await self.traffic.prepare()
            guess = plan.guess_rps or await self._alone()
            while (rate := next_rate(self.limit.probes, guess, plan.precision, plan.probes)) is not None:
                number = len(campaign.steps) + 1
                schedule = schedule_at(plan, rate)
                step = await self.traffic.step(
                    number, f"probe {number}: {rate:.3g} requests/s", schedule, _Lateness(plan)
                )
                if campaign.nothing_answered(step, f"{rate:.3g} requests a second"):
                    if len(campaign.steps) > 1:  # an overloaded server that refuses everything is a probe like another
                        campaign.stopped_because = None
                        continue
                    return
            if self.limit.probes and not self.limit.probes[-1].fair:
                rate = self.limit.probes[-1].rate_rps
                campaign.stopped_because = f"the load generator itself was late at {rate:.3g} requests/s"

    async def _alone(self) -> float:
        """What a lone caller gets done a second: a fair place to begin where no plan says more."""
        client, plan = self.traffic.campaign.client, self.plan
        run = StepRun()
        few = list(islice(questions(plan, self.traffic.yardsticks, 0), 5))
        await closed_loop(client, [few], run, max_new_tokens=plan.max_new_tokens)
        alone_ms = mean([latency_ms(request) for request in run.requests if request.outcome == "ok"])
        if not alone_ms:
            raise InputError("none of five requests was answered", where=plan.url, next_step="give --guess RATE")
        return 1000 / alone_ms


def limit_in(steps: Sequence[Step], plan: LimitPlan) -> Limit:
    """What the steps say of the plan's deadline."""
    return limit_of(probes_of(steps, plan))


def schedule_at(plan: LimitPlan, rate_rps: float) -> Arrivals:
    """The plan's schedule at that rate; Poisson where it has none."""
    shape = plan.arrivals or Arrivals("poisson", 1.0, words="poisson")
    return replace(shape.at_rate(rate_rps), words=shape.words)


def probes_of(steps: Sequence[Step], plan: LimitPlan) -> list[Probe]:
    """Every step with a rate as a probe."""
    return [_probe(step, plan) for step in steps if step.rate_rps is not None]


def _probe(step: Step, plan: LimitPlan) -> Probe:
    requests, deadline_ms = step.requests, plan.deadline_ms or 0
    within = in_time(requests, deadline_ms)
    # A probe that was stopped as hopeless is judged by what was certain then: the rest of its requests as if in time.
    late = len(requests) - within
    stopped = len(requests) < plan.requests and hopeless(late, plan.requests, plan.percentile)
    growing = still_growing(requests)
    judged: Verdict = "missed" if stopped or growing else verdict(within, len(requests), plan.percentile)
    return Probe(step.rate_rps or 0.0, within, len(requests), judged, generator_verdict(step).valid, growing)
