"""The service without HTTP: presets, health, stopping."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from onecard.engines.engine import MemoryReport
from onecard.errors import EngineFailed, InputError, UnknownName
from onecard.serving.answerers import Directory
from onecard.serving.service import Service
from onecard.wire.chat import ChatMessage, ChatRequest, CompletionRequest
from onecard.wire.generate import GenerateRequest

HELLO = (ChatMessage(role="user", content="hello"),)


def test_each_name_is_answered_by_its_own_adapter(service: Service, engine) -> None:
    for model, adapter in (
        ("explainer", "digest-1"),
        ("explainer@v0003", "digest-1"),
        ("quizmaster", "digest-2"),
        ("clerk", None),
        ("base", None),
    ):
        asyncio.run(service.chat(ChatRequest(model=model, messages=HELLO)).whole())
        assert engine.asked[-1].adapter == adapter


def test_a_chat_request_may_name_its_preset(service: Service, engine) -> None:
    answer = service.chat(ChatRequest(model="explainer", messages=HELLO, preset="verbose"))
    asyncio.run(answer.whole())
    assert (engine.asked[-1].messages[0].content, engine.asked[-1].max_new_tokens) == ("<V> hello", 32)
    with pytest.raises(InputError, match="Allowed: terse, verbose"):
        service.chat(ChatRequest(model="explainer", messages=HELLO, preset="loud"))


def test_the_first_preset_answers_when_none_is_called_default(service: Service, engine) -> None:
    answer = service.complete(CompletionRequest(model="explainer", prompt="hello"))
    asyncio.run(answer.whole())
    assert (answer.preset, engine.asked[-1].text) == ("terse", "<T> hello")


def test_generate_finds_the_only_agent_with_a_style(service: Service) -> None:
    assert service.generate(GenerateRequest(prompt="x", style="verbose")).who.agent == "explainer"
    assert service.generate(GenerateRequest(prompt="x", style="terse", agent="clerk")).who.agent == "clerk"
    with pytest.raises(InputError, match="Allowed: explainer, clerk"):
        service.generate(GenerateRequest(prompt="x", style="terse"))
    with pytest.raises(InputError, match="clerk has no style 'verbose'"):
        service.generate(GenerateRequest(prompt="x", style="verbose", agent="clerk"))
    with pytest.raises(UnknownName):
        service.generate(GenerateRequest(prompt="x", agent="nobody"))


def test_an_adapter_trained_on_plain_text_is_asked_with_plain_text(service: Service, engine) -> None:
    service.directory = Directory([replace(service.directory.agents[0], chat=False)])
    with pytest.raises(InputError, match="/v1/completions"):
        service.chat(ChatRequest(model="explainer", messages=HELLO))
    asyncio.run(service.generate(GenerateRequest(prompt="hello")).whole())
    assert (engine.asked[-1].text, engine.asked[-1].messages) == ("<T> hello", ())


def test_health_tells_who_is_served_and_what_it_takes(service: Service) -> None:
    health = service.health()
    assert (health.status, health.fleet, health.model, health.in_flight) == ("ok", "test", "embedded:fake", 0)
    assert [(a.agent, a.adapter, a.digest) for a in health.adapters] == [
        ("explainer", "style@v0003", "digest-1"),
        ("quizmaster", "quiz@v0001", "digest-2"),
        ("clerk", None, None),
    ]
    assert [(p.model, p.name, p.bytes) for p in health.memory.parts] == [
        ("base", "base weights", 1000),
        ("base", "kv cache", 24),
    ]
    assert health.memory.gpu_bytes is None
    assert health.memory.process_bytes is not None and health.memory.process_bytes > 2**20


def test_on_a_card_the_allocators_peak_is_the_gpu_memory(service: Service, engine) -> None:
    engine._info = replace(engine._info, device="cuda:0")
    engine.memory = lambda: MemoryReport((), 7 * 2**30)
    assert service.health().memory.gpu_bytes == service.health().memory.taken_bytes == 7 * 2**30


def test_a_dead_engine_is_a_status_and_no_crash(service: Service, engine) -> None:
    engine.closed = True
    health = service.health()
    assert (health.status, health.detail) == ("failed", "the engine is closed")
    with pytest.raises(EngineFailed, match="closed"):
        service.check_ready()


def test_a_stopping_service_takes_no_new_requests_and_finishes_old_ones(service: Service) -> None:
    answer = service.chat(ChatRequest(model="base", messages=HELLO))
    service.stop()
    assert service.health().status == "stopping"
    with pytest.raises(EngineFailed, match="stopping"):
        service.chat(ChatRequest(model="base", messages=HELLO))
    assert asyncio.run(answer.whole())[0].text == "[base] hello "


def test_closing_twice_ends_the_engines_once(service: Service, engine) -> None:
    calls = []
    engine.close = lambda: calls.append(1)
    service.close()
    service.close()
    assert calls == [1]
