"""Unsloth's own way, where it is installed: it reads models from folders only, so the quantized base is written to one first."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import unsloth  # must come before trl: it patches it
from speed_rows import FIRST_ID
from step_clock import TokenCounter, forget_peak
from trial import Trial
from trl import SFTConfig, SFTTrainer
from trl_run import Watch, common, dataset
from variants import GOLDEN_LORA, TARGETS, Variant


def run_unsloth(variant: Variant, trial: Trial) -> dict[str, Any]:
    folder = Path(trial.scratch) / "base"
    trial.model.save_pretrained(folder)
    trial.tokenizer.save_pretrained(folder)
    trial.model.model = trial.model.lm_head = None  # its memory is not Unsloth's
    gc.collect()
    forget_peak()
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=trial.pack_tokens, load_in_4bit=True, local_files_only=True
    )
    lora = {**GOLDEN_LORA, "target_modules": TARGETS, "use_gradient_checkpointing": "unsloth"}
    model = unsloth.FastLanguageModel.get_peft_model(model, **lora)
    watch = Watch(trial)
    packed = {"per_device_train_batch_size": 4, "packing": True, "max_length": trial.pack_tokens}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**common(trial), **packed),
        train_dataset=dataset(trial),
        processing_class=trial.tokenizer,
        callbacks=[watch],
    )
    watch.counter = TokenCounter(trainer.model, FIRST_ID)
    trainer.train()
    return {"unsloth": unsloth.__version__}
