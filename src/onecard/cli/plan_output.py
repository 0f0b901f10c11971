"""What `onecard plan` shows: verdict, a bar of the card's memory, the ledger, limits, speed, training, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecard.catalog.units import GIB, MIB, format_bytes
from onecard.planner.advice import Advice
from onecard.planner.ledger import Ledger, Line
from onecard.planner.plan import ModelLimits, Plan
from onecard.planner.requests import AgentSpeed
from onecard.planner.speed import Seconds
from onecard.planner.training_run import TrainingPlan

WIDTH = 100
COLOURS = (
    "#7aa2f7",
    "#73daca",
    "#bb9af7",
    "#e0af68",
    "#9ece6a",
    "#f7768e",
    "#ff9e64",
    "#2ac3de",
)  # black letters can be read on all
FREE, RESERVE = "grey35", "grey62"
VERDICTS = {"meets": "green", "misses": "bold red", "unclear": "yellow", "unknown": "dim"}
TAG_MEANINGS = "exact: counted. measured: seen. fitted: adjusted to measurements. assumed: judgement, unmeasured."
TAG_STYLES = {"exact": "green", "measured": "green", "fitted": "yellow", "assumed": "yellow"}


def show(plan: Plan, file: Path) -> None:
    """The whole plan on standard output, 100 columns wide when that is not a terminal."""
    console = Console(highlight=False, emoji=False)
    console.width = min(console.width, 120) if console.is_terminal else WIDTH
    tables = [(ledger_table(plan.serving), ""), (limits_table(plan.limits), ""), speed_table(plan.agents)]
    if plan.trainings:
        tables.append(training_table(plan.trainings))
    for line in (headline(plan), Text(), *memory_bar(plan, console.width), Text()):
        console.print(line)
    for table, note in tables:
        console.print(table)
        console.print(*([Text(note, "dim")] if note else []), end="\n\n" if note else "\n")
    for line in advice_lines(plan, file):
        console.print(line)
    console.print(Text(TAG_MEANINGS, "dim"))


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


def segments(plan: Plan) -> list[tuple[str, int, str]]:
    """(name, bytes, colour) of the card's memory in order: models' weights, cache, adapters, work, processes, reserve, free."""
    parts: list[tuple[str, int]] = []
    for key in plan.fleet.models:
        weights = sum(line.bytes for line in plan.serving.of(key).lines if line.kind == "weights")
        parts.append((f"{key} weights", weights))
    for name, kind in (("KV cache", "cache"), ("adapters", "adapters"), ("working memory", "working")):
        parts.append((name, plan.serving.bytes_of_kind(kind)))  # type: ignore[arg-type]
    parts.append(("processes and slack", plan.serving.bytes_of_kind("process")))
    found = [(name, size, COLOURS[n % len(COLOURS)]) for n, (name, size) in enumerate(parts) if size]
    found.append(("reserve", plan.reserve_bytes, RESERVE))
    if plan.headroom_bytes > 0:
        found.append(("free", plan.headroom_bytes, FREE))
    return found


def memory_bar(plan: Plan, width: int) -> list[Text]:
    """The card as a bar of one letter a part, then what each letter is. Read by letters alone where there is no colour."""
    parts = segments(plan)
    whole = max(plan.card.total_bytes, sum(size for _, size, _ in parts))
    cells = width - 2
    bar, ends, reached = Text("["), 0, 0
    for number, (_, size, colour) in enumerate(parts):
        reached += size
        end = round(cells * reached / whole)
        letter = " " if colour == FREE else chr(ord("A") + number)
        bar.append((letter + "-" * (end - ends))[: end - ends], f"bold black on {colour}" if letter != " " else "dim")
        ends = end
    bar.append("]")
    lines = [bar]
    if plan.headroom_bytes < 0:
        end = round(cells * plan.card.total_bytes / whole)
        said = "the card ends here ^".rjust(end + 1) if end > cells // 2 else " " * end + "^ the card ends here"
        lines.append(Text(said, "bold red"))
    legend = []
    for number, (name, size, colour) in enumerate(parts):
        letter = " " if colour == FREE else chr(ord("A") + number)
        legend.append(Text.assemble((f" {letter} ", f"bold black on {colour}"), f" {name} {format_bytes(size)}"))
    return lines + _flow(legend, width)


def _flow(words: Sequence[Text], width: int) -> list[Text]:
    """Texts laid beside each other in as many lines as they need."""
    lines = [Text()]
    for word in words:
        if lines[-1].cell_len and lines[-1].cell_len + 3 + word.cell_len > width:
            lines.append(Text())
        lines[-1].append("   " if lines[-1].cell_len else "").append_text(word)
    return lines


def ledger_table(ledger: Ledger) -> Table:
    """The memory by part, owner after owner. Weights held in one form are one row that names its components."""
    unit, size = ("GiB", GIB) if ledger.total_bytes >= GIB else ("MiB", MIB)
    table = _table("memory", ("of", ""), ("part", ""), (unit, "right"), ("how sure", ""), ("where from", "dim"))
    for owner in ledger.owners:
        for number, line in enumerate(_merged(ledger.of(owner).lines)):
            shown = "" if number else line.owner
            table.add_row(shown, line.part, _in(size, line.bytes), Text(line.tag, TAG_STYLES[line.tag]), line.source)
    table.add_section()
    table.add_row(Text("sum", "bold"), "", Text(_in(size, ledger.total_bytes), "bold"), "", "")
    return table


def _merged(lines: Sequence[Line]) -> Iterator[Line]:
    """Weights of the same form as one line, the largest component first; other lines as they are."""
    for form, group in groupby(
        lines, key=lambda line: line.part.partition("(")[2] if line.kind == "weights" else line.part
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


def limits_table(limits: Sequence[ModelLimits]) -> Table:
    """Each model's context and callers, and how far either could go alone."""
    table = _table(
        "how far it goes, everything else as it is", ("model", ""), ("id", ""), ("engine", ""), ("context", "right"),
        ("largest", "right"), ("callers", "right"), ("most", "right"),
    )  # fmt: skip
    for limit in limits:
        table.add_row(
            limit.model,
            limit.id,
            limit.engine,
            f"{limit.context:,}",
            _limit(limit.largest_context),
            f"{limit.concurrency:,}",
            _limit(limit.largest_concurrency),
        )
    return table


