"""POST /v1/rerank and /v1/score: how likely an agent's adapter finds given texts as its answer to a prompt.

The names are those of the services people come from: `query`, `documents`, `top_n`, `relevance_score` (Jina, Cohere, vLLM), `text_1` and
`text_2` (vLLM's score). A score is the mean natural log-likelihood per token, never above 0; the end of the turn counts as a token.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onecard.wire.chat import Answered

Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Unknown fields are refused: a misspelt one would change the order of the results."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Document(Strict):
    text: Text


class RerankRequest(Strict):
    """`documents` and `candidates` are two names of one field."""

    model: str = Field(min_length=1, description="An agent, agent@version or base.")
    query: Text = Field(description="The prompt whose answers the documents are.")
    documents: tuple[Text | Document, ...] = Field((), description="What is ranked.")
    candidates: tuple[Text | Document, ...] = Field((), description="The same as `documents`.")
    top_n: int | None = Field(None, ge=1, le=10_000_000, description="Only so many of the best. Left out: all.")
    return_documents: bool = Field(True, description="Whether the results repeat the texts.")
    preset: str | None = Field(None, description="The agent's preset, as in chat.")
    user: str | None = None

    @model_validator(mode="after")
    def _one_list(self) -> RerankRequest:
        if bool(self.documents) == bool(self.candidates):
            raise ValueError("give documents or candidates: one of them, and not empty")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """What is ranked, in the order it came."""
        return tuple(one if isinstance(one, str) else one.text for one in self.documents or self.candidates)


class RerankResult(Answered):
    """`index` is the text's place in the request, `relevance_score` nats per token."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankAnswer(Answered):
    """Best first; equal scores keep the order of the request."""

    id: str = ""
    model: str
    results: tuple[RerankResult, ...]


class ScoreRequest(Strict):
    """How likely each of `text_2` is as the answer to `text_1`."""

    model: str = Field(min_length=1, description="An agent, agent@version or base.")
    text_1: Text = Field(description="The prompt.")
    text_2: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = Field(description="One answer, or several.")
    preset: str | None = Field(None, description="The agent's preset, as in chat.")
    user: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text_2,) if isinstance(self.text_2, str) else self.text_2


class Scored(Answered):
    index: int
    object: str = "score"
    score: float


class ScoreAnswer(Answered):
    """In the order of the request."""

    id: str = ""
    object: str = "list"
    created: int = 0
    model: str
    data: tuple[Scored, ...]
