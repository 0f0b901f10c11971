from __future__ import annotations

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from onecard.fleet.recipe import BatchSection, Recipe
from onecard.planner.shapes import ModelShape
from onecard.planner.training_passes import PAD_TO, PADDED, passes_of, passes_per_epoch
from onecard.training import batches


def recipe(**batch: object) -> Recipe:
    return Recipe.model_validate({"batch": batch})


def test_the_loop_and_the_plan_round_alike() -> None:
    assert PAD_TO == batches.PAD_TO


@pytest.mark.parametrize(
    ("batch", "longest", "tokens", "several"),
    [
        ({"rows": 1, "accumulate": 16}, 100, 1600, False),
        ({"rows": 1, "accumulate": 64}, 100, 4096, True),
        ({"rows": 1, "accumulate": 64, "forward_tokens": 512}, 900, 912, True),
        ({"rows": 2, "accumulate": 8, "packing": False}, 100, 2 * 112, True),
        ({"rows": 4, "accumulate": 1, "packing": False}, 100, 4 * 112, False),
    ],
)
def test_the_heaviest_pass_is_what_the_loop_would_lay(
    mistral: ModelShape, batch: dict[str, object], longest: int, tokens: int, several: bool
) -> None:
    found = passes_of(recipe(**batch), mistral, longest)
    assert (found.tokens, found.several) == (tokens, several)
    section = BatchSection.model_validate(batch)
    if section.packing:
        laid = batches.packed([longest] * section.step_rows, section.forward_tokens)
        assert max(len(held) * longest for held in laid) <= found.tokens


def test_an_epoch_has_the_passes_that_the_loop_makes(mistral: ModelShape) -> None:
    wish, lengths = recipe(rows=1, accumulate=32, forward_tokens=2048), [130] * 320
    passes, tokens = passes_per_epoch(wish, mistral, len(lengths), sum(lengths))
    made = sum(len(batches.packed([lengths[i] for i in step], 2048)) for step in batches.steps(320, wish.batch, 1, 10))
    assert passes == made == 30
    assert sum(lengths) <= tokens <= 1.02 * sum(lengths)


def test_what_is_padded_is_what_transformers_cannot_exchange_attention_in() -> None:
    for name in PADDED:
        made = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(name)
        kinds = made if isinstance(made, tuple) else (made,)
        if kinds[0] and name not in (
            "lfm2",
            "lfm2_moe",
            "granitemoehybrid",
        ):  # those mix tokens by convolution or state
            assert not getattr(transformers, kinds[0])._supports_attention_backend, name
