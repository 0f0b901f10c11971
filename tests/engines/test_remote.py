"""A server elsewhere as an engine: an onecard service on loopback under the contract, and a server that is not onecard's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from onecard.engines.engine import Engine
from onecard.engines.local.engine import LocalEngine
from onecard.engines.remote import RemoteEngine
from onecard.errors import AdapterRefused, EngineFailed, InputError, UnknownName
from onecard.fleet.schema import Preset
from onecard.serving.answerers import Answerer, Directory
from onecard.serving.listening import listen
from onecard.serving.running import run_in_background
from onecard.serving.service import FleetName, Service
from onecard.wire.fake_server import FakeServer

pytest.register_assert_rewrite("tests.engines.contract")

from tests.engines.conftest import FINGERPRINT, MadeAdapter, Told, ask, asked, collect  # noqa: E402
from tests.engines.contract import *  # noqa: E402, F403
from tests.engines.contract import CONTEXT, QUESTIONS, Subject, check_closing, subject_of  # noqa: E402

# A remote engine does not say how likely texts are, and what a server holds does not change by what is asked of it from here.
del test_scores_rank_what_an_adapter_would_say_itself_first  # noqa: F821
del test_memory_names_its_parts_and_removing_an_adapter_frees_its_own  # noqa: F821
del test_a_request_that_began_finishes_on_the_adapter_that_is_removed_meanwhile  # noqa: F821
del test_an_unknown_adapter_is_an_error_and_never_the_base  # noqa: F821  # asks for scores too: below
del test_info_and_token_counts  # noqa: F821


@pytest.fixture(scope="module")
def served(mini: Path, adapters: dict[str, MadeAdapter]) -> Iterator[str]:
    """The address of a service with every adapter, and `shy`, an agent whose default style has a token."""
    engine = LocalEngine.open(
        mini, model_id="embedded:mini", fingerprint=FINGERPRINT, quantization="none", double_quantization=True,
        dtype="fp32", device="cpu", context=CONTEXT, concurrency=4,
    )  # fmt: skip
    agents = []
    for name, made in adapters.items():
        digest = engine.load_adapter(made.folder, made.manifest)
        agents.append(Answerer(name, "base", engine, adapter=f"{name}@v0001", digest=digest))
    service = Service(
        FleetName("served", "0" * 64), {"base": engine}, Directory(agents, Answerer("base", "base", engine))
    )
    with run_in_background(service, listen("127.0.0.1", 0)) as running:
        yield running.url


def open_remote(url: str) -> RemoteEngine:
    return RemoteEngine.open(url, model_id="embedded:mini", context=CONTEXT, concurrency=4)


@pytest.fixture(scope="module")
def subject(served: str, mini: Path, adapters: dict[str, MadeAdapter]) -> Iterator[Subject]:
    def idle(engine: Engine) -> bool:
        return all(part.bytes == 0 for part in engine.memory().parts if part.name == "kv cache")

    opened = subject_of(mini, "none", adapters, lambda: open_remote(served), idle)
    yield opened
    opened.engine.close()


def test_closing_ends_what_is_in_flight_and_everything_after(served: str) -> None:
    check_closing(open_remote(served))


def test_an_unknown_adapter_is_an_error(subject: Subject) -> None:
    for adapter in ("0" * 64, ""):
        with pytest.raises(UnknownName):
            ask(subject.engine, asked(QUESTIONS[0], adapter))
    with pytest.raises(UnknownName):
        subject.engine.remove_adapter("0" * 64)


def test_an_adapter_that_the_service_does_not_serve_is_refused(subject: Subject) -> None:
    made = subject.made["plain"]
    absent = made.manifest.model_copy(update={"digest": "a" * 64})
    with pytest.raises(AdapterRefused, match="does not serve the adapter aaaaaaaaaaaa"):
        subject.engine.load_adapter(made.folder, absent)


def test_what_it_cannot_do_is_said(subject: Subject) -> None:
    with pytest.raises(InputError, match="does not say how likely"):
        asyncio.run(subject.engine.score(asked("x"), ["y"]))
    with pytest.raises(InputError, match="tokenizer"):
        subject.engine.count_tokens("x")
    assert subject.engine.info().base_fingerprint == FINGERPRINT


def test_a_style_that_would_be_put_twice_is_refused(mini: Path, adapters: dict[str, MadeAdapter]) -> None:
    made = adapters["styled"]
    engine = LocalEngine.open(
        mini, model_id="embedded:mini", fingerprint=FINGERPRINT, quantization="none", double_quantization=True,
        device="cpu", context=64, concurrency=1,
    )  # fmt: skip
    digest = engine.load_adapter(made.folder, made.manifest)
    terse = Answerer(
        "shy", "base", engine, adapter="styled@v0001", digest=digest, presets={"terse": Preset(token="<STYLE_TERSE>")}
    )
    directory = Directory([terse], Answerer("base", "base", engine))
    service = Service(FleetName("f", "0"), {"base": engine}, directory)
    with run_in_background(service, listen("127.0.0.1", 0)) as running:
        remote = RemoteEngine.open(running.url, model_id="embedded:mini", context=64, concurrency=1)
        with pytest.raises(AdapterRefused, match="default style before every prompt"):
            remote.load_adapter(made.folder, made.manifest)


def test_a_server_that_names_no_adapter_is_trusted_with_none(adapters: dict[str, MadeAdapter]) -> None:
    async def with_a_fake() -> None:
        async with FakeServer(tokens=4, models=("some/model",)) as server:
            with pytest.raises(UnknownName, match="does not serve other/model"):
                await asyncio.to_thread(
                    RemoteEngine.open, server.url, model_id="other/model", context=64, concurrency=1
                )
            engine = await asyncio.to_thread(
                RemoteEngine.open, f"{server.url}/v1", model_id="some/model", context=64, concurrency=1, key="k"
            )
            told = Told.of(await collect(engine, asked("x")))
            assert told == Told("word0 word1 word2 word3 ", 4, "stop")
            assert server.seen[-1].headers["authorization"] == "Bearer k"
            made = adapters["plain"]
            with pytest.raises(AdapterRefused, match="does not say which adapter answers"):
                await asyncio.to_thread(engine.load_adapter, made.folder, made.manifest)
            assert ((await asyncio.to_thread(engine.memory)).total_bytes, engine.info().base_fingerprint) == (0, "")

    asyncio.run(with_a_fake())


def test_another_adapter_than_asked_is_a_failure() -> None:
    async def swapped() -> None:
        async with FakeServer(tokens=4, models=("m",), headers={"x-onecard-digest": "b" * 64}) as server:
            engine = await asyncio.to_thread(RemoteEngine.open, server.url, model_id="m", context=64, concurrency=1)
            with pytest.raises(EngineFailed, match="the base was asked and bbbbbbbbbbbb answered"):
                await collect(engine, asked("x"))
            cast(Any, engine)._names["a" * 64] = "m"
            with pytest.raises(EngineFailed, match="the adapter aaaaaaaaaaaa was asked and bbbbbbbbbbbb answered"):
                await collect(engine, asked("x", "a" * 64))

    asyncio.run(swapped())


def test_nothing_at_the_address_says_so() -> None:
    with pytest.raises(EngineFailed, match="nothing answers"):
        RemoteEngine.open("http://127.0.0.1:9", model_id="m", context=64, concurrency=1)
