"""Which rows make a step and how they are laid out: nothing lost, nothing twice, nothing learned that should not be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onecard.fleet.recipe import BatchSection
from onecard.training import batches
from onecard.training.chat import EncodedRow
from onecard.training.rows import Row

CPU = torch.device("cpu")
lengths = st.lists(st.integers(1, 300), min_size=1, max_size=60)


def text(ids: list[int], prompt: int) -> EncodedRow:
    row = Row("p", "c", None, "rows.jsonl:1")
    return EncodedRow(row, tuple(ids), tuple(place >= prompt for place in range(len(ids))))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_every_epoch_sees_every_row_once(count, rows, accumulate, seed):
    batch = BatchSection(rows=rows, accumulate=accumulate)
    total = batches.total_steps(count, batch, 2, None)
    drawn = list(batches.steps(count, batch, seed, total))
    assert len(drawn) == total
    seen = [index for step in drawn for index in step]
    assert sorted(seen[:count]) == sorted(seen[count:]) == list(range(count))
    assert all(len(step) <= rows * accumulate for step in drawn)
    assert drawn == list(batches.steps(count, batch, seed, total))


def test_another_seed_and_another_epoch_draw_otherwise():
    batch = BatchSection(rows=4, accumulate=1)
    first, other = (list(batches.steps(40, batch, seed, 20)) for seed in (1, 2))
    assert first != other and first[:10] != first[10:]


def test_max_steps_may_go_past_the_epochs():
    assert batches.total_steps(10, BatchSection(rows=2, accumulate=1), 1, 13) == 13
    assert len(list(batches.steps(10, BatchSection(rows=2, accumulate=1), 0, 13))) == 13


@given(lengths, st.integers(16, 512))
def test_packing_loses_no_row_and_keeps_the_limit(sizes, most):
    bins = batches.packed(sizes, most)
    assert sorted(place for held in bins for place in held) == list(range(len(sizes)))
    for held in bins:
        assert len(held) == 1 or sum(sizes[place] for place in held) <= most
    # At least half of each pass is used on average, otherwise two could have been one.
    assert len(bins) == 1 or 2 * sum(sizes) > most * (len(bins) - 1)


def test_passes_of_a_step_are_even():
    """The largest pass is the peak: 64 rows of 8,320 tokens fit three passes of 4,096, none of which need be full."""
    sizes = [130] * 64
    assert sorted(sum(sizes[place] for place in held) for held in batches.packed(sizes, 4096)) == [2730, 2730, 2860]


@given(lengths, st.integers(1, 9))
def test_a_steps_rows_are_dealt_evenly_and_each_once(sizes, ranks):
    shares = batches.dealt(sizes, ranks)
    assert len(shares) == ranks
    assert sorted(place for held in shares for place in held) == list(range(len(sizes)))
    sums = [sum(sizes[place] for place in held) for held in shares]
    assert max(sums) - min(sums) <= max(sizes)
    assert len(sizes) < ranks or all(shares)
    assert batches.dealt(sizes, 1) == [list(range(len(sizes)))]


@given(lengths, st.integers(1, 8))
def test_padding_puts_like_lengths_together(sizes, rows):
    bins = batches.padded(sizes, rows)
    assert sorted(place for held in bins for place in held) == list(range(len(sizes)))
    assert [sizes[place] for held in bins for place in held] == sorted(sizes)


@given(st.integers(2, 200), st.floats(0, 0.9), st.integers(0, 5))
def test_rows_kept_out_are_not_trained_on(count, share, seed):
    trained, out = batches.kept_out(count, share, seed)
    assert sorted(trained + out) == list(range(count)) and trained
    assert len(out) == min(round(count * share), count - 1)


@pytest.mark.parametrize("lay", [batches.lay_packed, batches.lay_padded])
@pytest.mark.parametrize("rounding", [batches.ON_CARD, batches.ON_CPU])
def test_the_learned_tokens_and_their_places_are_those_of_the_rows(lay, rounding):
    texts = [text([5, 6, 7, 8], 2), text([9, 10, 11], 1), text([12, 13], 0)]
    laid = lay(texts, 0, CPU, rounding)
    flat = laid.ids.reshape(-1)
    real = slice(laid.learned)
    assert laid.targets[real].tolist() == [7, 8, 10, 11, 13]  # a first token has nothing before it to be said from
    assert flat[laid.places[real] + 1].tolist() == [7, 8, 10, 11, 13]
    assert laid.text_of[real].tolist() == [0, 0, 1, 1, 2]
    assert laid.texts == 3 and laid.tokens == 9
    assert len(laid.places) % rounding.places == 0 and set(laid.text_of[laid.learned :].tolist()) <= {3}


def test_packed_texts_count_their_own_positions_and_padding_is_a_text_of_its_own():
    laid = batches.lay_packed([text([5, 6, 7], 1), text([8, 9], 1)], 0, CPU, batches.ON_CARD)
    assert laid.lengths == (3, 2, batches.PAD_TO - 5)
    assert laid.positions[0, :5].tolist() == [0, 1, 2, 0, 1]
    assert sum(laid.lengths) == laid.ids.shape[1] == batches.PAD_TO


def test_on_a_processor_shapes_are_few():
    """Every new shape costs its matrix library a kernel that it keeps."""
    shapes = set()
    for longest in range(20, 120):
        laid = batches.lay_packed([text(list(range(1, size)), 5) for size in (30, longest, 77)], 0, CPU)
        shapes |= {laid.ids.shape[1], -len(laid.places), *(1000 + length for length in laid.lengths)}
    assert len(shapes) < 25


def test_padding_is_masked():
    laid = batches.lay_padded([text([5, 6, 7], 1), text([8, 9], 1)], 0, CPU)
    assert laid.mask.sum(dim=1).tolist() == [3, 2] and laid.ids.shape == (2, batches.PAD_TO)
