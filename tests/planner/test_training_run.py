from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onecard.catalog.cards import Price, Quote, find_card
from onecard.catalog.units import GIB
from onecard.fleet.recipe import Recipe
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import SpeedFacts, cold_start
from onecard.planner.training import training_ledger
from onecard.planner.training_run import DataFacts, TrainingPlan, run_time, training_advice, training_plan


def recipe(rows: int = 1, checkpointing: bool = True, **keys: Any) -> Recipe:
    return Recipe.model_validate(
        {"batch": {"rows": rows, "accumulate": 4}, "gradient_checkpointing": checkpointing, **keys}
    )


def data(rows: int, tokens_each: int) -> DataFacts:
    return DataFacts(rows, rows * tokens_each, tokens_each, "exact", "made up")


# Useful tokens a second on one H200, onecard's own loop, QLoRA of a Mistral-7B shape on document E's 1,600 rows of 129 tokens
# (2026-11-21, benchmarks/train_speed.py): rows of a step, tokens of a pass, layers recomputed.
@pytest.mark.parametrize(
    ("step", "forward", "checkpointing", "tokens_s"),
    [(64, 4608, False, 12_653), (64, 9728, True, 9_606), (16, 4096, True, 7_677)],
)
def test_training_speed_agrees_with_runs_on_a_card(
    mistral: ModelShape, step: int, forward: int, checkpointing: bool, tokens_s: float
) -> None:
    speed = cold_start(find_card("h200-sxm"))
    wish = recipe(1, checkpointing, batch={"rows": 1, "accumulate": step, "forward_tokens": forward})
    time = run_time(wish, mistral, DataFacts(1600, 206_000, 400, "exact", "counted"), speed, None)
    assert time is not None
    assert time.tokens_s == pytest.approx(tokens_s, rel=0.15)
    assert time.seconds.low < time.seconds.expected < time.seconds.high


def test_steps_tokens_and_dollars_follow_from_rows_and_epochs(mistral: ModelShape) -> None:
    card = find_card("a10g")
    time = run_time(recipe(2, epochs=3), mistral, data(100, 50), cold_start(card), card.price)
    assert time is not None
    assert (time.steps, time.tokens) == (39, 15_000)  # 50 batches an epoch are 13 steps of four
    assert time.usd is not None
    assert card.price is not None
    assert time.usd[0] == pytest.approx(card.price.low_usd_per_hour * time.seconds.low / 3600)
    assert time.usd[1] == pytest.approx(card.price.high_usd_per_hour * time.seconds.high / 3600)


def test_max_steps_overrides_epochs(mistral: ModelShape) -> None:
    time = run_time(recipe(2, max_steps=5), mistral, data(1000, 50), cold_start(find_card("l4")), None)
    assert time is not None
    assert (time.steps, time.tokens, time.usd) == (5, 5 * 4 * 2 * 50, None)


def test_a_card_whose_rate_is_unknown_gives_no_time(mistral: ModelShape) -> None:
    speed = SpeedFacts(100.0, None, 10.0, "assumed", "a card nobody knows")
    assert run_time(recipe(), mistral, data(10, 10), speed, None) is None


def test_a_faster_card_is_never_slower(mistral: ModelShape) -> None:
    speed = cold_start(find_card("a10g"))
    slow = run_time(recipe(4), mistral, data(100, 500), speed, None)
    fast = run_time(recipe(4), mistral, data(100, 500), replace(speed, tflops=700.0), None)
    assert slow is not None
    assert fast is not None
    assert fast.seconds.expected < slow.seconds.expected


def test_the_chance_to_finish_follows_from_the_range(mistral: ModelShape) -> None:
    time = run_time(recipe(4), mistral, data(1000, 500), cold_start(find_card("a10g")), None)
    assert time is not None
    seconds = time.seconds
    assert [time.chance(s) for s in (seconds.low, seconds.expected, seconds.high)] == pytest.approx([0.05, 0.5, 0.95])
    assert time.chance(0) == 0
    assert time.chance(1e12) == pytest.approx(1)
    assert time.within(0.95) == pytest.approx(seconds.high)


def test_dollars_name_who_asked_them_and_when(mistral: ModelShape) -> None:
    quotes = tuple(
        Quote(provider=name, usd_per_hour=usd, date=date, source="a page")
        for name, usd, date in [
            ("dear", 4.0, "2026-10"),
            ("cheap", 1.0, "2026-11"),
            ("mean", 2.0, "2026-09"),
            ("upper", 3.0, "x"),
        ]
    )
    price = Price(low_usd_per_hour=1, high_usd_per_hour=4, quotes=quotes)
    time = run_time(recipe(4), mistral, data(1000, 500), cold_start(find_card("a10g")), price)
    assert time is not None
    assert time.cheapest is not None
    assert time.median is not None
    assert (time.cheapest.quote.provider, time.cheapest.quote.date) == ("cheap", "2026-11")
    assert (time.median.quote.provider, time.median.quote.source) == ("mean", "a page")
    assert time.median.expected_usd == pytest.approx(2 * time.seconds.expected / 3600)
    assert time.cheapest.low_usd == pytest.approx(time.seconds.low / 3600)
    assert time.median.high_usd == pytest.approx(2 * time.seconds.high / 3600)
    free = run_time(recipe(4), mistral, data(1000, 500), cold_start(find_card("a10g")), None)
    assert free is not None
    assert free.cheapest is free.median is None


