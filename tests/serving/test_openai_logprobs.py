"""Log-probabilities, echo, several answers, seeds and stops: the official client against the real engine on the embedded base."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import openai
import pytest

from onecard.engines.engine import GenerationRequest, TokenLogprob
from onecard.evaluation.over_url_scores import cannot_score, mean_log_likelihood
from onecard.serving.openai_logprobs import chat_logprobs, completion_logprobs
from onecard.wire.chat import CompletionRequest
from onecard.wire.client import Client

QUESTION: list[Any] = [{"role": "user", "content": "What is a stack?"}]
PROMPT = "A hash table is"


@pytest.fixture(scope="module")
def client(real):
    with openai.OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_a_chat_tells_every_token_and_the_likeliest_instead(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "explainer", "messages": QUESTION, "max_tokens": 8}
    plain = client.chat.completions.create(**asked)
    told = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
    assert plain.choices[0].logprobs is None
    content = told.choices[0].logprobs.content
    assert "".join(token.token for token in content).strip() == (told.choices[0].message.content or "").strip()
    assert told.choices[0].message.content == plain.choices[0].message.content
    for token in content:
        assert [other.logprob for other in token.top_logprobs] == sorted(
            (other.logprob for other in token.top_logprobs), reverse=True
        )
        assert token.logprob == token.top_logprobs[0].logprob <= 0 and len(token.top_logprobs) == 3
    streamed = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True)
    pieces = [t for c in streamed if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content or ()]
    assert [(t.token, t.logprob) for t in pieces] == [(t.token, t.logprob) for t in content]


def test_a_completion_echoes_its_prompt_token_by_token(client: openai.OpenAI, real) -> None:
    answer = client.completions.create(model="explainer", prompt=PROMPT, max_tokens=3, echo=True, logprobs=2)
    choice = answer.choices[0]
    told = choice.logprobs
    assert choice.text.startswith(PROMPT)
    assert told.token_logprobs[0] is None and all(value is not None for value in told.token_logprobs[1:])
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == len(told.top_logprobs)
    assert all(
        len(top) in (2, 3) and token in top for token, top in zip(told.tokens[1:], told.top_logprobs[1:], strict=True)
    )
    who = real.service.directory.find("explainer")
    asked = GenerationRequest(text=PROMPT, adapter=who.digest, top_logprobs=0)
    expected = asyncio.run(who.engine.prompt_logprobs(asked))
    assert told.token_logprobs[: len(expected)] == [token.logprob for token in expected]
    streamed = list(
        client.completions.create(model="explainer", prompt=PROMPT, max_tokens=3, echo=True, logprobs=2, stream=True)
    )
    assert "".join(event.choices[0].text for event in streamed) == choice.text
    assert [value for e in streamed if e.choices[0].logprobs for value in e.choices[0].logprobs.token_logprobs] == (
        told.token_logprobs
    )
    assert [
        at for e in streamed if e.choices[0].logprobs for at in e.choices[0].logprobs.text_offset
    ] == told.text_offset


def test_a_prompt_can_be_looked_at_without_an_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="plain", prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (PROMPT, "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(answer.choices[0].logprobs.tokens), 0)
    with pytest.raises(openai.BadRequestError, match="0 with echo"):
        client.completions.create(model="plain", prompt=PROMPT, max_tokens=0)


def test_echo_alone_repeats_the_prompt(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="plain", prompt=PROMPT, max_tokens=4)
    echoed = client.completions.create(model="plain", prompt=PROMPT, max_tokens=4, echo=True)
    assert echoed.choices[0].text == PROMPT + plain.choices[0].text and echoed.choices[0].logprobs is None


def test_the_likelihoods_by_url_are_those_of_the_engine(real) -> None:
    """What evaluation does with any server: echo with log-probabilities equals /v1/score of a plain text."""
    who = real.service.directory.find("explainer")

    async def run() -> tuple[str | None, float, list[float]]:
        async with Client(real.url) as client:
            why = await cannot_score(client, "explainer")
            asked = {"model": "explainer", "prompt": "A stack is a list", "max_tokens": 1, "echo": True, "logprobs": 1}
            told = await client.complete(CompletionRequest.model_validate(asked))
        prompt = GenerationRequest(text="A stack is", adapter=who.digest)
        return why, mean_log_likelihood(told, " a list", real.url), await who.engine.score(prompt, [" a list"])

    why, by_url, by_engine = asyncio.run(run())
    assert why is None
    assert by_url == pytest.approx(by_engine[0], abs=0.05)  # the base computes in bf16: sums differ in the third digit


def test_several_answers_have_seeds_of_their_own_and_can_be_repeated(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "plain", "messages": QUESTION, "max_tokens": 8, "temperature": 1.5, "seed": 7}
    three = client.chat.completions.create(**asked, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2] and len(set(texts)) == 3
    one = client.chat.completions.create(**asked)
    assert one.choices[0].message.content == texts[0]
    assert one.usage is not None and three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert 3 < three.usage.completion_tokens <= 24
    streamed = client.chat.completions.create(**asked, n=3, stream=True, stream_options={"include_usage": True})
    found, usage = ["", "", ""], None
    for event in streamed:
        usage = event.usage or usage
        for choice in event.choices:
            found[choice.index] += choice.delta.content or ""
    assert found == texts and usage == three.usage


def test_several_prompts_are_answered_in_one_request(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "A stack is"]
    both = client.completions.create(model="plain", prompt=prompts, max_tokens=4, n=2)
    alone = [client.completions.create(model="plain", prompt=prompt, max_tokens=4) for prompt in prompts]
    assert [choice.text for choice in both.choices] == [one.choices[0].text for one in alone for _ in range(2)]
    assert both.usage is not None
    assert both.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone if one.usage)


def test_a_stop_string_over_token_borders_is_not_told(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="plain", prompt=PROMPT, max_tokens=16, logprobs=0)
    text, tokens = whole.choices[0].text, whole.choices[0].logprobs.tokens
    end = len(tokens[0]) + len(tokens[1])
    stop = text[end - 2 : end + 2]  # ends one token and begins the next
    assert len(stop) == 4
    for stream in (False, True):
        cut = client.completions.create(model="plain", prompt=PROMPT, max_tokens=16, stop=[stop], stream=stream)
        choices = [event.choices[0] for event in cut] if stream else [cut.choices[0]]
        assert "".join(choice.text for choice in choices) == text[: text.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_limits_of_openai_hold(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="plain", messages=QUESTION, max_completion_tokens=2)
    assert answer.usage is not None and answer.usage.completion_tokens == 2
    for wrong in ({"n": 33}, {"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": 3}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="plain", messages=QUESTION, **wrong)  # type: ignore[call-overload]


def test_tokens_that_are_no_text_have_no_bytes() -> None:
    told = chat_logprobs(
        [TokenLogprob("", -1.0), TokenLogprob("\N{REPLACEMENT CHARACTER}", -1.0), TokenLogprob("\xe9", -2.0)]
    )
    assert [entry["bytes"] for entry in told["content"]] == [None, None, [195, 169]]


def test_of_tokens_that_read_the_same_the_likelier_is_told() -> None:
    token = TokenLogprob("b", -3.0, (("a", -0.5), ("a", -1.0)))
    told = completion_logprobs([TokenLogprob("xy", None), token], start=4)
    assert told["top_logprobs"] == [None, {"a": -0.5, "b": -3.0}] and told["text_offset"] == [4, 6]
    assert math.isclose(told["token_logprobs"][1], -3.0)
