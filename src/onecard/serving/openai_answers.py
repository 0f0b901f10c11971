"""Answers in the shape of OpenAI's API: whole ones, and the events of streamed ones."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from onecard.errors import OnecardError
from onecard.serving.answer import Answer, WholeAnswer
from onecard.wire.events import DONE, encode_event
from onecard.wire.faults import ErrorBody, Fault, fault_of

INTERNAL = Fault(
    message="an error inside the service; its log has the details", type="server_error", code="internal_error"
)
log = logging.getLogger("onecard.serving")


async def whole_chat(answer: Answer) -> dict[str, Any]:
    """A ChatCompletion."""
    whole = await answer.whole()
    message = {"role": "assistant", "content": whole.text, "refusal": None}
    return _whole(answer, whole, "chatcmpl", "chat.completion", {"message": message})


async def whole_completion(answer: Answer) -> dict[str, Any]:
    """A Completion."""
    whole = await answer.whole()
    return _whole(answer, whole, "cmpl", "text_completion", {"text": whole.text})


async def chat_events(answer: Answer, *, usage: bool) -> AsyncIterator[bytes]:
    """The role, the pieces, the finish reason, the usage when it was asked for, [DONE]."""
    about = _about(answer, "chatcmpl", "chat.completion.chunk")
    role = {"delta": {"role": "assistant", "content": ""}}
    async for event in _events(answer, about, role, lambda text: {"delta": {"content": text} if text else {}}, usage):
        yield event


async def completion_events(answer: Answer, *, usage: bool) -> AsyncIterator[bytes]:
    """The pieces, the finish reason, the usage when it was asked for, [DONE]."""
    about = _about(answer, "cmpl", "text_completion")
    async for event in _events(answer, about, None, lambda text: {"text": text}, usage):
        yield event


async def _events(
    answer: Answer, about: dict[str, Any], opening: dict[str, Any] | None, piece: Any, usage: bool
) -> AsyncIterator[bytes]:
    """An error in the middle becomes an error event, and no [DONE] follows: nobody can take the part for the whole."""
    tokens = 0
    empty_usage: dict[str, Any] = {"usage": None} if usage else {}
    try:
        if opening is not None:
            yield _event({**about, "choices": [_choice(opening, None)], **empty_usage})
        async for chunk in answer.chunks():
            tokens += chunk.tokens
            if chunk.text:
                yield _event({**about, "choices": [_choice(piece(chunk.text), None)], **empty_usage})
            if chunk.finish_reason:
                yield _event({**about, "choices": [_choice(piece(""), chunk.finish_reason)], **empty_usage})
                if usage:
                    yield _event({**about, "choices": [], "usage": _usage(chunk.prompt_tokens, tokens)})
        yield encode_event(DONE)
    except OnecardError as error:
        yield encode_event(ErrorBody(error=fault_of(error)).model_dump_json())
    except Exception:
        log.exception("while %s answered", answer.who.name)
        yield encode_event(ErrorBody(error=INTERNAL).model_dump_json())


def _whole(answer: Answer, whole: WholeAnswer, prefix: str, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        **_about(answer, prefix, kind),
        "choices": [_choice(content, whole.finish_reason)],
        "usage": _usage(whole.prompt_tokens, whole.tokens),
    }


def _about(answer: Answer, prefix: str, kind: str) -> dict[str, Any]:
    """`model` is the exact name that answered, with the version; `system_fingerprint` the adapter's digest."""
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.who.name,
        "system_fingerprint": answer.who.digest,
    }


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def _event(body: dict[str, Any]) -> bytes:
    return encode_event(json.dumps(body, ensure_ascii=False))
