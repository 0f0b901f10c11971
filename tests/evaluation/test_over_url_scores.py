"""Likelihoods over real HTTP from a server that echoes, and every way in which a server does not give them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import pytest

from onecard.errors import EngineFailed
from onecard.evaluation.over_url_scores import cannot_score, mean_log_likelihood, scoring
from onecard.wire.chat import Completion
from onecard.wire.client import Client


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """Every word with the space before it is a token; its log-probability is minus its length. One token is added."""
    tokens = [*re.findall(r"\s*\S+|\s+$", body["prompt"]), " more"]
    values = [None, *(-float(len(token)) for token in tokens[1:])]
    logprobs = {"tokens": tokens, "token_logprobs": values}
    choice = {"index": 0, "text": "".join(tokens), "finish_reason": "length", "logprobs": logprobs}
    usage = {"prompt_tokens": len(tokens) - 1, "completion_tokens": 1, "total_tokens": len(tokens)}
    return {"object": "text_completion", "model": body["model"], "choices": [choice], "usage": usage}


@contextmanager
def serving(answer=echo, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server of /v1/completions on loopback, and the bodies it got."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            payload = json.dumps(answer(seen[-1])).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_only_the_answers_tokens_count(makes: ModuleType) -> None:
    def render(prompt: str, text: str) -> tuple[str, str]:
        return f"user: {prompt} assistant:", f" {text} <end>"

    async def ask(url: str) -> list[float]:
        async with Client(url) as client:
            assert await cannot_score(client, "writer") is None
            return list(await scoring(client, "writer", makes.PRESETS, render)(makes.a_question(), ["a heap", "stack"]))

    with serving() as (url, seen):
        found = asyncio.run(ask(url))
    assert found == pytest.approx([-(2 + 5 + 6) / 3, -(6 + 6) / 2])
    assert seen[1]["prompt"] == f"user: <T> {makes.a_question().prompt} assistant: a heap <end>"
    assert (seen[1]["echo"], seen[1]["logprobs"], seen[1]["model"]) == (True, 1, "writer")


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (lambda body: {"error": {"message": "echo is not supported"}}, 400, "echo is not supported"),
        (lambda body: {"error": {"message": "no route"}}, 404, "no route"),
        (lambda body: {"model": "m", "choices": [{"text": "x"}]}, 200, "no log-probabilities"),
        (lambda body: {"model": "m", "choices": []}, 200, "no log-probabilities"),
        (lambda body: echo({**body, "prompt": "something else entirely"}), 200, "not echoed"),
    ],
)
def test_a_server_that_cannot_says_why(answer, status: int, reason: str) -> None:
    async def ask(url: str) -> str | None:
        async with Client(url) as client:
            return await cannot_score(client, "writer")

    with serving(answer, status) as (url, _):
        why = asyncio.run(ask(url))
    assert why is not None and reason in why and "echo and logprobs" in why


def completion(tokens: list[str], values: list[Any]) -> Completion:
    choice = {"text": "", "logprobs": {"tokens": tokens, "token_logprobs": values}}
    return Completion.model_validate({"model": "m", "choices": [choice]})


@pytest.mark.parametrize(
    ("tokens", "values"),
    [
        (["a", " b", "!"], [None, None, -1.0]),
        (["a", " b", "!"], [None, -1.0]),
        (["!"], [-1.0]),
    ],
)
def test_holes_are_errors_and_not_zeros(tokens: list[str], values: list[Any]) -> None:
    with pytest.raises(EngineFailed):
        mean_log_likelihood(completion(tokens, values), " b", "here")


def test_a_token_that_reaches_into_the_answer_counts() -> None:
    assert mean_log_likelihood(completion(["x", "y b", " c", "!"], [None, -3.0, -1.0, -9.0]), " b c", "here") == -2.0
