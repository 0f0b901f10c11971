"""TRL's SFTTrainer as its documents use it: the model and a LoRA config handed over, rows as ids with completion masks.

Nothing of TRL is changed; a callback reads the clock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig
from speed_rows import FIRST_ID
from step_clock import TokenCounter
from transformers import PrinterCallback, TrainerCallback, set_seed
from trial import Trial
from trl import SFTConfig, SFTTrainer
from variants import GOLDEN_LORA, HEADS, TARGETS, Variant

OPTIMIZER = "adamw_8bit"


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the clock of each step and stops when it says so."""

    def __init__(self, trial: Trial) -> None:
        self._clock = trial.clock
        self.counter: TokenCounter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.counter is not None
        if self._clock.step(self.counter.take()):
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._clock.losses.append(float(logs["loss"]))


def run_trl(variant: Variant, trial: Trial) -> dict[str, Any]:
    settings = dict(variant.settings)
    heads = settings.pop("heads", False)
    if "max_length" in settings:
        settings["max_length"] = trial.pack_tokens
    watch = Watch(trial)
    set_seed(trial.seed)
    trainer = SFTTrainer(
        model=trial.model,
        args=SFTConfig(**common(trial), **settings),
        train_dataset=dataset(trial),
        processing_class=trial.tokenizer,
        peft_config=LoraConfig(
            **GOLDEN_LORA, target_modules=TARGETS, modules_to_save=HEADS if heads else None, task_type="CAUSAL_LM"
        ),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    watch.counter = TokenCounter(trainer.model, FIRST_ID)
    trainer.train()
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    return {"optimizer": OPTIMIZER, "trainable_parameters": trainable}


def common(trial: Trial) -> dict[str, Any]:
    """What document E says of every run, and that nothing is saved or reported."""
    return {
        "output_dir": str(Path(trial.scratch) / "trl"),
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
        "num_train_epochs": 1000,  # the clock ends it
        "bf16": True,
        "use_cpu": trial.device == "cpu",
        "optim": OPTIMIZER,
        "completion_only_loss": True,
        "seed": trial.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def dataset(trial: Trial) -> Any:
    return datasets.Dataset.from_list(
        [
            {"input_ids": list(row.ids), "completion_mask": [int(learned) for learned in row.trained]}
            for row in trial.rows
        ]
    )
