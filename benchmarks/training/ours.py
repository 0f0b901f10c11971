"""onecard's own loop on the random base: the seam between this benchmark and `onecard.training`, in one place.

`loop.run(model, tokenizer, rows, recipe, run_folder, progress)` trains; `progress` is called after every step, and what it raises ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ours_recipe import recipe_of
from speed_base import ADDED_TOKENS
from speed_rows import FIRST_ID, SpeedRow
from step_clock import TokenCounter
from transformers import set_seed
from trial import Trial
from variants import Variant

from onecard.adapters.manifest import AddedToken
from onecard.engines.local.loading import LoadedBase
from onecard.training import adapter, batches, loop
from onecard.training.chat import EncodedRow
from onecard.training.order import Progress
from onecard.training.rows import Row


class Enough(Exception):
    """Ends the loop."""


def run_ours(variant: Variant, trial: Trial) -> dict[str, Any]:
    recipe = recipe_of(variant.settings)
    base = LoadedBase(trial.model, trial.tokenizer, torch.device(trial.device), torch.bfloat16, Path(trial.scratch))
    added = [AddedToken(token=token, row=row) for token, row in zip(ADDED_TOKENS, trial.added_ids, strict=True)]
    set_seed(trial.seed)
    model = adapter.attach(base, recipe.lora, added)
    counter = TokenCounter(model, FIRST_ID)
    steps = batches.total_steps(len(trial.rows), recipe.batch, recipe.epochs, recipe.max_steps)
    # Before the first step the loop tries the longest pass; what that reads is no row of a step.
    first = next(batches.steps(len(trial.rows), recipe.batch, recipe.seed, steps))
    first_tokens = sum(len(trial.rows[index].ids) for index in first)

    said: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), "messages": []}

    def progress(told: Progress) -> None:
        if told.step != len(trial.clock.step_ends) + 1 or told.loss is None:
            said["messages"].append(told.message)
            return
        seen = counter.take()
        if trial.clock.step(first_tokens if told.step == 1 else seen, told.loss) and told.step < steps:
            raise Enough

    counter.take()
    trial.clock.start()
    try:
        done = loop.run(model, trial.tokenizer, encoded(trial.rows), recipe, None, progress)
    except Enough:
        said["stopped"] = "by the clock"
    else:
        said["loop"] = {"tokens": done.tokens, "seconds": round(done.seconds, 3), "tokens_s": round(done.tokens_s, 1)}
    said["trainable_parameters"] = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return said


def encoded(rows: Sequence[SpeedRow]) -> list[EncodedRow]:
    """The rows as the loop takes them."""
    return [
        EncodedRow(Row("p", "c", None, f"random:{number}"), row.ids, row.trained) for number, row in enumerate(rows)
    ]
