"""How a token ledger looks on a terminal: the counts, a few rows with what is learned marked, and the faults.

Data is shown as it is: nothing in a row is taken for markup or for a control sequence of the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from onecard.errors import DataError
    from onecard.training.ledger import Ledger
    from onecard.training.preparation import Prepared

WIDTH = 100
MOST_FAULTS = 10
SAMPLES = 3


def console_of(*, stderr: bool = False) -> Console:
    """100 columns wide when it is not a terminal."""
    console = Console(highlight=False, emoji=False, stderr=stderr)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def visible(text: str) -> str:
    """Control characters, which could move the cursor or change colours, as replacement characters."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def ledger_table(ledger: Ledger) -> Table:
    """One line for each preset and one for all: rows, tokens read and tokens learned, and how long rows are."""
    table = Table(title=f"Token ledger (rows may have {ledger.max_length} tokens)", title_justify="left")
    table.add_column("preset")
    for heading in ("rows", "prompt tokens", "learned tokens", "mean length", "longest", "end of turn learned"):
        table.add_column(heading, justify="right")
    presets = sorted({row.preset for row in ledger.rows}, key=lambda preset: preset or "")
    for preset in presets if len(presets) > 1 else []:
        table.add_row(escape(visible(preset or "(none)")), *_cells(ledger.only(preset)))
    table.add_row("all", *_cells(ledger), style="bold")
    return table


def print_samples(console: Console, prepared: Prepared) -> None:
    """Three rows from the shortest to the longest, decoded from their ids; what is learned is green and underlined."""
    chosen = sample_rows(prepared)
    if chosen:
        console.print("What the model reads, and [green underline]what it learns[/green underline]:")
    for where, prompt, learned in chosen:
        text = Text(visible(prompt), style="dim") + Text(visible(learned), style="green underline not dim")
        console.print(Panel(text, title=escape(where), title_align="left"))


def sample_rows(prepared: Prepared) -> list[tuple[str, str, str]]:
    """(file:line, prompt as read, answer as learned), decoded with every special token."""
    rows = sorted(prepared.ledger.encoded, key=lambda row: len(row.ids))
    places = sorted({place * (len(rows) - 1) // (SAMPLES - 1) for place in range(SAMPLES)}) if rows else []
    decode = prepared.tokenizer.decode
    return [
        (row.row.where, decode(row.ids[: row.prompt_tokens]), decode(row.ids[row.prompt_tokens :]))
        for row in (rows[place] for place in places)
    ]


def print_faults(console: Console, faults: Sequence[DataError]) -> None:
    """The first ten, each with its place and what is allowed, and how many more there are."""
    for fault in faults[:MOST_FAULTS]:
        console.print(
            Text("fault: ", style="bold red") + Text(visible(f"{fault.where}: {fault.problem}")), soft_wrap=True
        )
        if fault.allowed:
            console.print(Text("  allowed: ", style="dim") + Text(visible(fault.allowed)), soft_wrap=True)
    if len(faults) > MOST_FAULTS:
        console.print(f"and {len(faults) - MOST_FAULTS} more faults")


def _cells(ledger: Ledger) -> list[str]:
    found = ledger.summary()
    names = ("rows", "prompt_tokens", "trained_tokens", "mean_length", "longest")
    return [*(f"{found[name]:,}" for name in names), f"{found['end_of_turn_trained']:,} of {found['rows']:,}"]
