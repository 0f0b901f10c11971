from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.models import find_model
from onecard.fleet.recipe import Recipe
from onecard.planner.shapes import ModelShape, shape_of_model
from onecard.planner.training import trained_lines, training_ledger


def recipe(rows: int = 1, checkpointing: bool = True, **keys: Any) -> Recipe:
    return Recipe.model_validate(
        {"batch": {"rows": rows, "accumulate": 1}, "gradient_checkpointing": checkpointing, **keys}
    )


def test_trained_weights_cost_what_the_optimizer_says(mistral: ModelShape) -> None:
    def trained(name: str) -> dict[str, int]:
        return {line.part: line.bytes for line in trained_lines("a", recipe(optimizer={"name": name}), mistral)}

    eight, torch = trained("adamw_8bit"), trained("adamw_torch")
    assert eight["adapter weights"] == eight["gradients"] == 4 * 41_943_040
    assert torch["optimizer state"] == 8 * 41_943_040
    assert eight["optimizer state"] == pytest.approx(2 * 41_943_040, rel=0.02)


def test_added_tokens_cost_rows_and_whole_tables_only_where_that_is_asked(mistral: ModelShape) -> None:
    def parts(**keys: Any) -> dict[str, int]:
        return {
            line.part: line.bytes for line in trained_lines("a", recipe(added_tokens=["<A>", "<B>"], **keys), mistral)
        }

    rows, whole = parts(), parts(token_training="whole")
    assert rows["trained token rows"] == 3 * 2 * 2 * 4096 * 4 and "whole embedding and head" not in rows
    tables = 2 * 32768 * 4096
    assert whole["whole embedding and head"] == 4 * tables and "trained token rows" not in whole
    assert whole["gradients"] - rows["gradients"] == 4 * (tables - 2 * 2 * 4096)
    assert whole["optimizer state"] - rows["optimizer state"] > 2 * tables


def test_gradients_lie_beside_activations_only_when_a_step_has_several_passes(mistral: ModelShape) -> None:
    def gradients(rows: int) -> int:
        made = training_ledger("a", recipe(rows), mistral, 256)
        return sum(line.bytes for line in made.lines if line.part == "gradients")

    assert gradients(16) == 0 and gradients(17) == 4 * 41_943_040


def test_scales_are_unpacked_for_layers_that_are_computed_fused(mistral: ModelShape) -> None:
    def scales(**keys: Any) -> int:
        return sum(line.bytes for line in trained_lines("a", recipe(**keys), mistral) if line.part == "unpacked scales")

    assert scales() == 4 * 6_979_321_856 // 64
    assert (
        scales(double_quantization=False) == scales(base_quantization="none") == scales(base_quantization="int8") == 0
    )
    assert scales(lora={"targets": ["q_proj"]}) == 4 * 32 * 4096 * 4096 // 64


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 40),
    tokens=st.integers(16, 4096),
    more=st.integers(0, 512),
    checkpointing=st.booleans(),
    quantization=st.sampled_from(["nf4", "int8", "none"]),
)
def test_longer_rows_and_less_recomputation_never_need_less(
    mistral: ModelShape, rows: int, tokens: int, more: int, checkpointing: bool, quantization: str
) -> None:
    def peak(rows: int, tokens: int, checkpointing: bool) -> int:
        wish = recipe(rows, checkpointing, base_quantization=quantization)
        return training_ledger("a", wish, mistral, tokens).total_bytes

    here = peak(rows, tokens, checkpointing)
    assert here <= peak(rows, tokens + more, checkpointing)
    assert here <= peak(rows + 1, tokens, checkpointing)
    assert peak(rows, tokens, True) <= peak(rows, tokens, False)


@pytest.mark.parametrize("model_id", ["tiiuae/falcon-7b", "openai/gpt-oss-20b", "microsoft/phi-4", "Qwen/Qwen3-8B"])
def test_other_architectures_have_a_ledger_whose_lines_sum_up(model_id: str) -> None:
    made = training_ledger("a", recipe(base_quantization="none"), shape_of_model(find_model(model_id)), 512)
    assert made.total_bytes == sum(line.bytes for line in made.lines)
    assert all(line.source for line in made.lines)
