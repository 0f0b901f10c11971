"""What `onecard plan` says should be changed: to make it fit, to keep a deadline, to train here; and what else is worth knowing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.padding import Padding
from rich.text import Text

from onecard.catalog.units import format_bytes
from onecard.cli.plan_times import span
from onecard.planner.advice import Advice, Change
from onecard.planner.plan import Plan, narrow_bytes

RISKS = {"none": "green", "low": "yellow", "real": "bold red"}


def advice_lines(plan: Plan, file: Path) -> list[Text | Padding]:
    """What to change when it does not fit or is late, and what else should be known."""
    lines: list[Text | Padding] = []
    if not plan.serving_fits:
        lines += _to_fit(plan, file)
    for run in plan.trainings:
        if run.advice:
            lines.append(Text(f"to train {run.agent} here, all of: ", "bold").append("; ".join(run.advice), "not bold"))
    if plan.faster:
        lines.append(Text("to keep the deadline:", "bold"))
        lines += [_in(2, Text(f"{way.agent}: {way.change}  {span(way.busy)}, {way.verdict}")) for way in plan.faster]
    lines += [Text("note: ", "yellow").append(warning, "default") for warning in plan.warnings]
    return [*lines, Text()] if lines else []


def _to_fit(plan: Plan, file: Path) -> Iterator[Text | Padding]:
    if not plan.advice:
        over = format_bytes((plan.smallest_need_bytes or plan.need_bytes) - plan.available_bytes)
        said = f"nothing in {file.name} makes it fit: in its smallest form it is still {over} too much for {plan.card.name}"
        yield Text(said, "bold red")
        yield Text("next: a smaller model (`onecard models --fits ...`) or a larger card")
        return
    yield Text("what to change, any one of these:", "bold")
    for advice in plan.advice:
        yield from _advice(advice, narrow_bytes(plan.serving))


def _advice(advice: Advice, tight_bytes: float) -> Iterator[Padding]:
    """What it saves, and each change with its cost and risk below it. `tight_bytes`: what assumed lines may be off by."""
    left = f"saves {format_bytes(advice.saves_bytes)}, leaves {format_bytes(advice.headroom_bytes)}"
    yield _in(2, Text(f"{left}{', only just' if advice.headroom_bytes < tight_bytes else ''}:"))
    for change in advice.changes:
        yield _in(4, _change(change, alone=len(advice.changes) == 1))
        said = Text(f"{change.cost}; risk ", "dim").append(change.risk, RISKS[change.risk]).append(f": {change.reason}")
        yield _in(6, said)
    for effect in advice.effects:
        yield _in(6, Text(effect))


def _change(change: Change, alone: bool) -> Text:
    text = Text(change.text, "bold")
    if not alone:
        saves = format_bytes(abs(change.saves_bytes))
        text.append(f"  {'saves' if change.saves_bytes >= 0 else 'takes'} {saves}", "not bold")
    return text


def _in(columns: int, text: Text) -> Padding:
    """The text moved to the right, its further lines too."""
    return Padding(text, (0, 0, 0, columns), expand=False)
