"""How a training run looks on a terminal: the token ledger, then a bar with loss, tokens a second and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onecard.cli.data_output import console_of, ledger_table

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from onecard.adapters.store import StoredVersion
    from onecard.training.order import Progress

GIB = 1 << 30


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """The display as a callback: a bar on a terminal, a line a stage elsewhere, nothing when quiet. On standard error."""
    console = console_of(stderr=True)
    if quiet:
        yield lambda progress: None
        return
    if not console.is_terminal:
        stages: set[str] = set()

        def tell(progress: Progress) -> None:
            if progress.ledger is not None:
                console.print(ledger_table(progress.ledger))
            elif progress.stage not in stages and progress.stage != "training":
                console.print(f"{progress.stage}: {progress.message}", markup=False, soft_wrap=True)
            elif progress.stage == "training" and progress.step == progress.steps:
                console.print(f"training: {progress.message}, loss {progress.loss:.3f}", markup=False)
            stages.add(progress.stage)

        yield tell
        return
    with _bars(console) as bars:
        task = bars.add_task("reading", total=None, numbers="")
        yield lambda progress: _advance(bars, task, progress)


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


def _advance(bars: Bars, task: Any, progress: Progress) -> None:
    if progress.ledger is not None:
        bars.console.print(ledger_table(progress.ledger))
        return
    total = progress.steps or None
    bars.update(task, description=progress.message, total=total, completed=progress.step, numbers=numbers(progress))


def numbers(progress: Progress) -> str:
    """`loss 0.412, 1,834 tokens/s, 0:41 left`, as far as they are known."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_s is not None:
        parts.append(f"{progress.tokens_s:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """`0:41`, `12:05`, `1:02:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def record_of(stored: StoredVersion) -> dict[str, object]:
    """What `--json` prints of a published version."""
    run = stored.manifest.training
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
        "memory_kind": run.memory_kind,
    }


def sentences_of(stored: StoredVersion) -> list[str]:
    """The result as a person reads it, in plain text."""
    run = stored.manifest.training
    memory = "GPU memory" if run.memory_kind == "cuda-allocated" else "process memory"
    return [
        f"{stored.agent}/{stored.name}@{stored.version} is published as the candidate (digest {stored.digest[:12]}).",
        f"{run.steps} steps in {clock(run.seconds)}, {run.tokens_s:,.0f} tokens/s, loss {run.curve[0].loss:.3f} -> "
        f"{run.curve[-1].loss:.3f}, peak {memory} {run.peak_memory_bytes / GIB:.2f} GiB.",
        "Checked: the base is untouched, every layer of the adapter moved, and the saved files answer like the trained model.",
    ]
