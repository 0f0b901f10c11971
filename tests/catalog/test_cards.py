"""The catalog of GPUs, and what a person who names one gets."""

from __future__ import annotations

import re

import pytest

from onecard.catalog.cards import DRIVER_ALLOWANCE_GIB, custom_card, find_card, load_cards, reading_notes, slug
from onecard.catalog.units import GIB
from onecard.errors import CatalogError

CARDS = {card.id: card for card in load_cards()}


def test_the_cards_of_the_documents_are_there():
    assert {"rtx-3090", "rtx-3070", "mi300x", "a10g", "rtx-4090", "h200-sxm", "rtx-3060-12gb"} <= set(CARDS)
    assert len(CARDS) >= 21
    assert reading_notes()


@pytest.mark.parametrize("card_id", CARDS)
def test_every_figure_has_a_source_and_makes_sense(card_id):
    card = CARDS[card_id]
    assert card.memory.source and card.bandwidth.source and card.compute and card.compute.source
    assert card.bandwidth.basis == "specified"
    assert 4 < card.total_gib < 300
    assert 100 < card.bandwidth_gbs < 10_000
    if card.memory.driver_gib:
        assert card.total_gib <= card.memory.driver_gib
    if card.memory.driver_mib:
        assert card.memory.driver_gib == pytest.approx(card.memory.driver_mib / 1024, abs=0.011)
    if card.price:
        quotes = [quote.usd_per_hour for quote in card.price.quotes]
        assert (min(quotes), max(quotes)) == (card.price.low_usd_per_hour, card.price.high_usd_per_hour)
        assert all(re.match(r"20\d\d", quote.date) for quote in card.price.quotes)


def test_names_and_aliases_never_clash():
    words = [word for card in CARDS.values() for word in {card.id, slug(card.name), *card.aliases}]
    assert len(words) == len(set(words))


def test_usable_memory_says_where_it_comes_from():
    a10g, mi300x, mac = CARDS["a10g"], CARDS["mi300x"], CARDS["apple-m4-max-64gb"]
    assert (a10g.memory.driver_gib, a10g.total_gib, a10g.memory_basis) == (22.49, 22.05, "torch")
    assert (mi300x.total_gib, mi300x.memory_basis) == (191.98 - DRIVER_ALLOWANCE_GIB, "driver")
    assert (mac.total_gib, mac.memory_basis) == (48, "unified")
    assert a10g.total_bytes == round(22.05 * GIB)


def test_the_allowance_lies_within_what_is_seen_where_both_figures_are_known():
    gaps = [
        card.memory.driver_gib - card.memory.torch_total_gib
        for card in CARDS.values()
        if card.vendor == "NVIDIA" and card.memory.torch_total_gib
    ]
    assert len(gaps) >= 10
    assert min(gaps) < DRIVER_ALLOWANCE_GIB < max(gaps)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("rtx-3090", "rtx-3090"),
        ("RTX 3090", "rtx-3090"),
        ("rtx_3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("3090", "rtx-3090"),
        ("h200", "h200-sxm"),
        ("A10G", "a10g"),
        ("a100", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Apple M4 Max 64 GB (40-core GPU)", "apple-m4-max-64gb"),
    ],
)
def test_a_card_is_found_by_the_names_people_use(asked, found):
    assert find_card(asked).id == found


def test_an_unknown_card_names_the_nearest_and_what_to_do():
    with pytest.raises(CatalogError, match="did you mean 'rtx-3090'") as caught:
        find_card("rtx-3091")
    assert "rtx-4090" in str(caught.value.allowed)
    assert "bandwidth_gbs" in str(caught.value.next_step)


def test_rates_say_what_the_hardware_can():
    assert CARDS["rtx-4090"].fp8 and not CARDS["rtx-3090"].fp8
    assert "bf16" not in CARDS["t4"].tflops
    assert CARDS["rtx-3090"].int8 and CARDS["rtx-3090"].tflops["int8"] == 284.7


def test_a_custom_card_is_taken_at_its_word():
    card = custom_card(22, 600, 70, usd_per_hour=1.2, name="ours")
    assert (card.id, card.name, card.total_bytes, card.memory_basis) == ("custom", "ours", 22 * GIB, "given")
    assert (card.bandwidth_gbs, card.tflops) == (600, {"fp16": 70, "bf16": 70})
    assert card.price is not None and card.price.low_usd_per_hour == 1.2
    plain = custom_card(8, 448)
    assert (plain.tflops, plain.price, plain.fp8) == ({}, None, False)


@pytest.mark.parametrize("figures", [(-8, 448), (0, 448), (8, 0), (8, 448, -1), (float("inf"), 448), (8, float("nan"))])
def test_an_absurd_custom_card_is_refused(figures):
    with pytest.raises(CatalogError, match="is not a figure of a card"):
        custom_card(*figures)
