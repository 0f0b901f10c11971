"""A machine's calibration: what its card, its processor and the libraries on it were seen to do, as one JSON file.

The planner is given such a record in place of cold-start values. Every figure keeps the median and the quartiles of its repeats; what
follows from several of them (microseconds a layer, an adapted Linear) is derived each time it is asked for, never stored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from onecard.errors import ResultError
from onecard.evidence.calibration_rows import (
    Absent,
    CalibratedCard,
    CalibratedHost,
    Context,
    Figure,
    Form,
    Gemm,
    LinearTime,
    PickTime,
    SmallModel,
    StepTime,
    TrainingStep,
)
from onecard.evidence.results import Record, write_atomically

SCHEMA = 1

# Number n turns a document of schema n into one of schema n + 1, on reading.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

MEASURED = {"us", "called_us", "tflops", "by"}  # of a row; the other keys say which case it is
UNSTEADY = 0.10  # quartiles further apart than this, beside the median
_AGAIN = "calibrate again: `onecard calibrate`"


class Calibration(Record):
    """The document. `at` is UTC, ISO 8601; `seconds` is how long the measuring took."""

    schema_version: int = Field(SCHEMA, alias="schema", ge=1, le=SCHEMA)
    at: str
    seconds: float = Field(ge=0)
    card: CalibratedCard
    host: CalibratedHost
    versions: dict[str, str]
    context: Context | None = None
    copy_gbs: Figure | None = Field(None, description="10^9 bytes/s of a large copy, read plus written.")
    read_gbs: Figure | None = Field(None, description="10^9 bytes/s of a sum over a large fp32 tensor.")
    launch_us: Figure | None = Field(None, description="Host time of a trivial operator among others.")
    round_trip_us: Figure | None = Field(None, description="The same, waited for each time.")
    gemm: tuple[Gemm, ...] = ()
    linears: tuple[LinearTime, ...] = ()
    picks: tuple[PickTime, ...] = ()
    small_model: SmallModel
    steps: tuple[StepTime, ...] = ()
    training_steps: tuple[TrainingStep, ...] = ()
    absent: tuple[Absent, ...] = ()
    warnings: tuple[str, ...] = ()

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _nothing_twice(self) -> Calibration:
        for part in ("gemm", "linears", "picks", "steps", "training_steps"):
            rows: tuple[Record, ...] = getattr(self, part)
            cases: set[Hashable] = {tuple(row.model_dump(exclude=MEASURED).values()) for row in rows}
            if len(cases) < len(rows):
                raise ValueError(f"{part} states a figure twice")
        return self

    @property
    def context_bytes(self) -> int | None:
        """What a serving process takes of the card beyond torch's allocations, as far as it was seen."""
        return None if self.context is None else self.context.serving_bytes or self.context.bare_bytes

    @property
    def best_tflops(self) -> float | None:
        """The highest 16-bit rate of the curve, 10^12 operations a second."""
        return max((row.tflops.median for row in self.gemm), default=None)

    def layer_us(self, form: Form, lines: int = 1, adapters: int = 0) -> float | None:
        """Host microseconds of one layer in a decode step: the slope over the layers. None when not measured or lost in noise."""
        slope, _ = self._line_of_steps(form, lines, adapters)
        return slope

    def step_us(self, form: Form, lines: int = 1, adapters: int = 0) -> float | None:
        """What is left of a decode step at zero layers: embedding, head, choosing a token for every line."""
        _, rest = self._line_of_steps(form, lines, adapters)
        return rest

    def adapter_linear_us(self, form: Form, lines: int = 1) -> float | None:
        """What one adapter that all lines share adds to a Linear it is on."""
        return self._adapted(form, lines, 1)

    def mixed_adapter_linear_us(self, form: Form, lines: int = 4) -> float | None:
        """What each of the different adapters in a mixed batch adds to a Linear they are on."""
        return self._adapted(form, lines, 2)

    def training_layer_us(self, form: Form, checkpointing: bool) -> float | None:
        """Host microseconds of one layer, forward and backward, of a small batch."""
        slope, _ = _fitted(self._training_points(form, checkpointing))
        return slope

    def training_step_us(self, form: Form, checkpointing: bool) -> float | None:
        """What is left of a forward and backward at zero layers."""
        _, rest = _fitted(self._training_points(form, checkpointing))
        return rest

    @property
    def steady(self) -> bool:
        """Whether the steps repeated themselves: half of them within UNSTEADY. If not, what is derived follows their first quartiles,
        for what others do on a machine makes a step slower and never faster."""
        figures = [*(step.us for step in self.steps), *(step.us for step in self.training_steps)]
        return not figures or median((figure.high - figure.low) / figure.median for figure in figures) <= UNSTEADY

    def _us(self, figure: Figure) -> float:
        return figure.median if self.steady else figure.low

    def _line_of_steps(self, form: Form, lines: int, adapters: int) -> tuple[float | None, float | None]:
        asked = (form, lines, adapters)
        return _fitted([(s.layers, self._us(s.us)) for s in self.steps if (s.form, s.lines, s.adapters) == asked])

    def _training_points(self, form: Form, checkpointing: bool) -> list[tuple[int, float]]:
        asked = (form, checkpointing)
        return [(s.layers, self._us(s.us)) for s in self.training_steps if (s.form, s.checkpointing) == asked]

    def _adapted(self, form: Form, lines: int, adapters: int) -> float | None:
        bare, adapted = self.layer_us(form, lines), self.layer_us(form, lines, adapters)
        if bare is None or adapted is None or adapted <= bare:
            return None
        return (adapted - bare) / (adapters * self.small_model.linears_per_layer)


