"""POST /generate, the short way to ask: a prompt and a style. Unknown fields are refused, a misspelt one would ask for nothing."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from onecard.wire.chat import Answered


class GenerateRequest(BaseModel):
    """`style` is a preset of the agent; without `agent` it is the only agent that has this style."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(min_length=1)
    style: str | None = Field(None, min_length=1, description="Left out: the agent's default preset.")
    agent: str | None = Field(None, min_length=1, description="As `model` elsewhere: an agent, or agent@version.")


class GenerateAnswer(Answered):
    """`tokens` counts the answer's tokens, `latency_s` the seconds from the request's arrival to its last token."""

    response: str
    style: str
    tokens: int
    latency_s: float
