"""Any OpenAI-compatible server as an Engine: the base under the name it lists, and of an onecard service its adapters too.

A server that does not say which adapter answered is trusted with none: an onecard service names the digest in /health and in every
answer, and both are compared. What such a server cannot do (load an adapter, count tokens, score) is an error that says so.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
from pydantic import ValidationError

from onecard.adapters.manifest import Manifest
from onecard.engines.engine import Chunk, EngineInfo, FinishReason, GenerationRequest, MemoryPart, MemoryReport
from onecard.engines.local.prompts import check_sampling
from onecard.engines.remote_client import Connections
from onecard.errors import AdapterRefused, EngineFailed, InputError, OnecardError, UnknownName
from onecard.wire.chat import ChatMessage, ChatRequest, Completion, ModelList, Usage
from onecard.wire.client import LOOPBACK, Who, with_usage
from onecard.wire.faults import error_of
from onecard.wire.health import Health

BASE = "base"  # the bare base's name in an onecard service
ASK_S = 30.0


@dataclass(frozen=True)
class Piece:
    """A piece of an answer, whichever route it came by; `who` where the server says."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    who: Who | None = None


class RemoteEngine:
    """An Engine elsewhere. Its methods may be called from any thread and any event loop."""

    def __init__(
        self, url: str, key: str | None, name: str, info: EngineInfo, count: Callable[[str], int] | None
    ) -> None:
        self._url, self._key, self._name, self._info, self._count = url, key, name, info, count
        self._connections = Connections()
        self._names: dict[str, str] = {}
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        *,
        model_id: str,
        quantization: str = "none",
        context: int,
        concurrency: int,
        key: str | None = None,
        count: Callable[[str], int] | None = None,
    ) -> RemoteEngine:
        """Asks the server whom it serves. UnknownName when it is not this model, EngineFailed when nothing answers.

        `count` counts tokens by the model's own tokenizer, when that is on this machine.
        """
        root = url.rstrip("/").removesuffix("/v1").rstrip("/")
        listed = [card.id for card in ModelList.model_validate_json(_get(f"{root}/v1/models", key)).data]
        health = _health(root, key)
        name, engine, told = model_id, "an OpenAI-compatible server", None
        if health is not None:
            told = next((model for model in health.models if model.id == model_id), None)
            name, engine = BASE, f"onecard, {told.engine} {told.engine_version}" if told else "onecard"
        known = [model.id for model in health.models] if health else listed
        if model_id not in known or name not in listed:
            raise UnknownName(
                f"{root} does not serve {model_id}", where=f"{root}/v1/models", allowed=", ".join(known) or "none"
            )
        info = EngineInfo(
            engine="remote", engine_version=engine, model_id=model_id, quantization=told.quantization if told else quantization,
            dtype=told.dtype if told else "unknown", device=told.device if told else "remote", context=context,
            concurrency=concurrency, base_fingerprint=told.fingerprint if told else "",
        )  # fmt: skip
        return cls(root, key, name, info, count)

    def info(self) -> EngineInfo:
        """Who answers, with the digests of the adapters that can be asked now. An unknown fingerprint is empty."""
        return replace(self._info, adapters=tuple(self._names))

    def load_adapter(self, folder: Path, manifest: Manifest) -> str:
        """Finds the adapter among those that an onecard service says it serves, by digest; AdapterRefused for any other."""
        self._check_open()
        where, health = str(folder), _health(self._url, self._key)
        if health is None:
            raise AdapterRefused(
                f"{self._url} does not say which adapter answers", where=where,
                next_step="serve the adapter with `onecard serve` there, or with engine: local or vllm here",
            )  # fmt: skip
        serving = [agent for agent in health.adapters if agent.digest and agent.digest == manifest.digest]
        if not serving or serving[0].adapter is None:
            digests = ", ".join(agent.digest[:12] for agent in health.adapters if agent.digest)
            raise AdapterRefused(
                f"{self._url} does not serve the adapter {manifest.digest[:12]}", where=where, allowed=digests or "none",
                next_step="promote this version there",
            )  # fmt: skip
        name = f"{serving[0].agent}@{serving[0].adapter.rpartition('@')[2]}"
        if manifest.added_tokens:
            self._check_prompts_stay(name, where)
        self._names[manifest.digest] = name
        return manifest.digest

    def remove_adapter(self, digest: str) -> None:
        """Not asked for any more from here; what the server holds stays as it is."""
        self._name_of(digest)
        self._names.pop(digest)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Streams the answer; an answer of another adapter than asked for is EngineFailed before its first chunk is given."""
        name = self._name_of(request.adapter)
        if bool(request.messages) == (request.text is not None):
            raise InputError(
                "a request needs either messages or a text", where="request", allowed="exactly one of them"
            )
        check_sampling(request)
        self._check_open()
        return self._stream(request, name)

    async def score(self, prompt: GenerationRequest, continuations: Sequence[str]) -> list[float]:
        """Always InputError: a server elsewhere is asked for answers only."""
        self._name_of(prompt.adapter)
        raise InputError(
            "a remote engine does not say how likely texts are", where="engine: remote", allowed="engine: local, engine: vllm",
            next_step="ask its server's own /v1/score, if it has one",
        )  # fmt: skip

    def count_tokens(self, text: str) -> int:
        """By the model's tokenizer on this machine; InputError where it is not here."""
        if self._count is None:
            raise InputError(
                f"the tokenizer of {self._info.model_id} is not on this machine", where="engine: remote",
                next_step=f"onecard fetch {self._info.model_id}",
            )  # fmt: skip
        return self._count(text)

    def memory(self) -> MemoryReport:
        """What an onecard service says it holds, there; nothing for other servers."""
        health = None if self._closed else _health(self._url, self._key)
        if health is None:
            return MemoryReport((), 0)
        parts = tuple(MemoryPart(part.name, part.bytes) for part in health.memory.parts)
        return MemoryReport(parts, health.memory.taken_bytes or 0)

    def close(self) -> None:
        """Asks nothing more; answers that are on their way end with EngineFailed."""
        self._closed = True
        self._names = {}

    def _check_prompts_stay(self, name: str, where: str) -> None:
        """AdapterRefused when the service puts a style's token before prompts: ours have theirs already."""
        longer, plain = (_prompt_tokens(self._url, self._key, model) for model in (name, self._name))
        if longer != plain:
            raise AdapterRefused(
                f"{self._url} puts the token of {name}'s default style before every prompt", where=where,
                next_step="give the agent there a preset without a token called default",
            )  # fmt: skip

    async def _stream(self, request: GenerationRequest, name: str) -> AsyncGenerator[Chunk, None]:
        given, held, total = 0, "", None
        reason: FinishReason | None = None
        pieces = self._chat(request, name) if request.messages else self._complete(request, name)
        async with aclosing(cast(Any, pieces)) as arriving:
            async for piece in arriving:
                self._check_open()
                _check_who(piece.who, request.adapter, self._url)
                reason, total = _reason(piece.finish_reason) or reason, piece.usage or total
                if reason is None and piece.text:
                    given += 1
                    yield Chunk(piece.text, 1, piece.usage.prompt_tokens if piece.usage else 0)
                elif reason is not None:
                    held += piece.text
        # The counts come after the end: the last chunk waits for them, and brings the sum to what the server counted.
        tokens = total.completion_tokens - given if total else 1
        yield Chunk(held, max(tokens, 0), total.prompt_tokens if total else 0, reason or "stop")

    async def _chat(self, request: GenerationRequest, name: str) -> AsyncIterator[Piece]:
        try:
            turns = tuple(ChatMessage(role=cast(Any, m.role), content=m.content) for m in request.messages)
            asked = ChatRequest(messages=turns, **_fields(request, name))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(f"{first['msg']}: {first['input']!r:.60}", where="request") from error
        client = self._connections.to(self._url, self._key)
        async with aclosing(cast(Any, client.stream_chat(with_usage(asked)))) as arriving:
            async for piece in arriving:
                yield Piece(piece.text, piece.finish_reason, piece.usage, piece.who)

    async def _complete(self, request: GenerationRequest, name: str) -> AsyncIterator[Piece]:
        body = {**_fields(request, name), "prompt": request.text, "stream_options": {"include_usage": True}}
        if not request.text:
            raise InputError("the prompt is empty", where="request")
        client = self._connections.to(self._url, self._key)
        async with aclosing(cast(Any, client.stream_completion(body))) as arriving:
            async for event in arriving:
                for choice in event.choices:
                    yield Piece(choice.text, choice.finish_reason, None, event.who)
                if event.usage:
                    yield Piece("", None, event.usage, event.who)

    def _name_of(self, digest: str | None) -> str:
        """The server's name for an adapter, or for the base; UnknownName for one that was not found there."""
        if digest is None:
            return self._name
        if digest not in self._names:
            raise UnknownName(f"no adapter {digest[:12]} is loaded", allowed="the digest of a loaded adapter")
        return self._names[digest]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineFailed("the engine is closed", where=self._url)


