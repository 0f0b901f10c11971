"""Everything a report page shows, as one record: result files plus what other rooms know about the same run.

`Extras` is what a load test cannot know by itself: predictions, training, gate checks, sample answers. `onecard demo` fills one, or
anybody writes it as JSON and hands it to `onecard report --extras`. Whatever is left empty is left out of the page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from onecard.adapters.manifest import TrainingRecord
from onecard.benchmark.report_training import StepFigures
from onecard.errors import ResultError
from onecard.evidence.results import Record, ResultFile

Tag = Literal["exact", "measured", "fitted", "assumed"]


class Comparison(Record):
    """A prediction beside its measurement, both in `unit`; `low` and `high` are the prediction's range."""

    what: str
    unit: str = Field(description="GiB, MiB, ms, s, tokens/s, minutes, ...: rows of one unit share a picture.")
    predicted: float
    low: float | None = None
    high: float | None = None
    measured: float
    tag: Tag = Field("assumed", description="Where the prediction comes from.")
    note: str | None = None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured: +0.2 says the prediction was a fifth too high. None when nothing was measured."""
        return (self.predicted - self.measured) / self.measured if self.measured else None

    @property
    def within_range(self) -> bool | None:
        """Whether the measurement lies in the predicted range; None when the prediction has none."""
        return None if self.low is None or self.high is None else self.low <= self.measured <= self.high


class Training(Record):
    """One run: what the adapter's manifest records of it, and what it told of every step. A run under way has no record yet."""

    label: str = Field(description="Agent and version, such as explainer style@v0001.")
    record: TrainingRecord | None = None
    points: tuple[StepFigures, ...] = Field((), description="The lines of its metrics.jsonl, where there is one.")

    @property
    def steps(self) -> tuple[StepFigures, ...]:
        """Each step's figures: those the run told, else those its manifest kept."""
        if self.points or self.record is None:
            return self.points
        validated = dict(self.record.validation)
        return tuple(
            StepFigures(**point.model_dump(), validation_loss=validated.get(point.step)) for point in self.record.curve
        )


class GateLine(Record):
    """One check of a gate."""

    agent: str
    check: str = Field(description="What was demanded, as a sentence.")
    observed: str
    passed: bool


class SampleAnswer(Record):
    """One answer to a sample's question. `label` says under which style, adapter or model."""

    label: str
    text: str
    adapter: str | None = None
    tokens: int | None = None
    seconds: float | None = None


class Sample(Record):
    """One question with its answers side by side."""

    question: str
    answers: tuple[SampleAnswer, ...] = Field(min_length=1)


class Extras(Record):
    """What stands beside the measurements. Every field may be left out."""

    title: str | None = None
    intro: str | None = Field(None, description="A sentence or two under the title.")
    comparisons: tuple[Comparison, ...] = ()
    trainings: tuple[Training, ...] = ()
    gates: tuple[GateLine, ...] = ()
    samples: tuple[Sample, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict, description="Versions and settings, shown as a list.")
    commands: tuple[str, ...] = Field((), description="What to type to do it again.")


class Measured(Record):
    """A result and the name of the file it came from."""

    name: str
    result: ResultFile


class ReportData(Extras):
    """The whole page."""

    created_at: str
    measured: tuple[Measured, ...] = ()


def assemble(measured: Sequence[Measured], extras: Sequence[Extras] = ()) -> ReportData:
    """One record from results and extras: lists are joined in order, a later title or intro wins."""
    merged: dict[str, Any] = {}
    for extra in extras:
        for name in Extras.model_fields:
            value = getattr(extra, name)
            if isinstance(value, tuple):
                merged[name] = merged.get(name, ()) + value
            elif isinstance(value, dict):
                merged[name] = {**merged.get(name, {}), **value}
            elif value is not None:
                merged[name] = value
    return ReportData(created_at=now(), measured=tuple(measured), **merged)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_extras(file: Path) -> Extras:
    """An extras file (JSON). ResultError names the key that is wrong."""
    try:
        return Extras.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ResultError("no such file", where=str(file)) from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise ResultError(
            f"not a report extra: {fault['msg'][0].lower()}{fault['msg'][1:]}",
            where=f"{file}: {key}",
            allowed=", ".join(Extras.model_fields),
        ) from None
    except (OSError, ValueError) as error:
        raise ResultError(f"cannot be read as JSON: {error}", where=str(file)) from None
