"""What `onecard plan` shows of time and money: each agent's requests and deadline, each training run, and how likely both are in time."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from onecard.catalog.units import GIB
from onecard.cli.plan_table import in_unit, table
from onecard.planner.chance import chance, verdict
from onecard.planner.requests import AgentSpeed
from onecard.planner.speed import Seconds
from onecard.planner.training_run import Cost, TrainingPlan

# Columns from which the time of each token has a place, the first token, and a lone caller's time.
FAIR, ROOMY, SPACIOUS = 88, 96, 110
VERDICTS = {"meets": "green", "misses": "bold red", "unclear": "yellow", "unknown": "dim"}
UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))


def speed_table(agents: Sequence[AgentSpeed], width: int = ROOMY) -> Table:
    """What each agent's requests take, as ranges, and whether its deadline holds; what has no room in the width is left out."""
    judged = any(agent.deadline_s for agent in agents)
    each, first, alone = width >= FAIR, width >= ROOMY, width >= SPACIOUS
    headings = ["in + out", *(["first token"] if first else []), *(["per token"] if each else [])]
    headings += [*(["alone"] if alone else []), "busy"]
    headings += ["deadline", "in time", "spare"] if judged else []
    made = table("speed, expected range", ("agent", ""), *((h, "right") for h in headings), ("", "firm"))
    for agent in agents:
        mark = "" if agent.shape_tag == "exact" else "*"
        made.add_row(
            agent.agent,
            f"{agent.prompt_tokens} + {agent.new_tokens}{mark}",
            *([span(agent.ttft)] if first else []),
            *([span(agent.itl)] if each else []),
            *([span(agent.alone)] if alone else []),
            span(agent.busy),
            *(_deadline(agent) if judged else ()),
            Text("" if agent.verdict == "unknown" else agent.verdict, VERDICTS[agent.verdict]),
        )
    return made


def _deadline(agent: AgentSpeed) -> tuple[str, str, str]:
    """The promise, how likely it is kept, and the seconds between it and what is expected."""
    if agent.deadline_s is None:
        return "-", "", ""
    asked = f"{agent.deadline_s:g} s p{agent.percentile:g}"
    if agent.probability is None or agent.margin_s is None:
        return asked, "", ""
    return asked, percent(agent.probability), duration(agent.margin_s)


def speed_note(agents: Sequence[AgentSpeed]) -> str:
    """What the speed table's words mean."""
    others = {agent.percentile for agent in agents if agent.deadline_s} or {95.0}
    shares = " or ".join(f"{share:g}%" for share in sorted(others))
    said = f"in + out: tokens. busy: {shares} of requests take no longer while all callers of the model ask"
    if any(agent.probability is not None for agent in agents):
        said += ". in time: how likely that is within the deadline; spare: from what is expected"
    assumed = ". * no deadline, so the shape is assumed" if any(a.shape_tag != "exact" for a in agents) else ""
    return said + assumed


def training_table(trainings: Sequence[TrainingPlan], width: int = ROOMY, hours: float | None = None) -> Table:
    """Each agent's run, alone on the card; without room no recipe's name. `hours`: how likely it ends within them."""
    roomy = width >= ROOMY
    priced = any(run.time and run.time.median for run in trainings)
    names = [("agent", ""), *([("recipe", "")] if roomy else [])]
    figures = [("step", "right"), ("peak GiB", "right"), ("fits", "firm"), ("rows", "right"), ("time", "right")]
    figures += [("USD", "right")] if priced else []
    figures += [(f"in {hours:g} h", "right")] if hours is not None else []
    made = table("training, alone on the card", *names, *figures)
    for run in trainings:
        made.add_row(
            run.agent,
            *([run.recipe.name] if roomy else []),
            f"{run.recipe.batch.step_rows} x {run.row_tokens}",
            in_unit(GIB, run.peak_bytes),
            Text("yes", "green") if run.fits else Text("no", "bold red"),
            f"{run.data.rows:,}" if run.data else "-",
            expected(run.time.seconds) if run.time else "no data yet" if run.data is None else "unknown",
            *([_dollars(run.time.median if run.time else None)] if priced else []),
            *([_likely(run.time.seconds, hours) if run.time else "-"] if hours is not None else []),
        )
    _add_sum(made, trainings, roomy, priced, hours)
    return made


