"""What `onecard plan` shows: verdict, a bar of the card's memory, the ledger, limits, speed, training, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecard.catalog.units import GIB, MIB, format_bytes
from onecard.cli.plan_advice import advice_lines
from onecard.cli.plan_bar import memory_bar as memory_bar  # the demo shows the same bar and tables
from onecard.cli.plan_limits import frontier_tables, limits_table
from onecard.cli.plan_table import firm, in_unit, table
from onecard.cli.plan_times import speed_note, training_note
from onecard.cli.plan_times import speed_table as speed_table
from onecard.cli.plan_times import training_table as training_table
from onecard.planner.ledger import Ledger, Line
from onecard.planner.plan import Plan
from onecard.planner.room import Frontier

WIDTH, LEAST_WIDTH, MOST_WIDTH = 100, 78, 120
TAG_MEANINGS = "exact: counted. measured: seen. fitted: adjusted to measurements. assumed: judgement, unmeasured."
TAG_STYLES = {"exact": "green", "measured": "green", "fitted": "yellow", "assumed": "yellow"}


def show(plan: Plan, file: Path, *, frontiers: Sequence[Frontier] = (), hours: float | None = None) -> None:
    """The whole plan on standard output, 100 columns wide when that is not a terminal."""
    console = Console(highlight=False, emoji=False)
    console.width = min(max(console.width, LEAST_WIDTH), MOST_WIDTH) if console.is_terminal else WIDTH
    for line in (headline(plan), Text(), *memory_bar(plan, console.width), Text()):
        console.print(line)
    _show(console, ledger_table(plan.serving))
    _show(console, limits_table(plan.limits))
    for frontier in frontiers:
        for rows in frontier_tables(frontier, console.width):
            _show(console, rows)
    _show(console, speed_table(plan.agents, console.width), speed_note(plan.agents))
    if plan.trainings:
        _show(console, training_table(plan.trainings, console.width, hours), training_note(plan.trainings))
    for said in advice_lines(plan, file):
        console.print(said)
    console.print(Text(TAG_MEANINGS, "dim"))


def _show(console: Console, made: Table, note: str = "") -> None:
    """A table, what its words mean, and an empty line."""
    console.print(firm(made))
    if note:
        console.print(Text(note, "dim"))
    console.print()


def headline(plan: Plan) -> Text:
    """The answer in one or two lines."""
    name = Text.assemble((plan.fleet.name, "bold"), f" on {plan.card.name}: ")
    left = format_bytes(abs(plan.headroom_bytes))
    if not plan.serving_fits:
        name.append(f"does not fit: {left} too much", "bold red")
    elif plan.tight:
        name.append(f"fits, but only just: {left} to spare", "bold yellow")
    else:
        name.append(f"fits: {left} to spare", "bold green")
    failing = [training.agent for training in plan.trainings if not training.fits]
    if failing:
        name.append(f"; training {', '.join(failing)} does not fit", "bold red")
    assumed = plan.serving.bytes_tagged("assumed") + plan.serving.bytes_tagged("fitted")
    sums = (
        f"{format_bytes(plan.need_bytes)} needed of {format_bytes(plan.available_bytes)} "
        f"({format_bytes(plan.card.total_bytes)} less a reserve of {format_bytes(plan.reserve_bytes)}); "
        f"{format_bytes(assumed)} of it not exact"
    )
    return name.append("\n" + sums, "dim")


def ledger_table(ledger: Ledger) -> Table:
    """The memory by part, owner after owner. Weights held in one form are one row that names its components."""
    unit, size = ("GiB", GIB) if ledger.total_bytes >= GIB else ("MiB", MIB)
    made = table("memory", ("of", ""), ("part", ""), (unit, "right"), ("how sure", ""), ("where from", "dim"))
    for owner in ledger.owners:
        for number, line in enumerate(_merged(ledger.of(owner).lines)):
            shown = "" if number else line.owner
            made.add_row(shown, line.part, in_unit(size, line.bytes), Text(line.tag, TAG_STYLES[line.tag]), line.source)
    made.add_section()
    made.add_row(Text("sum", "bold"), "", Text(in_unit(size, ledger.total_bytes), "bold"), "", "")
    return made


def _merged(lines: Sequence[Line]) -> Iterator[Line]:
    """Weights of the same form as one line, the largest component first; other lines as they are."""
    ordered = sorted(
        lines, key=lambda line: (line.kind != "weights", line.part.partition("(")[2] if line.kind == "weights" else "")
    )
    for form, group in groupby(
        ordered, key=lambda line: line.part.partition("(")[2] if line.kind == "weights" else line.part
    ):
        members = sorted(group, key=lambda line: -line.bytes)
        if members[0].kind != "weights" or len(members) == 1:
            yield from members
            continue
        names = ", ".join(line.part.partition(" (")[0] for line in members)
        if len(members) == sum(line.kind == "weights" for line in lines):
            names = "all weights"
        first = members[0]
        size = sum(line.bytes for line in members)
        yield Line(f"{names} ({form}", first.owner, size, first.tag, first.source, "weights")
