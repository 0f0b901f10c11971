"""From a request to token ids, and every reason why it cannot be answered, found before any work is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onecard.engines.engine import GenerationRequest
from onecard.engines.local.tokens import chat_ids, chat_text, text_ids, written_ids
from onecard.errors import InputError

MOST_STOPS = 16


def prompt_ids(request: GenerationRequest, tokenizer: Any) -> list[int]:
    """The prompt in the ids of the answering adapter's own tokenizer. InputError when there is not exactly one prompt."""
    if bool(request.messages) == (request.text is not None):
        raise InputError("a request needs either messages or a text", where="request", allowed="exactly one of them")
    ids = chat_ids(tokenizer, _turns(request)) if request.messages else text_ids(tokenizer, request.text or "")
    if not ids:
        raise InputError("the prompt is empty", where="request")
    return ids


def continuation_ids(
    request: GenerationRequest, prompt: Sequence[int], text: str, tokenizer: Any, stop_ids: Sequence[int]
) -> list[int]:
    """An answer as the adapter learned to give it: in the chat template with its end of turn, or as it is after a plain text."""
    if not request.messages:
        ids = written_ids(tokenizer, text)
    else:
        before = chat_text(tokenizer, _turns(request), answer_next=True)
        whole = chat_text(tokenizer, [*_turns(request), {"role": "assistant", "content": text}], answer_next=False)
        if not whole.startswith(before):
            raise InputError(
                "the base's chat template writes the prompt differently once it is answered", where="request"
            )
        ids = written_ids(tokenizer, whole)
        ids = ids[len(prompt) :] if ids[: len(prompt)] == list(prompt) else written_ids(tokenizer, whole[len(before) :])
        ends = [place for place, token in enumerate(ids) if token in stop_ids]
        ids = ids[: ends[-1] + 1] if ends else ids
    if not ids:
        raise InputError("a continuation is empty", where="continuations")
    return ids


def check_sampling(request: GenerationRequest) -> None:
    """InputError for settings that mean nothing."""
    if request.max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {request.max_new_tokens}", where="request", allowed="1 or more")
    if not (math.isfinite(request.temperature) and request.temperature >= 0):
        raise InputError(f"temperature is {request.temperature}", where="request", allowed="0 or more")
    if not 0 < request.top_p <= 1:
        raise InputError(f"top_p is {request.top_p}", where="request", allowed="more than 0 and at most 1")
    if request.seed is not None and not -(1 << 63) <= request.seed < 1 << 64:
        raise InputError(f"seed is {request.seed}", where="request", allowed="a 64-bit number")
    if len(request.stop) > MOST_STOPS or "" in request.stop:
        raise InputError(
            "stop strings are empty or too many", where="request", allowed=f"up to {MOST_STOPS}, none empty"
        )


def check_context(prompt_tokens: int, new_tokens: int, context: int) -> None:
    """InputError when prompt and answer together are longer than the context."""
    if prompt_tokens + new_tokens > context:
        raise InputError(
            f"the prompt has {prompt_tokens} tokens and {new_tokens} more are asked for, "
            f"{prompt_tokens + new_tokens} together; the context holds {context}",
            where="request",
            allowed=f"a prompt of at most {context - new_tokens} tokens, or at most {context - prompt_tokens} new ones"
            if prompt_tokens < context > new_tokens
            else f"at most {context} tokens together",
        )


def _turns(request: GenerationRequest) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in request.messages]
