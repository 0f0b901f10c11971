"""A base of the real shape with random weights, held as onecard holds one, made where it is used instead of read from 15 GB of files.

It goes through transformers' own loading and bitsandbytes' own quantization; only the tensors come from a block of noise on the card.
"""

from __future__ import annotations

import gc
import math
from typing import Any

import torch
import transformers
from checkpoints import EMBEDDED, SCALE, config_of


def settings_of(model_id: str, layers: int | None = None, **changes: Any) -> Any:
    """transformers' config of a catalog model; of one that also takes images, its language model's."""
    said = {**config_of(model_id, layers), **changes}
    named = {key: value for key, value in said.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(said["model_type"], **named)
    config.dtype = torch.bfloat16
    return config


def random_base(config: Any, form: str = "nf4", *, seed: int = 17) -> Any:
    """The frozen model in eval mode, on the card where there is one. `form`: none, int8 or nf4 (double quantization)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config)
    model = type(empty).from_pretrained(
        None,
        config=config,
        state_dict=_weights(empty, device, seed),
        dtype=torch.bfloat16,
        device_map={"": 0 if device == "cuda" else "cpu"},
        attn_implementation="sdpa" if empty._supports_sdpa else "eager",
        **_quantization(form),
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # its repacking ruins gradients on a CPU
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.clone()  # what is not quantized still lies in the block of noise
    model.requires_grad_(False)
    model.eval()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return model


def tokenizer() -> Any:
    """The embedded base's: trainers ask it for its padding and end tokens only, rows are ids already."""
    from pathlib import Path

    from onecard.engines.local.tokens import load_tokenizer
    from onecard.weights.inventory import resolve

    return load_tokenizer(resolve(EMBEDDED, Path.cwd()))


def _quantization(form: str) -> dict[str, Any]:
    if form == "none":
        return {}
    if form == "int8":
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    }


def _weights(empty: Any, device: str, seed: int) -> dict[str, torch.Tensor]:
    """A tensor for every name: norms are ones, all others cut from one block of noise at places of their own."""
    sizes = {name: math.prod(weight.shape) for name, weight in empty.named_parameters()}
    spare = 1 << 16
    torch.manual_seed(seed)
    noise = torch.empty(max(sizes.values()) + spare, dtype=torch.bfloat16, device=device).normal_(0, SCALE)
    found = {}
    for place, (name, weight) in enumerate(empty.named_parameters()):
        if weight.dim() == 1 and name.endswith("weight"):
            found[name] = torch.ones(weight.shape, dtype=torch.bfloat16, device=device)
        else:
            start = place * 64 % spare
            found[name] = noise[start : start + sizes[name]].view(weight.shape)
    return found
