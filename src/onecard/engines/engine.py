"""The engine protocol: what answers, whatever runs underneath.

An engine holds one base model, loaded once, and any number of adapters of it. It never falls back: a request that names an adapter
is answered by exactly that adapter or fails. `GenerationRequest.adapter` is the digest of a loaded adapter, or None for the bare base.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from onecard.adapters.manifest import Manifest

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Message:
    """One chat turn; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class GenerationRequest:
    """One request. Exactly one of `messages` (wrapped by the base's chat template) and `text` (as it is) is given.

    `top_p` and `temperature` as in OpenAI's API; temperature 0 is greedy. `seed` makes sampling repeatable alone and in a batch.
    `top_logprobs` asks for each token's log-probability and so many of the likeliest at its place (of engines that are `TellsLogprobs`).
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    adapter: str | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """One token's text and natural log-probability by the model itself, before temperature and top_p; None where nothing stands before it.

    `top` are the likeliest tokens at its place with theirs, best first.
    """

    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer. `tokens` counts the new tokens in this piece; the last one has a finish reason.

    `logprobs`, when asked for, has one entry for each of these tokens except the one that ended the answer.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish_reason: FinishReason | None = None
    queue_s: float = 0.0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class MemoryPart:
    """One part of the memory really held, bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class MemoryReport:
    """What the engine holds. `process_bytes` is the process's resident set on a CPU, the allocator's peak on a card."""

    parts: tuple[MemoryPart, ...]
    process_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class EngineInfo:
    """Who answers: shown in /health, result files and headers."""

    engine: str
    engine_version: str
    model_id: str
    quantization: str
    dtype: str
    device: str
    context: int
    concurrency: int
    base_fingerprint: str
    adapters: tuple[str, ...] = field(default=())


class Engine(Protocol):
    """The contract every engine passes. Errors are those of `onecard.errors`; AdapterRefused says why."""

    def info(self) -> EngineInfo: ...

    def load_adapter(self, folder: Path, manifest: Manifest) -> str:
        """Verifies base, shapes, coverage, finiteness and effect, loads it, and returns its digest; AdapterRefused otherwise."""
        ...

    def remove_adapter(self, digest: str) -> None: ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Streams the answer. Closing the iterator cancels the request. InputError for a prompt that does not fit the context."""
        ...

    async def score(self, prompt: GenerationRequest, continuations: Sequence[str]) -> list[float]:
        """Mean log-likelihood per token of each continuation after the prompt, under the request's adapter."""
        ...

    def count_tokens(self, text: str) -> int: ...

    def memory(self) -> MemoryReport: ...

    def close(self) -> None:
        """Stops the worker and frees the memory. Requests in flight end with EngineFailed."""
        ...


@runtime_checkable
class TellsLogprobs(Protocol):
    """What an engine has beside `Engine` when it honours `top_logprobs` and can say how likely a prompt's own tokens are."""

    async def prompt_logprobs(self, request: GenerationRequest) -> list[TokenLogprob]:
        """One entry for each token of the prompt, special ones as they are written, under the request's adapter."""
        ...
