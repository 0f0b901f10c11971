"""What a training run is asked for, what it tells while it runs, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from onecard.adapters.manifest import Manifest
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Preset
from onecard.training.ledger import Ledger

Stage = Literal["data", "loading", "training", "checking", "saving", "done"]


@dataclass(frozen=True)
class TrainingOrder:
    """One adapter to be made. `output` must not exist yet; it appears whole or not at all.

    `base_fingerprint` is the weights inventory's for `base_folder`. `run_folder` keeps checkpoints and metrics; without one there are
    none. `resume` goes on from its newest checkpoint. `suite_file` holds the rows that must not be trained on.
    """

    agent: str
    name: str
    base_id: str
    base_folder: Path
    base_fingerprint: str
    recipe: Recipe
    data_file: Path | str
    output: Path
    presets: Mapping[str, Preset] = field(default_factory=dict)
    limit_rows: int | None = None
    run_folder: Path | None = None
    parent: str | None = None
    suite_file: Path | None = None
    resume: bool = False
    tensorboard: Path | None = None
    planned_peak_bytes: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Progress:
    """Where a run is. Steps, loss (nats a token, mean over the step), tokens_s and seconds_left are set while training."""

    stage: Stage
    message: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_s: float | None = None
    seconds_left: float | None = None
    memory_bytes: int | None = None
    ledger: Ledger | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class TrainedAdapter:
    """A folder in PEFT's format and its manifest, whose files, digest and version the store fills in."""

    folder: Path
    manifest: Manifest
