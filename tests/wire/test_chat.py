"""The records of OpenAI's API: what is required, what is limited, what is kept."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from onecard.wire.chat import ChatChunk, ChatMessage, ChatRequest, CompletionRequest

HELLO = ({"role": "user", "content": "hello"},)


def test_a_request_keeps_fields_it_does_not_know_so_that_they_reach_the_server() -> None:
    request = ChatRequest.model_validate({"model": "a", "messages": HELLO, "top_k": 5, "stream_options": {"x": 1}})
    assert request.model_extra == {"top_k": 5}
    assert '"top_k":5' in request.model_dump_json(exclude_none=True)


def test_stop_is_one_string_or_several() -> None:
    one = ChatRequest(model="a", messages=(ChatMessage(role="user", content="x"),), stop="end")
    assert one.stops == ("end",)
    assert ChatRequest.model_validate({"model": "a", "messages": HELLO, "stop": ["a", "b"]}).stops == ("a", "b")
    assert ChatRequest.model_validate({"model": "a", "messages": HELLO}).stops == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""},
        {"messages": ()},
        {"messages": ({"role": "tool", "content": "x"},)},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"max_tokens": 0},
        {"seed": 2**63},
        {"stop": ""},
        {"stop": tuple("abcdefghijklmnopq")},
        {"n": 0},
    ],
    ids=str,
)
def test_values_outside_the_limits_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({"model": "a", "messages": HELLO, **wrong})


def test_a_prompt_may_come_in_any_of_openais_four_forms() -> None:
    for prompt in ("text", ("text",), (1, 2), ((1, 2), (3,))):
        assert CompletionRequest(model="a", prompt=prompt).prompt == prompt


def test_chunks_of_other_servers_are_read_leniently() -> None:
    body = '{"choices": [{"delta": {"content": "a", "reasoning": null}, "logprobs": null}], "extra": {"x": [1]}}'
    assert ChatChunk.model_validate_json(body).choices[0].delta.content == "a"
