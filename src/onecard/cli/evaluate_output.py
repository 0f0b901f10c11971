"""What `onecard evaluate` shows: a bar while it asks, then the checks, a few telling answers side by side, and the verdict.

Answers and data are shown as they are: nothing in them is taken for markup or for a control sequence of the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from onecard.evaluation.comparisons import amount
from onecard.evaluation.demands import figure_text, percent
from onecard.evaluation.gate import CheckResult, RowRecord
from onecard.evaluation.report import EvaluationReport, most_telling

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from onecard.cli.evaluate import Progress
    from onecard.evaluation.suite import ScoredAnswer

WIDTH = 100
STATISTICS = {"share": "", "mean": " (mean)", "highest": " (worst answer)", "perplexity": ""}
OUTCOMES = {
    "passed": "[green]passed[/green]",
    "failed": "[bold red]failed[/bold red]",
    "undecided": "[bold yellow]cannot tell[/bold yellow]",
    "skipped": "[dim]not compared[/dim]",
}


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
    for place, row in most_telling(gate):
        about = f"{percent(row.candidate.overlap)} overlap, {row.preset}, line {row.line}"
        console.print(f"[bold]{visible(place)}[/bold] ({visible(about)}): {visible(row.prompt)}")
        console.print(_answers_table(row))
    console.print(f"{visible(name_of(report))}: {OUTCOMES[gate.outcome]}, {len(gate.rows)} held-out rows asked")
    for check in gate.checks:
        for number, sentence in enumerate(check.why):
            console.print(f"  {visible(sentence)}{_lines(check) if number == 0 else ''}")
    for sentence in dict.fromkeys(
        one.sentence for check in gate.checks for one in check.comparisons if one.outcome == "skipped"
    ):
        console.print(f"[dim]  {visible(sentence)}[/dim]")
    if not report.leaks_checked:
        console.print("The training rows are not here, so nobody looked for held-out rows among them.")
    if report.tasks_left_out:
        console.print("The suite's lm_eval tasks were not asked: that is done in this process, not by URL.")
    console.print(f"every row: {visible(str(file))}, to read: {visible(file.with_suffix('.md').name)}", soft_wrap=True)


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
    headers = [f"candidate - {name} (95% interval)" for name in rivals]
    table = _table("preset", "answers", "asked", "needed", "observed", *headers, "verdict")
    table.leading = int(any(check.against for check in checks))  # cells of several lines need air between the rows
    for check in checks:
        table.add_row(
            visible(check.preset),
            visible(check.check) + STATISTICS[check.statistic],
            str(check.asked),
            needed(check),
            figure_text(check.statistic, check.observed, check.threshold),
            *(difference(check, name).replace(" (", "\n(") + _demanded(check, name) for name in rivals),
            OUTCOMES[check.outcome],
        )
    return table


def needed(check: CheckResult) -> str:
    """The threshold in words; a dash where only comparisons decide."""
    if check.compares_only:
        return "-"
    return f"{'at least' if check.at_least else 'at most'} {figure_text(check.statistic, check.threshold)}"


def difference(check: CheckResult, rival: str) -> str:
    """Mean difference with its unit and its 95% bootstrap interval; a dash where it was not measured."""
    found = check.against.get(rival)
    if found is None:
        return "-"
    mean = amount(found.mean, check.statistic, signed=True)
    if found.low is None or found.high is None:
        return mean
    low, high = (amount(end, check.statistic, signed=True).split()[0] for end in (found.low, found.high))
    return f"{mean} ({low} to {high})"


def _demanded(check: CheckResult, rival: str) -> str:
    """What was demanded of the comparison, and how it ended."""
    lines = []
    for one in check.comparisons:
        if one.rival == rival:
            wanted = f"at most {amount(one.margin, check.statistic)} worse" if one.margin else one.wanted
            lines.append(f"\n{wanted}: {OUTCOMES[one.outcome]}")
    return "".join(lines)


def _answers_table(row: RowRecord) -> Table:
    rivals = sorted(row.against, key=lambda name: name != "production")
    table = _table("reference", "candidate", *rivals)
    table.expand = True
    for column in table.columns:
        column.ratio = 1
    answers = [row.candidate, *(row.against[name] for name in rivals)]
    texts = [visible(answer.text) or "(empty)" if answer.generated else "(not written)" for answer in answers]
    table.add_row(visible(row.reference), *texts)
    table.add_row("", *(f"[dim]{note(answer)}[/dim]" for answer in answers))
    return table


def note(answer: ScoredAnswer) -> str:
    """What was counted of an answer: tokens, whether it was cut, where the best candidate came, how likely the reference is."""
    notes = []
    if answer.generated:
        notes.append(f"{answer.tokens} tokens{'' if answer.ended_by_itself else ', cut'}")
    if answer.reciprocal_rank is not None:
        notes.append(f"best candidate at place {round(1 / answer.reciprocal_rank)} of {len(answer.likelihoods)}")
    if answer.reference_nats is not None:
        notes.append(f"reference {answer.reference_nats:.2f} nats a token")
    return "; ".join(notes)


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
