"""How a server counts words: two uncounted requests with a known number of words each, and the server's own counts."""

from __future__ import annotations

from collections.abc import Sequence

from onecard.benchmark.lengths import Yardstick, text_of, yardstick
from onecard.benchmark.load import Asks, to_request
from onecard.benchmark.prompts import Prompt, Question
from onecard.errors import InputError

SHORT_WORDS, LONG_WORDS = 16, 64


async def measured_yardstick(client: Asks, agent: str, presets: Sequence[str]) -> Yardstick:
    """InputError for a server that counts no tokens, or not more of them for more words."""
    counts = [await _counted(client, agent, presets, words) for words in (SHORT_WORDS, LONG_WORDS)]
    short, long = counts
    found = None if short is None or long is None else yardstick(SHORT_WORDS, short, LONG_WORDS, long)
    if found is None:
        seen = " and ".join("no" if count is None else str(count) for count in counts)
        raise InputError(
            f"the server counts {seen} tokens for prompts of {SHORT_WORDS} and {LONG_WORDS} words",
            where=agent,
            next_step="give a file of prompts (--prompts) instead of lengths: what it counts cannot be steered",
        )
    return found


async def _counted(client: Asks, agent: str, presets: Sequence[str], words: int) -> int | None:
    question = Question(agent, presets[0] if presets else None, Prompt(0, text_of(words, 1)), max_new_tokens=1)
    usage = [piece.usage async for piece in client.stream_chat(to_request(question, 1)) if piece.usage]
    return usage[-1].prompt_tokens if usage else None
