"""The page's section on training: its pictures, a table with a line a run, and what each run was made with."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from onecard.adapters.manifest import TrainingRecord
from onecard.benchmark.figures import of_unit, readable
from onecard.benchmark.report_data import Training
from onecard.benchmark.report_table import NO_FIGURE, definitions, table
from onecard.catalog.units import format_bytes

PEAKS = ("planned", "rehearsed", "measured")


def training_section(trainings: Sequence[Training], plots: Sequence[str], note: str | None) -> list[str]:
    """HTML parts; empty without runs. `note` says why there are no pictures, when there are none."""
    if not trainings:
        return []
    validated = any(point.validation_loss is not None for training in trainings for point in training.steps)
    rows = [_row(training, validated) for training in trainings]
    head = ["adapter", "rows", _below("tokens", "trained"), "steps", "time", "tokens/s", "loss"]
    head += [*([_below("loss", "rows kept out")] if validated else []), *(_below(name, "peak") for name in PEAKS)]
    footnote = (
        "Below a planned or rehearsed peak: how far it lay from the measured one. Loss: of the first and of the last step, "
        f"nats a token. {NO_FIGURE}: not known, as for a run that has not come to its end."
    )
    return [
        "<h2>Training</h2>",
        *plots,
        f'<p class="muted">{escape(note)}</p>' if note and not plots else "",
        table("", head, rows, footnote, text=1),
        *(_made_with(training) for training in trainings),
    ]


def _row(training: Training, validated: bool) -> list[str]:
    steps, record = training.steps, training.record
    first, last = (steps[0], steps[-1]) if steps else (None, None)
    seconds = record.seconds if record else last.seconds if last else None
    kept_out = [point.validation_loss for point in steps if point.validation_loss is not None]
    return [
        escape(training.label) + ("" if record else "<span class='small'>without its manifest</span>"),
        f"{record.rows:,}" if record else NO_FIGURE,
        f"{record.trained_tokens:,}" if record else NO_FIGURE,
        f"{record.steps if record else last.step if last else 0:,}",
        of_unit(seconds, "s") if seconds is not None else NO_FIGURE,
        readable(record.tokens_s if record else _speed(training)) or NO_FIGURE,
        f"{first.loss:.2f} to {last.loss:.2f}" if first and last else NO_FIGURE,
        *([f"{kept_out[-1]:.2f}" if kept_out else NO_FIGURE] if validated else []),
        *(_peaks(record) if record else (NO_FIGURE, NO_FIGURE, _most(training))),
    ]


def _below(name: str, more: str) -> str:
    return f"{name}<span class='small'>{more}</span>"


def _speed(training: Training) -> float | None:
    """The harmonic mean of the steps': tokens by the time they took, were the steps of one size."""
    known = [point.tokens_s for point in training.steps if point.tokens_s]
    return len(known) / sum(1 / speed for speed in known) if known else None


def _peaks(record: TrainingRecord) -> tuple[str, str, str]:
    measured = f"{format_bytes(record.peak_memory_bytes)}<span class='small'>{escape(record.memory_kind)}</span>"
    planned, rehearsed = (_predicted(size, record) for size in (record.planned_peak_bytes, record.rehearsed_peak_bytes))
    return planned, rehearsed, measured


def _predicted(size: int | None, record: TrainingRecord) -> str:
    if not size:
        return NO_FIGURE
    error = f"{size / record.peak_memory_bytes - 1:+.0%}" if record.peak_memory_bytes else ""
    return f"{format_bytes(size)}<span class='small'>{error}</span>"


def _most(training: Training) -> str:
    sizes = [point.memory_bytes for point in training.steps if point.memory_bytes]
    return f"{format_bytes(max(sizes))}<span class='small'>of its steps</span>" if sizes else NO_FIGURE


def _made_with(training: Training) -> str:
    """Hardware, versions and what the run changed, folded away."""
    record = training.record
    if record is None:
        return ""
    passes = f"packed, at most {record.forward_tokens:,} tokens" if record.packed else "padded rows"
    rows = {
        "hardware": record.hardware,
        "forward passes": f"{passes}; {record.recomputed_layers} layers recomputed backward",
        "notes": "; ".join(record.notes),
        "versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
    }
    return f"<details><summary>{escape(training.label)}: what it was made with</summary>{definitions(rows)}</details>"
