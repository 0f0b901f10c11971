"""Writes down what an adapter is and how its run went: the Manifest that the store completes with version and digests."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from onecard import __version__
from onecard.adapters.manifest import BaseModelRecord, Manifest, TrainingRecord
from onecard.fleet.recipe import HUB
from onecard.training.loop import LoopResult
from onecard.training.order import TrainingOrder
from onecard.training.preparation import DataFacts

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")


@dataclass(frozen=True)
class RunFacts:
    """What was measured, and on what."""

    result: LoopResult
    peak_memory_bytes: int
    memory_kind: str
    targets: tuple[str, ...]
    device: torch.device


def write_manifest(order: TrainingOrder, data: DataFacts, run: RunFacts) -> Manifest:
    """The manifest of a finished run; version, creation time, files and digest are the store's to fill in."""
    recipe = order.recipe
    return Manifest(
        agent=order.agent,
        name=order.name,
        base=BaseModelRecord(
            id=order.base_id,
            fingerprint=order.base_fingerprint,
            quantization=recipe.base_quantization,
            double_quantization=recipe.double_quantization,
            dtype=recipe.compute_dtype,
        ),
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha,
        targets=run.targets,
        added_tokens=data.added_tokens,
        chat_template_sha256=data.chat_template_sha256,
        stop_ids=data.stop_ids,
        recipe=_without_paths(recipe.model_dump(mode="json")),
        data_sha256=data.sha256,
        training=TrainingRecord(
            rows=data.rows,
            trained_tokens=data.trained_tokens,
            steps=len(run.result.curve),
            seconds=round(run.result.seconds, 3),
            tokens_s=round(run.result.tokens_s, 1),
            peak_memory_bytes=run.peak_memory_bytes,
            memory_kind=run.memory_kind,
            planned_peak_bytes=order.planned_peak_bytes,
            rehearsed_peak_bytes=run.result.rehearsed_bytes,
            packed=run.result.packed,
            forward_tokens=run.result.forward_tokens,
            recomputed_layers=run.result.recomputed_layers,
            validation=run.result.validation,
            notes=run.result.notes,
            curve=run.result.curve,
            hardware=hardware(run.device),
            versions=versions(),
        ),
        parent=order.parent,
    )


def hardware(device: torch.device) -> str:
    """The card's name, or the processor's with the threads torch uses."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{_processor()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    return {"onecard": __version__, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _processor() -> str:
    """Linux says the model's name in /proc/cpuinfo; elsewhere Python's answer has to do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _without_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """The data file's name without its folder: a manifest travels, a folder of this machine does not."""
    if recipe.get("data") and not recipe["data"].startswith(HUB):
        recipe["data"] = Path(recipe["data"]).name
    return recipe
