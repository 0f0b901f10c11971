"""Log-likelihoods from a server that is not ours: completions that echo the prompt with the log-probability of each of its tokens.

That is OpenAI's old completions API as vLLM and SGLang keep it. Chat models are asked in text that was put into their template here,
because no chat route says how likely a given answer is. A server that cannot do this is told apart by one small request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from onecard.errors import EngineFailed, OnecardError
from onecard.evaluation.questions import Question
from onecard.evaluation.suite import Score
from onecard.fleet.presets import apply_preset
from onecard.fleet.schema import Preset
from onecard.wire.chat import Completion, CompletionRequest
from onecard.wire.client import Client

Render = Callable[
    [str, str], tuple[str, str]
]  # prompt and answer -> what stands before the answer, and the answer with its end of turn


async def cannot_score(client: Client, name: str) -> str | None:
    """Why this server gives no likelihoods; None when it does."""
    try:
        mean_log_likelihood(await client.complete(_request(name, "one two", " three")), " three", client.url)
    except OnecardError as error:
        return f"{name} at {client.url} gives none: completions with echo and logprobs say '{error.problem}'"
    return None


def scoring(client: Client, name: str, presets: Mapping[str, Preset], render: Render) -> Score:
    """Scores texts as answers of one of the server's models."""

    async def score(question: Question, texts: Sequence[str]) -> list[float]:
        prompt = apply_preset(presets[question.preset], question.prompt)
        found = []
        for text in texts:
            before, answer = render(prompt, text)
            found.append(mean_log_likelihood(await client.complete(_request(name, before, answer)), answer, client.url))
        return found

    return score


def mean_log_likelihood(completion: Completion, answer: str, where: str) -> float:
    """Nats per token of `answer`, the end of the echoed prompt; EngineFailed when the echo is not that.

    A token that reaches from the prompt into the answer counts as one of the answer's.
    """
    told = completion.choices[0].logprobs if completion.choices else None
    tokens, values = (told.get("tokens"), told.get("token_logprobs")) if isinstance(told, dict) else (None, None)
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise EngineFailed("the answer has no log-probabilities of its tokens", where=where)
    written = completion.usage.completion_tokens if completion.usage else 1
    echoed = [str(token) for token in tokens[: len(tokens) - written]]
    start, length = len(echoed), 0
    while start and length < len(answer):
        start -= 1
        length += len(echoed[start])
    inside = values[start : len(echoed)]
    if not "".join(echoed[start:]).endswith(answer) or not inside:
        raise EngineFailed("the prompt is not echoed token by token", where=where)
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in inside):
        raise EngineFailed("some tokens of the prompt have no log-probability", where=where)
    return math.fsum(inside) / len(inside)


def _request(name: str, before: str, answer: str) -> CompletionRequest:
    # One token is generated and thrown away: servers differ on whether none may be asked for.
    asked = {"model": name, "prompt": before + answer, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
    return CompletionRequest.model_validate(asked)
