"""Promotion, rollback, loading and unloading in a running service: at once for new requests, never for those in flight."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from onecard.adapters.store import Store
from onecard.serving.running import reload
from onecard.serving.settings import Settings

ADMIN = "/admin/adapters"


def ask(real, model: str = "explainer") -> tuple[str, str]:
    body = {"model": model, "messages": [{"role": "user", "content": "What is a stack?"}], "max_tokens": 12}
    response = httpx.post(f"{real.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.headers["x-onecard-adapter"], response.json()["choices"][0]["message"]["content"]


def post(real, what: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{real.url}{ADMIN}/{what}", json=body, timeout=60)


def rows(real) -> dict[str, dict[str, Any]]:
    listed = httpx.get(f"{real.url}{ADMIN}", timeout=60).json()["data"]
    return {row["adapter"]: row for row in listed if row["agent"] == "explainer"}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen within 20 s"
        time.sleep(0.02)


@pytest.fixture
def back_to_the_first(real):
    """Every test begins and ends with v0001 in production and nothing else loaded."""
    yield
    if ask(real)[0] != "style@v0001":
        assert post(real, "promote", agent="explainer", version="v0001", force=True, reason="tidy").status_code == 200
    post(real, "unload", agent="explainer", version="v0002")
    until(lambda: rows(real)["style@v0002"]["residency"] == "stored")


@pytest.mark.usefixtures("back_to_the_first")
def test_a_promotion_answers_new_requests_at_once_and_frees_the_old_one_after_those_in_flight(real) -> None:
    before = ask(real)
    assert rows(real)["style@v0001"]["residency"] == "answers" and rows(real)["style@v0001"]["bytes"] > 0
    began, answers = threading.Event(), []

    def stream() -> None:
        body = {"model": "explainer", "prompt": "A stack is", "max_tokens": 200, "stream": True}
        with httpx.stream("POST", f"{real.url}/v1/completions", json=body, timeout=60) as response:
            lines = []
            for line in response.iter_lines():
                lines.append(line)
                began.set()
            answers.append((response.headers["x-onecard-adapter"], [line for line in lines if line]))

    thread = threading.Thread(target=stream)
    thread.start()
    assert began.wait(30)
    change = post(real, "promote", agent="explainer", version="v0002", force=True, reason="a test").json()
    assert (change["before"], change["now"]) == ("style@v0001", "style@v0002")
    after = ask(real)
    assert after[0] == "style@v0002" and after[1] != before[1]
    thread.join()
    assert answers[0][0] == "style@v0001" and answers[0][1][-1] == "data: [DONE]"
    assert all(json.loads(line[6:]).get("error") is None for line in answers[0][1][:-1])
    until(lambda: rows(real)["style@v0001"]["residency"] == "stored")
    assert rows(real)["style@v0001"]["bytes"] == 0 and rows(real)["style@v0002"]["bytes"] > 0
    assert Store(real.folder / "modelstore").aliases("explainer", "style").production == "v0002"
    back = post(real, "rollback", agent="explainer").json()
    assert back["now"] == "style@v0001" and ask(real) == before


@pytest.mark.usefixtures("back_to_the_first")
def test_a_version_can_answer_beside_the_one_in_production(real) -> None:
    first = ask(real)
    assert httpx.post(f"{real.url}/v1/completions", json={"model": "explainer@v0002", "prompt": "x"}).status_code == 404
    assert post(real, "load", agent="explainer", version="candidate").json()["now"] == "style@v0002"
    assert rows(real)["style@v0002"]["residency"] == "beside"
    second = ask(real, "explainer@v0002")
    assert second[0] == "style@v0002" and second[1] != first[1] and ask(real) == first
    assert post(real, "unload", agent="explainer", version="v0002").status_code == 200
    until(lambda: rows(real)["style@v0002"]["residency"] == "stored")
    assert post(real, "unload", agent="explainer", version="v0002").status_code == 404
    assert post(real, "unload", agent="explainer", version="v0001").status_code == 409


def test_what_may_not_be_promoted_changes_nothing(real) -> None:
    before = ask(real)
    gate = post(real, "promote", agent="explainer", version="v0002")
    assert (gate.status_code, gate.json()["error"]["code"]) == (409, "refused")
    pinned = post(real, "promote", agent="ranker", version="v0001", force=True, reason="x")
    assert pinned.status_code == 409 and "rank@v0001" in pinned.json()["error"]["message"]
    for body in ({"agent": "plain"}, {"agent": "nobody"}, {"agent": "explainer", "version": "v0099"}):
        assert post(real, "promote", **body).status_code in (400, 404)
    until(lambda: rows(real)["style@v0002"]["residency"] == "stored")
    assert ask(real) == before
    assert Store(real.folder / "modelstore").aliases("explainer", "style").production == "v0001"


def test_a_damaged_version_is_refused_and_the_old_one_goes_on(real, tmp_path: Path) -> None:
    weights = real.folder / "modelstore/agents/explainer/adapters/style/v0002/adapter_model.safetensors"
    kept = shutil.copy(weights, tmp_path / "kept")
    before = ask(real)
    weights.chmod(0o644)
    try:
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused = post(real, "promote", agent="explainer", version="v0002", force=True, reason="x")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "adapter_refused")
    finally:
        shutil.copy(kept, weights)
    assert ask(real) == before
    assert Store(real.folder / "modelstore").aliases("explainer", "style").production == "v0001"


@pytest.mark.usefixtures("back_to_the_first")
def test_a_reload_follows_what_the_store_says(real) -> None:
    store = Store(real.folder / "modelstore")
    store.promote("explainer", "style", "v0002", force=True, reason="by another process")
    assert ask(real)[0] == "style@v0001"
    reload(real.service, Settings())
    assert ask(real)[0] == "style@v0002"
    store.rollback("explainer", "style")
    reload(real.service, Settings())
    assert ask(real)[0] == "style@v0001"


@pytest.mark.usefixtures("back_to_the_first")
def test_promotions_under_load_never_answer_with_the_wrong_adapter(real) -> None:
    """Each version has its own greedy answer: a signature that the headers must match."""
    said = {ask(real)[0]: ask(real)[1]}
    post(real, "promote", agent="explainer", version="v0002", force=True, reason="x")
    said |= {ask(real)[0]: ask(real)[1]}
    found: list[tuple[str, str]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            found.append(ask(real))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(4):
        version = f"v000{1 + number % 2}"
        changed = post(real, "promote", agent="explainer", version=version, force=True, reason="x")
        assert changed.status_code == 200, changed.text
        answered = len(found)
        until(lambda answered=answered: len(found) > answered + 1)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    assert {adapter for adapter, _ in found} == set(said) == {"style@v0001", "style@v0002"}
    assert all(said[adapter] == text for adapter, text in found)
