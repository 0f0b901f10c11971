"""Lengths in tokens: the words of a distribution, and prompts that come as near to a length as words allow."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.lengths import parse_lengths, text_of, yardstick
from onecard.errors import InputError


def drawn(words: str, count: int = 4000) -> list[int]:
    generator = random.Random(1)
    return [parse_lengths(words, "--prompt-tokens").draw(generator) for _ in range(count)]


def test_distributions_have_the_middle_and_the_range_they_say() -> None:
    assert set(drawn("200", 10)) == {200}
    assert min(drawn("uniform:10..12")) == 10 and max(drawn("uniform:10..12")) == 12
    assert sum(drawn("normal:300:50")) / 4000 == pytest.approx(300, abs=4)
    assert sorted(drawn("lognormal:100:0.7"))[2000] == pytest.approx(100, rel=0.06)
    assert min(drawn("normal:2:50")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-3",
        "x",
        "uniform:5",
        "uniform:9..3",
        "normal:10",
        "normal:10:x",
        "lognormal:0:1",
        "normal:10:nan",
        "99999999999",
    ],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a length"):
        parse_lengths(text, "--prompt-tokens")


@given(overhead=st.integers(0, 50), per_word=st.floats(1, 4), tokens=st.integers(60, 5000))
def test_words_come_within_half_a_word_of_the_tokens(overhead: int, per_word: float, tokens: int) -> None:
    found = yardstick(16, round(overhead + 16 * per_word), 64, round(overhead + 64 * per_word))
    assert found is not None
    words = found.words_for(tokens)
    assert abs(found.overhead + words * found.tokens_per_word - tokens) <= found.tokens_per_word / 2 + 1e-6
    assert found.overhead + found.words_up_to(tokens) * found.tokens_per_word <= tokens + 1e-6


def test_a_server_that_counts_nothing_gives_no_yardstick() -> None:
    assert yardstick(16, 4, 64, 4) is None


def test_prompts_have_their_words_and_differ_from_the_first_on() -> None:
    assert len(text_of(40, 3).split()) == 40
    assert text_of(5, 1).split()[0] != text_of(5, 2).split()[0]
    assert text_of(1, 7) == "7"
