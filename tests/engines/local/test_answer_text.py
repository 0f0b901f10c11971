"""Text while it arrives: whole characters only, nothing lost, and cut before the stop string that completes first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onecard.engines.local.answer_text import Detokenizer, StopStrings


def bytes_as_tokens(ids: Sequence[int]) -> str:
    """A byte-level tokenizer: every token is one byte."""
    return bytes(ids).decode("utf-8", errors="replace")


def words_as_tokens(ids: Sequence[int]) -> str:
    """A sentencepiece-like tokenizer: words carry the space before them, and a decoding drops the first."""
    return "".join(f" word{token}" for token in ids).removeprefix(" ")


@given(st.text(max_size=30))
@example("日本語 ünd 👩‍👩‍👧 \N{REPLACEMENT CHARACTER} end")
def test_every_piece_is_whole_characters_and_together_they_are_the_text(text: str) -> None:
    detokenizer = Detokenizer(bytes_as_tokens)
    pieces = [detokenizer.add(token) for token in text.encode()]
    assert "".join(pieces) == text.rstrip("\N{REPLACEMENT CHARACTER}")
    assert [len(piece) <= 1 or "\N{REPLACEMENT CHARACTER}" in piece for piece in pieces] == [True] * len(pieces)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_bytes_that_are_no_text_lose_only_an_incomplete_end(tokens: list[int]) -> None:
    detokenizer = Detokenizer(bytes_as_tokens)
    whole = bytes_as_tokens(tokens)
    assert "".join(detokenizer.add(token) for token in tokens) == whole.rstrip("\N{REPLACEMENT CHARACTER}")


@given(st.lists(st.integers(0, 9), max_size=20))
def test_spaces_between_tokens_are_kept(tokens: list[int]) -> None:
    detokenizer = Detokenizer(words_as_tokens)
    assert "".join(detokenizer.add(token) for token in tokens) == words_as_tokens(tokens)


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=30, max_size=30),
)
@example("xabcd", ["bc", "abcd"], [1] * 30)
@example("xabcd", ["cd", "abcd"], [5] * 30)
def test_the_cut_is_the_same_however_the_text_arrives(text: str, stops: list[str], sizes: list[int]) -> None:
    filtering, given_out, position = StopStrings(stops), "", 0
    for size in sizes:
        given_out += filtering.add(text[position : position + size])
        assert text.startswith(given_out), "what is given out is never taken back"
        position += size
    given_out += filtering.finish()
    ends = {(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text}
    assert given_out == (text[: min(ends)[1]] if ends else text)
    assert filtering.stopped == bool(ends)


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    filtering = StopStrings(["###", "User:"])
    assert filtering.add("one U") == "one "
    assert filtering.add("se") == ""
    assert filtering.add(" two") == "Use two"


@pytest.mark.parametrize("late", ["", "more"])
def test_nothing_comes_after_a_stop(late: str) -> None:
    filtering = StopStrings(["."])
    assert filtering.add("a.b") == "a"
    assert filtering.add(late) + filtering.finish() == ""
