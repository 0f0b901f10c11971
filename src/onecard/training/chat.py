"""One row as token ids and labels: the prompt exactly as serving will send it, the answer and its end of turn to be learned.

Labels cover the completion and the end of turn, nothing of the prompt and nothing after the end of turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onecard.engines.local.tokens import chat_ids, chat_text, text_ids, written_ids
from onecard.errors import DataError
from onecard.fleet.presets import apply_preset, default_preset
from onecard.fleet.schema import Preset
from onecard.training.rows import Row

IGNORED = -100  # the label transformers and TRL leave out of the loss


@dataclass(frozen=True)
class EncodedRow:
    """`ids` are prompt, completion and end of turn; the first `prompt_tokens` of them are not learned."""

    row: Row
    ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def labels(self) -> tuple[int, ...]:
        return (IGNORED,) * self.prompt_tokens + self.ids[self.prompt_tokens :]

    @property
    def trained_tokens(self) -> int:
        return len(self.ids) - self.prompt_tokens


@dataclass(frozen=True)
class ChatFormat:
    """What turns rows into ids: the tokenizer with the recipe's tokens, its stop ids, and the agent's presets.

    Without presets no prompt is changed; with them, rows name no other.
    """

    tokenizer: Any
    stop_ids: tuple[int, ...]
    chat_template: bool
    presets: Mapping[str, Preset]

    def encode(self, row: Row) -> EncodedRow:
        """DataError when the row cannot be told apart into prompt and answer."""
        prompt, answer = self._chat(row) if self.chat_template else self._plain(row)
        answer = self._end(answer, row)
        return EncodedRow(row, (*prompt, *answer), len(prompt))

    def prompt(self, row: Row) -> str:
        """The row's prompt under its preset; a row without one follows the agent's default preset, as a request does."""
        if not self.presets:
            return row.prompt
        return apply_preset(self.presets[row.preset or default_preset(self.presets)], row.prompt)

    def _chat(self, row: Row) -> tuple[list[int], list[int]]:
        asked = [{"role": "user", "content": self.prompt(row)}]
        told = [*asked, {"role": "assistant", "content": row.completion}]
        before = chat_text(self.tokenizer, asked, answer_next=True)
        whole = chat_text(self.tokenizer, told, answer_next=False)
        if not whole.startswith(before):
            raise DataError(
                "the base's chat template writes the prompt differently once it is answered",
                where=row.where,
                next_step="set chat_template: false in the recipe, or mend the template",
            )
        prompt, ids = chat_ids(self.tokenizer, asked), written_ids(self.tokenizer, whole)
        if ids[: len(prompt)] == prompt:
            return prompt, ids[len(prompt) :]
        # Prompt and answer share a token where they meet; serving sends the prompt alone, so they are cut there.
        return prompt, written_ids(self.tokenizer, whole[len(before) :])

    def _plain(self, row: Row) -> tuple[list[int], list[int]]:
        return text_ids(self.tokenizer, self.prompt(row)), written_ids(self.tokenizer, row.completion)

    def _end(self, answer: list[int], row: Row) -> list[int]:
        """The answer up to its first stop token, which is added where the template writes none: generation stops there."""
        written = next((token for token in written_ids(self.tokenizer, row.completion) if token in self.stop_ids), None)
        if written is not None:
            token = self.tokenizer.convert_ids_to_tokens(written)
            raise DataError(f"the completion holds the end-of-turn token {token}", where=row.where)
        stop = next((place for place, token in enumerate(answer) if token in self.stop_ids), None)
        return [*answer, self._end_of_turn()] if stop is None else answer[: stop + 1]

    def _end_of_turn(self) -> int:
        own = self.tokenizer.eos_token_id
        return int(own) if own is not None else self.stop_ids[0]
