"""What one request may ask for, over HTTP: every limit answers with its number."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from onecard.serving.limits import Limits

LIMITS = Limits(body_bytes=2000, new_tokens=20, choices=3, candidates=4, answer_s=0.3, body_s=0.3)
CHAT = {"model": "base", "messages": [{"role": "user", "content": "a b"}]}


@pytest.fixture(scope="module")
def url(service_around):
    with service_around(limits=LIMITS) as (running, _):
        yield running.url


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/v1/chat/completions", {**CHAT, "n": 4}, "n", "up to 3"),
        ("/v1/completions", {"model": "base", "prompt": ["a", "b"], "n": 2}, "prompt", "up to 3"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 21}, "max_tokens", "up to 20"),
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 21}, "max_completion_tokens", "up to 20"),
        ("/v1/completions", {"model": "base", "prompt": "a", "max_tokens": 21}, "max_tokens", "up to 20"),
        ("/v1/rerank", {"model": "base", "query": "a", "documents": ["x"] * 5}, "documents", "up to 4"),
        ("/v1/score", {"model": "base", "text_1": "a", "text_2": ["x"] * 5}, "text_2", "up to 4"),
    ],
)
def test_more_than_the_limit_is_refused_with_the_number(url: str, path: str, body: Any, param: str, words: str) -> None:
    response = httpx.post(url + path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param) and words in error["message"]


def test_exactly_the_limit_is_answered(url: str) -> None:
    assert httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "n": 3, "max_tokens": 20}).status_code == 200
    assert (
        httpx.post(f"{url}/v1/rerank", json={"model": "base", "query": "a", "documents": ["x"] * 4}).status_code == 200
    )


def test_a_large_body_is_a_413(url: str) -> None:
    response = httpx.post(f"{url}/v1/completions", json={"model": "base", "prompt": "x" * 2000})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert "2,000 bytes" in response.json()["error"]["message"]


def test_a_body_that_does_not_come_is_a_408(url: str) -> None:
    head = "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_an_answer_that_takes_too_long_ends_with_one_clear_error(url: str) -> None:
    slow = {"model": "base", "messages": [{"role": "user", "content": "slowly " * 15}]}
    whole = httpx.post(f"{url}/v1/chat/completions", json=slow)
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "overloaded")
    assert "within 0.3 s" in whole.json()["error"]["message"]
    stream = httpx.post(f"{url}/v1/chat/completions", json={**slow, "stream": True}).text
    assert "within 0.3 s" in stream.splitlines()[-2] and "[DONE]" not in stream
