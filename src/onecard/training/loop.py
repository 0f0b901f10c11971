"""The run itself: TRL's SFTTrainer on rows that are already token ids, with its silent habits fenced off.

TRL would cut rows at max_length, drop masked ones, round the adapter to bf16 and write a model card; it gets finished ids and labels,
our batches, fp32 adapter weights, and nothing to write but checkpoints. docs/decisions/004-training.md tells what was tried.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from onecard.adapters.manifest import CurvePoint
from onecard.engines.local.loading import DTYPES, quiet
from onecard.errors import DiskFull, DoesNotFit, NothingLearned
from onecard.fleet.recipe import Recipe
from onecard.training.adapter import make_fp32
from onecard.training.batches import LengthOrder, collate
from onecard.training.chat import IGNORED, EncodedRow
from onecard.training.order import OnProgress, Progress
from onecard.training.preparation import planned_steps


@dataclass(frozen=True)
class LoopResult:
    """The curve, one point a step; the seconds of the loop alone; the tokens of the rows seen, prompts included, padding not."""

    curve: tuple[CurvePoint, ...]
    seconds: float
    tokens: int

    @property
    def tokens_s(self) -> float:
        return self.tokens / self.seconds


def run(
    model: Any,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    recipe: Recipe,
    run_folder: Path | None,
    progress: OnProgress,
) -> LoopResult:
    """Trains the adapter in `model`, in place. Checkpoints go to `run_folder`, if there is one and the run is long.

    NothingLearned at the first loss that is not finite, DoesNotFit when memory runs out. Whatever `progress` raises ends the run.
    """
    curve = Curve(progress)
    # The trainer would also write one after the last step of a run that is shorter than a checkpoint's distance.
    checkpoints = run_folder is not None and planned_steps(len(rows), recipe) > recipe.checkpoints.every_steps
    examples = datasets.Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows])
    with quiet(), tempfile.TemporaryDirectory(prefix="onecard-run-") as scratch:
        trainer = AdapterTrainer(
            model=model,
            args=arguments(recipe, model.device.type, run_folder or Path(scratch), checkpoints=checkpoints),
            train_dataset=examples,
            data_collator=functools.partial(collate, pad_id=tokenizer.pad_token_id or 0),
            processing_class=tokenizer,
            callbacks=[curve],
        )
        trainer.curve, trainer.compute_dtype = curve, DTYPES[recipe.compute_dtype]
        trainer.remove_callback(PrinterCallback)
        make_fp32(model)
        model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)  # of checkpoints
        start = time.perf_counter()
        with machine_errors(recipe, run_folder):
            trainer.train()
        return LoopResult(tuple(curve.points), time.perf_counter() - start, curve.tokens)


@contextmanager
def machine_errors(recipe: Recipe, run_folder: Path | None) -> Iterator[None]:
    """Turns what torch says about full memory and full disks into our errors."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(recipe) from error
    except RuntimeError as error:  # torch has no classes of its own for these two
        if "can't allocate memory" in str(error):
            raise _too_large(recipe) from error
        if "PytorchStreamWriter failed" in str(error):
            raise DiskFull("no room for a checkpoint", where=str(run_folder), next_step="free some space") from error
        raise


def arguments(recipe: Recipe, device: str, folder: Path, *, checkpoints: bool) -> SFTConfig:
    """Every setting that matters, said out loud: TRL's and transformers' defaults differ from a recipe's."""
    optimizer = recipe.optimizer
    config = SFTConfig(
        output_dir=str(folder),
        max_length=None,  # the default cuts at 1024
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=False,
        per_device_train_batch_size=recipe.batch.rows,
        gradient_accumulation_steps=recipe.batch.accumulate,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        optim=optimizer.name,
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type=optimizer.schedule,
        warmup_steps=optimizer.warmup_ratio if optimizer.warmup_steps is None else optimizer.warmup_steps,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=False,  # autocast is ours: accelerate's stays wrapped round the model, whose answers are compared after the run
        use_cpu=device == "cpu",
        seed=recipe.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default hides a loss that is not a number
        save_strategy="steps" if checkpoints else "no",
        save_steps=recipe.checkpoints.every_steps,
        save_total_limit=recipe.checkpoints.keep,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
    )
    config._n_gpu = min(config.n_gpu, 1)  # with several cards transformers would copy the model to each
    return config


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with our batches and our autocast, writing nothing beside checkpoints."""

    curve: Curve
    compute_dtype: torch.dtype

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthOrder:
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        batch = self.args.per_device_train_batch_size
        return LengthOrder(lengths, batch, self.args.gradient_accumulation_steps, self.args.seed)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        autocast: AbstractContextManager[Any] = torch.autocast(self.args.device.type, dtype=self.compute_dtype)
        return autocast

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> torch.Tensor:
        self.curve.tokens += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *rest, **named)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's fused head on a card. Its fallback for CPUs took a third of a step; there the plain logits are computed."""
        labels = inputs["labels"]
        if labels.device.type != "cpu" or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
        learned = labels[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1][learned].float(), labels[:, 1:][learned], reduction="sum"
        )
        return loss / (learned.sum() if num_items_in_batch is None else num_items_in_batch)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the manifest says what an adapter is."""


class Curve(TrainerCallback):  # type: ignore[misc]
    """Collects the training curve and tells the progress. Tokens are those of the rows, padding not counted."""

    def __init__(self, progress: OnProgress) -> None:
        self.points: list[CurvePoint] = []
        self._progress = progress
        self.tokens = self._told = 0
        self._rate, self._start, self._step_start = 0.0, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = self._step_start = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # the log's own is already the next step's

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, step = float(logs["loss"]), state.global_step
        if not math.isfinite(loss):
            raise NothingLearned(
                f"the loss is {loss} at step {step}", next_step="lower the learning rate, or use compute_dtype: fp32"
            )
        now = time.perf_counter()
        speed = (self.tokens - self._told) / (now - self._step_start)
        self.points.append(CurvePoint(step=step, loss=loss, learning_rate=self._rate, tokens_s=round(speed, 1)))
        self._step_start, self._told = now, self.tokens
        self._progress(
            Progress(
                stage="training",
                message=f"step {step} of {state.max_steps}",
                step=step,
                steps=state.max_steps,
                loss=loss,
                tokens_s=speed,
                seconds_left=(now - self._start) / step * (state.max_steps - step),
            )
        )


def _too_large(recipe: Recipe) -> DoesNotFit:
    advice = [
        f"batch.rows below {recipe.batch.rows} with more accumulate" if recipe.batch.rows > 1 else None,
        None if recipe.gradient_checkpointing else "gradient_checkpointing: true",
        "a shorter max_length",
    ]
    return DoesNotFit(
        "memory ran out while training", where=f"recipe {recipe.name}", next_step=" or ".join(a for a in advice if a)
    )
