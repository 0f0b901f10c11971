"""Traffic: requests of several agents in given shares and lengths, by callers or by a schedule, until there are enough of them.

What `bench mix`, `bench steady` and `bench limit` have in common. Who asks what is decided by seed and repeat alone; when a step ends
is a rule over what was seen so far (`StopRule`), looked at seldom enough to cost nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from onecard.benchmark.arrivals import Arrival, Arrivals
from onecard.benchmark.campaign import Campaign, Keep, Kind, Send, Target, run_campaign
from onecard.benchmark.http_stream import StreamClient
from onecard.benchmark.intervals import interval
from onecard.benchmark.lengths import Lengths, Yardstick, text_of
from onecard.benchmark.load import StepRun, closed_loop, open_loop
from onecard.benchmark.measuring_lengths import measured_yardstick
from onecard.benchmark.mixes import drawn_agents
from onecard.benchmark.prompts import Prompt, Question
from onecard.benchmark.steady_state import steady_part
from onecard.evidence.results import How, RequestRecord, ResultFile, Step
from onecard.evidence.summaries import latency_ms

LOOK_AGAIN = 1.2  # the stop rule is asked when there are so many times as many requests as when it was asked last


@dataclass(frozen=True)
class TrafficPlan(Target):
    """What a person asked for: `callers` or `arrivals`, `requests` of each step or `seconds`, whichever ends first.

    `deadline_ms` holds for every agent, else `deadlines` for each. `until` is the half width of the percentile's interval, as a share
    of it, at which a step has seen enough.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    mix: str = "equal"
    callers: int | None = None
    arrivals: Arrivals | None = None
    requests: int = 400
    seconds: float | None = None
    repeats: int = 1
    deadline_ms: float | None = None
    deadlines: Mapping[str, float] = field(default_factory=dict)
    percentile: float = 95.0
    prompt_lengths: Lengths | None = None
    answer_lengths: Lengths | None = None
    until: float | None = None

    def as_how(self) -> How:
        lengths = {"prompt": self.prompt_lengths, "answer": self.answer_lengths}
        return self.how(
            load="open" if self.arrivals else "closed",
            callers=(self.callers,) if self.callers else (),
            arrivals=self.arrivals.words if self.arrivals else None,
            shares={agent: round(share, 9) for agent, share in self.shares.items()},
            lengths={name: given.words for name, given in lengths.items() if given},
            deadline_ms=self.deadline_ms,
            percentile=self.percentile,
            stop=self.stop_words,
            requests=self.requests,
            repeats=self.repeats,
            warmup_requests=0,
        )

    @property
    def stop_words(self) -> str | None:
        words = [f"after {self.seconds:g} s"] if self.seconds else []
        if self.until:
            words.append(f"when p{self.percentile:g} is known to within {self.until:.3g} of itself")
        return " or ".join(words) or None


@dataclass
class StopRule:
    """Says when a step has seen enough: its time is over, its requests are in, or the interval is narrow enough after the warm-up."""

    requests: int
    seconds: float | None
    until: float | None
    percentile: float
    _begun_s: float | None = None
    _next_look: int = 30

    def __call__(self, run: StepRun) -> bool:
        now_s, count = time.monotonic(), len(run.requests)
        self._begun_s = self._begun_s or now_s
        if count >= self.requests or (self.seconds and now_s - self._begun_s >= self.seconds):
            return True
        if not self.until or count < self._next_look:
            return False
        self._next_look = int(count * LOOK_AGAIN) + 1
        return narrow(run.requests, self.percentile, self.until)


def narrow(requests: Sequence[RequestRecord], percent: float, until: float) -> bool:
    """Whether the percentile of the answered requests after the warm-up is bounded that closely on both sides."""
    steady, found = steady_part(requests)
    seen = interval([latency_ms(request) for request in steady if request.outcome == "ok"], percent)
    return bool(found.settled and seen and seen.half_width is not None and seen.half_width <= until)


class Watching(Protocol):
    """Told what happens while it happens."""

    def step_started(self, label: str, requests: int) -> None: ...

    def request_ended(self, record: RequestRecord) -> None: ...

    def step_ended(self, step: Step) -> None: ...


class Unseen:
    """A watcher that does nothing."""

    def step_started(self, label: str, requests: int) -> None:
        return None

    def request_ended(self, record: RequestRecord) -> None:
        return None

    def step_ended(self, step: Step) -> None:
        return None


