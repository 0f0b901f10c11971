"""The bare loop a skilled person writes: rows packed once into bins, Liger's fused kernels and loss, LoRA in bf16, 8-bit Adam.

Bins of a batch stay rows of it, so attention masks are 2,048 wide; documents in a bin do not see one another (their positions restart).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import bitsandbytes
import torch
from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss, apply_liger_kernel_to_mistral
from peft import LoraConfig, get_peft_model
from speed_rows import FIRST_ID, SpeedRow, bins
from step_clock import TokenCounter
from transformers import set_seed
from trial import Trial
from variants import GOLDEN_LORA, TARGETS, Variant

BINS = 4
IGNORED = -100


def run_liger(variant: Variant, trial: Trial) -> dict[str, Any]:
    set_seed(trial.seed)
    apply_liger_kernel_to_mistral(
        rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False, model=trial.model
    )
    model = get_peft_model(trial.model, LoraConfig(**GOLDEN_LORA, target_modules=TARGETS, task_type="CAUSAL_LM"))
    if variant.settings["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data = weight.data.to(torch.bfloat16)
    optimizer = bitsandbytes.optim.AdamW8bit(weights, lr=2e-4)
    counter = TokenCounter(model, FIRST_ID)
    fused = LigerFusedLinearCrossEntropyLoss()
    model.train()
    trial.clock.start()
    for batch in batches(trial):
        labels = batch.pop("labels")[:, 1:].reshape(-1)
        hidden = trial.model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
        loss = fused(trial.model.lm_head.weight, hidden.reshape(-1, hidden.shape[-1]), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if trial.clock.step(counter.take(), float(loss)):
            break
    return {"optimizer": "AdamW8bit", "trainable_parameters": sum(weight.numel() for weight in weights)}


def batches(trial: Trial) -> Iterator[dict[str, torch.Tensor]]:
    """Epoch after epoch, four bins at a time, in an order of its own each epoch."""
    laid = [bin_tensors(rows, trial.pack_tokens) for rows in bins(trial.rows, trial.pack_tokens)]
    chance = random.Random(trial.seed)
    while True:
        chance.shuffle(laid)
        for first in range(0, max(len(laid) - BINS + 1, 1), BINS):
            four = laid[first : first + BINS]
            yield {name: torch.stack([one[name] for one in four]).to(trial.device) for name in four[0]}


def bin_tensors(rows: list[SpeedRow], size: int) -> dict[str, torch.Tensor]:
    """ids, labels and positions of one bin, each [size]; what is left is a document of padding with no labels."""
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    for row in rows:
        ids += row.ids
        # The loss shifts by one: a row's first token is never asked of the row before it.
        labels += [
            token if learned and place else IGNORED
            for place, (token, learned) in enumerate(zip(row.ids, row.trained, strict=True))
        ]
        positions += range(len(row.ids))
    left = size - len(ids)
    return {
        "input_ids": torch.tensor(ids + [0] * left),
        "labels": torch.tensor(labels + [IGNORED] * left),
        "position_ids": torch.tensor([*positions, *range(left)]),
    }
