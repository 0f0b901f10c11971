"""How the tables of a plan look: figures to the right and never broken, names and sources broken where the console is narrow."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text


def table(title: str, *columns: tuple[str, str]) -> Table:
    """An empty table. Columns are (heading, manner): "right" for figures, "firm" for words that are never broken, else a style."""
    made = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.title_justify, made.title_style = "left", "bold"
    for heading, manner in columns:
        firm = manner in ("right", "firm")
        justify = "right" if manner == "right" else "left"
        made.add_column(heading, justify=justify, style="" if firm else manner, no_wrap=firm, overflow="fold")  # type: ignore[arg-type]
    return made


def firm(made: Table) -> Table:
    """The table with figures that keep their width however narrow the console is."""
    for column in made.columns:
        if column.no_wrap:
            texts = [column.header, *column.cells]
            column.min_width = max(len(text) for text in texts if isinstance(text, str | Text))
    return made


def in_unit(unit: int, size: int) -> str:
    """Bytes in a unit with two decimals; what is less than that says so."""
    shown = f"{size / unit:.2f}"
    return "<0.01" if shown == "0.00" and size else shown
