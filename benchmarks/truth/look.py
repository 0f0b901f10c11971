"""What is alive at the peak of a prefill, of a decode step and of a training step, on models of full width and few layers.

Not part of the table: it is how the planner's formulas were found.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gauge
import serve
import torch
import train
from live import Live

from onecard.engines.local.loading import load_base
from onecard.fleet.recipe import Recipe
from onecard.training import adapter, loop


def serving(spec: dict[str, Any]) -> dict[str, Any]:
    """Peaks of the passes over all callers at full context, by kind of pass."""
    watched = serve.Watched(spec)
    watched.add_adapters(spec.get("adapters", 0), spec.get("rank", 16))
    live, found = Live(), []
    inner = watched._forward

    def looked(*given: Any, **named: Any) -> Any:
        live.restart()
        with live:
            said = inner(*given, **named)
        found.append(
            {
                "ids": tuple(given[1].shape),
                "mask": tuple(given[2].shape),
                "peak": live.peak,
                "at": live.at,
                "alive": live.snapshot(),
            }
        )
        return said

    watched._forward = looked
    serve.worst_moments(watched, spec["context"], spec["concurrency"])
    passes = [dict(zip(serve.PASS, p, strict=True)) for p in watched.passes]
    watched.engine.close()
    return {"spec": spec, "found": found, "passes": passes}


def training(spec: dict[str, Any]) -> dict[str, Any]:
    """Peaks of a forward and backward pass and of the step after it."""
    random.seed(1)
    recipe = Recipe.model_validate({**spec["recipe"], "max_steps": 2})
    base = load_base(
        Path(spec["folder"]), recipe.base_quantization, double_quantization=recipe.double_quantization,
        dtype=recipe.compute_dtype, device="auto",
    )  # fmt: skip
    added = train.extend_tokenizer(base.tokenizer, recipe.added_tokens)
    vocabulary = int(base.model.get_input_embeddings().weight.shape[0])
    train.extend_model(base, base.tokenizer, added)
    model = adapter.attach(base, recipe.lora, added)
    rows = train.rows_of(max(recipe.batch.rows * recipe.batch.accumulate, 4), spec["row_tokens"], vocabulary)
    live, found = Live(), []
    step = loop.AdapterTrainer.training_step

    def looked(self: Any, *given: Any, **named: Any) -> Any:
        gauge.peak_and_reset()
        before = gauge.allocated()
        live.restart()
        with live:
            said = step(self, *given, **named)
        found.append(
            {
                "peak": live.peak,
                "at": live.at,
                "alive": live.snapshot(60),
                "before": before,
                "card": gauge.peak_and_reset(),
            }
        )
        return said

    loop.AdapterTrainer.training_step = looked  # type: ignore[method-assign]
    outcome = "ran"
    try:
        loop.run(model, base.tokenizer, rows, recipe, None, lambda _: None)
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"[:300]
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "spec": spec,
        "found": found[:1] + found[-1:],
        "outcome": outcome,
        "trained": parameters,
        "cuda": torch.cuda.is_available(),
    }
