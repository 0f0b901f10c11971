"""A measurement of several steps against one service: checked before it begins, kept after every step, resumable.

What a step sends is the caller's business (`load.py`); here stand what every measurement shares: the first request that nobody counts,
the service's word about itself, the memory before and after, the record of a step also when it is cut short, and the result so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol

import httpx

from onecard.benchmark.http_stream import StreamClient
from onecard.benchmark.load import StepRun, outcome_of, to_request
from onecard.benchmark.machine import this_machine
from onecard.benchmark.prompts import Prompts, draw
from onecard.benchmark.report_data import now
from onecard.errors import EngineFailed, InputError, OnecardError, ResultError, UnknownName
from onecard.evidence.results import How, MemorySample, RequestRecord, ResultFile, Step, What
from onecard.wire.client import Client
from onecard.wire.health import Health

MEMORY_TIMEOUT_S = 10.0
UNDER_WAY = "not finished"
Kind = Literal["sweep", "context", "steady", "mix", "limit"]
Keep = Callable[[ResultFile], None]
Send = Callable[[StreamClient, StepRun, Callable[[RequestRecord], None]], Awaitable[None]]


@dataclass(frozen=True)
class Target:
    """Who is asked, and how a request looks. `prompts` maps each agent to what it is asked; times are seconds."""

    url: str
    prompts: Mapping[str, Prompts]
    presets: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    seed: int = 0
    timeout_s: float = 120.0
    server_in_process: bool = False
    command: str | None = None
    fleet: str | None = None
    fleet_digest: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def how(self, **load: Any) -> How:
        """The load as a record; `load` is what the kind of measurement adds."""
        sets = list(dict.fromkeys(self.prompts.values()))
        return How(
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            timeout_s=self.timeout_s,
            prompts=", ".join(prompts.source for prompts in sets),
            prompts_sha256=",".join(prompts.sha256 for prompts in sets),
            prompts_rows=sum(len(prompts.rows) for prompts in sets),
            command=self.command,
            **load,
        )


class Told(Protocol):
    """Is told what ended."""

    def request_ended(self, record: RequestRecord) -> None: ...

    def step_ended(self, step: Step) -> None: ...


class Campaign:
    """One measurement. Inside its context steps are run; `result` is what was measured, also when it was interrupted.

    `done` are steps of an interrupted run of the same load; `keep` is called after every step with the result so far.
    """

    def __init__(
        self,
        target: Target,
        kind: Kind,
        how: How,
        told: Told,
        *,
        keep: Keep | None = None,
        done: ResultFile | None = None,
    ) -> None:
        self.target, self.kind, self.how, self.told = target, kind, how, told
        self.steps: list[Step] = [step for step in done.steps if step.complete] if done else []
        self.stopped_because: str | None = None
        self.health: Health | None = None
        self._keep = keep
        self._started_at = done.started_at if done else now()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Campaign:
        """EngineFailed when nothing answers at the URL, or not in time; InputError or UnknownName when the server does not take
        the very first request."""
        target = self.target
        try:
            self.ask = await self._open.enter_async_context(
                Client(target.url, api_key=target.api_key, timeout_s=target.timeout_s)
            )
            self.client = await self._open.enter_async_context(
                StreamClient(target.url, api_key=target.api_key, timeout_s=target.timeout_s)
            )
            await self._check()
            self.health = await _health(self.ask)
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def step(self, send: Send, *, repeat: int, callers: int | None = None, **about: Any) -> Step:
        """Runs one step and keeps it, also when it is cut short. `about` are further fields of the record."""
        memory = await self._memory("before")
        run, started_at, complete = StepRun(), now(), False
        try:
            await send(self.client, run, self.told.request_ended)
            complete = True
            memory += await self._memory("after")
        finally:
            step = Step(
                callers=callers or max(run.most_at_once, 1),
                repeat=repeat,
                started_at=started_at,
                complete=complete,
                loop_lag_p99_ms=run.lag_p99_ms,
                loop_lag_max_ms=run.lag_max_ms,
                memory=memory,
                requests=tuple(run.requests),
                **about,
            )
            if step.requests:
                self.steps.append(step)
                if self._keep is not None:
                    self._keep(self.result(self.stopped_because or UNDER_WAY))
        self.told.step_ended(step)
        return step

    def nothing_answered(self, step: Step, load: str) -> bool:
        """Whether no request of the step was answered: then the measurement ends, and says why."""
        if any(request.outcome == "ok" for request in step.requests):
            return False
        detail = step.requests[-1].detail if step.requests else None
        self.stopped_because = f"no request of a step with {load} was answered: {detail}"
        return True

    def result(self, stopped_because: str | None = None) -> ResultFile:
        """What was measured so far, as a result file."""
        target, why = self.target, stopped_because or self.stopped_because
        return ResultFile(
            kind=self.kind,
            started_at=self._started_at,
            ended_at=now(),
            complete=why is None,
            stopped_because=why,
            what=_what(target, self.health, self.steps),
            where=this_machine(target.url, target.server_in_process, self.health),
            how=self.how,
            steps=tuple(self.steps),
        )

    async def _check(self) -> None:
        """One request that is not counted: a wrong URL, model, preset or key is said now and not six hundred times."""
        target = self.target
        question = draw(target.prompts, target.presets, 1, 1, target.seed, 0)[0][0]
        try:
            async for _ in self.ask.stream_chat(to_request(question, target.max_new_tokens)):
                pass
        except UnknownName as error:
            raise UnknownName(error.problem, where=error.where, allowed=await _names(self.ask)) from None
        except InputError:
            raise
        except EngineFailed as error:
            if isinstance(error.__cause__, httpx.ConnectError) or outcome_of(error) == "timeout":
                raise
        except OnecardError:
            pass  # a refusal is an outcome, to be counted in the steps

    async def _memory(self, moment: str) -> tuple[MemorySample, ...]:
        health = await _health(self.ask) if self.health else None
        taken = health.memory.taken_bytes if health else None
        if health is None or taken is None:
            return ()
        kind = "process" if health.memory.gpu_bytes is None else "gpu"
        return (MemorySample.model_validate({"moment": moment, "kind": kind, "bytes": taken}),)


def run_campaign(campaign: Campaign, measure: Callable[[], Awaitable[None]]) -> ResultFile:
    """Runs it to the end and returns the result; after Ctrl-C the partial one, unless nothing was measured yet."""

    async def measured() -> None:
        await measure()

    before = len(campaign.steps)
    try:
        asyncio.run(measured())
    except KeyboardInterrupt:
        if len(campaign.steps) == before == 0:
            raise
        campaign.stopped_because = "interrupted"
    return campaign.result()


def resumable(result: ResultFile, kind: Kind, target: Target, how: How, file: str) -> ResultFile:
    """The interrupted result, when it measured the same load on the same agents; ResultError that names what differs."""
    old, new = result.how.model_dump(exclude={"command"}), how.model_dump(exclude={"command"})
    differing = [key for key in new if old[key] != new[key]]
    if result.kind != kind:
        raise ResultError(f"a {result.kind} cannot be resumed as a {kind}", where=f"{file}: kind")
    if None not in (target.fleet_digest, result.what.fleet_digest) and target.fleet_digest != result.what.fleet_digest:
        raise ResultError(
            "the fleet was another one then", where=f"{file}: what.fleet_digest", next_step="start afresh"
        )
    if set(result.what.agents) != set(target.prompts):
        asked = ", ".join(result.what.agents)
        raise ResultError("it asked other agents", where=f"{file}: what.agents", allowed=asked)
    if differing:
        key = differing[0]
        raise ResultError(
            f"it measured another load: {key} was {old[key]!r}, now {new[key]!r}",
            where=f"{file}: how.{key}",
            next_step=f"repeat its own command: {result.how.command}" if result.how.command else "start afresh",
        )
    return result


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


def _what(target: Target, health: Health | None, steps: Sequence[Step]) -> What:
    agents = tuple(target.prompts)
    presets = sorted({request.preset for step in steps for request in step.requests if request.preset})
    seen = sorted({request.adapter for step in steps for request in step.requests if request.adapter})
    keys = [a.model for a in health.adapters if a.agent in agents] if health else []
    models = [m for m in health.models if m.name in keys] or list(health.models[:1]) if health else []
    return What(
        url=target.url,
        agents=agents,
        presets=target.presets or tuple(presets),
        model="+".join(dict.fromkeys(m.id for m in models)) or None,
        quantization="+".join(dict.fromkeys(m.quantization for m in models)) or None,
        engine="+".join(dict.fromkeys(m.engine for m in models)) or None,
        engine_version="+".join(dict.fromkeys(m.engine_version for m in models)) or None,
        adapters=tuple(seen),
        fleet=target.fleet or (health.fleet if health else None) or None,
        fleet_digest=target.fleet_digest or (health.fleet_digest if health else None) or None,
    )
