"""The working memory that is planned, beside the tensors that are really alive in a pass of the local engine.

Models of every family in small, on the CPU: there transformers, PEFT and the engine hold the same tensors as on a card, apart from what
kernels hold inside.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from onecard.engines.local import batch
from onecard.engines.local.acceptance import AcceptedAdapter
from onecard.engines.local.batch import padded_left
from onecard.engines.local.loading import LoadedBase
from onecard.engines.local.shared_model import SharedModel
from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.shapes import ModelShape, shape_of_config
from onecard.planner.working import adapter_bytes, attention_bytes, mlp_bytes, worst_moment

LIVE = Path(__file__).parents[2] / "benchmarks" / "truth" / "live.py"
LAYERS = 3
CONFIGS: dict[str, dict[str, Any]] = {
    "mistral": {"intermediate_size": 896, "num_key_value_heads": 2, "head_dim": 32, "sliding_window": None},
    "qwen3": {"intermediate_size": 768, "num_key_value_heads": 2, "head_dim": 32},
    "gemma3_text": {"intermediate_size": 1024, "num_key_value_heads": 4, "head_dim": 32, "sliding_window": 64},
    "phi3": {
        "intermediate_size": 896,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": {"intermediate_size": 1024},
    "starcoder2": {"intermediate_size": 1024, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2},
}


@pytest.fixture(scope="module")
def live() -> Any:
    spec = importlib.util.spec_from_file_location("truth_live", LIVE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Live


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(name: str) -> tuple[ModelShape, SharedModel]:
    sizes = {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": LAYERS, "num_attention_heads": 8}
    keys = {**sizes, "max_position_embeddings": 2048, **CONFIGS[name]}
    config = AutoConfig.for_model(name, **keys)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    shape = shape_of_config(name, {"model_type": name, **keys})
    return shape, SharedModel(LoadedBase(model, None, torch.device("cpu"), torch.bfloat16, Path()))


def with_adapter(shared: SharedModel) -> Any:
    head = shared._model.get_output_embeddings()
    linears = {
        name: module
        for name, module in shared._model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    lora = {name: (torch.randn(4, m.in_features), torch.randn(m.out_features, 4)) for name, m in linears.items()}
    return shared.add(AcceptedAdapter("0" * 64, 4, 8.0, lora, None, None, ()))


def traced(live: Any, shared: SharedModel, adapter: Any, lines: int, tokens: int, piece: int) -> int:
    """Bytes alive at the worst moment of the last piece of a prefill, beside the cache's own growth."""
    ids, mask = padded_left([[5] * (tokens - line) for line in range(lines)], torch.device("cpu"))
    cache, columns, peak = DynamicCache(), piece // lines, 0
    for start in range(0, tokens, columns):
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) if start else 0
        seen = live()
        with seen:
            shared.forward([adapter] * lines, ids[:, start : start + columns], mask[:, : start + columns], cache)
        grown = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        # While a layer is worked on, the caches of earlier layers are new and whole; what they replaced is gone.
        peak = seen.peak - (grown - held)
    return peak - held


@pytest.mark.parametrize("name", CONFIGS)
def test_the_mlp_and_an_adapter_hold_what_is_planned(live: Any, name: str) -> None:
    shape, shared = small(name)
    tokens = 512
    plain = traced(live, shared, None, 1, tokens, tokens)
    planned = max(mlp_bytes(shape, "none"), attention_bytes(shape, tokens, tokens, tokens) // tokens)
    assert planned * tokens == pytest.approx(plain, rel=0.12)
    adapted = traced(live, shared, with_adapter(shared), 1, tokens, tokens)
    assert adapter_bytes(shape) * tokens == pytest.approx(adapted, rel=0.06)
    assert adapted > plain


@pytest.mark.parametrize("name", ["mistral", "qwen3", "gemma3_text"])
def test_attention_over_a_long_cache_repeats_keys_for_every_head(live: Any, name: str) -> None:
    """Four lines of 768 tokens in pieces of 128: what is cached rules, not what is new."""
    shape, shared = small(name)
    seen = traced(live, shared, None, 4, 768, 128)
    assert attention_bytes(shape, 128, 768, 4 * 768) == pytest.approx(seen, rel=0.06)


def test_the_engine_prefills_in_pieces_of_the_size_that_is_planned() -> None:
    assert batch.PREFILL_TOKENS == facts.LOCAL_PREFILL_TOKENS


def test_working_memory_stops_growing_with_the_prompt_but_not_with_the_cache(mistral: ModelShape) -> None:
    def moment(context: int, callers: int) -> int:
        spec = ModelSpec(id=mistral.id, context=context, concurrency=callers, engine="local")
        return worst_moment(spec, mistral, adapted=True).bytes

    assert moment(2048, 1) == moment(4096, 1) == moment(8192, 1)
    assert moment(4096, 12) > moment(4096, 6) > moment(4096, 1)
    spec = ModelSpec(id=mistral.id, context=4096, concurrency=6, engine="local")
    assert worst_moment(spec, mistral, adapted=False).when == "attention over 24576 cached tokens"
