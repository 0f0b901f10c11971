"""How a token ledger looks on a terminal: the counts, how long rows are, a few rows with what is learned marked, warnings and faults.

Data is shown as it is: nothing in a row is taken for markup or for a control sequence of the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onecard.cli.data_samples import SAMPLES, Sample, samples_of

if TYPE_CHECKING:
    from onecard.errors import DataError
    from onecard.training.ledger import Ledger
    from onecard.training.preparation import Prepared
    from onecard.training.remarks import Remark

WIDTH = 100
MOST_FAULTS = 10
BAR_COLUMNS = 48
SHOWN_BEGIN, SHOWN_END = 800, 300  # characters of a decoded row
BAR_AFTER_S = 1.0  # what takes longer gets a bar
FULL, HALF = "\N{FULL BLOCK}", "\N{LEFT HALF BLOCK}"


def console_of(*, stderr: bool = False) -> Console:
    """100 columns wide when it is not a terminal."""
    console = Console(highlight=False, emoji=False, stderr=stderr)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def visible(text: str) -> str:
    """Control characters, which could move the cursor or change colours, as replacement characters."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def counting(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback (rows done, rows in all or 0) that draws a bar on standard error once it takes a while."""
    console, started = console_of(stderr=True), monotonic()
    if quiet or not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=False) as bars:
        task = bars.add_task("", total=None, visible=False)

        def tell(done: int, total: int) -> None:
            what = f"counting tokens: {done:,} of {total:,} rows" if total else f"reading: {done:,} rows"
            late = monotonic() - started > BAR_AFTER_S
            bars.update(task, description=what, completed=done, total=total or None, visible=late)

        yield tell


def ledger_table(ledger: Ledger, *, with_warnings: bool = True) -> Table:
    """One line for each preset and one for all: rows, tokens read and tokens learned, and how long rows are; warnings below it."""
    table = Table(title=f"Token ledger (rows may have {ledger.max_length:,} tokens)", title_justify="left")
    table.add_column("preset")
    for heading in ("rows", "masked tokens", "learned tokens", "mean length", "longest", "end of turn learned"):
        table.add_column(heading, justify="right")
    presets = sorted({row.preset for row in ledger.rows}, key=lambda preset: preset or "")
    for preset in presets if len(presets) > 1 else []:
        table.add_row(escape(visible(preset or "(none)")), *_cells(ledger.only(preset)))
    table.add_row("all", *_cells(ledger), style="bold")
    if with_warnings and ledger.warnings:
        lines = [f"warning: {warning.where}: {warning.problem}" for warning in ledger.warnings[:MOST_FAULTS]]
        table.caption = Text(visible("\n".join(lines)), style="yellow")
        table.caption_justify = "left"
    return table


def histogram(ledger: Ledger) -> Table:
    """How many rows have how many tokens, a bar for each range of lengths; what is too long is red."""
    bins = ledger.histogram()
    most = max((count for _, _, count in bins), default=0)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    for low, high, count in bins:
        name = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        style = "red" if low > ledger.max_length else "yellow" if high > ledger.max_length else "cyan"
        table.add_row(name, Text(bar_of(count, most, BAR_COLUMNS), style=style), f"{count:,}" if count else "")
    return table


def bar_of(count: int, most: int, columns: int) -> str:
    """A bar of whole and half columns; anything above zero is at least half a column."""
    halves = max(round(2 * columns * count / most), 1) if count else 0
    return FULL * (halves // 2) + HALF * (halves % 2)


def print_check(console: Console, prepared: Prepared, samples: int = SAMPLES) -> None:
    """Everything `data check` shows of a file."""
    ledger = prepared.ledger
    if ledger.rows:
        console.print(ledger_table(ledger, with_warnings=False))
        console.print(Text("Rows by their length in tokens"), style="bold")
        console.print(histogram(ledger))
        print_samples(console, samples_of(prepared, samples))
    print_remarks(console, ledger.warnings)
    print_faults(console, ledger.faults)
    if not ledger.faults:
        count = len(ledger.warnings)
        also = f", {count} {'warning' if count == 1 else 'warnings'}" if count else ""
        console.print(f"[green]no faults[/green]{also}")


def print_samples(console: Console, samples: Sequence[Sample]) -> None:
    """Rows decoded from their ids: what is only read is dim, what is learned green and underlined, special tokens magenta."""
    if samples:
        learned, special = ("what it learns", "green underline"), ("special tokens", "magenta")
        console.print(Text.assemble("What the model ", ("reads", "dim"), ", ", learned, ", and ", special, ":"))
    for sample in samples:
        text = Text()
        for part in sample.parts:
            colour = "magenta" if part.special else "green" if part.learned else "dim"
            text.append(visible(part.text), style=f"{colour} underline" if part.learned else colour)
        console.print(Panel(_cropped(text), title=escape(visible(sample.title)), title_align="left"))


def print_remarks(console: Console, remarks: Sequence[Remark]) -> None:
    """Every warning with its place and what to do."""
    for remark in remarks:
        _print_line(console, "warning", "bold yellow", f"{remark.where}: {remark.problem}")
        if remark.next_step:
            _print_line(console, "  next", "dim", remark.next_step)


def print_faults(console: Console, faults: Sequence[DataError]) -> None:
    """The first ten, each with its place, what is allowed and what to do, and how many more there are."""
    for fault in faults[:MOST_FAULTS]:
        _print_line(console, "fault", "bold red", f"{fault.where}: {fault.problem}")
        for name, said in (("allowed", fault.allowed), ("next", fault.next_step)):
            if said:
                _print_line(console, f"  {name}", "dim", said)
    if len(faults) > MOST_FAULTS:
        console.print(f"and {len(faults) - MOST_FAULTS} more faults")


def _print_line(console: Console, name: str, style: str, said: str) -> None:
    console.print(Text.assemble((f"{name}: ", style), visible(said)), soft_wrap=True)


def _cropped(text: Text) -> Text:
    """A long row's beginning and end; what is learned last, and how it ends, is worth more than its middle."""
    left_out = len(text) - SHOWN_BEGIN - SHOWN_END
    if left_out <= 0:
        return text
    note = Text(f" ... {left_out:,} characters ... ", style="italic")
    return Text.assemble(text[:SHOWN_BEGIN], note, text[-SHOWN_END:])


def _cells(ledger: Ledger) -> list[str]:
    found = ledger.summary()
    names = ("rows", "prompt_tokens", "trained_tokens", "mean_length", "longest")
    return [*(f"{found[name]:,}" for name in names), f"{found['end_of_turn_trained']:,} of {found['rows']:,}"]
