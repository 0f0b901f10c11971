"""Answers in the shape of OpenAI's API: whole ones, and the events of streamed ones."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

from onecard.engines.engine import TokenLogprob
from onecard.errors import OnecardError
from onecard.serving.answer import Answer, WholeAnswer
from onecard.serving.choices import Choices
from onecard.serving.openai_logprobs import chat_logprobs, completion_logprobs
from onecard.wire.events import DONE, encode_event
from onecard.wire.faults import ErrorBody, Fault, fault_of

INTERNAL = Fault(
    message="an error inside the service; its log has the details", type="server_error", code="internal_error"
)
log = logging.getLogger("onecard.serving")
Piece = Callable[[str], dict[str, Any]]  # a text as the content of an event's choice
Told = Callable[[int, tuple[TokenLogprob, ...]], dict[str, Any]]  # tokens of a choice in the route's shape


async def whole_chat(choices: Choices) -> dict[str, Any]:
    """A ChatCompletion."""
    told = await choices.whole()
    listed = []
    for index, (answer, whole) in enumerate(zip(choices.answers, told, strict=True)):
        message = {"role": "assistant", "content": whole.text, "refusal": None}
        logprobs = chat_logprobs(whole.logprobs) if _asked(answer) else None
        listed.append(_choice(index, {"message": message}, logprobs, whole.finish_reason))
    return _whole(choices, told, "chatcmpl", "chat.completion", listed)


async def whole_completion(choices: Choices) -> dict[str, Any]:
    """A Completion; with echo the prompt stands before the answer, its tokens before the answer's."""
    told = await choices.whole()
    listed = []
    for index, (answer, whole) in enumerate(zip(choices.answers, told, strict=True)):
        before = (answer.request.text or "") if answer.echo else ""
        tokens = (*answer.prompt_logprobs, *whole.logprobs)
        logprobs = completion_logprobs(tokens) if _asked(answer) else None
        listed.append(_choice(index, {"text": before + whole.text}, logprobs, whole.finish_reason))
    return _whole(choices, told, "cmpl", "text_completion", listed)


async def chat_events(choices: Choices, *, usage: bool) -> AsyncIterator[bytes]:
    """The roles, the pieces, the finish reasons, the usage when it was asked for, [DONE]."""
    about = _about(choices, "chatcmpl", "chat.completion.chunk")
    opening = [
        _choice(index, {"delta": {"role": "assistant", "content": ""}}, None, None)
        for index in range(len(choices.answers))
    ]
    piece: Piece = lambda text: {"delta": {"content": text} if text else {}}  # noqa: E731
    async for event in _events(choices, about, opening, piece, lambda index, tokens: chat_logprobs(tokens), usage):
        yield event


async def completion_events(choices: Choices, *, usage: bool) -> AsyncIterator[bytes]:
    """The prompts when they are echoed, the pieces, the finish reasons, the usage when it was asked for, [DONE]."""
    about = _about(choices, "cmpl", "text_completion")
    written = [0] * len(choices.answers)  # characters of each choice's tokens so far

    def told(index: int, tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
        start, written[index] = written[index], written[index] + sum(len(token.text) for token in tokens)
        return completion_logprobs(tokens, start)

    opening = [
        _choice(
            index,
            {"text": answer.request.text},
            told(index, answer.prompt_logprobs) if _asked(answer) else None,
            None,
        )
        for index, answer in enumerate(choices.answers)
        if answer.echo
    ]
    async for event in _events(choices, about, opening, lambda text: {"text": text}, told, usage):
        yield event


async def _events(
    choices: Choices, about: dict[str, Any], opening: list[dict[str, Any]], piece: Piece, told: Told, usage: bool
) -> AsyncIterator[bytes]:
    """An error in the middle becomes an error event, and no [DONE] follows: nobody can take the part for the whole."""
    tokens = 0
    empty_usage: dict[str, Any] = {"usage": None} if usage else {}
    try:
        for choice in opening:
            yield _event({**about, "choices": [choice], **empty_usage})
        async for index, chunk in choices.chunks():
            tokens += chunk.tokens
            logprobs = told(index, chunk.logprobs) if chunk.logprobs else None
            if chunk.text or logprobs:
                choice = _choice(index, piece(chunk.text), logprobs, None)
                yield _event({**about, "choices": [choice], **empty_usage})
            if chunk.finish_reason:
                choice = _choice(index, piece(""), None, chunk.finish_reason)
                yield _event({**about, "choices": [choice], **empty_usage})
        if usage:
            yield _event({**about, "choices": [], "usage": _usage(choices.prompt_tokens, tokens)})
        yield encode_event(DONE)
    except OnecardError as error:
        yield encode_event(ErrorBody(error=fault_of(error)).model_dump_json())
    except Exception:
        log.exception("while %s answered", choices.who.name)
        yield encode_event(ErrorBody(error=INTERNAL).model_dump_json())


def _whole(
    choices: Choices, told: list[WholeAnswer], prefix: str, kind: str, listed: list[dict[str, Any]]
) -> dict[str, Any]:
    tokens = sum(whole.tokens for whole in told)
    return {
        **_about(choices, prefix, kind),
        "choices": listed,
        "usage": _usage(choices.prompt_tokens, tokens),
    }


def _about(choices: Choices, prefix: str, kind: str) -> dict[str, Any]:
    """`model` is the exact name that answered, with the version; `system_fingerprint` the adapter's digest."""
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": choices.who.name,
        "system_fingerprint": choices.who.digest,
    }


def _asked(answer: Answer) -> bool:
    return answer.request.top_logprobs is not None


def _choice(
    index: int, content: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def _event(body: dict[str, Any]) -> bytes:
    return encode_event(json.dumps(body, ensure_ascii=False))
