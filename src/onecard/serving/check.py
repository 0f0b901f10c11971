"""Tries a running service the way its users will: every agent is asked over HTTP, and what it says about itself is compared.

One token proves that it answers, one answer under its default preset shows how; an agent for re-ranking ranks three texts.
 What the service says of its memory is passed on.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from onecard.errors import EngineFailed, OnecardError
from onecard.fleet.presets import default_preset
from onecard.wire.chat import ChatMessage, ChatRequest
from onecard.wire.client import Client, TimedAnswer, Who
from onecard.wire.health import AgentHealth, Health
from onecard.wire.rerank import RerankRequest

QUESTION = "What is a hash table?"
CANDIDATES = ("A table that finds a value by the hash of its key.", "I do not know.", "table table table table")


@dataclass(frozen=True)
class Probe:
    """One agent asked. `problem` is None when it answered as itself; `first_token_s` is that of the preset's answer."""

    agent: str
    adapter: str | None
    preset: str
    tokens: int = 0
    first_token_s: float | None = None
    latency_s: float | None = None
    text: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """What the check found; `health` is the service's own account after the probes."""

    probes: tuple[Probe, ...]
    health: Health

    @property
    def passed(self) -> bool:
        return self.health.status == "ok" and all(probe.problem is None for probe in self.probes)

    def record(self) -> dict[str, Any]:
        """As plain data, for --json."""
        return {
            "passed": self.passed,
            "probes": [asdict(probe) for probe in self.probes],
            "health": self.health.model_dump(mode="json"),
        }


async def check(url: str, *, question: str = QUESTION, timeout_s: float = 120) -> CheckReport:
    """Asks every agent of the service at `url`, one after the other. EngineFailed when the service does not answer at all."""
    async with Client(url, timeout_s=timeout_s) as client:
        served = (await client.health()).adapters
        probes = [await _probe(client, agent, question) for agent in served]
        return CheckReport(tuple(probes), await client.health())


async def _probe(client: Client, agent: AgentHealth, question: str) -> Probe:
    preset = default_preset(agent.presets)
    if agent.task == "rerank":
        return await _rank_probe(client, agent, question, preset)
    try:
        _demand_itself(agent, await client.chat(_request(agent, question, max_tokens=1)))
        answer = await client.timed_chat(_request(agent, question, preset=preset))
        _demand_itself(agent, answer)
    except OnecardError as error:
        return Probe(agent.agent, agent.adapter, preset, problem=str(error))
    return Probe(
        agent.agent,
        agent.adapter,
        preset,
        tokens=answer.tokens,
        first_token_s=None if answer.first_token_s is None else round(answer.first_token_s - answer.sent_s, 4),
        latency_s=round(answer.end_s - answer.sent_s, 4),
        text=answer.text,
    )


async def _rank_probe(client: Client, agent: AgentHealth, question: str, preset: str) -> Probe:
    began_s = time.monotonic()
    try:
        answer, who = await client.rerank(RerankRequest(model=agent.agent, query=question, documents=CANDIDATES))
        _demand_who(agent, who)
        scores = [result.relevance_score for result in answer.results]
        if len(scores) != len(CANDIDATES) or not all(map(math.isfinite, scores)) or scores != sorted(scores)[::-1]:
            raise EngineFailed(f"{agent.agent} ranked {len(CANDIDATES)} texts with the scores {scores}")
    except OnecardError as error:
        return Probe(agent.agent, agent.adapter, preset, problem=str(error))
    text = f"ranks first, at {scores[0]:.3f} nats a token: {CANDIDATES[answer.results[0].index]}"
    return Probe(agent.agent, agent.adapter, preset, latency_s=round(time.monotonic() - began_s, 4), text=text)


def _request(
    agent: AgentHealth, question: str, *, max_tokens: int | None = None, preset: str | None = None
) -> ChatRequest:
    message = ChatMessage(role="user", content=question)
    return ChatRequest(model=agent.agent, messages=(message,), max_tokens=max_tokens, preset=preset)


def _demand_itself(agent: AgentHealth, answer: TimedAnswer) -> None:
    _demand_who(agent, answer.who)
    if answer.tokens < 1:
        raise EngineFailed(f"{agent.agent} answered nothing")


def _demand_who(agent: AgentHealth, who: Who) -> None:
    said = (who.adapter, who.digest)
    expected = (agent.adapter or "none", agent.digest or "none")
    if said != expected:
        raise EngineFailed(f"{agent.agent} was answered by {said[0]} ({said[1]}), not by {expected[0]} ({expected[1]})")
