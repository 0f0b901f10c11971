"""Over real HTTP: what the page may do, who may look, and that its figures are what really happened."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from onecard.engines.engine import Chunk
from onecard.serving.dashboard import Expected, Promise, memory_state, outcome_of
from onecard.serving.keys import KeyRing
from onecard.serving.listening import listen
from onecard.serving.running import Running, run_in_background
from onecard.serving.service import Service
from onecard.serving.settings import Settings
from onecard.wire.health import MemoryHealth, MemoryPartHealth

EXPECTED = Expected(
    card="a card",
    card_bytes=8000,
    reserve_bytes=500,
    planned_bytes={"weights": 1000, "cache": 48, "adapters": 20, "working": 300, "process": 700},
    deadlines={"explainer": Promise(60.0, 95.0), "clerk": Promise(0.000001, 95.0)},
)


@contextmanager
def serving(service: Service, settings: Settings) -> Iterator[httpx.Client]:
    with (
        run_in_background(service, listen("127.0.0.1", 0), grace_s=5, settings=settings) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        yield http


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with serving(service, Settings(expected=EXPECTED)) as http:
        yield http


def agent_of(http: httpx.Client, name: str) -> dict[str, Any]:
    return next(one for one in http.get("/dashboard.json").json()["agents"] if one["agent"] == name)


def settled(http: httpx.Client, name: str, outcome: str, count: int = 1) -> dict[str, Any]:
    """The agent once so many of its requests have ended so: a client may have its answer before the service has counted it."""
    end_s = time.monotonic() + 20
    while (found := agent_of(http, name))["requests"].get(outcome) != count:
        assert time.monotonic() < end_s, found["requests"]
        time.sleep(0.01)
    return found


def test_the_page_allows_its_own_script_and_style_and_nothing_else(running: Running) -> None:
    page = httpx.get(f"{running.url}/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    rules = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    for tag in ("script", "style"):
        inline = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in inline]
        assert len(inline) == 1 and rules[f"{tag}-src"] == f"'sha256-{digests[0]}'"
    assert (rules["default-src"], rules["connect-src"], rules["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_page_loads_nothing_and_writes_no_markup(running: Running) -> None:
    page = httpx.get(f"{running.url}/").text
    assert set(re.findall(r"https?://[^'\"\s]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "localStorage", "sessionStorage",
                 "document.cookie", "eval(", "onclick=", "style=", " src="):  # fmt: skip
        assert word not in page, word


def test_the_state_says_what_is_served_and_planned(http: httpx.Client) -> None:
    state = http.get("/dashboard.json").json()
    assert (state["status"], state["fleet"], state["generating"], state["waiting"]) == ("ok", "test", 0, 0)
    assert [(one["agent"], one["adapter"], one["deadline_s"]) for one in state["agents"]] == [
        ("explainer", "style@v0003", 60.0), ("quizmaster", "quiz@v0001", None),
        ("clerk", None, 0.000001), ("base", None, None),
    ]  # fmt: skip
    names = {one["name"]: one for one in state["names"]}
    assert set(names) == {"explainer", "explainer@v0003", "quizmaster", "quizmaster@v0001", "clerk", "base"}
    assert (names["explainer"]["presets"], names["explainer"]["default_preset"]) == (["terse", "verbose"], "terse")
    parts = {one["part"]: (one["planned_bytes"], one["real_bytes"]) for one in state["memory"]["parts"]}
    taken = state["memory"]["taken_bytes"]
    assert parts == {"weights": (1000, 1000), "cache": (48, 24), "adapters": (20, 0), "rest": (1000, taken - 1024)}
    assert (state["memory"]["card"], state["memory"]["card_bytes"]) == ("a card", 8000)


def test_every_way_a_request_ends_is_counted_once(http: httpx.Client) -> None:
    def ask(model: str, words: str, **more: Any) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": words}], **more}
        return http.post("/v1/chat/completions", json=body).status_code

    assert [ask("explainer", "hello"), ask("explainer", "hello there", stream=True)] == [200, 200]
    assert [ask("quizmaster", "die now"), ask("quizmaster", "crash now")] == [503, 500]
    assert ask("quizmaster", "die now", stream=True) == 200  # broken off later, and said so
    assert ask("clerk", "hello", max_tokens=1000) == 400
    kept = settled(http, "explainer", "answered", 2)
    assert (kept["requests"], kept["recent"]["in_time"], kept["recent"]["judged"]) == ({"answered": 2}, 2, 2)
    assert kept["recent"]["p50_s"] > 0 and kept["recent"]["tokens_s"] > 0
    assert settled(http, "quizmaster", "failed", 3)["recent"]["in_time"] is None
    assert settled(http, "clerk", "refused")["recent"]["judged"] == 0


def test_a_deadline_that_was_missed_is_not_kept(http: httpx.Client) -> None:
    http.post("/generate", json={"prompt": "hello", "agent": "clerk"})
    clerk = settled(http, "clerk", "answered")["recent"]
    assert (clerk["in_time"], clerk["judged"]) == (0, 1)


def test_who_stops_an_answer_has_left(http: httpx.Client, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def without_end(request: Any, words: Any) -> AsyncIterator[Chunk]:
        while True:
            yield Chunk("and ", 1, 1)
            await asyncio.sleep(0.01)

    monkeypatch.setattr(engine, "_words", without_end)
    body = {"model": "clerk", "stream": True, "messages": [{"role": "user", "content": "say"}]}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_bytes()  # dropped, it would close the answer
        next(pieces)
        assert http.get("/dashboard.json").json()["generating"] == 1
    assert settled(http, "clerk", "left")["recent"]["judged"] == 0
    with pytest.raises(httpx.ReadTimeout):
        http.post("/generate", json={"prompt": "say", "agent": "clerk"}, timeout=0.5)
    settled(http, "clerk", "left", 2)


def test_with_keys_the_page_is_open_and_what_it_shows_is_not(service: Service, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.json")
    secret = ring.add("somebody", ("infer:explainer",))
    with serving(service, Settings(keys=ring)) as http:
        assert http.get("/").status_code == 200
        assert http.get("/dashboard.json").status_code == 401
        assert http.get("/dashboard.json", headers={"authorization": f"Bearer {secret}"}).status_code == 200


def test_without_a_plan_only_what_is_real_is_shown() -> None:
    parts = (
        MemoryPartHealth(model="base", name="base weights", bytes=100),
        MemoryPartHealth(model="base", name="adapter 0123", bytes=7),
        MemoryPartHealth(model="base", name="adapter 4567", bytes=8),
        MemoryPartHealth(model="base", name="something new", bytes=5),
    )
    said = memory_state(MemoryHealth(parts=parts, gpu_bytes=150, process_bytes=9000), Expected())
    assert [(one.part, one.planned_bytes, one.real_bytes) for one in said.parts] == [
        ("weights", None, 100), ("cache", None, 0), ("adapters", None, 15), ("rest", None, 35),
    ]  # fmt: skip
    assert (said.of, said.taken_bytes, said.card) == ("card", 150, None)


@pytest.mark.parametrize(
    ("status", "code", "whole", "broken", "outcome"),
    [
        (200, None, True, False, "answered"),
        (200, None, False, False, "left"),
        (200, None, True, True, "failed"),
        (400, "invalid_request", True, False, "refused"),
        (400, None, True, False, "left"),
        (503, "overloaded", True, False, "failed"),
        (429, "overloaded", True, False, "failed"),
        (0, None, False, False, "left"),
    ],
)
def test_outcomes(status: int, code: str | None, whole: bool, broken: bool, outcome: str) -> None:
    assert outcome_of(status, code, whole=whole, broken=broken) == outcome
