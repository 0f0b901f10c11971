"""A tokenizer that reads many texts in one call and then answers from memory: a fast tokenizer works on all of them side by side.

To its users it is the tokenizer itself, so training's and serving's own functions run on it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class BatchedTokenizer:
    """Wraps a tokenizer. What was not read ahead is asked of the tokenizer as ever; memory lasts as long as the object.

    Its warning about long texts stays out: the ledger tells of them with their lines.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[tuple[str, bool], list[int]] = {}
        self._texts: dict[tuple[Any, ...], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def read_ahead(self, texts: Iterable[tuple[str, bool]]) -> None:
        """Texts, each with whether special tokens are put before it."""
        wanted = list(dict.fromkeys(texts))
        for special in (True, False):
            batch = [text for text, with_special in wanted if with_special is special]
            if batch:
                read = self._tokenizer(batch, add_special_tokens=special, verbose=False)["input_ids"]
                self._ids |= {(text, special): ids for text, ids in zip(batch, read, strict=True)}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        known = self._ids.get((text, add_special_tokens))
        if known is None:
            known = list(self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
        return {"input_ids": known}

    def apply_chat_template(self, turns: Sequence[dict[str, str]], **how: Any) -> Any:
        """The tokenizer's own rendering, once for the same turns and keywords."""
        key = (tuple(sorted(how.items())), *((turn["role"], turn["content"]) for turn in turns))
        if key not in self._texts:
            self._texts[key] = self._tokenizer.apply_chat_template(turns, **how)
        return self._texts[key]
