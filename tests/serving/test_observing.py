"""One line of JSON for each request, which never holds what was asked or answered unless somebody wanted that."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from onecard.serving.keys import KeyRing
from onecard.serving.observing import Observation, RequestLog
from onecard.serving.settings import Settings

SECRET = "my-private-word"
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "explainer", "messages": [{"role": "user", "content": SECRET}], "user": SECRET},
    "/v1/completions": {"model": "explainer", "prompt": SECRET, "stream": True},
    "/generate": {"prompt": SECRET, "style": "verbose"},
    "/v1/rerank": {"model": "clerk", "query": SECRET, "documents": [SECRET]},
    "/v1/score": {"model": "clerk", "text_1": SECRET, "text_2": SECRET},
}


def lines(service_around, *, prompts: bool = False, keys: KeyRing | None = None, key: str = "") -> list[dict[str, Any]]:
    stream = io.StringIO()
    bearer = {"authorization": f"Bearer {key}"} if key else {}
    settings = Settings(keys=keys, log=RequestLog(stream, prompts=prompts))
    with service_around(settings) as (running, _), httpx.Client(base_url=running.url, headers=bearer) as http:
        for route, body in ROUTES.items():
            response = http.post(route, json=body)
            assert response.status_code == 200, response.text
            assert len(response.headers["x-request-id"]) == 32
        http.post("/v1/completions", json={"model": SECRET, "prompt": SECRET})
        http.post(f"/{SECRET}?{SECRET}", content=SECRET)
        http.get(f"/v1/models/{SECRET}")
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_who_was_asked_and_what_came_of_it(service_around) -> None:
    told = lines(service_around)
    chat, stream, *_, unknown, lost, model = told
    assert (chat["agent"], chat["adapter"], chat["digest"]) == ("explainer", "style@v0003", "digest-1")
    assert (chat["route"], chat["status"], chat["code"]) == ("/v1/chat/completions", 200, None)
    assert (chat["prompt_tokens"], chat["tokens"], chat["queue_ms"]) == (2, 3, 12.5)
    assert chat["ms"] >= chat["first_token_ms"] > 0
    assert (stream["tokens"], stream["status"]) == (3, 200)
    assert (unknown["status"], unknown["code"], unknown["agent"]) == (404, "model_not_found", None)
    assert (lost["status"], lost["route"]) == (404, "unknown") and model["route"] == "/v1/models/{name}"
    assert len({line["id"] for line in told}) == len(told) == len(ROUTES) + 3


def test_what_was_asked_is_not_in_the_log(service_around) -> None:
    assert SECRET not in json.dumps(lines(service_around))


def test_prompts_are_logged_when_somebody_wants_it(service_around) -> None:
    told = lines(service_around, prompts=True)
    assert all(SECRET in json.dumps(line["asked"]) for line in told[: len(ROUTES)])


def test_the_log_names_the_key_and_never_holds_it(service_around, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.json")
    secret = ring.add("newsroom", ("infer:*",))
    told = lines(service_around, keys=ring, key=secret)
    assert {line["key"] for line in told} == {"newsroom"} and secret not in json.dumps(told)


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    stream = io.StringIO()
    log = RequestLog(stream)
    log.tell("reload", changes=["a"])
    assert json.loads(stream.getvalue())["event"] == "reload"
    stream.close()
    log.write(Observation("GET"), 0.1)
    log.tell("x")


@pytest.mark.parametrize("status", [401, 413, 415])
def test_a_refused_request_has_its_line(service_around, tmp_path: Path, status: int) -> None:
    stream, keys = io.StringIO(), KeyRing(tmp_path / "keys.json")
    secret = keys.add("a", ("infer:*",))
    bearer = {"authorization": f"Bearer {'x' if status == 401 else secret}", "content-type": "application/json"}
    if status == 415:
        bearer["content-type"] = "text/plain"
    with service_around(Settings(keys=keys, log=RequestLog(stream))) as (running, _):
        body = b"x" * (5 * 2**20 if status == 413 else 5)
        assert httpx.post(f"{running.url}/v1/score", content=body, headers=bearer).status_code == status
    line = json.loads(stream.getvalue().splitlines()[0])
    assert (line["status"], line["tokens"]) == (status, 0) and line["code"] is not None