def _add_sum(made: Table, trainings: Sequence[TrainingPlan], roomy: bool, priced: bool, hours: float | None) -> None:
    """All runs one after the other, where there are several."""
    known = [run.time for run in trainings if run.time]
    if len(known) < 2:
        return
    whole = together([time.seconds for time in known])
    costs = [time.median for time in known if time.median]
    made.add_section()
    made.add_row(
        "all, in turn",
        *[""] * (5 if roomy else 4),
        expected(whole),
        *([f"{sum(c.low_usd for c in costs):.2f}-{sum(c.high_usd for c in costs):.2f}"] if priced else []),
        *([_likely(whole, hours)] if hours is not None else []),
    )


def together(times: Sequence[Seconds]) -> Seconds:
    """Runs one after the other. Their ranges have one cause, so a slow one means that all are slow: ends are added."""
    return Seconds(sum(t.low for t in times), sum(t.expected for t in times), sum(t.high for t in times))


def _likely(seconds: Seconds, hours: float) -> Text:
    probability = chance(seconds, hours * 3600)
    return Text(percent(probability), VERDICTS[verdict(probability)])


def _dollars(cost: Cost | None) -> str:
    return "-" if cost is None else f"{cost.low_usd:.2f}-{cost.high_usd:.2f}"


def training_note(trainings: Sequence[TrainingPlan]) -> str:
    """What the training table's words mean, how tokens were counted, and whose price it is."""
    known = [run.data for run in trainings if run.data]
    counted = f"; {known[0].source.partition(': ')[2]}" if known and known[0].tag != "exact" else ""
    said = f"{phases_note(trainings)}step: rows x tokens of the longest{counted}"
    priced = next((run.time for run in trainings if run.time and run.time.median and run.time.cheapest), None)
    if priced is None or priced.median is None or priced.cheapest is None:
        return said
    said += f". USD at {_quote(priced.median)}"
    if priced.cheapest.quote.usd_per_hour < priced.median.quote.usd_per_hour:
        said += f"; cheapest: {_quote(priced.cheapest)}"
    return said


def phases_note(trainings: Sequence[TrainingPlan]) -> str:
    """What the phases of the largest run hold, in order."""
    largest = max(trainings, key=lambda run: run.peak_bytes, default=None)
    if largest is None or not largest.phases:
        return ""
    held = ", ".join(f"{phase.name} {in_unit(GIB, phase.bytes)}" for phase in largest.phases)
    return f"GiB of {largest.agent} by phase: {held}. "


def _quote(cost: Cost) -> str:
    quote = cost.quote
    return f"${quote.usd_per_hour:g} an hour ({quote.provider}, {quote.date})"


def percent(probability: float) -> str:
    """A probability as people say it: never a bare 0% or 100%."""
    if probability < 0.01:
        return "<1%"
    return ">99%" if probability > 0.99 else f"{probability:.0%}"


def span(seconds: Seconds | None) -> str:
    """A range in one unit: "148-394 ms", "6.5-17 s", "46-133 min", "1.2-3.4 h"."""
    if seconds is None:
        return "-"
    for unit, size in UNITS:
        if seconds.low >= (2 * size if unit != "s" else 0.5):
            return f"{_number(seconds.low / size)}-{_number(seconds.high / size)} {unit}"
    return f"{_number(seconds.low * 1000)}-{_number(seconds.high * 1000)} ms"


def duration(seconds: float) -> str:
    """One time in its own unit: "3.1 s", "-12 s", "87 min", "2.5 h", "40 ms"."""
    for unit, size in UNITS:
        if abs(seconds) >= (2 * size if unit != "s" else 0.5):
            return f"{_number(seconds / size)} {unit}"
    return f"{_number(seconds * 1000)} ms"


def expected(seconds: Seconds) -> str:
    """What is expected and the range, all in one unit: "27 min (15-44)"."""
    unit, size = next(((u, n) for u, n in UNITS if seconds.expected >= 2 * n), UNITS[-1])
    return f"{_number(seconds.expected / size)} {unit} ({_number(seconds.low / size)}-{_number(seconds.high / size)})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}"
