"""Mistakes in bodies are named by their place, strictly and shortly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import InputError
from onecard.serving.body import parse_record
from onecard.wire.chat import ChatRequest
from onecard.wire.generate import GenerateRequest

MESSAGES = [{"role": "user", "content": "x"}]


def mistake(body: Any) -> InputError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InputError) as caught:
        parse_record(raw, ChatRequest)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "messages[0].content[0].type"),
        ({"messages": [*MESSAGES, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 10**400}, "seed"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"model": 5}, "model"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_mistake_is_named_by_its_place(fields: dict[str, Any], where: str) -> None:
    assert mistake({"model": "a", "messages": MESSAGES, **fields}).where == where


def test_a_missing_field_is_named() -> None:
    error = mistake({"messages": MESSAGES})
    assert (error.where, error.problem) == ("model", "is missing")


def test_a_field_of_several_kinds_lists_them() -> None:
    assert mistake({"model": "a", "messages": MESSAGES, "stop": 5}).allowed == "a valid string or a valid array"


@pytest.mark.parametrize("body", [b"", b"{", b"nul", b"\xff\xfe", b'{"a": "\\ud800"}', b"[" * 100_000, b"{'a': 1}"])
def test_what_is_not_json_is_said(body: bytes) -> None:
    assert "not JSON" in mistake(body).problem


@pytest.mark.parametrize("body", [[], 5, "text", None, True])
def test_json_that_is_no_object_is_refused(body: Any) -> None:
    assert mistake(body).where is None


def test_numbers_that_are_none_are_refused() -> None:
    body = b'{"model": "a", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}'
    assert mistake(body).where == "temperature"


def test_long_values_are_cut() -> None:
    assert len(str(mistake({"model": "a", "messages": "x" * 1_000_000}))) < 300
    with pytest.raises(InputError) as caught:
        parse_record(json.dumps({"prompt": "x", "y" * 1_000_000: 1}).encode(), GenerateRequest)
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_input_error(body: bytes) -> None:
    try:
        parse_record(body, ChatRequest)
    except InputError as error:
        json.dumps(str(error)).encode()