def _fields(request: GenerationRequest, name: str) -> dict[str, Any]:
    """What both routes share; settings in their neutral value are left out, because servers differ in what they take."""
    fields: dict[str, Any] = {"model": name, "max_tokens": request.max_new_tokens, "temperature": request.temperature}
    fields["top_p"] = request.top_p
    if request.seed is not None:
        fields["seed"] = request.seed - (1 << 64) if request.seed >= 1 << 63 else request.seed
    if request.stop:
        fields["stop"] = list(request.stop)
    return fields


def _check_who(who: Who | None, digest: str | None, url: str) -> None:
    """EngineFailed when a server that says who answers says somebody else."""
    if digest is not None and (who is None or who.digest != digest):
        said = who.digest if who and who.digest else "nothing"
        raise EngineFailed(f"the adapter {digest[:12]} was asked and {said[:12]} answered", where=url)
    if digest is None and who is not None and who.digest not in (None, "none"):
        raise EngineFailed(f"the base was asked and {str(who.digest)[:12]} answered", where=url)


def _reason(said: str | None) -> FinishReason | None:
    if said is None:
        return None
    if said not in ("stop", "length"):
        raise EngineFailed(f"the server ended the answer with '{said[:40]}'", next_step="ask again")
    return "stop" if said == "stop" else "length"


