"""Do our packed loop and TRL's golden way learn alike? The same rows in the same steps, the same first weights, the same schedule, on
the embedded base in nf4: loss by step of both, for several seeds of the first weights.

What counts as noise is measured beside it: how far apart TRL's own runs are when only the seed of the first weights differs.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

RECIPE: dict[str, Any] = {
    "name": "same-curve",
    "lora": {"rank": 8, "alpha": 16, "dropout": 0.0, "targets": "all-linear"},
    "batch": {"rows": 1, "accumulate": 16, "packing": True, "forward_tokens": 4096},
    "optimizer": {"name": "adamw_8bit", "learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 3},
    "gradient_checkpointing": False,
    "max_length": 256,
}
LAST = 10  # steps whose mean is a run's last loss


def compare(data: Path, seeds: Sequence[int], steps: int) -> tuple[dict[str, Any], list[str]]:
    """The record and the lines of the table (step, seed, ours, trl). Two seeds at least, or there is no noise to compare with."""
    import gauge

    from onecard.fleet.recipe import Recipe

    if len(seeds) < 2:
        raise SystemExit("two seeds at least")
    recipe = Recipe.model_validate({**RECIPE, "max_steps": steps})
    ours: dict[int, list[float]] = {}
    trl: dict[int, list[float]] = {}
    for seed in seeds:
        ours[seed] = run_ours(data, recipe, seed)
        trl[seed] = run_trl(data, recipe, seed)
        print(f"seed {seed}: {_distance(ours[seed], trl[seed]):.5f} nats a step apart", flush=True)
    lines = ["step,seed,ours,trl"]
    for seed in seeds:
        pairs = zip(ours[seed], trl[seed], strict=True)
        lines += [f"{step},{seed},{own:.6f},{peer:.6f}" for step, (own, peer) in enumerate(pairs, start=1)]
    record = {"program": "train_speed same-curve", "machine": gauge.machine(), "recipe": recipe.model_dump(mode="json")}
    record |= {"data": data.name, "ours": ours, "trl": trl, **judged(ours, trl)}
    return record, lines


def judged(ours: dict[int, list[float]], trl: dict[int, list[float]]) -> dict[str, Any]:
    """Mean distance a step between ours and TRL at the same seed, and between two seeds of TRL; alike when the first is no larger."""
    apart = [_distance(ours[seed], trl[seed]) for seed in trl]
    noise = [_distance(trl[one], trl[other]) for one, other in itertools.combinations(trl, 2)]
    last_ours, last_trl = (fmean(fmean(curve[-LAST:]) for curve in runs.values()) for runs in (ours, trl))
    within = fmean(apart) <= fmean(noise)
    return {
        "mean_distance": fmean(apart),
        "largest_mean_distance": max(apart),
        "noise_between_seeds": fmean(noise),
        "last_loss_ours": last_ours,
        "last_loss_trl": last_trl,
        "within_noise": within,
        "said": f"ours and TRL are {fmean(apart):.4f} nats a step apart at the same seed, TRL's seeds {fmean(noise):.4f}; "
        f"last {LAST} steps {last_ours:.4f} and {last_trl:.4f}: {'within' if within else 'NOT within'} noise",
    }


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))


def _start(data: Path, recipe: Any, seed: int) -> tuple[Any, Any, list[Any]]:
    """(model with a fresh adapter, tokenizer, rows): the same for the same seed."""
    from transformers import set_seed

    from onecard.engines.local.loading import load_base
    from onecard.training import adapter
    from onecard.training.preparation import prepare
    from onecard.weights.inventory import resolve

    folder = resolve("embedded:mini", Path.cwd())
    prepared = prepare(data, folder, recipe, None)
    base = load_base(
        folder,
        recipe.base_quantization,
        double_quantization=recipe.double_quantization,
        dtype=recipe.compute_dtype,
        device="auto",
    )
    set_seed(seed)
    return adapter.attach(base, recipe.lora, ()), prepared.tokenizer, list(prepared.ledger.encoded)


def run_ours(data: Path, recipe: Any, seed: int) -> list[float]:
    from onecard.training import loop

    model, tokenizer, rows = _start(data, recipe, seed)
    done = loop.run(model, tokenizer, rows, recipe, None, lambda _: None)
    return [point.loss for point in done.curve]


def run_trl(data: Path, recipe: Any, seed: int) -> list[float]:
    """SFTTrainer with one row a forward pass and no packing, over the rows in our order; its rounding of the adapter stays."""
    import datasets
    import torch
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    datasets.disable_progress_bars()
    model, tokenizer, rows = _start(data, recipe, seed)
    ordered = [rows[index] for step in steps_of(len(rows), recipe) for index in step]
    optimizer = recipe.optimizer
    with tempfile.TemporaryDirectory() as scratch:
        trainer = InOrder(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                per_device_train_batch_size=recipe.batch.rows,
                gradient_accumulation_steps=recipe.batch.accumulate,
                max_steps=recipe.max_steps,
                learning_rate=optimizer.learning_rate,
                lr_scheduler_type=optimizer.schedule,
                warmup_steps=optimizer.warmup_steps,
                max_grad_norm=optimizer.max_grad_norm,
                weight_decay=optimizer.weight_decay,
                optim=optimizer.name,
                gradient_checkpointing=False,
                bf16=True,
                use_cpu=not torch.cuda.is_available(),
                seed=seed,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(
                [{"input_ids": list(row.ids), "labels": list(row.labels)} for row in ordered]
            ),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def steps_of(count: int, recipe: Any) -> list[list[int]]:
    """The rows of each step as our loop draws them. Only whole steps can be handed to TRL."""
    from onecard.training import batches

    found = list(batches.steps(count, recipe.batch, recipe.seed, recipe.max_steps))
    if any(len(step) != recipe.batch.step_rows for step in found):
        raise SystemExit(f"at most {count // recipe.batch.step_rows} steps")
    return found
