"""Which rows share a batch: every optimizer step sees a random draw of all rows, and within a step rows of similar length go together.

Sorting further than one step saves more padding and ruins the training: with terse and verbose answers in one set, every batch would
hold one style alone, and each step would teach that style for every prompt (seen: 10 of 48 verbose answers were long, instead of 48).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from onecard.training.chat import IGNORED

# A CPU's matrix library keeps compiled kernels and their scratch memory for every shape it meets: without rounding, 40 steps of rows
# between 20 and 160 tokens grew the process from 1.0 to 1.8 GiB, with it they stay below 1.0. Cards like multiples of 16 as well.
PAD_TO = 16


def order_within_steps(lengths: Sequence[int], rows: int, accumulate: int, seed: int) -> list[int]:
    """Every index once, in random order; within each optimizer step of `rows` x `accumulate` sorted by length.

    A step's batches are shuffled, so that the longest does not always come last. What is left over at the end comes as it is drawn.
    """
    chance = random.Random(seed)
    indices = list(range(len(lengths)))
    chance.shuffle(indices)
    ordered: list[int] = []
    for start in range(0, len(indices), rows * accumulate):
        step = sorted(indices[start : start + rows * accumulate], key=lambda index: lengths[index])
        batches = [step[first : first + rows] for first in range(0, len(step), rows)]
        last = [batches.pop()] if len(batches[-1]) < rows else []  # a short batch anywhere else would shift the cuts
        chance.shuffle(batches)
        ordered += [index for batch in batches + last for index in batch]
    return ordered


class LengthOrder(torch.utils.data.Sampler):  # type: ignore[misc]
    """The order of one epoch after another; the trainer sets the epoch."""

    def __init__(self, lengths: Sequence[int], rows: int, accumulate: int, seed: int) -> None:
        self.lengths, self.rows, self.accumulate, self.seed, self.epoch = lengths, rows, accumulate, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(order_within_steps(self.lengths, self.rows, self.accumulate, self.seed * 1_000_003 + self.epoch))


def collate(rows: Sequence[dict[str, list[int]]], pad_id: int) -> dict[str, Any]:
    """Rows of `input_ids` and `labels` as tensors [rows, length], padded on the right; padding is neither seen nor learned.

    The length is the longest row's, rounded up to a multiple of `PAD_TO`.
    """
    longest = -(-max(len(row["input_ids"]) for row in rows) // PAD_TO) * PAD_TO

    def padded(key: str, filler: int) -> torch.Tensor:
        return torch.tensor([list(row[key]) + [filler] * (longest - len(row[key])) for row in rows], dtype=torch.long)

    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": padded("input_ids", pad_id),
        "labels": padded("labels", IGNORED),
        "attention_mask": torch.tensor(mask, dtype=torch.long),
    }
