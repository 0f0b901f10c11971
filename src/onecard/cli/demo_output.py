"""How the demo looks: a heading for every step with one line of what and why, bars while it works, and what came out.

Works on a terminal and in a log file; figures and widths are those of the verbs it tells about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onecard.benchmark.figures import readable

if TYPE_CHECKING:
    from onecard.adapters.store import StoredVersion
    from onecard.benchmark.report_data import Comparison, Sample
    from onecard.cli.evaluate import Evaluation
    from onecard.cli.train import FinishedRun
    from onecard.cli.train_output import Display
    from onecard.evidence.results import ResultFile
    from onecard.planner.plan import Plan
    from onecard.serving.running import Running

WIDTH = 100
STEPS = 8
COMPARED = ("what", "predicted", "range", "measured", "off by", "how sure")


class Teller:
    """Tells the story on one console. Everything stays within `WIDTH` columns."""

    def __init__(self, console: Console | None = None) -> None:
        found = console or Console(highlight=False)
        self.console = found if found.is_terminal and found.width <= WIDTH else Console(highlight=False, width=WIDTH)
        self._step = 0
        self._began = time.monotonic()

    def opening(self) -> None:
        self.say(
            "[bold]onecard demo[/bold]  One small base model, two adapters, one service. "
            "Everything below really happens on this machine."
        )

    def step(self, title: str, why: str) -> None:
        """A heading: number, title, and why the step exists."""
        self._step += 1
        elapsed = time.monotonic() - self._began
        self.console.print()
        self.console.rule(
            f"[bold]{self._step}/{STEPS}  {escape(title)}[/bold]  [dim]{elapsed:.0f} s[/dim]",
            align="left",
            style="cyan",
        )
        self.console.print(f"[dim]{escape(why)}[/dim]")

    def say(self, text: str) -> None:
        self.console.print(text)

    def plan(self, plan: Plan) -> None:
        from onecard.cli.plan_output import headline, memory_bar, speed_table, training_table

        self.console.print(headline(plan))
        for line in memory_bar(plan, WIDTH):
            self.console.print(line)
        for part in (speed_table(plan.agents), training_table(plan.trainings)):
            self.console.print(part)

    def training(self) -> AbstractContextManager[Display]:
        from onecard.cli.train_output import bar

        return bar(quiet=False)

    def asking(self) -> AbstractContextManager[Callable[[Any], None]]:
        from onecard.cli.evaluate_output import bar

        return bar(quiet=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None]]:
        """A spinner on a terminal, nothing in a log."""
        if not self.console.is_terminal:
            yield lambda step: None
            return
        with self.console.status(what) as status:
            yield lambda step: status.update(step)

    def trained(self, done: FinishedRun) -> None:
        from onecard.cli.train_output import sentences_of

        for sentence in sentences_of(done):
            self.console.print(Text(sentence), soft_wrap=str(done.folder) in sentence)  # a path stays in one piece

    def untouched(self, other: StoredVersion) -> None:
        self.console.print(
            f"[green]untouched:[/green] {other.agent}/{other.name}@{other.version} is bit for bit what it was "
            f"(digest {other.digest[:12]})"
        )

    def judged(self, done: Evaluation) -> None:
        table = self._table("demand", "observed", "threshold", "")
        for check in done.report.gate.checks:
            mark = "[green]kept[/green]" if check.passed else "[bold red]not kept[/bold red]"
            sign = ">=" if check.at_least else "<="
            words = f"{check.preset}: {check.sentence}" if check.preset not in check.sentence else check.sentence
            table.add_row(escape(words), f"{check.observed:.3g}", f"{sign} {check.threshold:.3g}", mark)
        self.console.print(table)
        state = "passed and in production" if done.promoted else "not promoted"
        self.console.print(f"{done.report.judged.agent}/{done.report.judged.adapter}: {state}")

    def serving(self, running: Running) -> None:
        agents = [f"{a.agent} ({a.adapter})" for a in running.service.directory.agents]
        self.console.print(f"[bold]{running.url}[/bold] answers for {', '.join(map(escape, agents))}")

    def sample(self, sample: Sample) -> None:
        """One question and its answers side by side, each with who answered and how long it took."""
        self.console.print(Padding(Text.assemble(("asked: ", "bold"), sample.question), (1, 0, 0, 0)))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        for answer in sample.answers:
            about = f"{answer.adapter or 'no adapter'}, {answer.tokens} tokens, {answer.seconds:.2f} s"
            table.add_column(
                f"[bold]{escape(answer.label)}[/bold]\n[dim]{escape(about)}[/dim]", ratio=_share(answer.tokens)
            )
        table.add_row(*[Text(answer.text) for answer in sample.answers])
        self.console.print(table)

    def loaded(self, result: ResultFile) -> None:
        from onecard.benchmark.statistics import caller_points
        from onecard.cli.bench_table import figures_table

        self.console.print(figures_table(result.steps))
        points = [point for point in caller_points(result.steps) if point.p50_ms]
        if len(points) > 1 and points[0].p50_ms and points[-1].p50_ms:
            ratio = points[-1].p50_ms.median / points[0].p50_ms.median
            self.console.print(
                f"{points[-1].callers} callers wait {ratio:.1f} times as long as one; answered one after the other they "
                f"would wait {points[-1].callers} times as long."
            )

    def comparisons(self, comparisons: Sequence[Comparison]) -> None:
        """Prediction beside measurement: the table the whole program exists for."""
        table = self._table(*COMPARED)
        for line in comparisons:
            span = f"{readable(line.low)} - {readable(line.high)}" if line.low is not None else "-"
            error = f"{line.error:+.0%}" if line.error is not None else "-"
            inside = line.within_range
            mark = "" if inside is None else "  [green]in range[/green]" if inside else "  [yellow]outside[/yellow]"
            unit = escape(line.unit)
            table.add_row(
                escape(line.what),
                f"{readable(line.predicted)} {unit}",
                span,
                f"{readable(line.measured)} {unit}",
                f"{error}{mark}",
                line.tag,
            )
        self.console.print(table)

    def closing(self, fleet: Path, page: Path) -> None:
        elapsed = time.monotonic() - self._began
        self.console.print()
        self.console.print(
            f"[bold green]done[/bold green] in {elapsed / 60:.1f} minutes. The report: [bold]{page}[/bold]"
        )
        self.console.print(f"Pictures: {page.with_name(page.stem + '-plots')}{'/'}")
        self.console.print("Next, to try by hand:")
        for command in (
            f"onecard serve {fleet}",
            f"onecard adapters list --fleet {fleet}",
            f"onecard plan {fleet}",
            "onecard models --fits 8GiB",
        ):
            self.console.print(f"  {command}", soft_wrap=True)

    def _table(self, *columns: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in columns:
            right = column in ("observed", "threshold", "predicted", "range", "measured")
            table.add_column(column, justify="right" if right else "left", overflow="fold")
        return table


def _share(tokens: int | None) -> int:
    """A column's share of the width: longer answers get more of it, within reason."""
    return 1 if (tokens or 0) < 70 else 2
