"""Operators by architecture: the file is whole, and a recount on the installed transformers gives the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.catalog.architecture import known_architectures
from onecard.catalog.models import load_models
from onecard.catalog.operators import counted, operators_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# BLIP-2 answers nothing without an image; the others are parts that transformers builds inside another model only.
NOT_COUNTED = {"blip-2", "muse_glimmer_text", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text"}


def test_every_architecture_but_a_few_is_counted():
    assert set(known_architectures()) - set(counted().architectures) == NOT_COUNTED
    assert set(counted().architectures) <= set(known_architectures())


def test_every_model_of_the_catalog_that_answers_text_is_counted():
    without = {
        model.config["model_type"] for model in load_models() if operators_of(model.config["model_type"]) is None
    }
    assert without == {"blip-2"}


@pytest.mark.parametrize("model_type", counted().architectures)
def test_figures_hold_together(model_type):
    entry = operators_of(model_type)
    assert 0 < entry.linears_per_layer < entry.module_calls_per_layer
    assert 0 < entry.per_layer <= entry.padded_per_layer
    assert 0 < entry.fixed <= entry.padded_fixed
    assert entry.in_step(10) == 10 * entry.per_layer + entry.fixed
    assert entry.in_step(10, padded=True) >= entry.in_step(10)


def test_what_makes_architectures_differ_shows():
    llama, qwen3, gemma2 = (operators_of(name) for name in ("llama", "qwen3", "gemma2"))
    assert qwen3.per_layer - llama.per_layer == 16  # a norm on queries and one on keys
    assert (
        gemma2.per_layer - llama.per_layer == 24
    )  # four norms of ten operators (they add 1 to their weights) for two of eight
    assert operators_of("phi3").linears_per_layer == 4 < llama.linears_per_layer == 7
    assert operators_of("opt").per_layer < operators_of("gpt2").per_layer < llama.per_layer


def test_an_architecture_nobody_counted_has_none():
    assert operators_of("rwkv") is None


@pytest.mark.parametrize("model_type", ["mistral", "mixtral", "lfm2"])
def test_a_recount_gives_the_same(model_type, monkeypatch):
    import torch
    import transformers

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from count_operators import count

    assert transformers.__version__ == counted().transformers, (
        "count again: python benchmarks/count_operators.py --out ..."
    )
    assert torch.__version__.startswith(counted().torch)
    assert count(model_type) == operators_of(model_type).model_dump()
