"""How long prompts and answers are: a distribution over numbers of tokens, written in one word.

A prompt of so many tokens for a tokenizer nobody has told us is made of plain words; two answers of the server say how many tokens a
word is (`Yardstick`). What was really sent is the server's own count and stands in every record.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from onecard.errors import InputError

ALLOWED = "200, uniform:100..400, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA, in tokens"
LONGEST = 10_000_000
WORDS = (
    "the",
    "cache",
    "of",
    "a",
    "system",
    "holds",
    "what",
    "was",
    "read",
    "so",
    "that",
    "it",
    "can",
    "be",
    "found",
    "again",
)


@dataclass(frozen=True)
class Lengths:
    """A distribution of whole numbers, at least 1."""

    kind: Literal["fixed", "uniform", "normal", "lognormal"]
    first: float
    second: float = 0.0
    words: str = ""

    def draw(self, generator: random.Random) -> int:
        if self.kind == "fixed":
            drawn = self.first
        elif self.kind == "uniform":
            drawn = float(generator.randint(int(self.first), int(self.second)))
        elif self.kind == "normal":
            drawn = generator.gauss(self.first, self.second)
        else:
            drawn = self.first * math.exp(generator.gauss(0.0, self.second))
        return max(1, min(LONGEST, round(drawn)))

    @property
    def longest(self) -> int:
        """A length that hardly any draw exceeds: the largest, or three deviations above the middle."""
        if self.kind == "lognormal":
            return round(self.first * math.exp(min(3 * self.second, 30)))
        return round({"fixed": self.first, "uniform": self.second, "normal": self.first + 3 * self.second}[self.kind])


def parse_lengths(text: str, option: str) -> Lengths:
    """A distribution from its words (ALLOWED); InputError otherwise."""
    kind, colon, rest = text.partition(":")
    try:
        if not colon:
            found = Lengths("fixed", _whole(text), words=text)
        elif kind == "uniform":
            low, _, high = rest.partition("..")
            found = Lengths("uniform", _whole(low), _whole(high), words=text)
        elif kind in ("normal", "lognormal"):
            middle, _, spread = rest.partition(":")
            found = Lengths("normal" if kind == "normal" else "lognormal", _whole(middle), float(spread), words=text)
        else:
            raise ValueError(kind)
        if found.kind == "uniform" and found.second < found.first:
            raise ValueError(rest)
        if not 0 <= found.second <= LONGEST:
            raise ValueError(rest)
    except ValueError:
        raise InputError(f"'{text}' is not a length", where=option, allowed=ALLOWED) from None
    return found


def _whole(text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= LONGEST:
        raise ValueError(text)
    return int(text)


@dataclass(frozen=True)
class Yardstick:
    """How a server counts our words: a prompt of w words has `overhead + w * tokens_per_word` tokens, its template included."""

    overhead: float
    tokens_per_word: float

    def words_for(self, tokens: int) -> int:
        """So many words that the prompt comes as near to `tokens` as whole words allow, at least one."""
        return max(1, round((tokens - self.overhead) / self.tokens_per_word))

    def words_up_to(self, tokens: int) -> int:
        """So many words that the prompt does not exceed `tokens`, at least one."""
        return max(1, math.floor((tokens - self.overhead) / self.tokens_per_word + 1e-9))


def yardstick(short_words: int, short_tokens: int, long_words: int, long_tokens: int) -> Yardstick | None:
    """The line through two counts of the server; None when it does not count more tokens for more words."""
    slope = (long_tokens - short_tokens) / (long_words - short_words)
    return Yardstick(short_tokens - slope * short_words, slope) if slope > 0 else None


def text_of(words: int, number: int) -> str:
    """So many words. `number` stands first, so that no two prompts share a prefix a cache could answer from."""
    start = (number * 7) % len(WORDS)
    return " ".join([str(number), *(WORDS[(start + place) % len(WORDS)] for place in range(words - 1))])