def test_tokens_nobody_counted_widen_the_range_and_are_named(mistral: ModelShape) -> None:
    card = find_card("a10g")
    counted, guessed = (
        run_time(recipe(4), mistral, DataFacts(1000, 500_000, 900, tag, "characters / 4"), cold_start(card), None)
        for tag in ("exact", "assumed")
    )
    assert counted is not None
    assert guessed is not None
    assert guessed.seconds.expected == counted.seconds.expected
    assert guessed.seconds.low < counted.seconds.low
    assert guessed.seconds.high > counted.seconds.high
    assert "tokens are assumed: characters / 4" in guessed.source
    assert "tokens are assumed" not in counted.source


def test_a_measured_card_narrows_the_range(mistral: ModelShape) -> None:
    speed = cold_start(find_card("a10g"))
    cold, warm = (
        run_time(recipe(4), mistral, data(100, 500), replace(speed, tag=tag), None) for tag in ("assumed", "measured")
    )
    assert cold is not None
    assert warm is not None
    assert cold.seconds.low < warm.seconds.low < warm.seconds.expected < warm.seconds.high < cold.seconds.high


@pytest.mark.parametrize(
    "facts", [DataFacts(0, 0, 0, "exact", "empty"), DataFacts(10**9, 10**15, 10**6, "assumed", "all")]
)
def test_absurd_data_is_reckoned_all_the_same(mistral: ModelShape, facts: DataFacts) -> None:
    time = run_time(recipe(4, epochs=100), mistral, facts, cold_start(find_card("a10g")), find_card("a10g").price)
    assert time is not None
    assert 0 <= time.seconds.low <= time.seconds.expected <= time.seconds.high
    assert 0 <= time.chance(60) <= 1


@pytest.mark.parametrize("gib", [7, 9, 12, 20])
def test_advice_makes_the_run_fit_when_it_is_taken(mistral: ModelShape, gib: int) -> None:
    batch = {"rows": 8, "accumulate": 4, "forward_tokens": 8192}
    wish = recipe(8, False, batch=batch, max_length=1024, optimizer={"name": "adamw_torch"}, base_quantization="int8")
    assert training_ledger("a", wish, mistral, 1024).total_bytes > gib * GIB
    advice = training_advice("a", wish, mistral, 1024, gib * GIB)
    assert advice[0].startswith("gradient_checkpointing: true")
    assert not any("even then" in line for line in advice)
    changed = wish.model_dump()
    changed["gradient_checkpointing"] = True
    length = 1024
    for line in advice[1:]:
        key, _, value = line.partition(": ")
        if key == "batch":
            changed["batch"]["forward_tokens"] = int(value.split("forward_tokens: ")[1].split("}")[0])
        elif key == "optimizer":
            changed["optimizer"]["name"] = "adamw_8bit"
        elif key == "base_quantization":
            changed["base_quantization"] = "nf4"
        else:
            length = int(value.split(",")[0])
    assert training_ledger("a", Recipe.model_validate(changed), mistral, length).total_bytes <= gib * GIB


def test_it_says_so_when_no_change_helps(mistral: ModelShape) -> None:
    assert "even then it does not fit" in training_advice("a", recipe(2), mistral, 1024, 2 * GIB)[-1]


def test_padded_rows_are_advised_to_be_fewer(mistral: ModelShape) -> None:
    wish = recipe(8, True, batch={"rows": 8, "accumulate": 2, "packing": False})
    advice = training_advice("a", wish, mistral, 2048, 8 * GIB)
    assert advice[0].startswith("batch: {rows: ") and "forward_tokens" not in advice[0]


def test_auto_recomputes_as_few_layers_as_the_card_allows(mistral: ModelShape) -> None:
    wish = recipe(16, gradient_checkpointing="auto")
    speed, rows = cold_start(find_card("a10g")), data(1000, 300)

    def planned(gib: int) -> TrainingPlan:
        return training_plan("a", "base", wish, mistral, rows, speed, None, gib * GIB)

    roomy, middle, tight = planned(40), planned(16), planned(9)
    assert roomy.recipe.gradient_checkpointing == 0
    assert 0 < middle.recipe.gradient_checkpointing < mistral.layers
    assert roomy.fits and middle.fits and tight.fits
    one_less = middle.recipe.model_copy(update={"gradient_checkpointing": middle.recipe.gradient_checkpointing - 1})
    assert training_ledger("a", one_less, mistral, 300).total_bytes > 16 * GIB
    assert planned(5).recipe.gradient_checkpointing == mistral.layers and not planned(5).fits
    assert roomy.time.seconds.expected < middle.time.seconds.expected < tight.time.seconds.expected
