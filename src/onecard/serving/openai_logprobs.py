"""Log-probabilities in the two shapes OpenAI has: a list of tokens in chat, parallel lists in completions. Pure.

`token` is the text the token adds. A token that ends inside a character adds none yet, and its `bytes` are unknown: null, not a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onecard.engines.engine import TokenLogprob


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat answer or of one of its events."""
    return {
        "content": [
            {
                **_entry(token.text, token.logprob),
                "top_logprobs": [_entry(text, value) for text, value in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Sequence[TokenLogprob], start: int = 0) -> dict[str, Any]:
    """`choices[].logprobs` of a completion. `start` is where the first token stands in the choice's text, in characters.

    Of likely tokens that read the same the likelier one is told. The token that was taken is among them, as OpenAI has it.
    """
    offsets = [start]
    for token in tokens:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_likeliest(token) for token in tokens],
        "text_offset": offsets[:-1],
    }


def _likeliest(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    told: dict[str, float] = {}
    for text, value in token.top:
        told.setdefault(text, value)
    if told:
        told.setdefault(token.text, token.logprob)
    return told


def _entry(text: str, logprob: float | None) -> dict[str, Any]:
    whole = text and "\N{REPLACEMENT CHARACTER}" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}
