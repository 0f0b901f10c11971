"""What `onecard choose` shows: the matrix of what passes, who is out and by how much, and why the first one is the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onecard.catalog.units import format_bytes
from onecard.cli.choose_evidence import Evidence, by_column
from onecard.cli.choose_sentences import chosen_sentence, limit_words, miss_sentences, notes_of, out_sentence, terms_of
from onecard.cli.choose_table import NAME_WIDTH, NARROW_NAME, Row, form_of_row, layout, matrix, short_names
from onecard.cli.claims_check import Checked
from onecard.cli.claims_output import STYLES
from onecard.cli.plan_table import firm, table
from onecard.fleet.loader import LoadedFleet
from onecard.planner.choice import Choice, Excluded, Limits
from onecard.planner.option import Option, Place

WIDTH, LEAST_WIDTH, MOST_WIDTH = 100, 76, 160
ROOMY, SPACIOUS = (
    96,
    136,
)  # columns from which first token and spare time have a place, and everything stands in one table
ROWS, LINES = 12, 16  # shown unless all are asked for


def show(
    choice: Choice, place: Place, limits: Limits, evidence: Evidence, loaded: LoadedFleet, *, everything: bool
) -> None:
    """The whole choice on standard output, 100 columns wide when that is not a terminal."""
    console = console_of()
    for said in headline(choice, place, limits):
        console.print(said)
    console.print()
    told: list[Option] = [out.option for out in choice.out if out.option.candidate.shape is None]
    if choice.ranked:
        rows = rows_of(choice, place, evidence, loaded, None if everything else ROWS)
        told += [row.option for row in rows]
        for made in _tables(rows, console.width):
            console.print(made)
            console.print()
        for note in notes_of(choice, rows, place):
            console.print(Text(note, "dim"))
        console.print()
    elif choice.nearest_miss is not None:
        told.append(choice.nearest_miss.option)
    if choice.out:
        for part in _excluded(choice.out, place, console.width, everything):
            console.print(part)
        console.print()
    for line in _claims([claim for option in told for claim in evidence.about(option, place, loaded.file.stem)]):
        console.print(line)
    for sentence in _conclusion(choice, place, limits):
        console.print(sentence)


def show_written(choice: Choice, place: Place, limits: Limits, file: Path, notes: Sequence[str]) -> None:
    """That the file is written, and what must be changed by hand."""
    console = console_of()
    best = choice.chosen
    console.print(Text(f"written: {file}", "bold"))
    more = list(notes)
    if best is not None:
        more += [note for note in best.notes if note.startswith("its recipe")]
    if limits.context:
        more.append(f"it was chosen for a context of {limits.context:,}: set models.{place.key}.context too")
    for note in more:
        console.print(Padding(Text(note), (0, 0, 0, 2), expand=False))


def console_of() -> Console:
    console = Console(highlight=False, emoji=False)
    console.width = min(max(console.width, LEAST_WIDTH), MOST_WIDTH) if console.is_terminal else WIDTH
    return console


def rows_of(choice: Choice, place: Place, evidence: Evidence, loaded: LoadedFleet, most: int | None) -> list[Row]:
    """The first rows of the ranking with their claims."""
    present = loaded.fleet.models[place.key]
    rows: list[Row] = []
    told: set[str] = set()  # a claim that holds for several forms stands under the first
    for number, option in enumerate(choice.ranked[:most]):
        other = choice.dominated.get(number)
        claims = by_column(c for c in evidence.about(option, place, loaded.file.stem) if c.claim.id not in told)
        told |= {checked.claim.id for checked in claims.values()}
        now = (option.id, option.quantization) == (present.id, present.quantization)
        rows.append(Row(number + 1, option, None if other is None else other + 1, claims, now))
    return rows


def headline(choice: Choice, place: Place, limits: Limits) -> Iterator[Text]:
    """Who passes, in one line, and the limits in another."""
    everybody = [*choice.ranked, *(out.option for out in choice.out)]
    models, passing = len({option.id for option in everybody}), len(choice.ranked)
    name = Text.assemble((place.fleet.name, "bold"), " on ", place.card.name, ": a model for ", (place.agent, "bold"))
    style = "bold green" if passing else "bold red"
    count = f"{passing or 'none'} of {len(everybody)}" if len(everybody) > 1 else ("it" if passing else "it does not")
    verb = "pass" if len(everybody) > 1 else ("passes" if passing else "pass")
    yield name.append(f"; {count} {verb}", style).append(f" ({models} model{'s' if models != 1 else ''})", "default")
    yield Text(limit_words(place, limits), "dim")


def _tables(rows: Sequence[Row], width: int) -> Iterator[Table]:
    for number, columns in enumerate(layout(rows, width)):
        yield matrix("and further" if number else "what passes, the best first", rows, columns, width)


def _excluded(out: Sequence[Excluded], place: Place, width: int, everything: bool) -> Iterator[Text | Table]:
    """A line for each model and limit, the nearest miss first: its forms, and by how much the best of them misses."""
    names = short_names([excluded.option for excluded in out], NAME_WIDTH if width >= WIDTH else NARROW_NAME)
    groups: dict[tuple[str, str], list[Excluded]] = {}
    for excluded in out:
        groups.setdefault((excluded.failures[0].limit, excluded.option.id), []).append(excluded)
    lines = sorted(groups.values(), key=lambda group: min(e.failures[0].share for e in group))
    shown = lines if everything else lines[:LINES]
    made = table(
        "out, the nearest miss first", ("model", "firm"), ("form", "firm"), ("limit", "firm"), ("by how much", "")
    )
    present = place.fleet.models[place.key]
    for group in shown:
        best = min(group, key=lambda e: e.failures[0].share)
        said = best.failures[0].what
        if len({e.failures[0].what for e in group}) > 1:
            said += f" at best ({form_of_row(best.option)})"
        more = sorted({failure.limit for failure in best.failures[1:]} - {best.failures[0].limit})
        said += f", and {', '.join(more)}" if more else ""
        forms = [form_of_row(e.option) for e in group if e.option.candidate.shape]
        now = any((e.option.id, e.option.quantization) == (present.id, present.quantization) for e in group)
        name = f"{names[best.option.id]}{'*' if now else ''}"
        made.add_row(name, ", ".join(dict.fromkeys(forms)), best.failures[0].limit, said)
    yield firm(made)
    if len(shown) < len(lines):
        yield Text(f"and {len(lines) - len(shown)} lines more: --all shows them", "dim")


def _claims(about: Sequence[Checked]) -> Iterator[Text | Table]:
    """Each claim once: what it says, its verdict, and why."""
    rows = list({checked.claim.id: checked for checked in about}.values())
    if not rows:
        return
    yield Text("claims about these, each judged by itself (`onecard claims check ID` says all)", "bold")
    wide = max(len(row.claim.id) for row in rows) + 2
    for row in rows:
        word, why = row.judgement.verdict, row.judgement.why
        said = Text.assemble((word, STYLES[word]), f": {row.claim.statement.rstrip('.')} ({why})")
        grid = Table.grid(padding=(0, 0))
        grid.add_column(min_width=wide, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(row.claim.id, said)
        yield grid
    yield Text()


def _conclusion(choice: Choice, place: Place, limits: Limits) -> Iterator[Text | Padding]:
    if choice.chosen is None:
        yield from miss_sentences(choice, place, limits)
    else:
        yield chosen_sentence(choice, place)
        for note in (*choice.chosen.notes, *terms_of(choice.chosen)):
            yield Padding(Text(f"note: {note}", "yellow"), (0, 0, 0, 2), expand=False)
    if choice.out:
        yield Text(out_sentence(choice))
    if choice.chosen is not None and choice.chosen.tight:
        left = format_bytes(choice.chosen.headroom_bytes or 0)
        yield Text(f"it fits, but only just: {left} to spare, less than the assumed parts may be off", "bold yellow")
