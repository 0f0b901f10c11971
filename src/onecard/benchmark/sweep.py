"""The sweep of document A7: 1..N callers, R repeats, Q requests of each caller; every request is kept.

The story is `Sweep.measure`. What was measured stays when it is cut short (Ctrl-C, a server that died): the result says that it is
partial, and why; given back as `done`, it is continued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from onecard.benchmark.campaign import Campaign, Keep, Target, run_campaign
from onecard.benchmark.http_stream import StreamClient
from onecard.benchmark.load import StepRun, closed_loop
from onecard.benchmark.prompts import draw
from onecard.errors import InputError
from onecard.evidence.results import How, RequestRecord, ResultFile, Step

MOST_CALLERS = 1000


@dataclass(frozen=True)
class SweepPlan(Target):
    """What a person asked for."""

    callers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    requests: int = 30
    repeats: int = 3
    warmup_requests: int = 1

    @property
    def total_requests(self) -> int:
        """Counted requests of the whole sweep."""
        return sum(self.callers) * self.requests * self.repeats

    def as_how(self) -> How:
        return self.how(
            callers=self.callers, requests=self.requests, repeats=self.repeats, warmup_requests=self.warmup_requests
        )


def parse_callers(text: str) -> tuple[int, ...]:
    """Numbers of callers: "1..6", "1,2,4,8" or both mixed; sorted, each once. InputError otherwise."""
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise _not_callers(text)
        low, high = int(first), int(last if dots else first)
        if not 1 <= low <= high <= MOST_CALLERS:
            raise _not_callers(text)
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def _not_callers(text: str) -> InputError:
    return InputError(
        f"'{text}' is not a number of callers", where="--callers", allowed=f"1..6 or 1,2,4,8; 1 to {MOST_CALLERS}"
    )


class Watcher(Protocol):
    """Told what happens while it happens."""

    def step_started(self, callers: int, repeat: int) -> None: ...

    def request_ended(self, record: RequestRecord) -> None: ...

    def step_ended(self, step: Step) -> None: ...


class Unwatched:
    """A watcher that does nothing."""

    def step_started(self, callers: int, repeat: int) -> None:
        return None

    def request_ended(self, record: RequestRecord) -> None:
        return None

    def step_ended(self, step: Step) -> None:
        return None


class Sweep:
    """One run of a plan. After `run`, also when it was interrupted, `result` is what was measured."""

    def __init__(
        self,
        plan: SweepPlan,
        watcher: Watcher | None = None,
        *,
        keep: Keep | None = None,
        done: ResultFile | None = None,
    ) -> None:
        self.plan = plan
        self._watcher = watcher or Unwatched()
        self._campaign = Campaign(plan, "sweep", plan.as_how(), self._watcher, keep=keep, done=done)

    @property
    def steps(self) -> list[Step]:
        return self._campaign.steps

    def run(self) -> ResultFile:
        """Runs it to the end and returns the result; after Ctrl-C the partial one, unless nothing was measured yet.

        EngineFailed when nothing answers at the URL, or not in time; InputError or UnknownName when the server does not take the
        very first request.
        """
        return run_campaign(self._campaign, self.measure)

    async def measure(self) -> None:
        """The sweep itself; steps that were measured before are left out."""
        plan = self.plan
        measured = {(step.callers, step.repeat) for step in self.steps}
        async with self._campaign:
            for callers in plan.callers:
                repeats = [repeat for repeat in range(1, plan.repeats + 1) if (callers, repeat) not in measured]
                if repeats:
                    await self._warm_up(callers)
                for repeat in repeats:
                    warmup = plan.warmup_requests * callers if repeat == repeats[0] else 0
                    step = await self._step(callers, repeat, warmup)
                    if self._campaign.nothing_answered(step, f"{callers} callers"):
                        return

    def result(self) -> ResultFile:
        """What was measured so far, as a result file."""
        return self._campaign.result()

    async def _warm_up(self, callers: int) -> None:
        plan = self.plan
        if plan.warmup_requests:
            questions = draw(plan.prompts, plan.presets, callers, plan.warmup_requests, plan.seed, 0)
            await closed_loop(self._campaign.client, questions, StepRun(), max_new_tokens=plan.max_new_tokens)

    async def _step(self, callers: int, repeat: int, warmup_requests: int) -> Step:
        plan = self.plan
        questions = draw(plan.prompts, plan.presets, callers, plan.requests, plan.seed, repeat)
        self._watcher.step_started(callers, repeat)

        async def send(client: StreamClient, run: StepRun, on_request: Callable[[RequestRecord], None]) -> None:
            await closed_loop(client, questions, run, max_new_tokens=plan.max_new_tokens, on_request=on_request)

        return await self._campaign.step(send, repeat=repeat, callers=callers, warmup_requests=warmup_requests)
