"""The cells of the selection matrix: what is predicted, with the claim about it and its verdict, and what was measured, below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from onecard.catalog.units import GB, GIB, format_count
from onecard.cli.claims_check import Checked
from onecard.cli.claims_output import STYLES, claimed
from onecard.cli.plan_table import in_unit, table
from onecard.cli.plan_times import VERDICTS, duration, percent, span
from onecard.evidence.claims import Measured
from onecard.planner.chance import verdict
from onecard.planner.choice import cost_of
from onecard.planner.option import Option
from onecard.planner.weights import form_name

# Names: as wide as they get, where the console is narrow, in the tables after the first, at the very least.
NAME_WIDTH, NARROW_NAME, FURTHER_NAME, LEAST_NAME = 34, 22, 16, 12
# Each column with its heading. What is first in a row is needed to answer, the rest to get there.
ANSWERING = {
    "memory": "GiB", "left": "left", "first": "first token", "latency": "busy", "chance": "in time", "margin": "spare",
    "context": "context",
}  # fmt: skip
GETTING = {"peak": "peak GiB", "training": "training", "dollars": "USD", "licence": "licence", "download": "GB to get"}
HEADINGS = {**ANSWERING, **GETTING}
GIVE_WAY = ("first", "margin", "context")  # where the width is small, these are the first to go to a second table
FIRMLY_LEFT = ("licence",)
SHORTER = (("at most ", "<= "), ("at least ", ">= "), ("about ", "~ "), (" tokens", ""))


@dataclass(frozen=True)
class Row:
    """One option with its number in the ranking, the number of one that dominates it, and the claims about it by column."""

    number: int
    option: Option
    dominated_by: int | None
    claims: Mapping[str, Checked]
    present: bool


def columns_of(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """(columns of answering, columns of getting there) that some row has something to say in."""

    def said(column: str) -> bool:
        return any(predicted(row.option, column).plain != "-" or column in row.claims for row in rows)

    return [c for c in ANSWERING if said(c)], [c for c in GETTING if said(c)]


def layout(rows: Sequence[Row], width: int) -> list[list[str]]:
    """Columns of each table: one where all have room beside the names, else as many as it takes, nothing left out."""
    answering, getting = columns_of(rows)
    longest = max(map(len, short_names([row.option for row in rows]).values())) + 1
    if room_for_names(rows, [*answering, *getting], width) >= longest:
        return [[*answering, *getting]]
    first = list(answering)
    for column in GIVE_WAY:
        if column in first and room_for_names(rows, first, width) < longest:
            first.remove(column)
    rest = [*(column for column in answering if column not in first), *getting]
    further: list[list[str]] = []
    for count in range(1, len(rest) + 1):
        each = -(-len(rest) // count)
        further = [rest[n : n + each] for n in range(0, len(rest), each)]
        if all(room_for_names(rows, columns, width) >= min(longest, FURTHER_NAME) for columns in further):
            break
    return [first, *further]


def matrix(title: str, rows: Sequence[Row], columns: Sequence[str], width: int) -> Table:
    """The rows with these columns. Under a figure: what is claimed and its verdict, what was measured; the first column says which.

    Nothing is broken over lines, or cells would not keep level: names give way where the width is small.
    """
    manners = [(HEADINGS[c], "firm" if c in FIRMLY_LEFT else "right") for c in columns]
    made = table(title, ("#", "right"), ("model", "firm"), ("form", "firm"), *manners)
    names = short_names([row.option for row in rows], room_for_names(rows, columns, width) - 1)
    for row in rows:
        labels = ["claimed", "verdict"] if _has(columns, row.claims) else []
        labels += ["measured"] if _has(columns, row.option.measured) else []
        name = Text(f"{names[row.option.id]}{'*' if row.present else ''}", _style(row))
        number, *cells = _cells(row, columns)
        made.add_row(number, stacked(name, [Text(f"  {label}", "dim") for label in labels]), *cells)
    for column, least in zip([made.columns[0], *made.columns[2:]], _widths(rows, columns), strict=True):
        column.min_width = least
    made.columns[1].min_width = max(len(name) for name in names.values()) + 1
    return made


def room_for_names(rows: Sequence[Row], columns: Sequence[str], width: int) -> int:
    """Columns of the console that are left for names: each cell has a space behind it, and one between it and the next."""
    widths = _widths(rows, columns)
    return width - sum(widths) - 2 * len(widths) - 1


def _cells(row: Row, columns: Sequence[str]) -> list[Text]:
    """Number, form and the columns."""
    shown, seen = _has(columns, row.claims), _has(columns, row.option.measured)
    number = f"{row.number}" + ("" if row.dominated_by is None else f"<{row.dominated_by}")
    style = _style(row)
    cells = [stacked(styled(predicted(row.option, c), style), _below(row, c, shown, seen)) for c in columns]
    return [Text(number, style), Text(form_of_row(row.option), style), *cells]


def _widths(rows: Sequence[Row], columns: Sequence[str]) -> list[int]:
    """Of number, form and the columns."""
    headings = ["#", "form", *(HEADINGS[column] for column in columns)]
    grid = [_cells(row, columns) for row in rows]
    return [max(len(heading), _widest([cells[n] for cells in grid])) for n, heading in enumerate(headings)]


def _style(row: Row) -> str:
    return "dim" if row.dominated_by is not None else ""


def _has(columns: Sequence[str], found: Mapping[str, object]) -> bool:
    return any(column in found for column in columns)


def _widest(cells: Sequence[Text]) -> int:
    return max(len(line) for cell in cells for line in cell.plain.split("\n"))


def predicted(option: Option, column: str) -> Text:
    """The planner's figure, or the catalog's fact; "-" where there is none."""
    speed, run = option.speed, option.training
    if column in ("memory", "left"):
        size = option.own_bytes if column == "memory" else option.headroom_bytes
        style = "yellow" if column == "left" and option.tight else ""
        return Text("-" if size is None else in_unit(GIB, size), style)
    if column == "first":
        return Text(span(speed.ttft) if speed else "-")
    if column == "latency":
        return Text(span(speed.busy) if speed else "-")
    if column == "chance":
        odds = speed.probability if speed else None
        return Text("-") if odds is None else Text(percent(odds), VERDICTS[verdict(odds)])
    if column == "margin":
        return Text("-" if speed is None or speed.margin_s is None else duration(speed.margin_s))
    if column == "context":
        return Text(_tokens(option.largest_context))
    if column == "peak":
        return Text("-" if run is None else in_unit(GIB, run.peak_bytes))
    if column == "training":
        return Text(span(run.time.seconds) if run and run.time else "-")
    if column == "dollars":
        cost = run.time.median if run and run.time else None
        return Text("-" if cost is None else f"{cost.low_usd:.2f}-{cost.high_usd:.2f}")
    if column == "licence":
        return Text(option.candidate.facts.licence or "-")
    size = option.download.bytes
    return Text("-" if size is None else f"{size / GB:.1f}" + ("" if option.download.tag == "measured" else "~"))


def stacked(first: Text, below: Sequence[Text]) -> Text:
    return Text("\n").join([first, *below]) if below else first


def styled(text: Text, style: str) -> Text:
    return Text(text.plain, style) if style else text


def short_names(options: Sequence[Option], width: int = NAME_WIDTH) -> dict[str, str]:
    """Ids without their owner, where that is still one model; the middle left out of what is too long."""
    ids = {option.id for option in options}
    tails = [one.rpartition("/")[2] or one for one in ids]
    names = {}
    width = max(width, LEAST_NAME)
    for one in ids:
        tail = one.rpartition("/")[2] or one
        name = tail if tails.count(tail) == 1 else one
        kept = width - 2
        names[one] = name if len(name) <= width else f"{name[: kept - kept // 3]}..{name[-(kept // 3) :]}"
    return names


def form_of_row(option: Option) -> str:
    return form_name(option.form, option.fleet.models[option.key].double_quantization)


def figure(column: str, seen: Measured) -> str:
    """A measured figure in its column's unit, with * where it decides nothing because the conditions were others."""
    star = "" if seen.decides else "*"
    if column in ("latency", "first"):
        return duration(float(seen.value)) + star
    return f"{seen.value:.2f}{star}"


