"""Fields of OpenAI's API, and of its common extensions, that would change the answer and that onecard cannot honour.

A field in its neutral value asks for nothing and is accepted. In any other value it is refused by name: an answer that ignores what was
asked looks right and is wrong. Fields that are not listed are hints (`user`, `metadata`, `service_tier`, ...) and change no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onecard.errors import InputError
from onecard.wire.chat import ChatMessage, ChatRequest, CompletionRequest, ContentPart

# field -> values that ask for nothing; None, an empty list and an empty object always ask for nothing.
SHARED: Mapping[str, tuple[Any, ...]] = {
    "logit_bias": (),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    # extensions of vLLM, SGLang, llama.cpp and TGI that people send through `extra_body`
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": (),
    "bad_words": (),
    "logits_processors": (),
    "prompt_logprobs": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": (),
}
CHAT: Mapping[str, tuple[Any, ...]] = {
    **SHARED,
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "store": (False,),
    "chat_template": (),
    "chat_template_kwargs": (),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "documents": (),
}
COMPLETION: Mapping[str, tuple[Any, ...]] = {**SHARED, "suffix": ("",)}
MESSAGE: Mapping[str, tuple[Any, ...]] = {"tool_calls": (), "function_call": (), "audio": ()}


def refuse_unsupported(request: ChatRequest | CompletionRequest) -> None:
    """InputError naming the first field that asks for what cannot be given; its `where` is the field's place in the body."""
    known = CHAT if isinstance(request, ChatRequest) else COMPLETION
    _refuse_extras(request.model_extra or {}, known, "")
    if request.stream_options is not None and not request.stream:
        raise InputError("stream_options goes with stream: true", where="stream_options")
    if isinstance(request, ChatRequest):
        _refuse_two_limits(request)
        if request.top_logprobs is not None and not request.logprobs:
            raise InputError("top_logprobs goes with logprobs: true", where="top_logprobs")
        for number, message in enumerate(request.messages):
            _refuse_extras(message.model_extra or {}, MESSAGE, f"messages[{number}].")


def text_of(message: ChatMessage, where: str) -> str:
    """The text of a message; InputError for none, and for parts that are not text."""
    if isinstance(message.content, str):
        return message.content
    if not message.content:
        raise InputError("no content", where=f"{where}.content", allowed="text, or parts of type text")
    return "".join(_text_of_part(part, f"{where}.content[{number}]") for number, part in enumerate(message.content))


def prompts_of(request: CompletionRequest) -> tuple[str, ...]:
    """The prompts of a completion request; InputError for none and for token ids, whose meaning hangs on an adapter's tokenizer."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return (prompt,)
    texts = tuple(text for text in prompt if isinstance(text, str))
    if not texts or len(texts) != len(prompt):
        raise InputError("not text", where="prompt", allowed="a text, or a list of texts")
    return texts


def _text_of_part(part: ContentPart, where: str) -> str:
    if part.type != "text" or part.text is None:
        raise InputError(f"a part of type '{part.type[:40]}'", where=where, allowed='{"type": "text", "text": ...}')
    return part.text


def _refuse_two_limits(request: ChatRequest) -> None:
    one, other = request.max_tokens, request.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise InputError(
            f"max_tokens is {one} and max_completion_tokens is {other}",
            where="max_completion_tokens",
            allowed="one of them",
        )


def _refuse_extras(extras: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], place: str) -> None:
    for name, value in extras.items():
        if name in known and not _asks_nothing(value, known[name]):
            neutral = " or ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in known[name])
            raise InputError(
                f"{name} is not supported",
                where=place + name,
                allowed=f"leave it out{f', or {neutral}' if neutral else ''}",
            )


def _asks_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether the value is None, an empty container or neutral; True is not 1 here and False is not 0."""
    if value is None or value == [] or value == {}:
        return True
    return any(value == n and isinstance(value, bool) == isinstance(n, bool) for n in neutral)
