"""One variant in this process: the random base, the rows, whoever trains, and what came of it as a record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from speed_rows import SpeedRow, make_rows
from step_clock import MIB, StepClock, forget_peak, memory_mib
from variants import Variant


@dataclass(frozen=True)
class Trial:
    """What every trainer is handed: the frozen base, its added ids, the rows, the clock to tell of each step."""

    model: Any
    tokenizer: Any
    added_ids: tuple[int, ...]
    rows: list[SpeedRow]
    clock: StepClock
    device: str
    seed: int
    pack_tokens: int
    scratch: str


@dataclass(frozen=True)
class Size:
    """How much is measured: the base's layers (None: all), a tiny base and few rows, steps to warm up, seconds of steady steps."""

    layers: int | None = None
    tiny: bool = False
    warm_up: int = 3
    seconds: float = 40
    most_steps: int | None = None


def measure(variant: Variant, size: Size, scratch: str) -> dict[str, Any]:
    """The record of one variant; whatever the trainer raises goes through."""
    from speed_base import added_ids, config_of, random_base, tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = config_of(size.layers, size.tiny)
    start = time.perf_counter()
    model = random_base(config)
    added = added_ids(config)
    shape = {"count": 48, "total": 48 * 129} if size.tiny else {}
    rows = make_rows(config.vocab_size - len(added), added, **shape)
    load_s = time.perf_counter() - start
    forget_peak()
    base_mib = round(torch.cuda.memory_allocated() / MIB, 1) if device == "cuda" else None
    trial = Trial(
        model=model,
        tokenizer=tokenizer(),
        added_ids=added,
        rows=rows,
        clock=StepClock(size.warm_up, size.seconds, size.most_steps),
        device=device,
        seed=17,
        pack_tokens=512 if size.tiny else 2048,
        scratch=scratch,
    )
    said = _train(variant, trial)
    return {
        "base": {"model_type": config.model_type, "layers": config.num_hidden_layers, "load_s": round(load_s, 1),
                 "allocated_mib": base_mib},
        "rows": {"count": len(rows), "tokens": sum(len(row.ids) for row in rows)},
        **trial.clock.result(),
        **memory_mib(),
        **said,
    }  # fmt: skip


def _train(variant: Variant, trial: Trial) -> dict[str, Any]:
    """What the trainer itself has to say, beside the clock."""
    if variant.trainer == "trl":
        from trl_run import run_trl

        return run_trl(variant, trial)
    if variant.trainer == "liger":
        from liger_run import run_liger

        return run_liger(variant, trial)
    if variant.trainer == "unsloth":
        from unsloth_run import run_unsloth

        return run_unsloth(variant, trial)
    from ours import run_ours

    return run_ours(variant, trial)
