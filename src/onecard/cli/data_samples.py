"""A few rows decoded from their ids, cut where learning begins and ends and round special tokens: what a model really gets to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onecard.training.chat import EncodedRow
    from onecard.training.ledger import Encoded
    from onecard.training.preparation import Prepared

SAMPLES = 3


@dataclass(frozen=True)
class Part:
    """A stretch of a row that is learned or not, and is special tokens or text."""

    text: str
    learned: bool
    special: bool


@dataclass(frozen=True)
class Sample:
    """One training sequence. `side` is chosen or rejected for a preference row, else None."""

    where: str
    side: str | None
    tokens: int
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        return f"{self.where}{f' {self.side}' if self.side else ''} ({self.tokens:,} tokens)"


def samples_of(prepared: Prepared, count: int = SAMPLES) -> list[Sample]:
    """So many rows from the shortest to the longest; both sequences of a preference row."""
    rows = sorted(prepared.ledger.encoded, key=_length)
    places = sorted({place * (len(rows) - 1) // max(count - 1, 1) for place in range(count)}) if rows else []
    return [
        Sample(one.row.where, side, len(one.ids), tuple(parts_of(one, prepared.tokenizer)))
        for place in places
        for side, one in _sides(rows[place])
    ]


def parts_of(one: EncodedRow, tokenizer: Any) -> Iterator[Part]:
    """The row's text in order, from the ids; joined, the parts are the decoded row."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    kinds = [(learned, token in special) for token, learned in zip(one.ids, one.trained, strict=True)]
    end, before = 0, ""
    for (learned, is_special), run in groupby(kinds):
        end += len(list(run))
        # Alone, a stretch would lose the space some tokenizers decode only in front of text that stands before it.
        whole = tokenizer.decode(one.ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield Part(whole[len(before) :], learned, is_special)
        before = whole


def _sides(one: Encoded) -> list[tuple[str | None, EncodedRow]]:
    from onecard.training.chat import EncodedPair

    return [("chosen", one.chosen), ("rejected", one.rejected)] if isinstance(one, EncodedPair) else [(None, one)]


def _length(one: Encoded) -> int:
    return max(len(side.ids) for _, side in _sides(one))
