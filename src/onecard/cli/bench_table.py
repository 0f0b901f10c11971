"""How a sweep looks on a terminal: a bar and a table that grows, and the same table at the end.

Where there is no terminal, every step is a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from onecard.benchmark.figures import counted, readable
from onecard.benchmark.statistics import caller_points
from onecard.evidence.summaries import summarize

if TYPE_CHECKING:
    from onecard.benchmark.sweep import SweepPlan
    from onecard.evidence.results import RequestRecord, Step

WIDTH = 100
FIELDS = ("p50_ms", "p95_ms", "p99_ms", "avg_ms", "ttft_p50_ms", "itl_p50_ms", "rps", "tokens_s", "gpu_mem_gib")
HEADS = ("p50", "p95", "p99", "avg", "TTFT", "ITL", "req/s", "tok/s", "GiB")
CAPTION = "milliseconds from the intended start; medians over the repeats"


class LiveTable:
    """A sweep's watcher: a bar and a table that grows on a terminal, a line a step elsewhere."""

    def __init__(self, plan: SweepPlan) -> None:
        self._plan = plan
        self._steps: list[Step] = []
        self._console = console_of(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task("warming up", total=plan.total_requests)
        # Four times a second: drawing takes time from the load generator, which shares its process.
        self._live = Live(self._bar, console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *about_an_error: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def step_started(self, callers: int, repeat: int) -> None:
        self._bar.update(
            self._task, description=f"{counted(callers, 'caller')}, repeat {repeat} of {self._plan.repeats}"
        )

    def request_ended(self, record: RequestRecord) -> None:
        self._bar.advance(self._task)

    def step_ended(self, step: Step) -> None:
        self._steps.append(step)
        if self._console.is_terminal:
            self._live.update(Group(figures_table(self._steps), self._bar))
        else:
            self._console.print(_line(step), markup=False)


def figures_table(steps: Sequence[Step]) -> Table:
    """One row for each number of callers, medians over the repeats."""
    points = caller_points(steps)
    shown = [place for place, field in enumerate(FIELDS) if any(getattr(point, field) for point in points)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=CAPTION, caption_justify="left")
    for head in ("callers", *(HEADS[place] for place in shown), "errors"):
        table.add_column(head, justify="right", no_wrap=True)
    for point in points:
        spreads = [getattr(point, FIELDS[place]) for place in shown]
        cells = [readable(spread.median) or "-" if spread else "-" for spread in spreads]
        table.add_row(str(point.callers), *cells, str(point.errors))
    return table


def _line(step: Step) -> str:
    figures = summarize(step)
    p95 = f", p95 {readable(figures.p95_ms)} ms" if figures.p95_ms is not None else ""
    rates = f", {readable(figures.rps)} requests/s, {figures.errors} errors" if figures.rps is not None else ""
    return (
        f"{counted(step.callers, 'caller')}, repeat {step.repeat}: p50 {readable(figures.p50_ms) or '-'} ms{p95}{rates}"
    )


def console_of(*, stderr: bool = False) -> Console:
    """100 columns wide when it is not a terminal."""
    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, stderr=stderr, width=WIDTH)
