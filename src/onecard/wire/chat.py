"""OpenAI's chat completions and completions as records: what a client sends and what a server answers.

Requests keep fields they do not know (`model_extra`), so that a client can pass anything on to any server; which of them a server
cannot honour stands in `unsupported.py`. Answers are read leniently, because servers differ, and written in the exact shape.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
LARGEST_SEED = 2**63 - 1
MOST_LOGPROBS = 20
LARGEST_COUNT = 10_000_000  # far above any context, far below what an engine could not count


class Asked(BaseModel):
    """A part of a request; unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Answered(BaseModel):
    """A part of an answer; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class ContentPart(Asked):
    """One part of a message's content. Only `type: text` carries text."""

    type: str
    text: str | None = None


class ChatMessage(Asked):
    """One turn. `developer` is OpenAI's newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[ContentPart, ...] | None = None


class StreamOptions(Asked):
    include_usage: bool | None = None


class GenerationFields(Asked):
    """What both routes share. None means: the preset decides. Every limit is in tokens of the base's tokenizer."""

    model: str = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=LARGEST_COUNT)
    temperature: FiniteFloat | None = Field(None, ge=0, le=2)
    top_p: FiniteFloat | None = Field(None, gt=0, le=1)
    stop: Stop | Annotated[tuple[Stop, ...], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-LARGEST_SEED - 1, le=LARGEST_SEED)
    n: int | None = Field(None, ge=1, le=LARGEST_COUNT)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    preset: str | None = Field(None, description="onecard's own: the agent's preset to start from.")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(GenerationFields):
    """POST /v1/chat/completions."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=LARGEST_COUNT)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)


class CompletionRequest(GenerationFields):
    """POST /v1/completions. The prompt goes to the model as it is, without a chat template.

    `echo` repeats the prompt before the answer; with it `max_tokens` may be 0, which only looks at the prompt.
    """

    max_tokens: int | None = Field(None, ge=0, le=LARGEST_COUNT)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS, description="So many likeliest tokens at each place.")
    prompt: str | tuple[str, ...] | tuple[int, ...] | tuple[tuple[int, ...], ...]


class Usage(Answered):
    """Tokens of the prompt as the model saw it (template included) and of the answer."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class AnswerMessage(Answered):
    role: str = "assistant"
    content: str | None = None


class ChatChoice(Answered):
    index: int = 0
    message: AnswerMessage
    finish_reason: str | None = None
    logprobs: Any = None


class ChatCompletion(Answered):
    """A whole answer. `system_fingerprint` is the digest of the adapter that answered, or the base's fingerprint."""

    id: str = ""
    object: Literal["chat.completion"] = "chat.completion"
    created: int = 0
    model: str
    choices: tuple[ChatChoice, ...] = Field(min_length=1)
    usage: Usage | None = None
    system_fingerprint: str | None = None


class Delta(Answered):
    role: str | None = None
    content: str | None = None


class ChunkChoice(Answered):
    index: int = 0
    delta: Delta
    finish_reason: str | None = None


class ChatChunk(Answered):
    """One event of a streamed chat answer. The one with the usage has no choices."""

    id: str = ""
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int = 0
    model: str = ""
    choices: tuple[ChunkChoice, ...] = ()
    usage: Usage | None = None
    system_fingerprint: str | None = None


class CompletionChoice(Answered):
    index: int = 0
    text: str
    finish_reason: str | None = None
    logprobs: Any = None


class Completion(Answered):
    """A whole answer of /v1/completions, and each event of a streamed one."""

    id: str = ""
    object: Literal["text_completion"] = "text_completion"
    created: int = 0
    model: str
    choices: tuple[CompletionChoice, ...] = ()
    usage: Usage | None = None
    system_fingerprint: str | None = None


class ModelCard(Answered):
    """One name that /v1/models lists."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "onecard"


class ModelList(Answered):
    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]
