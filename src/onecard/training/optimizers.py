"""The optimizer and its learning rate, and their state as plain tensors, so that a checkpoint is safetensors like everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import torch
import transformers

from onecard.fleet.recipe import OptimizerSection


def make_optimizer(weights: Sequence[torch.nn.Parameter], section: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW with transformers' betas (0.9, 0.999) and epsilon 1e-8, its state as the recipe says."""
    settings: dict[str, Any] = {
        "lr": section.learning_rate,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": section.weight_decay,
    }
    if section.name == "adamw_torch":
        return torch.optim.AdamW(list(weights), **settings)
    from bitsandbytes.optim import AdamW

    paged = section.name == "paged_adamw_8bit"
    optimizer: torch.optim.Optimizer = AdamW(list(weights), **settings, optim_bits=8, is_paged=paged)
    return optimizer


def make_schedule(
    optimizer: torch.optim.Optimizer, section: OptimizerSection, total: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up, then the recipe's curve down to the last of `total` steps."""
    warmup = section.warmup_steps if section.warmup_steps is not None else ceil(total * section.warmup_ratio)
    name = "constant_with_warmup" if section.schedule == "constant" else section.schedule
    schedule: torch.optim.lr_scheduler.LRScheduler = transformers.get_scheduler(name, optimizer, warmup, total)
    return schedule


def start_over(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The optimizer as before its first step, its state in the places it has: bitsandbytes never gives paged memory back."""
    optimizer.zero_grad(set_to_none=True)
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)
        group["lr"] = learning_rate
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                if not name.startswith("qmap"):
                    value.zero_()
            elif name == "step":
                state[name] = 0


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every value of the state by "<weight's number>.<name>"; numbers become tensors. Tables that all share are left out."""
    found: dict[str, torch.Tensor] = {}
    for number, weight in enumerate(optimizer.param_groups[0]["params"]):
        for name, value in optimizer.state.get(weight, {}).items():
            if not name.startswith("qmap"):
                value = value if isinstance(value, torch.Tensor) else torch.tensor(value)
                found[f"{number}.{name}"] = value.detach().cpu().clone()
    return found


def restore_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, torch.Tensor]) -> None:
    """Puts a saved state back. bitsandbytes makes the places itself: some live in memory that the processor shares."""
    group = optimizer.param_groups[0]
    by_weight: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in saved.items():
        number, _, key = name.partition(".")
        by_weight.setdefault(int(number), {})[key] = value
    prepared = hasattr(optimizer, "init_state")
    if prepared:
        optimizer.check_overrides()
        optimizer.initialized = True
    for place, values in by_weight.items():
        weight = group["params"][place]
        if prepared and not optimizer.state[weight]:
            optimizer.init_state(group, weight, 0, place)
        state = optimizer.state[weight]
        for key, value in values.items():
            _put(state, key, value, weight)


def _put(state: dict[str, Any], key: str, value: torch.Tensor, weight: torch.Tensor) -> None:
    there = state.get(key)
    if isinstance(there, torch.Tensor):
        there.copy_(value)
    elif there is not None:
        state[key] = type(there)(value.item())
    else:  # torch's own Adam keeps its step on the processor
        state[key] = value.clone() if key == "step" else value.to(weight.device)
