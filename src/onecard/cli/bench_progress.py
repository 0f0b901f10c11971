"""A bar for measurements whose steps are not callers: what is running, how many requests have ended, a line a step elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from onecard.benchmark.figures import readable
from onecard.cli.bench_table import console_of
from onecard.evidence.summaries import summarize

if TYPE_CHECKING:
    from onecard.evidence.results import RequestRecord, Step


class StepBar:
    """A watcher of `onecard.benchmark.traffic`. Quiet: it shows nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = console_of(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Four times a second: drawing takes time from the load generator, which shares its process.
        self._bar = Progress(*columns, console=self._console, refresh_per_second=4, transient=True)
        self._task = self._bar.add_task("warming up", total=None)
        self._label = ""
        self._drawn = self._console.is_terminal and not quiet

    def __enter__(self) -> StepBar:
        if self._drawn:
            self._bar.start()
        return self

    def __exit__(self, *about_an_error: object) -> None:
        if self._drawn:  # a bar that was never started would leave an empty line
            self._bar.stop()

    def step_started(self, label: str, requests: int) -> None:
        self._label = label
        self._bar.reset(self._task, description=label, total=requests or None)

    def request_ended(self, record: RequestRecord) -> None:
        self._bar.advance(self._task)

    def step_ended(self, step: Step) -> None:
        if self._quiet or self._console.is_terminal:
            return
        seen = summarize(step)
        p50, p95 = (f"{readable(value)} ms" if value is not None else "-" for value in (seen.p50_ms, seen.p95_ms))
        self._console.print(
            f"{self._label}: {seen.requests} requests, p50 {p50}, p95 {p95}, {seen.errors} errors", markup=False
        )
