"""Batches: every row once, each optimizer step a random draw of all rows, little padding, and padding is never learned."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from onecard.training.batches import PAD_TO, LengthOrder, collate, order_within_steps

SIZES = {"rows": st.integers(1, 9), "accumulate": st.integers(1, 5), "seed": st.integers(0, 99)}
LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(lengths=LENGTHS, **SIZES)
def test_every_row_is_seen_once(lengths, rows, accumulate, seed):
    assert sorted(order_within_steps(lengths, rows, accumulate, seed)) == list(range(len(lengths)))


@given(lengths=LENGTHS, **SIZES)
def test_the_draw_of_a_step_does_not_depend_on_length(lengths, rows, accumulate, seed):
    """Only the order within a step does: with equal lengths the same rows share a step."""
    step = rows * accumulate
    order = order_within_steps(lengths, rows, accumulate, seed)
    blind = order_within_steps([1] * len(lengths), rows, accumulate, seed)
    for start in range(0, len(lengths), step):
        assert set(order[start : start + step]) == set(blind[start : start + step])


@given(lengths=st.lists(st.integers(1, 500), min_size=64, max_size=64), seed=st.integers(0, 99))
def test_batches_of_a_step_hold_neighbours_in_length(lengths, seed):
    order = order_within_steps(lengths, 4, 4, seed)
    for start in range(0, 64, 16):
        batches = sorted(sorted(lengths[i] for i in order[at : at + 4]) for at in range(start, start + 16, 4))
        assert all(first[-1] <= second[0] for first, second in pairwise(batches))


def test_epochs_differ_and_repeat_by_seed():
    lengths = list(range(1, 65))
    sampler, again = LengthOrder(lengths, 4, 2, seed=1), LengthOrder(lengths, 4, 2, seed=1)
    first = list(sampler)
    assert first == list(again)
    sampler.set_epoch(1)
    assert list(sampler) != first and len(sampler) == 64
    assert first != list(LengthOrder(lengths, 4, 2, seed=2))


def test_padding_is_on_the_right_unseen_and_not_learned_up_to_a_multiple():
    batch = collate([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7] + [0] * 13, [8] + [0] * 15]
    assert batch["labels"].tolist() == [[-100, 6, 7] + [-100] * 13, [8] + [-100] * 15]
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 13, [1] + [0] * 15]
    exact = collate([{"input_ids": [5] * PAD_TO, "labels": [5] * PAD_TO}], pad_id=0)
    assert exact["input_ids"].shape == (1, PAD_TO)
