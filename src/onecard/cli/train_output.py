"""How a training run looks on a terminal: the token ledger, then a bar with loss, speed, memory and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onecard.catalog.units import format_bytes
from onecard.cli.data_output import console_of, ledger_table
from onecard.cli.train_curve import sparkline
from onecard.cli.train_memory import beside_measured

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

    from onecard.adapters.manifest import TrainingRecord
    from onecard.cli.train import FinishedRun
    from onecard.training.order import Progress


class Display:
    """How a run is shown while it goes: called with every progress, and told sentences in between. This one shows nothing."""

    def __call__(self, progress: Progress) -> None: ...

    def say(self, sentence: str) -> None:
        """A sentence a person needs although nothing else is shown: on standard error, which no script parses."""
        console_of(stderr=True).print(sentence, markup=False, soft_wrap=True)


class Lines(Display):
    """For a log: a line a stage, and one for every tenth of the steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stages: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        if progress.ledger is not None:
            self._console.print(ledger_table(progress.ledger))
        elif progress.stage == "training":
            if progress.step * 10 // progress.steps != (progress.step - 1) * 10 // progress.steps:
                self.say(f"training: {progress.message}, {numbers(progress)}")
        elif progress.stage not in self._stages:
            self.say(f"{progress.stage}: {progress.message}")
        self._stages.add(progress.stage)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, soft_wrap=True)


class Bar(Display):
    """For a terminal: a bar with what is known of the step, and sentences above it."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("reading", total=None, numbers="")

    def __call__(self, progress: Progress) -> None:
        if progress.ledger is not None:
            self._bars.console.print(ledger_table(progress.ledger))
            return
        total = progress.steps or None
        self._bars.update(
            self._task, description=progress.message, total=total, completed=progress.step, numbers=numbers(progress)
        )

    def say(self, sentence: str) -> None:
        self._bars.console.print(sentence, markup=False, soft_wrap=True)


@contextmanager
def bar(quiet: bool) -> Iterator[Display]:
    """A bar on a terminal, lines elsewhere, nothing but what must be said when quiet. On standard error."""
    console = console_of(stderr=True)
    if quiet:
        yield Display()
    elif not console.is_terminal:
        yield Lines(console)
    else:
        with _bars(console) as bars:
            yield Bar(bars)


def _bars(console: Any) -> Bars:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[numbers]}", markup=False),
        console=console,
        transient=True,
    )


def numbers(progress: Progress) -> str:
    """`loss 0.412, 1,834 tokens/s, 0.61 GiB, 0:41 left`, as far as they are known."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_s is not None:
        parts.append(f"{progress.tokens_s:,.0f} tokens/s")
    if progress.memory_bytes is not None:
        parts.append(format_bytes(progress.memory_bytes))
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """`0:41`, `12:05`, `1:02:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def record_of(done: FinishedRun) -> dict[str, object]:
    """What `--json` prints of a published version and its run."""
    from onecard.cli.train_runs import CURVE, METRICS

    stored, run = done.stored, done.stored.manifest.run
    curve = done.folder / CURVE
    return {
        "agent": stored.agent,
        "name": stored.name,
        "version": stored.version,
        "digest": stored.digest,
        "folder": str(stored.folder),
        "rows": run.rows,
        "trained_tokens": run.trained_tokens,
        "steps": run.steps,
        "first_loss": run.curve[0].loss,
        "last_loss": run.curve[-1].loss,
        "seconds": run.seconds,
        "tokens_s": run.tokens_s,
        "peak_memory_bytes": run.peak_memory_bytes,
        "planned_peak_bytes": run.planned_peak_bytes,
        "rehearsed_peak_bytes": run.rehearsed_peak_bytes,
        "memory_kind": run.memory_kind,
        "notes": list(run.notes),
        "resumed_from_step": done.resumed_from,
        "run_folder": str(done.folder),
        "metrics": str(done.folder / METRICS),
        "loss_curve": str(curve) if curve.is_file() else None,
    }


def sentences_of(done: FinishedRun) -> list[str]:
    """The result as a person reads it, in plain text."""
    stored, run = done.stored, done.stored.manifest.run
    return [
        f"{stored.agent}/{stored.name}@{stored.version} is published as the candidate (digest {stored.digest[:12]}).",
        f"{run.steps} steps in {clock(run.seconds)}, {run.tokens_s:,.0f} tokens/s, {_loss(run)}.",
        _memory(run),
        *(f"Note: {note}." for note in run.notes),
        "Checked: the base is untouched, every layer of the adapter moved, and the saved files answer like the trained model.",
        f"Kept: {done.folder}/ with the figures of every step{_picture(done)}.",
    ]


def _loss(run: TrainingRecord) -> str:
    """First and last loss with the curve between them, and the last loss of the rows kept out."""
    curve = sparkline([point.loss for point in run.curve])
    between = f" {curve} " if curve else " -> "
    validated = f" (rows kept out: {run.validation[-1][1]:.3f})" if run.validation else ""
    return f"loss {run.curve[0].loss:.3f}{between}{run.curve[-1].loss:.3f}{validated}"


def _memory(run: TrainingRecord) -> str:
    memory = "GPU memory" if run.memory_kind == "cuda-allocated" else "process memory"
    measured = f"Peak {memory} {format_bytes(run.peak_memory_bytes)} measured"
    return "; ".join([measured, *beside_measured(run)]) + "."


def _picture(done: FinishedRun) -> str:
    if done.unpictured:
        return f"; no picture of the loss: {done.unpictured}"
    return " and a picture of the loss"
