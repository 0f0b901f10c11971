"""What `onecard evaluate` shows: a bar while it asks, then the checks, three answers beside their references, and the verdict.

Answers and data are shown as they are: nothing in them is taken for markup or for a control sequence of the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from onecard.evaluation.gate import CheckResult, RowRecord, percent
from onecard.evaluation.report import EvaluationReport, spread

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from onecard.cli.evaluate import Progress

WIDTH = 100
STATISTICS = {"share": "", "mean": " (mean F1)", "highest": " (worst answer)"}


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line for each thing begun elsewhere, nothing when quiet. On standard error."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = console_of(stderr=True)
    shown: dict[str, Any] = {}
    if quiet or not console.is_terminal:

        def tell(progress: Progress) -> None:
            if not quiet and shown.setdefault(progress.what, progress) is progress:
                console.print(visible(progress.what), soft_wrap=True)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:

        def advance(progress: Progress) -> None:
            if progress.what not in shown:
                for earlier in shown.values():
                    bars.update(earlier, visible=False)
                shown[progress.what] = bars.add_task(visible(progress.what), total=progress.total or None, count="")
            count = f"{progress.done}/{progress.total}" if progress.total else ""
            bars.update(shown[progress.what], completed=progress.done, count=count)

        yield advance


def show(report: EvaluationReport, file: Path) -> None:
    """The whole result on standard output."""
    console, gate = console_of(), report.gate
    console.print(_checks_table(gate.checks))
    for place, row in spread(gate.rows):
        about = f"{percent(row.candidate.overlap)}, {row.preset}, line {row.line}"
        console.print(f"[bold]{place}[/bold] ({visible(about)}): {visible(row.prompt)}")
        console.print(_answers_table(row))
    word = "[bold green]passed[/bold green]" if gate.passed else "[bold red]failed[/bold red]"
    console.print(f"{visible(name_of(report))}: {word}, {len(gate.rows)} held-out rows asked")
    for check in gate.checks:
        if not check.passed:
            console.print(f"  {visible(check.sentence)}{_lines(check)}")
    if not report.leaks_checked:
        console.print("The training rows are not here, so nobody looked for held-out rows among them.")
    console.print(f"every row: {visible(str(file))}", soft_wrap=True)


def name_of(report: EvaluationReport) -> str:
    """agent/name@version, or where it was asked when the server does not say what answered."""
    judged = report.judged
    return f"{judged.agent}/{judged.adapter}" if judged.adapter else f"{judged.agent} at {judged.url}"


def console_of(*, stderr: bool = False) -> Console:
    """100 columns wide when it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, stderr=stderr)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def visible(text: str) -> str:
    """Text for a console that reads markup: none in it is, and a control character is shown as a replacement character."""
    return escape("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


def _checks_table(checks: Sequence[CheckResult]) -> Table:
    rivals = list(dict.fromkeys(name for check in checks for name in check.against))
    headers = [f"candidate - {name}: mean points (95% interval)" for name in rivals]
    table = _table("preset", "answers", "asked", "needed", "observed", *headers, "verdict")
    for check in checks:
        table.add_row(
            visible(check.preset),
            visible(check.check) + STATISTICS[check.statistic],
            str(check.asked),
            f"{'at least' if check.at_least else 'at most'} {percent(check.threshold)}",
            percent(check.observed, check.threshold),
            *(_difference(check, name) for name in rivals),
            "[green]passed[/green]" if check.passed else "[bold red]failed[/bold red]",
        )
    return table


def _difference(check: CheckResult, rival: str) -> str:
    """Mean difference in percentage points with its 95% bootstrap interval."""
    found = check.against[rival]
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.1f}"
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _answers_table(row: RowRecord) -> Table:
    table = _table("reference", "candidate", *row.against)
    table.expand = True
    for column in table.columns:
        column.ratio = 1
    answers = [row.candidate, *row.against.values()]
    notes = [f"[dim]{a.tokens} tokens{'' if a.ended_by_itself else ', cut'}[/dim]" for a in answers]
    table.add_row(visible(row.reference), *(visible(answer.text) or "(empty)" for answer in answers))
    table.add_row("", *notes)
    return table


def _lines(check: CheckResult) -> str:
    """The first lines of the data file whose answers do not keep a check."""
    shown = ", ".join(str(line) for line in check.failing[:8])
    return f" (lines {shown}{', ...' if len(check.failing) > 8 else ''})" if check.failing else ""


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in ("asked", "observed") else "left")
    return table
