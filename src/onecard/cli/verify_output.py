"""What `onecard verify` shows: a line a check as in a test report, what failed with its next step, and the verdict; or the record.

Answers of models and servers are shown as they are: nothing in them is taken for markup or for a control sequence of the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onecard.cli.verify_malformed import AFTER
from onecard.cli.verify_records import Check, Wanted, conclusion, counts

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from onecard.fleet.loader import LoadedFleet

SCHEMA = 1
WIDTH = 120
MARKS = {"pass": "pass", "fail": "FAIL", "not applicable": "n/a", "could not be checked": "unseen"}
STYLES = {"pass": "green", "fail": "bold red", "not applicable": "dim", "could not be checked": "bold yellow"}


def show(checks: Sequence[Check], fleet: str, seconds: float, *, console: Console | None = None) -> None:
    """The whole report on standard output."""
    console = console or console_of()
    for part in report(checks, fleet, seconds):
        console.print(part)


def report(checks: Sequence[Check], fleet: str, seconds: float) -> list[RenderableType]:
    """The report's parts, from top to bottom."""
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{fleet}: {len(checks)} checks in {seconds:.0f} s", style="bold")]
    for criterion in dict.fromkeys(check.criterion for check in checks):
        parts.append(_table(criterion, folded([check for check in checks if check.criterion == criterion])))
    for outcome, head in (
        ("fail", "What failed, and what to do"),
        ("could not be checked", "What could not be checked"),
    ):
        found = [check for check in checks if check.outcome == outcome]
        if found:
            parts.append(Text(f"\n{head}", style=STYLES[outcome]))
            parts += _listed(found)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts(checks).items() if count)
    style = STYLES["fail" if any(check.outcome == "fail" for check in checks) else "pass"]
    if conclusion(checks).startswith("nothing"):
        style = STYLES["could not be checked"]
    parts.append(Text.assemble("\n", (conclusion(checks), style), f"  ({said or 'no checks'})"))
    return parts


def folded(checks: Sequence[Check]) -> list[Check]:
    """The wrong requests that were refused as they should be in one line, the others as they are; the record has each."""
    good = [
        check
        for check in checks
        if check.criterion == "requests" and check.outcome == "pass" and check.subject != AFTER
    ]
    if len(good) < 2:
        return list(checks)
    names = ", ".join(check.subject for check in good)
    needed = "each a 4xx with an error that says why"
    one = Check("requests", f"{len(good)} wrong requests", "refused clearly", "pass", names, needed)
    return [one, *(check for check in checks if check not in good)]


def _table(criterion: str, checks: Sequence[Check]) -> RenderableType:
    """One criterion: mark, subject and what, what was seen over its evidence (whole for a failure), what was needed."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column("", width=6, no_wrap=True)
    table.add_column(criterion, ratio=30, overflow="fold")
    table.add_column("seen", ratio=44, overflow="fold")
    table.add_column("needed", ratio=26, overflow="fold")
    for check in checks:
        seen = _over(check.seen, check.evidence, whole=check.outcome == "fail")
        mark = Text(MARKS[check.outcome], style=STYLES[check.outcome])
        table.add_row(mark, _over(check.subject, check.what, whole=True), seen, visible(check.needed))
    return table


def _over(first: str, second: str, *, whole: bool) -> RenderableType:
    """A text over a dim line, which is cut at the column's edge unless `whole`."""
    from rich.console import Group
    from rich.text import Text

    below = Text(visible(second), style="dim", no_wrap=not whole, overflow="fold" if whole else "ellipsis")
    return Group(Text(visible(first)), below) if second else Text(visible(first))


def _listed(checks: Sequence[Check]) -> list[RenderableType]:
    """Each with its reason and next step; the same reason is said once, with everything it stands for."""
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for reason, next_step in dict.fromkeys((check.seen, check.next_step) for check in checks):
        names = [f"{c.criterion} {c.subject}: {c.what}" for c in checks if (c.seen, c.next_step) == (reason, next_step)]
        shown = "; ".join(names) if len(names) <= 3 else f"{'; '.join(names[:2])}; and {len(names) - 2} more"
        parts.append(Padding(Text(visible(shown)), (0, 0, 0, 2), expand=False))
        parts.append(Padding(Text(visible(reason), style="dim"), (0, 0, 0, 4), expand=False))
        if next_step:
            parts.append(
                Padding(Text.assemble(("next: ", "dim"), (visible(next_step), "bold")), (0, 0, 0, 4), expand=False)
            )
    return parts


def record_of(
    checks: Sequence[Check], loaded: LoadedFleet, wanted: Wanted, started_at: str, ended_at: str, where: dict[str, Any]
) -> dict[str, Any]:
    """The run as plain data: what was wanted, when, on which machine with which versions, every check, and the counts."""
    from dataclasses import asdict

    from onecard import __version__

    return {
        "schema": SCHEMA,
        "kind": "verification",
        "onecard_version": __version__,
        "started_at": started_at,
        "ended_at": ended_at,
        "fleet": loaded.fleet.name,
        "fleet_digest": loaded.digest,
        "where": where,
        "wanted": asdict(wanted),
        "counts": counts(checks),
        "conclusion": conclusion(checks),
        "passed": not any(check.outcome == "fail" for check in checks),
        "complete": not any(check.outcome == "could not be checked" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def line(check: Check) -> str:
    """One check as a line, for a log that grows while it runs."""
    return visible(f"{MARKS[check.outcome]:6} {check.criterion} {check.subject}: {check.what}: {check.seen}")


def visible(text: str) -> str:
    """A control character is shown as a replacement character; there is no markup in what is shown here."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def console_of(*, stderr: bool = False) -> Console:
    """120 columns wide when it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False, stderr=stderr, emoji=False, markup=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, stderr=stderr, emoji=False, markup=False, width=WIDTH)


def written(file: Path, record: dict[str, Any]) -> None:
    """The record as a file, whole or not at all."""
    import json

    from onecard.evidence.results import write_atomically

    write_atomically(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
