"""One request's progress: chunks, counts and reasons, from logits that are made up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from onecard.engines.engine import Chunk, GenerationRequest
from onecard.engines.local.answer import Answer, Prompt
from onecard.errors import EngineFailed, OnecardError

LETTERS = " abcdefghijklmnopqrstuvwxyz."
END = len(LETTERS)


def letters(ids: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in ids)


def told(text: str, *, chat: bool = False, ends: bool = True, **settings: object) -> list[Chunk | OnecardError]:
    """What an answer delivers when the model wants to say this text."""
    delivered: list[Chunk | OnecardError] = []
    request = GenerationRequest(text="?", **{"max_new_tokens": 50, **settings})  # type: ignore[arg-type]
    answer = Answer(request, Prompt((1, 2, 3), (END,), chat), None, letters, delivered.append)
    answer.start()
    for token in [*[LETTERS.index(letter) for letter in text], *([END] if ends else [])]:
        if answer.finished:
            break
        logits = torch.zeros(END + 1)
        logits[token] = 9.0
        answer.take(logits)
    return delivered


def text_of(delivered: list[Chunk | OnecardError]) -> str:
    assert all(isinstance(chunk, Chunk) for chunk in delivered)
    return "".join(chunk.text for chunk in delivered if isinstance(chunk, Chunk))


def test_it_ends_at_the_end_of_turn_which_counts_as_a_token() -> None:
    delivered = told("hello.")
    assert text_of(delivered) == "hello."
    assert sum(chunk.tokens for chunk in delivered) == 7  # type: ignore[union-attr]
    assert [chunk.finish_reason for chunk in delivered] == [None] * 6 + ["stop"]  # type: ignore[union-attr]


def test_it_ends_at_the_length_it_was_given() -> None:
    delivered = told("hello.", max_new_tokens=3)
    assert text_of(delivered) == "hel"
    assert delivered[-1].finish_reason == "length"  # type: ignore[union-attr]


def test_a_stop_string_ends_it_and_what_was_held_back_comes_out_otherwise() -> None:
    assert text_of(told("one two", stop=("two",))) == "one "
    assert text_of(told("one tw", stop=("two",))) == "one tw"
    assert text_of(told("one tw", ends=False, stop=("two",), max_new_tokens=6)) == "one tw"


@pytest.mark.parametrize(("chat", "text"), [(True, "a b"), (False, "  a b")])
def test_only_a_chat_answer_loses_the_space_its_template_writes(chat: bool, text: str) -> None:
    assert text_of(told("  a b", chat=chat)) == text


def test_nan_ends_it_with_an_error_once() -> None:
    delivered: list[Chunk | OnecardError] = []
    answer = Answer(GenerationRequest(text="?"), Prompt((1,), (), False), None, letters, delivered.append)
    answer.take(torch.tensor([0.0, torch.nan]))
    answer.fail(EngineFailed("again"))
    assert answer.finished and len(delivered) == 1 and "NaN" in str(delivered[0])