def cost_words(option: Option) -> str | None:
    cost = cost_of(option)
    return None if cost is None else f"{cost[0]:.3g} {cost[1]}"


def _below(row: Row, column: str, claims: bool, measured: bool) -> list[Text]:
    """The lines under a figure, so many that all cells of the row keep level."""
    lines: list[Text] = []
    if claims:
        checked = row.claims.get(column)
        said = _shorter(claimed(checked.claim)) if checked else ""
        if checked and checked.claim.quantity == "p50_ms":
            said = f"p50 {said}"
        if checked and column == "latency" and _alone(checked, row.option):
            said += " alone"
        word = checked.judgement.verdict if checked else ""
        lines += [Text(said, "dim"), Text(word, STYLES.get(word, ""))]
    if measured:
        seen = row.option.measured.get(column)
        lines.append(Text(figure(column, seen) if seen else "", "cyan"))
    return lines


def _alone(checked: Checked, option: Option) -> bool:
    """Whether the claim is of a lone caller, and the figure above it is not."""
    return checked.claim.subject.callers == 1 and option.fleet.models[option.key].concurrency > 1


def _shorter(words: str) -> str:
    for long, short in SHORTER:
        words = words.replace(long, short)
    return words


def _tokens(count: int | None) -> str:
    if count is None:
        return "-"
    short = format_count(count)
    return short if short[-1] in "kM" else f"{count:,}"
