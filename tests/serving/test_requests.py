"""From request and preset to the engine: the request wins, and the style's token stands where it was trained."""

from __future__ import annotations

from typing import Any

import pytest

from onecard.engines.engine import GenerationRequest, Message
from onecard.errors import InputError
from onecard.fleet.schema import Preset
from onecard.serving.requests import chat_generation, completion_generation, nth, prompt_generation
from onecard.wire.chat import ChatRequest, CompletionRequest

PRESET = Preset(temperature=0.7, top_p=0.9, max_new_tokens=20, token="<T>")


def chat(preset: Preset = PRESET, **fields: Any) -> GenerationRequest:
    request = ChatRequest.model_validate({"model": "a", "messages": [{"role": "user", "content": "hi"}], **fields})
    return chat_generation(request, "digest", preset)


def test_the_preset_fills_what_the_request_leaves_open() -> None:
    assert chat() == GenerationRequest(
        messages=(Message("user", "<T> hi"),), adapter="digest", max_new_tokens=20, temperature=0.7, top_p=0.9
    )


def test_the_request_wins_also_with_zero() -> None:
    asked = chat(temperature=0, top_p=0.5, max_tokens=3, seed=0, stop="x")
    assert (asked.temperature, asked.top_p, asked.max_new_tokens, asked.seed, asked.stop) == (0, 0.5, 3, 0, ("x",))
    assert chat(max_completion_tokens=4).max_new_tokens == 4


def test_the_token_stands_before_the_last_user_turn() -> None:
    turns = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    expected = [("system", "be kind"), ("user", "one"), ("assistant", "two"), ("user", "<T> three")]
    assert [(turn.role, turn.content) for turn in chat(messages=turns).messages] == expected


def test_a_style_without_a_user_turn_is_refused() -> None:
    only_system = [{"role": "system", "content": "x"}]
    with pytest.raises(InputError, match="no user message"):
        chat(messages=only_system)
    assert chat(Preset(), messages=only_system).messages == (Message("system", "x"),)


def test_a_completion_is_the_text_after_the_token() -> None:
    asked = completion_generation(CompletionRequest(model="a", prompt="once", logprobs=2), "once", None, PRESET)
    assert (asked.text, asked.messages, asked.adapter, asked.top_logprobs) == ("<T> once", (), None, 2)


def test_an_answer_of_no_tokens_is_only_for_looking_at_a_prompt() -> None:
    looking = CompletionRequest(model="a", prompt="once", max_tokens=0, echo=True)
    assert completion_generation(looking, "once", None, PRESET).max_new_tokens == 0
    with pytest.raises(InputError, match="max_tokens is 0"):
        completion_generation(CompletionRequest(model="a", prompt="once", max_tokens=0), "once", None, PRESET)


def test_logprobs_are_asked_for_as_openai_does() -> None:
    assert chat().top_logprobs is None and chat(logprobs=False).top_logprobs is None
    assert chat(logprobs=True).top_logprobs == 0 and chat(logprobs=True, top_logprobs=5).top_logprobs == 5


def test_every_further_answer_has_a_seed_of_its_own_that_can_be_repeated() -> None:
    asked = chat(seed=2**63 - 1)
    seeds = [nth(asked, number).seed for number in range(3)]
    assert seeds == [2**63 - 1, 0, 1]
    assert nth(chat(), 2).seed is None


def test_generate_is_the_preset_and_nothing_else() -> None:
    asked = prompt_generation("hi", "digest", PRESET)
    assert asked == chat()
