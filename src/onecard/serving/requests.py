"""From a request and the preset it starts from to what the engine is asked. Pure: fields of the request win over the preset's."""

from __future__ import annotations

from dataclasses import replace

from onecard.engines.engine import GenerationRequest, Message
from onecard.errors import InputError
from onecard.fleet.presets import apply_preset
from onecard.fleet.schema import Preset
from onecard.serving.unsupported import text_of
from onecard.wire.chat import ChatRequest, CompletionRequest, GenerationFields


def chat_generation(request: ChatRequest, adapter: str | None, preset: Preset) -> GenerationRequest:
    """The turns for the base's chat template; the preset's token stands before the last user turn, as it was trained."""
    turns = [
        Message("system" if message.role == "developer" else message.role, text_of(message, f"messages[{number}]"))
        for number, message in enumerate(request.messages)
    ]
    if preset.token:
        last = max((number for number, turn in enumerate(turns) if turn.role == "user"), default=None)
        if last is None:
            raise InputError("no user message to put the style before", where="messages")
        turns[last] = Message("user", apply_preset(preset, turns[last].content))
    limit = request.max_completion_tokens or request.max_tokens
    top = (request.top_logprobs or 0) if request.logprobs else None
    return _generation(request, adapter, preset, limit, top, messages=tuple(turns), text=None)


def completion_generation(
    request: CompletionRequest, prompt: str, adapter: str | None, preset: Preset
) -> GenerationRequest:
    """One of the request's prompts as it is, after the preset's token. InputError for an answer of 0 tokens without echo."""
    if request.max_tokens == 0 and not request.echo:
        raise InputError("max_tokens is 0", where="max_tokens", allowed="1 or more, or 0 with echo: true")
    text = apply_preset(preset, prompt)
    return _generation(request, adapter, preset, request.max_tokens, request.logprobs, messages=(), text=text)


def prompt_generation(prompt: str, adapter: str | None, preset: Preset, *, chat: bool = True) -> GenerationRequest:
    """A prompt under a preset and nothing else: as one user turn, or as it is for an adapter trained without the template."""
    text = apply_preset(preset, prompt)
    return GenerationRequest(
        messages=(Message("user", text),) if chat else (),
        text=None if chat else text,
        adapter=adapter,
        max_new_tokens=preset.max_new_tokens,
        temperature=preset.temperature,
        top_p=preset.top_p,
    )


def _generation(
    request: GenerationFields,
    adapter: str | None,
    preset: Preset,
    limit: int | None,
    top_logprobs: int | None,
    *,
    messages: tuple[Message, ...],
    text: str | None,
) -> GenerationRequest:
    return GenerationRequest(
        messages=messages,
        text=text,
        adapter=adapter,
        max_new_tokens=preset.max_new_tokens if limit is None else limit,
        temperature=preset.temperature if request.temperature is None else request.temperature,
        top_p=preset.top_p if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=request.stops,
        top_logprobs=top_logprobs,
    )


def nth(request: GenerationRequest, number: int) -> GenerationRequest:
    """The request for the answer of this number: a seed of its own, so that several sampled answers differ and can be repeated."""
    if not number or request.seed is None:
        return request
    return replace(request, seed=(request.seed + number) % 2**63)
