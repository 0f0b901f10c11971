"""The sweep of document A7: 1..N callers, R repeats, Q requests of each caller; every request is kept.

The story is `Sweep.measure`. What was measured stays when it is cut short (Ctrl-C, a server that died): the result says that it is
partial, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from onecard.benchmark.load import StepRun, closed_loop, outcome_of, to_request
from onecard.benchmark.machine import this_machine
from onecard.benchmark.prompts import Prompts, draw
from onecard.benchmark.report_data import now
from onecard.errors import EngineFailed, InputError, OnecardError, UnknownName
from onecard.evidence.results import How, MemorySample, RequestRecord, ResultFile, Step, What
from onecard.wire.client import Client
from onecard.wire.health import Health

MEMORY_TIMEOUT_S = 10.0
MOST_CALLERS = 1000


@dataclass(frozen=True)
class SweepPlan:
    """What a person asked for. `prompts` maps each agent to what it is asked; times are seconds."""

    url: str
    prompts: Mapping[str, Prompts]
    presets: tuple[str, ...] = ()
    callers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    requests: int = 30
    repeats: int = 3
    warmup_requests: int = 1
    max_new_tokens: int | None = None
    seed: int = 0
    timeout_s: float = 120.0
    server_in_process: bool = False
    command: str | None = None
    fleet: str | None = None
    fleet_digest: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def total_requests(self) -> int:
        """Counted requests of the whole sweep."""
        return sum(self.callers) * self.requests * self.repeats


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

    def __init__(self, plan: SweepPlan, watcher: Watcher | None = None) -> None:
        self.plan = plan
        self.steps: list[Step] = []
        self.stopped_because: str | None = None
        self._watcher = watcher or Unwatched()
        self._health: Health | None = None
        self._started_at = now()

    def run(self) -> ResultFile:
        """Runs it to the end and returns the result; after Ctrl-C the partial one, unless nothing was measured yet.

        EngineFailed when nothing answers at the URL, or not in time; InputError or UnknownName when the server does not take the
        very first request.
        """
        try:
            asyncio.run(self.measure())
        except KeyboardInterrupt:
            if not self.steps:
                raise
            self.stopped_because = "interrupted"
        return self.result()

    async def measure(self) -> None:
        """The sweep itself."""
        plan = self.plan
        async with Client(plan.url, api_key=plan.api_key, timeout_s=plan.timeout_s) as client:
            await self._check(client)
            self._health = await _health(client)
            for callers in plan.callers:
                await self._warm_up(client, callers)
                for repeat in range(1, plan.repeats + 1):
                    step = await self._step(client, callers, repeat)
                    if all(request.outcome != "ok" for request in step.requests):
                        detail = step.requests[-1].detail if step.requests else None
                        self.stopped_because = f"no request of a step with {callers} callers was answered: {detail}"
                        return

    def result(self) -> ResultFile:
        """What was measured so far, as a result file."""
        plan = self.plan
        return ResultFile(
            started_at=self._started_at,
            ended_at=now(),
            complete=self.stopped_because is None,
            stopped_because=self.stopped_because,
            what=_what(plan, self._health, self.steps),
            where=this_machine(plan.url, plan.server_in_process, self._health),
            how=_how(plan),
            steps=tuple(self.steps),
        )

    async def _check(self, client: Client) -> None:
        """One request that is not counted: a wrong URL, model, preset or key is said now and not six hundred times."""
        question = draw(self.plan.prompts, self.plan.presets, 1, 1, self.plan.seed, 0)[0][0]
        try:
            async for _ in client.stream_chat(to_request(question, self.plan.max_new_tokens)):
                pass
        except UnknownName as error:
            raise UnknownName(error.problem, where=error.where, allowed=await _names(client)) from None
        except InputError:
            raise
        except EngineFailed as error:
            if isinstance(error.__cause__, httpx.ConnectError) or outcome_of(error) == "timeout":
                raise
        except OnecardError:
            pass  # a refusal is an outcome, to be counted in the steps

    async def _warm_up(self, client: Client, callers: int) -> None:
        if self.plan.warmup_requests:
            questions = draw(
                self.plan.prompts, self.plan.presets, callers, self.plan.warmup_requests, self.plan.seed, 0
            )
            await closed_loop(client, questions, StepRun(), max_new_tokens=self.plan.max_new_tokens)

    async def _step(self, client: Client, callers: int, repeat: int) -> Step:
        plan = self.plan
        questions = draw(plan.prompts, plan.presets, callers, plan.requests, plan.seed, repeat)
        memory = await self._memory(client, "before")
        run, started_at, complete = StepRun(), now(), False
        self._watcher.step_started(callers, repeat)
        try:
            await closed_loop(
                client,
                questions,
                run,
                max_new_tokens=plan.max_new_tokens,
                on_request=self._watcher.request_ended,
            )
            complete = True
            memory += await self._memory(client, "after")
        finally:
            step = Step(
                callers=callers,
                repeat=repeat,
                started_at=started_at,
                warmup_requests=plan.warmup_requests * callers if repeat == 1 else 0,
                complete=complete,
                loop_lag_p99_ms=run.lag_p99_ms,
                loop_lag_max_ms=run.lag_max_ms,
                memory=memory,
                requests=tuple(run.requests),
            )
            if step.requests:
                self.steps.append(step)
        self._watcher.step_ended(step)
        return step

    async def _memory(self, client: Client, moment: str) -> tuple[MemorySample, ...]:
        health = await _health(client) if self._health else None
        taken = health.memory.taken_bytes if health else None
        if health is None or taken is None:
            return ()
        kind = "process" if health.memory.gpu_bytes is None else "gpu"
        return (MemorySample.model_validate({"moment": moment, "kind": kind, "bytes": taken}),)


async def _names(client: Client) -> str | None:
    """What the server says can be asked; None when it does not say."""
    try:
        return ", ".join(await client.models()) or None
    except OnecardError:
        return None


async def _health(client: Client) -> Health | None:
    """What an onecard service says about itself; None for servers that have no such page."""
    try:
        async with asyncio.timeout(MEMORY_TIMEOUT_S):
            return await client.health()
    except (OnecardError, TimeoutError):
        return None


def _what(plan: SweepPlan, health: Health | None, steps: list[Step]) -> What:
    agents = tuple(plan.prompts)
    presets = sorted({request.preset for step in steps for request in step.requests if request.preset})
    seen = sorted({request.adapter for step in steps for request in step.requests if request.adapter})
    keys = [a.model for a in health.adapters if a.agent in agents] if health else []
    models = [m for m in health.models if m.name in keys] or list(health.models[:1]) if health else []
    return What(
        url=plan.url,
        agents=agents,
        presets=plan.presets or tuple(presets),
        model="+".join(dict.fromkeys(m.id for m in models)) or None,
        quantization="+".join(dict.fromkeys(m.quantization for m in models)) or None,
        engine="+".join(dict.fromkeys(m.engine for m in models)) or None,
        engine_version="+".join(dict.fromkeys(m.engine_version for m in models)) or None,
        adapters=tuple(seen),
        fleet=plan.fleet or (health.fleet if health else None) or None,
        fleet_digest=plan.fleet_digest or (health.fleet_digest if health else None) or None,
    )


def _how(plan: SweepPlan) -> How:
    sets = list(dict.fromkeys(plan.prompts.values()))
    return How(
        callers=plan.callers,
        requests=plan.requests,
        repeats=plan.repeats,
        warmup_requests=plan.warmup_requests,
        max_new_tokens=plan.max_new_tokens,
        seed=plan.seed,
        timeout_s=plan.timeout_s,
        prompts=", ".join(prompts.source for prompts in sets),
        prompts_sha256=",".join(prompts.sha256 for prompts in sets),
        prompts_rows=sum(len(prompts.rows) for prompts in sets),
        command=plan.command,
    )
