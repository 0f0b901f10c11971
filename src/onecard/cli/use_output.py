"""What `onecard use` says to a person, always on standard error where standard output is a shell's, and the table of --list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from onecard.cli.use_fit import Fitted, Ground
    from onecard.cli.use_list import Listing, Row
    from onecard.planner.plan import Plan
    from onecard.weights.active import ActiveModel

WIDE = 120
_HEADINGS = ("form", "disk", "context", "largest")
_WIDTHS = (7, 5, 8, 9)


def say(text: str, style: str = "") -> None:
    """One remark for a person."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text, style))


def show_activated(record: ActiveModel, made: Fitted, plan: Plan, before: ActiveModel | None) -> None:
    """What became active, by which plan, and what it replaced."""
    from onecard.catalog.units import format_bytes

    callers = f", {record.concurrency} callers" if record.concurrency > 1 else ""
    say(f"active: {record.id} ({made.form}, {record.context:,} tokens of context{callers}) on {plan.card.name}", "bold")
    need, free = format_bytes(plan.need_bytes), format_bytes(plan.available_bytes)
    measured = ", with this card's calibration" if record.plan.calibrated else ""
    say(
        f"  plan: {record.plan.by}, {record.engine} engine{measured}: needs {need} of {free}"
        + ("" if plan.serving_fits else ", FORCED")
    )
    if record.repository != record.id:
        say(f"  loads: {record.repository}")
    if made.target.override is not None:
        wishes = [f"{name}: {value}" for name, value in made.target.override.wishes.items()]
        wishes += [f"{name}={value}" for name, value in made.target.override.variables.items()]
        say(f"  models.local.yaml: {', '.join(wishes) or 'nothing set'}")
    if before is not None and (before.id, before.repository) != (record.id, record.repository):
        say(f"  before: {before.id} ({before.quantization}); a server that runs still has it until it is started again")


def show_list(listed: Listing, ground: Ground) -> None:
    """A line a model: what it is called, its id, form, whether it is on the disk, its context and the largest that fits."""
    console = Console(highlight=False)
    names = max((len(row.name) for row in listed.rows), default=4) + 1
    room = min(console.width, WIDE) - 2 - names - sum(_WIDTHS)
    ids = max(min(max((len(row.id) for row in listed.rows), default=5) + 1, room), 12)
    title = f"{ground.card.name}, {ground.card.total_gib:.4g} GiB, {ground.reserve_gib:g} GiB left for others"
    console.print(Text(title, style="bold"), soft_wrap=True)
    headings = "".join(f"{heading:>{cells}}" for heading, cells in zip(_HEADINGS, _WIDTHS, strict=True))
    console.print(Text(f"  {'use':<{names}}{'model':<{ids}}{headings}", style="dim"), soft_wrap=True)
    for row in listed.rows:
        console.print(_line(row, names, ids), soft_wrap=True)
    console.print()
    _show_active(listed, console)
    console.print(Text("context: tokens `onecard use` would take; largest: tokens that fit alone", "dim"))


def _line(row: Row, names: int, ids: int) -> Text:
    """Green fits, red does not; the active one is marked."""
    shown = row.id if len(row.id) < ids else "..." + row.id[-(ids - 4) :]
    line = Text("* " if row.active else "  ", "bold green")
    line.append(f"{row.name:<{names}}", "bold" if row.active else "default").append(f"{shown:<{ids}}")
    form = f"{row.form}{'+' if row.override else ''}"
    line.append(f"{form:>{_WIDTHS[0]}}{row.on_disk:>{_WIDTHS[1]}}", "default")
    if row.problem is not None:
        return line.append(f"{'unknown':>{_WIDTHS[2] + _WIDTHS[3]}}", "yellow")
    if not row.fits:
        largest = f"{row.largest:,}" if row.largest else "none"
        return line.append(f"{'too big':>{_WIDTHS[2]}}{largest:>{_WIDTHS[3]}}", "red")
    return line.append(f"{row.context:>{_WIDTHS[2]},}{row.largest:>{_WIDTHS[3]},}", "green")


def _show_active(listed: Listing, console: Console) -> None:
    if listed.active is None and not listed.remarks:
        console.print(Text("nothing is active here: `onecard use primary` activates a role's model"))
    if listed.active is not None:
        active = listed.active
        said = f"active: {active.id} ({active.quantization}, {active.context:,} tokens) since "
        console.print(Text(f"{said}{active.activated_at:%Y-%m-%d %H:%M} by {active.plan.by}"))
    for remark in listed.remarks:
        console.print(Text("note: ", "yellow").append(remark, "default"), soft_wrap=True)