def _health(root: str, key: str | None) -> Health | None:
    """What an onecard service says of itself; None for other servers."""
    try:
        health = Health.model_validate_json(_get(f"{root}/health", key))
    except (OnecardError, ValidationError):
        return None
    return health if health.models else None


def _prompt_tokens(root: str, key: str | None, model: str) -> int | None:
    body = {"model": model, "prompt": "x", "max_tokens": 1, "temperature": 0.0}
    usage = Completion.model_validate_json(_get(f"{root}/v1/completions", key, body)).usage
    return usage.prompt_tokens if usage else None


def _get(url: str, key: str | None, body: Mapping[str, Any] | None = None) -> bytes:
    """The body of a 200, of a GET or, with `body`, of a POST; the server's error otherwise."""
    headers: Mapping[str, str] = {"authorization": f"Bearer {key}"} if key else {}
    try:
        here = httpx.URL(url).host in LOOPBACK
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, url, json=body, headers=headers, timeout=ASK_S, trust_env=not here)
    except httpx.HTTPError as error:
        raise EngineFailed(
            f"nothing answers ({type(error).__name__})", where=url, next_step="is the server running?"
        ) from error
    except httpx.InvalidURL as error:
        raise InputError(f"not a URL ({error})", where=url) from error
    if answer.status_code != 200:
        raise error_of(answer.status_code, answer.content, url)
    return answer.content
