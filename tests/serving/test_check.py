"""The check asks as users do, and notices an agent that is not itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from onecard.serving.answerers import Directory
from onecard.serving.check import check
from onecard.serving.running import Running
from onecard.serving.service import Service


def test_every_agent_is_asked_for_a_token_and_for_an_answer(running: Running, engine) -> None:
    report = asyncio.run(check(running.url, question="hello"))
    assert report.passed
    assert [(p.agent, p.adapter, p.preset, p.tokens) for p in report.probes] == [
        ("explainer", "style@v0003", "terse", 3),
        ("quizmaster", "quiz@v0001", "default", 2),
        ("clerk", None, "warm", 3),
    ]
    assert report.probes[0].text == "[digest-1] <T> hello " and report.probes[0].first_token_s is not None
    assert [request.max_new_tokens for request in engine.asked[:2]] == [1, 8]
    assert report.record()["health"]["memory"]["parts"]


def test_an_agent_that_fails_does_not_hide_the_others(running: Running, engine) -> None:
    del engine.loaded["digest-1"]
    report = asyncio.run(check(running.url, question="hello"))
    assert not report.passed
    assert [probe.problem is None for probe in report.probes] == [False, True, True]
    assert "not loaded" in str(report.probes[0].problem)


def test_an_agent_answered_by_another_is_noticed(service: Service, running: Running) -> None:
    explainer, quizmaster, _ = service.directory.agents
    service.directory._by_name["explainer"] = quizmaster
    report = asyncio.run(check(running.url, question="hello"))
    assert "explainer was answered by quiz@v0001" in str(report.probes[0].problem)
    assert explainer.adapter is not None and explainer.adapter in str(report.probes[0].problem)


def test_an_agent_that_says_nothing_is_noticed(running: Running) -> None:
    report = asyncio.run(check(running.url, question="nothing"))
    assert [probe.problem is None for probe in report.probes] == [False] * 3


def test_an_agent_for_re_ranking_is_asked_to_rank(service: Service, running: Running, engine) -> None:
    agents = [replace(one, task="rerank") if one.agent == "clerk" else one for one in service.directory.agents]
    service.exchange(Directory(agents, service.directory.base))
    report = asyncio.run(check(running.url, question="hello"))
    assert report.passed and report.probes[2].text == "ranks first, at -14.000 nats a token: I do not know."

    async def score(prompt, continuations):
        return [float("-inf")] * len(continuations)

    engine.score = score
    report = asyncio.run(check(running.url, question="hello"))
    assert [probe.problem is None for probe in report.probes] == [True, True, False]
