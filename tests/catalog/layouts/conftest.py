"""What every layout is held against: the real model's parameters, Linears and loader, and the cache of a real forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from onecard.catalog.architecture import layout, lora_parameters, lora_targets

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def small() -> Callable[..., dict[str, Any]]:
    """A small config of a type: sizes chosen so that no two products agree by accident."""

    def make(model_type: str, **keys: Any) -> dict[str, Any]:
        return {**SMALL, "model_type": model_type, **keys}

    return make


@pytest.fixture(scope="session")
def assert_weights(
    real_model: Callable[..., Any], saved: Callable[..., dict[str, Any]]
) -> Callable[[Mapping[str, Any]], None]:
    """Parameters by component, the head's tie, every Linear with its shape, and what the loader converts: all exactly equal.

    And the same layout from the config as transformers saves it.
    """

    def check(config: Mapping[str, Any]) -> None:
        real, counted = real_model(config), layout(config)
        listed: Counter[tuple[str, int, int, bool]] = Counter()
        converted: Counter[tuple[str, str, int, int]] = Counter()
        for shape in counted.linears:
            listed[shape.module, shape.in_features, shape.out_features, shape.bias] += shape.count
            if shape.quantized:
                converted[shape.component, shape.module, shape.in_features, shape.out_features] += shape.count
        assert counted.components == real.components
        assert ("lm_head" not in counted.components) == real.tied
        assert listed == real.linears
        assert converted == real.converted
        assert layout(saved(config)) == counted

    return check


@pytest.fixture(scope="session")
def assert_lora() -> Callable[[Mapping[str, Any]], None]:
    """PEFT takes every default target, and its adapter has the parameters that were counted."""

    def check(config: Mapping[str, Any]) -> None:
        import torch
        import transformers
        from peft import LoraConfig, get_peft_model

        keys = {key: value for key, value in config.items() if key != "model_type"}
        built = transformers.CONFIG_MAPPING[config["model_type"]](**keys)
        targets = lora_targets(config)
        with torch.device("meta"):
            real = transformers.AutoModelForCausalLM.from_config(built)
            adapted = get_peft_model(real, LoraConfig(r=5, target_modules=list(targets)))
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert lora_parameters(config, 5, targets) == trained > 0

    return check


@pytest.fixture(scope="session")
def held_by_a_forward() -> Callable[..., int]:
    """Bytes that transformers' own cache holds after a bf16 forward of `sequences` lines of `tokens` tokens, by its config alone."""

    def run(config: Mapping[str, Any], tokens: int, sequences: int) -> int:
        import torch
        import transformers

        keys = {key: value for key, value in config.items() if key != "model_type"}
        built = transformers.CONFIG_MAPPING[config["model_type"]](**keys)
        model = transformers.AutoModelForCausalLM.from_config(built).eval().to(torch.bfloat16)
        with torch.no_grad():
            said = model(torch.ones(sequences, tokens, dtype=torch.long), use_cache=True)
        cache = getattr(said, "past_key_values", None) or said.cache_params
        return sum(part.nbytes for layer in cache.layers for part in states_of(layer))

    return run


def states_of(layer: Any) -> list[Any]:
    """Keys, values and recurrent states of one layer of a cache; layers of some kinds hold their states by number."""
    import torch

    held = [vars(layer).get(name) for name in ("keys", "values", "conv_states", "recurrent_states")]
    parts = [part for state in held for part in (state.values() if isinstance(state, dict) else [state])]
    return [part for part in parts if isinstance(part, torch.Tensor)]