def speed_table(agents: Sequence[AgentSpeed]) -> tuple[Table, str]:
    """What each agent's requests take, as ranges, and a note."""
    table = _table(
        "speed, expected range", ("agent", ""), ("in + out", "right"), ("first token", "right"), ("per token", "right"),
        ("alone", "right"), ("busy", "right"), ("deadline", "right"), ("", ""),
    )  # fmt: skip
    for agent in agents:
        mark = "" if agent.shape_tag == "exact" else "*"
        table.add_row(
            agent.agent,
            f"{agent.prompt_tokens} + {agent.new_tokens}{mark}",
            span(agent.ttft),
            span(agent.itl),
            span(agent.alone),
            span(agent.busy),
            f"{agent.deadline_s:g} s" if agent.deadline_s else "-",
            Text("" if agent.verdict == "unknown" else agent.verdict, VERDICTS[agent.verdict]),
        )
    assumed = "; * no deadline, so the shape is assumed" if any(a.shape_tag != "exact" for a in agents) else ""
    return table, f"in + out: tokens. busy: all callers of the model at once{assumed}"


def training_table(trainings: Sequence[TrainingPlan]) -> tuple[Table, str]:
    """Each agent's run, alone on the card, and a note."""
    table = _table(
        "training, alone on the card", ("agent", ""), ("recipe", ""), ("batch", "right"), ("peak GiB", "right"), ("fits", ""),
        ("rows", "right"), ("time", "right"), ("USD", "right"),
    )  # fmt: skip
    for run in trainings:
        table.add_row(
            run.agent,
            run.recipe.name,
            f"{run.recipe.batch.rows} x {run.row_tokens}",
            _in(GIB, run.peak_bytes),
            Text("yes", "green") if run.fits else Text("no", "bold red"),
            f"{run.data.rows:,}" if run.data else "-",
            span(run.time.seconds) if run.time else "no data yet" if run.data is None else "unknown",
            _money(run.time.usd if run.time else None),
        )
    known = [run.data for run in trainings if run.data]
    counted = f"; {known[0].source.partition(': ')[2]}" if known and known[0].tag != "exact" else ""
    return table, f"batch: rows x tokens of the longest{counted}"


def advice_lines(plan: Plan, file: Path) -> list[Text]:
    """What to change when it does not fit or is late, and what else should be known."""
    lines: list[Text] = []
    if not plan.serving_fits:
        lines += [Text("what to change, any one of these:", "bold"), *(_advice(advice) for advice in plan.advice)]
        if not plan.advice:
            need = plan.smallest_need_bytes or plan.need_bytes
            over = format_bytes(need - plan.available_bytes)
            said = f"nothing in {file.name} makes it fit: in its smallest form it is still {over} too much for {plan.card.name}"
            lines = [
                Text(said, "bold red"),
                Text("next: a smaller model (`onecard models --fits ...`) or a larger card"),
            ]
    for run in plan.trainings:
        if run.advice:
            lines.append(Text(f"to train {run.agent} here, all of: ", "bold").append("; ".join(run.advice), "not bold"))
    if plan.faster:
        lines.append(Text("to keep the deadline:", "bold"))
        for way in plan.faster:
            said = f"  {way.agent}: {way.change}  {span(way.busy)}, {way.verdict}"
            lines.append(Text(said))
    lines += [Text("note: ", "yellow").append(warning, "default") for warning in plan.warnings]
    return [*lines, Text()] if lines else []


def _advice(advice: Advice) -> Text:
    changes = "; ".join(f"{change.text} ({change.cost})" for change in advice.changes)
    return Text(f"  saves {format_bytes(advice.saves_bytes)}: {changes}")


def span(seconds: Seconds | None) -> str:
    """A range in one unit: "148-394 ms", "6.5-17 s", "46-133 min", "1.2-3.4 h"."""
    if seconds is None:
        return "-"
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds.low >= (2 * size if unit != "s" else 0.5):
            return f"{_number(seconds.low / size)}-{_number(seconds.high / size)} {unit}"
    return f"{_number(seconds.low * 1000)}-{_number(seconds.high * 1000)} ms"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _money(usd: tuple[float, float] | None) -> str:
    return "-" if usd is None else f"{usd[0]:.2f}-{usd[1]:.2f}"


def _limit(limit: int | None) -> str:
    return "-" if limit is None else "none" if limit == 0 else f"{limit:,}"


def _in(unit: int, size: int) -> str:
    return f"{size / unit:.2f}" if size >= 0.005 * unit else "<0.01"


def _table(title: str, *columns: tuple[str, str]) -> Table:
    """Columns are (heading, "right" or a style); names and figures are never broken."""
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.title_justify, table.title_style = "left", "bold"
    for number, (heading, manner) in enumerate(columns):
        right = manner == "right"
        table.add_column(
            heading,
            justify="right" if right else "left",
            style="" if right else manner,
            no_wrap=right or number == 0,
            overflow="fold",
        )
    return table
