from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.evaluation import scorers

TEXTS = st.text(max_size=80)
WORDS = st.lists(
    st.sampled_from(["a", "heap", "is", "kept", "in", "order", "by", "its", "keys", "and", "every", "child"]),
    max_size=30,
)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(scorers).failed == 0
    assert doctest.testmod(scorers).attempted >= 6


@given(TEXTS, TEXTS)
def test_overlap_is_a_share_and_the_same_both_ways(a: str, b: str) -> None:
    assert 0 <= scorers.overlap(a, b) <= 1
    assert scorers.overlap(a, b) == scorers.overlap(b, a)


@given(WORDS.filter(bool), st.randoms())
def test_overlap_is_whole_for_the_same_words_in_any_order_case_and_punctuation(words: list[str], luck) -> None:
    shuffled = words.copy()
    luck.shuffle(shuffled)
    assert scorers.overlap(" ".join(words), "; ".join(shuffled).upper() + "!") == 1.0


@given(WORDS, WORDS)
def test_overlap_is_whole_only_for_the_same_words(a: list[str], b: list[str]) -> None:
    whole = scorers.overlap(" ".join(a), " ".join(b)) == 1.0
    assert whole == (sorted(a) == sorted(b) and bool(a))


def test_overlap_counts_a_word_as_often_as_it_occurs() -> None:
    # Three shared of 3 and 5 words: F1 is 2 * 3 / 8.
    assert scorers.overlap("the the tree", "the the the tree root") == pytest.approx(0.75)


def test_overlap_takes_umlauts_and_vowel_signs_as_parts_of_words() -> None:
    assert scorers.words("Größe, \N{DEVANAGARI LETTER KA}\N{DEVANAGARI VOWEL SIGN I}!") == [
        "größe",
        "\N{DEVANAGARI LETTER KA}\N{DEVANAGARI VOWEL SIGN I}",
    ]


@given(TEXTS)
def test_repetition_is_a_share_below_one(text: str) -> None:
    assert 0 <= scorers.repetition(text) < 1


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=40))
def test_words_that_never_recur_repeat_nothing(numbers: list[int]) -> None:
    assert scorers.repetition(" ".join(f"w{number}" for number in numbers)) == 0


@given(WORDS.filter(lambda words: len(words) >= 4))
def test_saying_everything_again_is_repetition(words: list[str]) -> None:
    once = " ".join(words)
    # The second time adds at most the three sequences that span the seam: 2n - 3 in all, at most n of them distinct.
    least = (len(words) - 3) / (2 * len(words) - 3)
    assert scorers.repetition(f"{once} {once}") >= least - 1e-12 > 0


@pytest.mark.parametrize(("text", "ends"), [("Why?", True), ("Why? \n", True), ("Why? Because.", False), ("", False)])
def test_ends_with_does_not_mind_white_space_at_the_end(text: str, ends: bool) -> None:
    assert scorers.ends_with(text, "?") is ends
