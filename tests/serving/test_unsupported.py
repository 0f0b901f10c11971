"""What cannot be honoured is refused by name; what asks for nothing is not."""

from __future__ import annotations

from typing import Any

import pytest

from onecard.errors import InputError
from onecard.serving.unsupported import CHAT, COMPLETION, prompts_of, refuse_unsupported, text_of
from onecard.wire.chat import ChatMessage, ChatRequest, CompletionRequest


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "a", "messages": [{"role": "user", "content": "x"}], **fields})


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "a", "prompt": "x", **fields})


@pytest.mark.parametrize("field", sorted(CHAT))
def test_no_known_field_is_silently_ignored_in_chat(field: str) -> None:
    with pytest.raises(InputError) as caught:
        refuse_unsupported(chat(**{field: "something else"}))
    assert caught.value.where == field


@pytest.mark.parametrize("field", sorted(COMPLETION))
def test_no_known_field_is_silently_ignored_in_completions(field: str) -> None:
    with pytest.raises(InputError):
        refuse_unsupported(completion(**{field: 5}))


@pytest.mark.parametrize("field", sorted(CHAT))
def test_neutral_values_ask_for_nothing(field: str) -> None:
    for neutral in (None, [], {}, *CHAT[field]):
        refuse_unsupported(chat(**{field: neutral}))


@pytest.mark.parametrize(
    "fields",
    [
        {"top_logprobs": 3},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"frequency_penalty": 0.5},
        {"store": True},
        {"stream_options": {"include_usage": True}},
        {"max_tokens": 3, "max_completion_tokens": 4},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
    ],
    ids=str,
)
def test_these_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        refuse_unsupported(chat(**fields))


def test_hints_and_fields_of_nobody_are_ignored() -> None:
    refuse_unsupported(
        chat(user="u", metadata={"a": "b"}, service_tier="auto", parallel_tool_calls=True, whatever=[1], n=1)
    )
    refuse_unsupported(chat(stream=True, stream_options={"include_usage": True}, max_tokens=3, max_completion_tokens=3))


def test_content_is_text_or_parts_of_text() -> None:
    parts = ({"type": "text", "text": "a"}, {"type": "text", "text": "b"})
    assert text_of(ChatMessage.model_validate({"role": "user", "content": parts}), "messages[0]") == "ab"


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (None, "messages[0].content"),
        ((), "messages[0].content"),
        (({"type": "image_url", "image_url": {"url": "data:"}},), "messages[0].content[0]"),
        (({"type": "text", "text": "a"}, {"type": "text"}), "messages[0].content[1]"),
    ],
)
def test_other_content_is_refused_at_its_place(content: Any, where: str) -> None:
    with pytest.raises(InputError) as caught:
        text_of(ChatMessage.model_validate({"role": "user", "content": content}), "messages[0]")
    assert caught.value.where == where


def test_prompts_are_texts() -> None:
    assert prompts_of(completion(prompt="x")) == prompts_of(completion(prompt=["x"])) == ("x",)
    assert prompts_of(completion(prompt=["x", "y"])) == ("x", "y")
    for other in ([1, 2], [[1], [2]], []):
        with pytest.raises(InputError, match="a list of texts"):
            prompts_of(completion(prompt=other))
