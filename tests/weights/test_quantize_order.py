"""The split of text and the record that crosses to the runner."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.weights.quantize_order import FEWEST_TEXTS, MAKERS, Order, Texts, from_json, split_texts, to_json

TEXTS = st.lists(st.text(min_size=1), min_size=FEWEST_TEXTS, max_size=60, unique=True)


@given(TEXTS, st.integers(4, 64), st.randoms())
def test_no_text_is_in_both_halves_and_the_order_of_the_file_does_not_matter(texts, samples, random) -> None:
    split = split_texts(texts, samples, special_tokens=False)
    assert not set(split.calibration) & set(split.held_out)
    assert set(split.calibration) | set(split.held_out) <= set(texts)
    assert split.held_out
    assert 0 < len(split.calibration) <= samples
    shuffled = [*texts, *texts[:3]]
    random.shuffle(shuffled)
    assert split_texts(shuffled, samples, special_tokens=False) == split


def test_too_few_different_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 different texts, and at least 8"):
        split_texts(["a", "b"] * 20, 16, special_tokens=False)


def test_enough_text_gives_what_was_asked_for() -> None:
    split = split_texts([f"text {number}" for number in range(400)], 128, special_tokens=True)
    assert (len(split.calibration), len(split.held_out)) == (128, 32)


@given(TEXTS, st.sampled_from([(to, maker) for to, makers in MAKERS.items() for maker in makers]))
def test_an_order_is_the_same_on_the_other_side(texts, form) -> None:
    order = Order(
        model="embedded:mini",
        source=Path("/models/mini"),
        output=Path("/models/mini-new"),
        to=form[0],
        maker=form[1],
        group=64,
        texts=Texts(tuple(texts[:4]), tuple(texts[4:]), special_tokens=True),
        max_tokens=99,
        device="auto",
        python=Path("/usr/bin/python3"),
    )
    again = from_json(to_json(order, order.output))
    assert again == order
    assert again.texts.digest == order.texts.digest
