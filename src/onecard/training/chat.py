"""One row as token ids and what of them is learned: every prompt exactly as serving will send it, every answer with its end of turn.

Learned are the answers and their ends of turn, nothing of what is asked and nothing after an end of turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onecard.engines.local.tokens import chat_ids, chat_text, text_ids, written_ids
from onecard.errors import DataError
from onecard.fleet.presets import apply_preset, default_preset
from onecard.fleet.schema import Preset
from onecard.training.rows import Row
from onecard.training.turns import Turn

IGNORED = -100  # the label transformers leaves out of the loss


@dataclass(frozen=True)
class EncodedRow:
    """`ids` are one training sequence; `trained` says of each whether it is learned."""

    row: Row
    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(token if learned else IGNORED for token, learned in zip(self.ids, self.trained, strict=True))

    @property
    def trained_tokens(self) -> int:
        return sum(self.trained)

    @property
    def prompt_tokens(self) -> int:
        """Ids before the first that is learned; all when none is."""
        return self.trained.index(True) if True in self.trained else len(self.ids)


@dataclass(frozen=True)
class EncodedPair:
    """Two answers to one prompt: both sequences begin with the same prompt ids."""

    row: Row
    chosen: EncodedRow
    rejected: EncodedRow

    @property
    def sides(self) -> tuple[EncodedRow, EncodedRow]:
        return self.chosen, self.rejected

    @property
    def prompt_tokens(self) -> int:
        return self.chosen.prompt_tokens

    @property
    def longest(self) -> int:
        """Ids of the longer of the two sequences."""
        return max(len(side.ids) for side in self.sides)


class TurnsDiffer(DataError):
    """The template writes the earlier turns of a conversation differently once there are more: no one sequence is what serving sends."""


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
        """DataError when the row cannot be told apart into prompts and answers; TurnsDiffer when only its answers one by one can."""
        ids: list[int] = []
        trained: list[bool] = []
        for place in row.answers:
            prompt, answer = self._piece(row, place)
            if prompt[: len(ids)] != ids:
                raise TurnsDiffer(
                    f"what stands before turn {place + 1} is not written as it was learned",
                    where=row.where,
                    next_step="give each answer a row of its own",
                )
            trained += [False] * (len(prompt) - len(ids)) + [True] * len(answer)
            ids = prompt + answer
        return EncodedRow(row, tuple(ids), tuple(trained))

    def encode_pair(self, row: Row) -> EncodedPair:
        """A preference row as two sequences. DataError as in `encode`."""
        place = len(row.conversation) - 1
        sides = []
        for answer in (row.completion, row.rejected or ""):
            prompt, ids = self._piece(row, place, answer)
            learned = (False,) * len(prompt) + (True,) * len(ids)
            sides.append(EncodedRow(row, (*prompt, *ids), learned))
        return EncodedPair(row, *sides)

    def asked(self, row: Row, place: int) -> list[dict[str, str]]:
        """The turns a request would hold to get the answer at `place`: the preset's token stands before the last user turn."""
        turns = list(row.conversation[:place])
        last = max(number for number, (role, _) in enumerate(turns) if role == "user")
        turns[last] = ("user", self._under_preset(row, turns[last][1]))
        return [_message(turn) for turn in turns]

    def texts(self, row: Row) -> list[tuple[str, bool]]:
        """Every text that encoding this row hands to the tokenizer, and whether special tokens are put before it."""
        found: list[tuple[str, bool]] = []
        for place in row.answers:
            asked, answers = self.asked(row, place), [row.conversation[place][1]]
            answers += [row.rejected] if row.rejected is not None else []
            before = chat_text(self.tokenizer, asked, answer_next=True) if self.chat_template else asked[-1]["content"]
            found.append((before, not self.chat_template))
            for answer in answers:
                found.append((answer, False))
                if self.chat_template:
                    found.append((chat_text(self.tokenizer, _told(asked, answer), answer_next=False), False))
        return found

    def writes_answers(self, row: Row) -> bool:
        """Whether the template writes every answer as it stands in the row, but for white space around it."""
        for place in row.answers:
            asked = self.asked(row, place)
            before = len(chat_text(self.tokenizer, asked, answer_next=True))
            for answer in [row.conversation[place][1], *([row.rejected] if row.rejected is not None else [])]:
                if answer.strip() not in chat_text(self.tokenizer, _told(asked, answer), answer_next=False)[before:]:
                    return False
        return True

    def _under_preset(self, row: Row, prompt: str) -> str:
        """A row without a preset follows the agent's default preset, as a request does."""
        if not self.presets:
            return prompt
        return apply_preset(self.presets[row.preset or default_preset(self.presets)], prompt)

    def _piece(self, row: Row, place: int, answer: str | None = None) -> tuple[list[int], list[int]]:
        """The prompt that asks for the answer at `place`, and the ids of that answer with its end of turn."""
        asked, said = self.asked(row, place), row.conversation[place][1] if answer is None else answer
        prompt, ids = self._chat(asked, said, row.where) if self.chat_template else self._plain(asked, said, row.where)
        return prompt, self._end(ids, said, row.where)

    def _chat(self, asked: list[dict[str, str]], said: str, where: str) -> tuple[list[int], list[int]]:
        before = chat_text(self.tokenizer, asked, answer_next=True)
        whole = chat_text(self.tokenizer, _told(asked, said), answer_next=False)
        if not whole.startswith(before):
            raise DataError(
                "the base's chat template writes the prompt differently once it is answered",
                where=where,
                next_step="set chat_template: false in the recipe, or mend the template",
            )
        prompt, ids = chat_ids(self.tokenizer, asked), written_ids(self.tokenizer, whole)
        if ids[: len(prompt)] == prompt:
            return prompt, ids[len(prompt) :]
        # Prompt and answer share a token where they meet; serving sends the prompt alone, so they are cut there.
        return prompt, written_ids(self.tokenizer, whole[len(before) :])

    def _plain(self, asked: list[dict[str, str]], said: str, where: str) -> tuple[list[int], list[int]]:
        if len(asked) > 1:
            raise DataError(
                "a conversation, and the recipe says chat_template: false",
                where=where,
                allowed="a prompt and a completion",
                next_step="set chat_template: true in the recipe",
            )
        return text_ids(self.tokenizer, asked[0]["content"]), written_ids(self.tokenizer, said)

    def _end(self, answer: list[int], said: str, where: str) -> list[int]:
        """The answer up to its first stop token, which is added where the template writes none: generation stops there."""
        written = next((token for token in written_ids(self.tokenizer, said) if token in self.stop_ids), None)
        if written is not None:
            token = self.tokenizer.convert_ids_to_tokens(written)
            raise DataError(f"the completion holds the end-of-turn token {token}", where=where)
        stop = next((place for place, token in enumerate(answer) if token in self.stop_ids), None)
        return [*answer, self._end_of_turn()] if stop is None else answer[: stop + 1]

    def _end_of_turn(self) -> int:
        own = self.tokenizer.eos_token_id
        return int(own) if own is not None else self.stop_ids[0]


def _message(turn: Turn) -> dict[str, str]:
    return {"role": turn[0], "content": turn[1]}


def _told(asked: Sequence[dict[str, str]], answer: str) -> list[dict[str, str]]:
    return [*asked, {"role": "assistant", "content": answer}]