class Traffic:
    """A measurement of one traffic: its repeats as steps."""

    def __init__(
        self,
        plan: TrafficPlan,
        kind: Kind,
        watching: Watching | None = None,
        *,
        keep: Keep | None = None,
        done: ResultFile | None = None,
    ) -> None:
        self.plan = plan
        self.watching = watching or Unseen()
        self.campaign = Campaign(plan, kind, plan.as_how(), self.watching, keep=keep, done=done)
        self.yardsticks: dict[str, Yardstick] = {}

    def run(self) -> ResultFile:
        """As `Sweep.run`."""
        return run_campaign(self.campaign, self.measure)

    async def measure(self) -> None:
        measured = {step.repeat for step in self.campaign.steps}
        async with self.campaign:
            await self.prepare()
            for repeat in range(1, self.plan.repeats + 1):
                if repeat not in measured:
                    step = await self.step(repeat, f"repeat {repeat} of {self.plan.repeats}", self.plan.arrivals)
                    if self.campaign.nothing_answered(step, self.load_words):
                        return

    @property
    def load_words(self) -> str:
        plan = self.plan
        return f"{plan.callers} callers" if plan.callers else f"arrivals {plan.arrivals.words if plan.arrivals else ''}"

    async def prepare(self) -> None:
        """Learns how the server counts words, where prompts of given lengths are asked for."""
        traced = self.plan.arrivals and any(row.prompt_tokens for row in self.plan.arrivals.trace)
        if self.plan.prompt_lengths or traced:
            for agent in self.plan.shares:
                self.yardsticks[agent] = await measured_yardstick(self.campaign.client, agent, self.plan.presets[:1])

    async def step(
        self, repeat: int, label: str, arrivals: Arrivals | None, stop: Callable[[StepRun], bool] | None = None
    ) -> Step:
        """One step of the traffic, by the schedule or by the plan's callers; `stop` replaces the plan's own rule."""
        plan = self.plan
        rule = stop or StopRule(plan.requests, plan.seconds, plan.until, plan.percentile)
        if stop is None and not plan.seconds and not plan.until:
            rule = _never_before_the_last
        self.watching.step_started(label, self._expected(arrivals))
        send = self._by_schedule(arrivals, repeat, rule) if arrivals else self._by_callers(repeat, rule)
        return await self.campaign.step(
            send, repeat=repeat, callers=plan.callers, rate_rps=arrivals.rate_rps if arrivals else None
        )

    def _expected(self, arrivals: Arrivals | None) -> int:
        """How many requests the step will have at the most, for a bar; those of a closed loop by time are not known: 0."""
        if not self.plan.seconds:
            return self.plan.requests
        return min(self.plan.requests, int(arrivals.rate_rps * self.plan.seconds) + 1) if arrivals else 0

    def _by_schedule(self, arrivals: Arrivals, repeat: int, rule: Callable[[StepRun], bool]) -> Send:
        plan = self.plan

        async def send(client: StreamClient, run: StepRun, on_request: Callable[[RequestRecord], None]) -> None:
            asked = questions(plan, self.yardsticks, repeat)
            moments = islice(arrivals.moments(plan.seed, repeat), plan.requests)
            coming = _paired(moments, asked, self.yardsticks, plan.seconds, plan.shares)
            await open_loop(client, coming, run, max_new_tokens=plan.max_new_tokens, on_request=on_request, enough=rule)

        return send

    def _by_callers(self, repeat: int, rule: Callable[[StepRun], bool]) -> Send:
        plan = self.plan

        async def send(client: StreamClient, run: StepRun, on_request: Callable[[RequestRecord], None]) -> None:
            # All callers take from one line, so that the traffic is the same however many of them there are.
            line = islice(questions(plan, self.yardsticks, repeat), plan.requests)
            await closed_loop(
                client, [line] * (plan.callers or 1), run,
                max_new_tokens=plan.max_new_tokens, on_request=on_request, enough=rule,
            )  # fmt: skip

        return send


def _never_before_the_last(run: StepRun) -> bool:
    return False


def questions(plan: TrafficPlan, yardsticks: Mapping[str, Yardstick], repeat: int) -> Iterator[Question]:
    """Who is asked what, without end: agents by their shares, each agent's prompts in a seeded order, presets in turn."""
    generator = random.Random(f"onecard traffic {plan.seed} {repeat}")
    orders = {agent: generator.sample(prompts.rows, len(prompts.rows)) for agent, prompts in plan.prompts.items()}
    asked = dict.fromkeys(plan.prompts, 0)
    for number, agent in enumerate(drawn_agents(plan.shares, generator)):
        place = asked[agent]
        asked[agent] += 1
        prompt = orders[agent][place % len(orders[agent])]
        if plan.prompt_lengths:
            prompt = prompt_of(yardsticks[agent], plan.prompt_lengths.draw(generator), number, prompt)
        preset = plan.presets[place % len(plan.presets)] if plan.presets else prompt.preset
        longest = plan.answer_lengths.draw(generator) if plan.answer_lengths else None
        yield Question(agent, preset, prompt, plan.deadline_ms or plan.deadlines.get(agent), longest)


def prompt_of(yardstick: Yardstick, tokens: int, number: int, like: Prompt) -> Prompt:
    """A prompt of so many tokens, with the row, preset and images of another."""
    return replace(like, text=text_of(yardstick.words_for(tokens), number))


def _paired(
    moments: Iterator[Arrival],
    asked: Iterator[Question],
    yardsticks: Mapping[str, Yardstick],
    seconds: float | None,
    agents: Mapping[str, float],
) -> Iterator[tuple[float, Question]]:
    """Each moment with its question; what a trace says of agent and lengths goes before what was drawn."""
    for number, (moment, question) in enumerate(zip(moments, asked, strict=False)):
        if seconds is not None and moment.at_s >= seconds:
            return
        if moment.agent is not None and moment.agent in agents:
            question = replace(question, agent=moment.agent)
        if moment.prompt_tokens and question.agent in yardsticks:
            sized = prompt_of(yardsticks[question.agent], moment.prompt_tokens, number, question.prompt)
            question = replace(question, prompt=sized)
        if moment.new_tokens:
            question = replace(question, max_new_tokens=moment.new_tokens)
        yield moment.at_s, question