def _fitted(points: Sequence[tuple[int, float]]) -> tuple[float | None, float | None]:
    """(slope, rest at zero, not below zero) of the least-squares line; Nones for one place only or a slope that is not above zero."""
    if len({place for place, _ in points}) < 2:
        return None, None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return (slope, max(mean_y - slope * mean_x, 0.0)) if slope > 0 else (None, None)


def calibrations_folder() -> Path:
    """Where calibrations lie when no file is named: beside onecard's other caches, in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "onecard" / "calibrations"


def calibration_file(card_id: str) -> Path:
    """The default file of a card's calibration."""
    return calibrations_folder() / f"{card_id}.json"


def find_calibration(card_id: str) -> Calibration | None:
    """The calibration of this card made on this machine, None without one. ResultError for a file that cannot be used."""
    file = calibration_file(card_id)
    return read_calibration(file) if file.exists() else None


def write_calibration(file: Path, calibration: Calibration) -> None:
    """Writes the file whole or not at all. DiskFull or ResultError when that cannot be done."""
    write_atomically(file, to_json(calibration))


def to_json(calibration: Calibration) -> str:
    """The document as text, one line for each figure of a list."""
    document = calibration.model_dump(mode="json", by_alias=True)
    parts = [f"  {json.dumps(key)}: {_text(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _text(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in value) + "\n  ]"
    return json.dumps(value, ensure_ascii=False)


def read_calibration(file: Path) -> Calibration:
    """The record in a file. ResultError with file and key when it is missing, cut, edited or written by a newer onecard."""
    document = _read_json(file)
    schema = document.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ResultError("not a calibration", where=f"{file}: schema", allowed=f"1 to {SCHEMA}", next_step=_AGAIN)
    if schema > SCHEMA:
        raise ResultError(
            f"written by a newer onecard (schema {schema})",
            where=f"{file}: schema",
            allowed=f"1 to {SCHEMA}",
            next_step="update onecard",
        )
    for number in range(schema, SCHEMA):
        document = {**MIGRATIONS[number](document), "schema": number + 1}
    try:
        return Calibration.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "document"
        problem = fault["msg"].removeprefix("Value error, ")
        raise ResultError(
            f"the calibration is broken: {problem[0].lower()}{problem[1:]}", where=f"{file}: {key}", next_step=_AGAIN
        ) from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ResultError("no such file", where=str(file), next_step="`onecard calibrate` writes one") from None
    except OSError as error:
        raise ResultError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise ResultError(
            "not valid JSON: the file was cut or edited", where=f"{file}:{line}", next_step=_AGAIN
        ) from None
    if not isinstance(document, dict):
        raise ResultError("not a calibration", where=f"{file}: document", allowed="a JSON object", next_step=_AGAIN)
    return document
