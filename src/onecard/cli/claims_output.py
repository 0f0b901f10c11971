"""What `onecard claims` shows: a calm list, a table of claimed, predicted and measured figures, and everything about a few."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecard.cli.claims_check import Checked
from onecard.evidence.claims import QUANTITIES, Claim, Measured, Predicted, Quantity

WIDTH, LEAST_WIDTH, MOST_WIDTH = 100, 76, 120
STYLES = {"confirmed": "green", "refuted": "bold red", "unknown": "yellow"}
COMPARISONS = {"is": "", "about": "about ", "at_most": "at most ", "at_least": "at least ", "range": ""}
HEADINGS = ("claim", "claimed", "predicted", "measured")
SHORTER = (("at most ", "<= "), ("at least ", ">= "), (" tokens", " tok"))  # where a terminal is narrow
BASES = {
    "measured": "by measurement",
    "predicted": "by prediction",
    "reasoned": "by reasoning",
    "nothing": "for want of evidence",
}
VERDICT_WIDTH = len("confirmed")
OWN = "of your own"


def console_of() -> Console:
    """100 columns where there is no terminal, and never wider than a person reads."""
    console = Console(highlight=False, emoji=False)
    console.width = min(max(console.width, LEAST_WIDTH), MOST_WIDTH) if console.is_terminal else WIDTH
    return console


def show_list(rows: Sequence[Checked], titles: Mapping[str, str]) -> None:
    """One claim a row: id, verdict, the claim itself."""
    console = console_of()
    ids = max(len(row.claim.id) for row in rows)
    indent = ids + VERDICT_WIDTH + 4
    for title, group in _by_document(rows, titles):
        console.print(Text(title, "bold"))
        for row in group:
            first, *more = _wrapped(row.claim.statement, console.width - indent)
            said = row.judgement.verdict
            console.print(
                Text.assemble(f"{row.claim.id:<{ids}}  ", (f"{said:<{VERDICT_WIDTH}}  ", STYLES[said]), first)
            )
            for line in more:
                console.print(Text(" " * indent + line))
        console.print()
    console.print(Text(counted(rows)))
    console.print(Text("next: onecard claims check ID says why", "dim"))


def show_table(rows: Sequence[Checked], titles: Mapping[str, str]) -> None:
    """One line of figures a claim, and under it the claim and why the verdict follows."""
    console = console_of()
    cells: list[tuple[str, ...]] = [(row.claim.id, claimed(row.claim), expected(row), seen(row)) for row in rows]
    widths = _widths(cells)
    if sum(widths) + VERDICT_WIDTH > console.width:
        cells = [tuple(_shorter(cell) for cell in row) for row in cells]
        widths = _widths(cells)
    heads = "".join(f"{heading:<{w}}" for heading, w in zip(HEADINGS, widths, strict=True))
    console.print(Text(f"{heads}verdict", "bold"))
    by_id = {row.claim.id: cell for row, cell in zip(rows, cells, strict=True)}
    for title, group in _by_document(rows, titles):
        console.print(Text(title, "bold"))
        for row in group:
            figures = "".join(f"{cell:<{w}}" for cell, w in zip(by_id[row.claim.id], widths, strict=True))
            console.print(
                Text.assemble(figures, (row.judgement.verdict, STYLES[row.judgement.verdict])), soft_wrap=True
            )
            for line in _wrapped(f"{row.claim.statement} {_sentence(_why(row))}", console.width - 2):
                console.print(Text("  " + line, "dim"))
        console.print()
    console.print(Text(counted(rows)))
    if any(row.measured is not None and not row.measured.decides for row in rows):
        console.print(Text("* measured of something else, so it decides nothing", "dim"))


def _widths(cells: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(len(heading), *(len(cell[n]) for cell in cells)) + 2 for n, heading in enumerate(HEADINGS)]


def _shorter(cell: str) -> str:
    for words, sign in SHORTER:
        cell = cell.replace(words, sign)
    return cell


def show_details(rows: Sequence[Checked]) -> None:
    """Everything about each claim."""
    console = console_of()
    for row in rows:
        console.print(
            Text.assemble((row.claim.id, "bold"), "  ", (row.judgement.verdict, STYLES[row.judgement.verdict]))
        )
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
        for what, said in _details(row):
            grid.add_row(what, Text(_visible(said)))
        console.print(grid)
        console.print()


def record(row: Checked) -> dict[str, Any]:
    """The claim and its evidence as data."""
    predicted = row.prediction.predicted
    unit = QUANTITIES[row.claim.quantity].unit
    return {
        "claim": row.claim.model_dump(mode="json", exclude_none=True),
        "verdict": row.judgement.verdict,
        "decided_by": row.judgement.by,
        "why": row.judgement.why,
        "remark": row.remark,
        "predicted": None if predicted is None else {**vars(predicted), "unit": unit or None},
        "not_predicted_because": row.prediction.missing,
        "measured": row.measured.model_dump(mode="json") | {"unit": unit or None} if row.measured else None,
    }


def counted(rows: Sequence[Checked]) -> str:
    """How many claims, and how many of each verdict."""
    verdicts = [row.judgement.verdict for row in rows]
    parts = ", ".join(f"{verdicts.count(word)} {word}" for word in STYLES if word in verdicts)
    return f"{len(rows)} claim{'s' if len(rows) != 1 else ''}: {parts}"


def claimed(claim: Claim) -> str:
    """ "about 15 GB", "at most 10 s", "60-90 h", "yes"."""
    value = claim.value
    if isinstance(value, bool):
        return _yes(value)
    if isinstance(value, str):
        return _visible(value)
    figures = f"{value[0]:,g}-{value[1]:,g}" if isinstance(value, tuple) else f"{value:,g}"
    return f"{COMPARISONS[claim.comparison]}{figures} {claim.unit}"


def expected(row: Checked) -> str:
    """The prediction in a few characters; "-" where there is none."""
    predicted = row.prediction.predicted
    return "-" if predicted is None else figures(row.claim.quantity, predicted)


def figures(quantity: Quantity, predicted: Predicted) -> str:
    """ "7.7-8.1 GiB", "from 7.4 GiB", "3.6-9.6 s", "no"."""
    if predicted.answer is not None:
        return _yes(predicted.answer) if isinstance(predicted.answer, bool) else predicted.answer
    unit = QUANTITIES[quantity].unit
    low, high = predicted.low or 0.0, predicted.high
    if high is None:
        return f"from {_number(low)} {unit}"
    if unit == "h" and high < 2:
        low, high, unit = low * 60, high * 60, "min"
    shown = _number(low), _number(high)
    return f"{shown[0]} {unit}" if shown[0] == shown[1] else f"{shown[0]}-{shown[1]} {unit}"


def seen(row: Checked) -> str:
    """The measurement in a few characters, with * where it is of something else; "-" where there is none."""
    return "-" if row.measured is None else _measured(row.claim, row.measured)


def _measured(claim: Claim, measured: Measured) -> str:
    mark = "" if measured.decides else "*"
    if isinstance(measured.value, bool):
        return _yes(measured.value) + mark
    return f"{_number(measured.value)} {QUANTITIES[claim.quantity].unit}{mark}"


def _by_document(rows: Sequence[Checked], titles: Mapping[str, str]) -> Iterator[tuple[str, list[Checked]]]:
    for letter, group in groupby(rows, key=lambda row: row.claim.where.document):
        yield (f"Document {letter}: {titles.get(letter, '')}" if letter else f"Claims {OWN}"), list(group)


def _why(row: Checked) -> str:
    return row.judgement.why + (f"; {row.remark}" if row.remark else "")


def _details(row: Checked) -> Iterator[tuple[str, str]]:
    """Label and text, in the order a reader asks."""
    claim, predicted, measured = row.claim, row.prediction.predicted, row.measured
    where = ", ".join(part for part in (claim.where.row, claim.where.source, claim.date) if part)
    yield "claim", claim.statement
    yield "said by", claim.who + (f" ({where})" if where else "")
    yield "about", _subject(claim)
    yield "claimed", f"{claimed(claim)}: {QUANTITIES[claim.quantity].words}"
    if predicted is not None:
        mid = (
            f", expected {_number(predicted.expected)}"
            if predicted.expected and predicted.low != predicted.high
            else ""
        )
        yield "predicted", f"{figures(claim.quantity, predicted)}{mid} ({predicted.tag}): {predicted.by}"
    else:
        yield "predicted", "-"
    if measured is not None:
        note = f"; {measured.note}" if measured.note else ""
        other = "" if measured.decides else " (of something else, so it decides nothing)"
        yield (
            "measured",
            f"{_measured(claim, measured)}{other}: {measured.machine}, {measured.date}, {measured.record}{note}",
        )
    yield "verdict", f"{row.judgement.verdict} {BASES[row.judgement.by]}: {_why(row)}"
    if claim.reasoned is not None and row.judgement.by == "reasoned":
        yield "source", claim.reasoned.source
    if claim.note:
        yield "note", claim.note


def _subject(claim: Claim) -> str:
    said = claim.subject.model_dump(exclude_none=True, exclude_defaults=True)
    return ", ".join(f"{key} {_value(value)}" for key, value in said.items()) or "nothing in particular"


def _value(value: object) -> str:
    return " to ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _number(value: float) -> str:
    """Three figures that count below 100, whole numbers above."""
    if math.isinf(value):
        return "any"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`; a figure keeps its unit."""
    kept = re.sub(r"(?<=\d) (?=[A-Za-z])", "\N{NO-BREAK SPACE}", _visible(text))
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrap(kept, width)]


def _visible(text: str) -> str:
    """Control characters, which could move the cursor, as replacement characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
