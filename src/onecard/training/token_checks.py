"""Tokens that would train nothing or fall to pieces: an added token that stands in no row, a preset's token that nobody added."""

from __future__ import annotations

from collections.abc import Sequence

from onecard.errors import DataError
from onecard.training.chat import ChatFormat, EncodedRow


def unused_tokens(added_tokens: Sequence[str], sequences: Sequence[EncodedRow], chat: ChatFormat) -> list[DataError]:
    """An added token that stands in no row keeps its untrained row of the embedding and would answer with noise."""
    if not added_tokens or not sequences:
        return []
    seen = {token for side in sequences for token in side.ids}
    unused = [token for token in added_tokens if chat.tokenizer.convert_tokens_to_ids(token) not in seen]
    return [
        DataError(
            f"no row uses the added token {token}",
            where=sequences[0].row.where.rpartition(":")[0],
            allowed="every added token stands in at least one row, by its preset or written out",
            next_step="give rows the preset of this token, or take it out of the recipe",
        )
        for token in unused
    ]


def split_tokens(chat: ChatFormat) -> list[DataError]:
    """A preset's token that the tokenizer does not know whole would fall into pieces, and nobody would notice."""
    known = chat.tokenizer.get_vocab()
    return [
        DataError(
            f"the token {preset.token} is not in the vocabulary",
            where=f"presets.{name}.token",
            allowed="a token of the base, or one of the recipe's added_tokens",
            next_step=f"add {preset.token} to added_tokens of the recipe",
        )
        for name, preset in sorted(chat.presets.items())
        if preset.token and preset.token not in known
    ]
