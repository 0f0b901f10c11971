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
from onecard.cli.plan_bar import memory_bar as memory_bar  # the demo shows the same bar
from onecard.planner.advice import Advice
from onecard.planner.ledger import Ledger, Line
from onecard.planner.plan import ModelLimits, Plan
from onecard.planner.requests import AgentSpeed
from onecard.planner.speed import Seconds
from onecard.planner.training_run import TrainingPlan

WIDTH, LEAST_WIDTH = 100, 78
ROOMY = 96  # columns from which every figure has its place
VERDICTS = {"meets": "green", "misses": "bold red", "unclear": "yellow", "unknown": "dim"}
TAG_MEANINGS = "exact: counted. measured: seen. fitted: adjusted to measurements. assumed: judgement, unmeasured."
TAG_STYLES = {"exact": "green", "measured": "green", "fitted": "yellow", "assumed": "yellow"}


def show(plan: Plan, file: Path) -> None:
    """The whole plan on standard output, 100 columns wide when that is not a terminal."""
    console = Console(highlight=False, emoji=False)
    console.width = min(max(console.width, LEAST_WIDTH), 120) if console.is_terminal else WIDTH
    roomy = console.width >= ROOMY
    tables = [
        (ledger_table(plan.serving), ""),
        (limits_table(plan.limits), ""),
        (speed_table(plan.agents, roomy), speed_note(plan.agents)),
    ]
    if plan.trainings:
        tables.append((training_table(plan.trainings, roomy), training_note(plan.trainings)))
    for line in (headline(plan), Text(), *memory_bar(plan, console.width), Text()):
        console.print(line)
    for table, note in tables:
        console.print(_firm(table))
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


def speed_table(agents: Sequence[AgentSpeed], roomy: bool = True) -> Table:
    """What each agent's requests take, as ranges. Without room the time of a lone caller is left out."""
    headings = ["in + out", "first token", "per token", *(["alone"] if roomy else []), "busy", "deadline"]
    table = _table("speed, expected range", ("agent", ""), *((heading, "right") for heading in headings), ("", "firm"))
    for agent in agents:
        mark = "" if agent.shape_tag == "exact" else "*"
        table.add_row(
            agent.agent,
            f"{agent.prompt_tokens} + {agent.new_tokens}{mark}",
            span(agent.ttft),
            span(agent.itl),
            *([span(agent.alone)] if roomy else []),
            span(agent.busy),
            f"{agent.deadline_s:g} s" if agent.deadline_s else "-",
            Text("" if agent.verdict == "unknown" else agent.verdict, VERDICTS[agent.verdict]),
        )
    return table


def speed_note(agents: Sequence[AgentSpeed]) -> str:
    """What the speed table's words mean."""
    assumed = "; * no deadline, so the shape is assumed" if any(a.shape_tag != "exact" for a in agents) else ""
    return f"in + out: tokens. busy: all callers of the model at once{assumed}"


def training_table(trainings: Sequence[TrainingPlan], roomy: bool = True) -> Table:
    """Each agent's run, alone on the card. Without room the recipe's name is left out."""
    names = [("agent", ""), *([("recipe", "")] if roomy else [])]
    figures = [("batch", "right"), ("peak GiB", "right"), ("fits", "firm")]
    figures += [(heading, "right") for heading in ("rows", "time", "USD")]
    table = _table("training, alone on the card", *names, *figures)
    for run in trainings:
        table.add_row(
            run.agent,
            *([run.recipe.name] if roomy else []),
            f"{run.recipe.batch.rows} x {run.row_tokens}",
            _in(GIB, run.peak_bytes),
            Text("yes", "green") if run.fits else Text("no", "bold red"),
            f"{run.data.rows:,}" if run.data else "-",
            span(run.time.seconds) if run.time else "no data yet" if run.data is None else "unknown",
            _money(run.time.usd if run.time else None),
        )
    return table


def training_note(trainings: Sequence[TrainingPlan]) -> str:
    """What the training table's words mean, and how tokens were counted."""
    known = [run.data for run in trainings if run.data]
    counted = f"; {known[0].source.partition(': ')[2]}" if known and known[0].tag != "exact" else ""
    return f"batch: rows x tokens of the longest{counted}"


def advice_lines(plan: Plan, file: Path) -> list[Text]:
    """What to change when it does not fit or is late, and what else should be known."""
    lines: list[Text] = []
    if not plan.serving_fits:
        lines += [Text("what to change, any one of these:", "bold")]
        lines += [line for advice in plan.advice for line in _advice(advice)]
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


def _advice(advice: Advice) -> Iterator[Text]:
    """What it saves, and each change on a line of its own."""
    left = format_bytes(advice.headroom_bytes)
    yield Text(f"  saves {format_bytes(advice.saves_bytes)}, leaves {left}:")
    for change in advice.changes:
        yield Text.assemble(f"    {change.text}", (f"  {change.cost}", "dim"))


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
    """Columns are (heading, manner): "right" for figures, "firm" for words that are never broken, else a style."""
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.title_justify, table.title_style = "left", "bold"
    for heading, manner in columns:
        firm = manner in ("right", "firm")
        table.add_column(
            heading,
            justify="right" if manner == "right" else "left",
            style="" if firm else manner,
            no_wrap=firm,
            overflow="fold",
        )
    return table


def _firm(table: Table) -> Table:
    """Figures keep their width however narrow the console is: names and sources are what gets broken into lines."""
    for column in table.columns:
        if column.no_wrap:
            texts = [column.header, *column.cells]
            column.min_width = max(len(text) for text in texts if isinstance(text, str | Text))
    return table
