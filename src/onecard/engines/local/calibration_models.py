"""Random Llamas so small that launching them takes the time, and LoRAs for them: what steps and training steps are measured on.

Their Linears are those of `calibration_linears`; everything else is as `load_base` leaves a base, so that the engine's own parts take them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from onecard.engines.local.acceptance import AcceptedAdapter
from onecard.engines.local.calibration_linears import linear_of
from onecard.engines.local.loading import LoadedBase, Quantization, quiet

LAYERS = (4, 12)
RANK = 16
LONGEST = 256  # positions


@dataclass(frozen=True)
class Small:
    """The models' size. A CPU gets a smaller one: what is nothing to a card is work for it."""

    hidden: int
    inner: int
    heads: int
    vocabulary: int
    train_tokens: int


ON_A_CARD = Small(256, 768, 4, 32000, 32)
ON_A_CPU = Small(64, 128, 4, 2048, 8)


def small_llama(layers: int, form: Quantization, small: Small, device: torch.device) -> LoadedBase:
    """A Llama with random weights, its Linears in the form, everything else in bf16; loaded as `load_base` leaves a base."""
    config = transformers.LlamaConfig(
        hidden_size=small.hidden,
        intermediate_size=small.inner,
        num_hidden_layers=layers,
        num_attention_heads=small.heads,
        num_key_value_heads=small.heads,
        vocab_size=small.vocabulary,
        max_position_embeddings=LONGEST,
    )
    with quiet():
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.bfloat16
        )
    weights = {name: model.get_submodule(name).weight.data for name in linear_names(model)}
    model.to(device).requires_grad_(False).eval()
    for name, weight in weights.items():
        model.set_submodule(name, linear_of(weight.cpu(), form, device))
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = form == "int8", form == "nf4"  # PEFT asks, to choose its layers
    return LoadedBase(model, None, device, torch.bfloat16, Path())


def linear_names(model: Any) -> list[str]:
    """The Linears of the layers; the head is not one."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    ]


def random_adapter(model: Any, number: int) -> AcceptedAdapter:
    """A LoRA on every Linear, as one comes out of the store."""
    shapes = {
        name: (module.in_features, module.out_features)
        for name in linear_names(model)
        for module in [model.get_submodule(name)]
    }
    lora = {
        name: (torch.randn(RANK, inputs) * inputs**-0.5, torch.randn(outputs, RANK) * 0.1)
        for name, (inputs, outputs) in shapes.items()
    }
    return AcceptedAdapter(f"random{number}", RANK, RANK, lora, None, None, ())
