"""What a training run told step by step: its metrics.jsonl, read for a report, and matched with the adapter it became.

The file is read as far as it is whole: the last line of a run under way, or of a killed one, may be half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from onecard.adapters.manifest import CurvePoint
from onecard.errors import ResultError

FILE = "metrics.jsonl"


class StepFigures(BaseModel):
    """One optimizer step: losses in nats a token, memory in bytes, `seconds` since the run began. Figures not known here are passed by."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    step: int
    loss: float
    learning_rate: float | None = None
    tokens_s: float | None = None
    memory_bytes: int | None = None
    validation_loss: float | None = None
    gradient_norm: float | None = None
    seconds: float | None = None


def read_metrics(file: Path) -> tuple[StepFigures, ...]:
    """The steps of a metrics.jsonl, in order. ResultError with the line for one that is none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise ResultError("no such file", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"cannot be read: {error}", where=str(file)) from None
    points: list[StepFigures] = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            break  # being written, or cut by a kill
        try:
            point = StepFigures.model_validate(json.loads(line))
        except (ValueError, ValidationError):
            raise ResultError(
                "not the figures of a training step",
                where=f"{file}:{number}",
                allowed='JSON with step and loss, such as {"step": 1, "loss": 2.31}',
            ) from None
        if points and point.step <= points[-1].step:
            raise ResultError(
                f"step {point.step} comes after step {points[-1].step}",
                where=f"{file}:{number}",
                next_step="give the file of one run",
            )
        points.append(point)
    return tuple(points)


def same_run(points: Sequence[StepFigures], curve: Sequence[CurvePoint]) -> bool:
    """Whether these steps are those of the curve: losses repeat from run to run, the speed of each step does not."""
    if not points or len(points) != len(curve):
        return False
    told = [(point.step, point.loss, point.tokens_s) for point in points]
    return told == [(point.step, point.loss, point.tokens_s) for point in curve]
