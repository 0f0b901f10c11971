"""What one layer costs the host in a forward and backward of a small batch, set up as `onecard train` sets up a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bitsandbytes
import torch
from peft import LoraConfig, get_peft_model

from onecard.engines.local.calibration_clock import Figure, clock_of, wait_for
from onecard.engines.local.calibration_decoding import in_turn
from onecard.engines.local.calibration_models import LAYERS, RANK, Small, linear_names, small_llama
from onecard.engines.local.loading import Quantization, quiet


@dataclass(frozen=True)
class TrainingStep:
    """One forward and backward; see the evidence record of the same name."""

    form: Quantization
    layers: int
    checkpointing: bool
    tokens: int
    us: Figure


def training_steps(device: torch.device, form: Quantization, small: Small, seconds: float) -> list[TrainingStep]:
    """Forward and backward at both depths, with and without gradient checkpointing, in turn until the seconds are over."""
    end = time.perf_counter() + seconds
    ids = torch.randint(small.vocabulary, (1, small.train_tokens), device=device)
    cases = {
        (layers, checkpointing): _trainer(layers, form, small, device, ids, checkpointing=checkpointing)
        for layers in LAYERS
        for checkpointing in (False, True)
    }
    taken = in_turn(cases, end)
    return [
        TrainingStep(form, layers, checkpointing, small.train_tokens, Figure.of(times))
        for (layers, checkpointing), times in taken.items()
    ]


def train_once(device: torch.device, small: Small) -> None:
    """One whole step of a small nf4 model with an 8-bit optimizer: what a training process loads of the libraries' kernels."""
    model = _trainable(2, "nf4", small, device, checkpointing=True)
    optimizer = bitsandbytes.optim.AdamW8bit([weight for weight in model.parameters() if weight.requires_grad])
    _forward_and_backward(model, torch.randint(small.vocabulary, (1, small.train_tokens), device=device))
    optimizer.step()
    wait_for(device)


def _trainer(
    layers: int, form: Quantization, small: Small, device: torch.device, ids: torch.Tensor, *, checkpointing: bool
) -> Callable[[], float]:
    """A forward and backward that says its seconds."""
    model, now = _trainable(layers, form, small, device, checkpointing=checkpointing), clock_of(device)

    def step() -> float:
        model.zero_grad(set_to_none=True)
        wait_for(device)
        start = now()
        _forward_and_backward(model, ids)
        wait_for(device)
        return now() - start

    return step


def _trainable(layers: int, form: Quantization, small: Small, device: torch.device, *, checkpointing: bool) -> Any:
    """LoRA in fp32 on every Linear, with dropout, as a recipe trains."""
    base = small_llama(layers, form, small, device)
    targets = sorted({name.rpartition(".")[2] for name in linear_names(base.model)})
    config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.05, target_modules=targets, task_type="CAUSAL_LM")
    with quiet():
        model: Any = get_peft_model(base.model, config)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if checkpointing:
        base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def _forward_and_backward(model: Any, ids: torch.Tensor) -> None:
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    loss: Any = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:])
    loss.backward()
