"""Facts on a terminal: what, the fact in words, and its source under it."""

from __future__ import annotations

Fact = tuple[str, str, str | None]
"""What, the fact in words, its source."""


def print_facts(title: str, facts: list[Fact]) -> None:
    """Two columns: what, and the fact with its source under it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for what, fact, source in facts:
        lines = [Text(fact)] if fact else []
        lines += [Text(f"source: {source}", style="dim")] if source else []
        table.add_row(what, Text("\n").join(lines))
    console.print(table)
