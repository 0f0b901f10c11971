"""What a run needs to go on where it was: the trained weights, the optimizer's state, the random numbers, and what the run is.

A checkpoint appears whole under its name or not at all. A run goes on only with the data, recipe, base and versions it began with.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from onecard.adapters.durable import disk_errors, flush_folder, write_new
from onecard.errors import InputError

SCHEMA = 1
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """`weights` by parameter name, `optimizer` and `random` as tensors by name, `state` as JSON."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    random: Mapping[str, torch.Tensor]
    state: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint, identity: Mapping[str, str], keep: int) -> None:
    """Writes `folder/checkpoint-<step>` and removes all but the newest `keep`. DiskFull when there is no room."""
    weights = serialize({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()})
    others = {f"optimizer.{name}": tensor for name, tensor in checkpoint.optimizer.items()}
    others |= {f"random.{name}": tensor for name, tensor in checkpoint.random.items()}
    rest = serialize({name: tensor.detach().cpu().contiguous() for name, tensor in others.items()})
    state = {"schema": SCHEMA, "step": checkpoint.step, "identity": dict(identity), **checkpoint.state}
    with disk_errors(folder, len(weights) + len(rest)):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        partial = Path(tempfile.mkdtemp(prefix=".checkpoint-", suffix=".partial", dir=folder))
        try:
            write_new(partial / WEIGHTS, weights)
            write_new(partial / OPTIMIZER, rest)
            write_new(partial / STATE, json.dumps(state).encode())
            flush_folder(partial)
            final = folder / f"checkpoint-{checkpoint.step}"
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            flush_folder(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in _found(folder)[keep:]:
            shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint in a run's folder."""
    return next(iter(_found(folder)), None)


def read(folder: Path, identity: Mapping[str, str]) -> Checkpoint:
    """One checkpoint. InputError when it cannot be read, or was written by a run that differs, naming what does."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        weights, others = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
        before = dict(state.pop("identity"))
        schema, step = state.pop("schema"), int(state.pop("step"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"the checkpoint cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=str(folder),
            next_step="remove it, and the one before it is taken",
        ) from None
    if schema != SCHEMA:
        raise InputError(f"the checkpoint has schema {schema}", where=str(folder), allowed=str(SCHEMA))
    changed = sorted(key for key in before.keys() | identity.keys() if before.get(key) != identity.get(key))
    if changed:
        raise InputError(
            f"the run cannot go on: {'; '.join(_change(key, before, identity) for key in changed)}",
            where=str(folder),
            next_step="put back what it began with, or start again without --resume",
        )
    return Checkpoint(step, weights, _part(others, "optimizer."), _part(others, "random."), state)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random(saved: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(saved["cpu"].cpu())
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"].cpu(), device)


def _change(key: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    return f"its {key} was {before.get(key, 'nothing')[:40]} and is {now.get(key, 'nothing')[:40]}"


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _found(folder: Path) -> list[Path]:
    """Whole checkpoints, newest first."""
    numbered = [(place.name.removeprefix("checkpoint-"), place) for place in folder.glob("checkpoint-*")]
    return [place for number, place in sorted(((int(n), p) for n, p in numbered if n.isdigit()), reverse=True)]


def sweep(folder: Path) -> None:
    """What a killed run left half-written."""
    for partial in folder.glob(".checkpoint-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
