"""The card's own figures on this machine's CPU: they are there, above zero, and sized as asked."""

from __future__ import annotations

import torch

from onecard.engines.local.calibration_card import (
    CARD_SIZES,
    MIB,
    TOKENS,
    Sizes,
    bandwidths,
    card_facts,
    launches,
    products,
    turns,
)

CPU = torch.device("cpu")
TINY = Sizes(4 * MIB, 1 * MIB, ((64, 64), (64, 128)), (64, 128), (1, 4))


def test_the_cpu_is_named_as_a_card() -> None:
    facts = card_facts(CPU)
    assert facts.kind == "cpu" and facts.name and facts.total_bytes > 1 << 28
    assert facts.driver is None and facts.capability is None


def test_a_copy_counts_both_ways_and_a_read_once() -> None:
    copied, read = bandwidths(CPU, TINY, seconds=0.05)
    assert 0.01 < copied.median < 10_000 and 0.01 < read.median < 10_000


def test_starting_and_waiting_for_an_operator_take_some_time() -> None:
    started, waited = launches(CPU, seconds=0.02)
    assert 0 < started.low <= started.high and 0 < waited.low <= waited.high


def test_the_curve_has_every_size_there_was_time_for() -> None:
    missing: list[str] = []
    curve = products(CPU, TINY, 2.0, missing)
    assert [row.tokens for row in curve if row.outputs == 64] == list(TOKENS) or missing
    assert all(row.tflops.low > 0 for row in curve)
    assert {(row.inputs, row.outputs) for row in curve} == set(TINY.products)


def test_without_time_the_missing_sizes_are_named() -> None:
    missing: list[str] = []
    curve = products(CPU, TINY, 1e-6, missing)
    assert {row.tokens for row in curve} == {1}
    assert missing and all("too few" in reason for reason in missing)


def test_buffers_that_take_turns_outgrow_the_cache_and_still_fit_a_small_card() -> None:
    for inputs, outputs in (*CARD_SIZES.products, CARD_SIZES.linear):
        size = 2 * inputs * outputs
        together = turns(CPU, CARD_SIZES, size) * size
        assert 256 * MIB <= together < 1024 * MIB
    assert turns(CPU, CARD_SIZES, 1 << 40) == 2
