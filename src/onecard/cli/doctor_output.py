"""What `onecard doctor` shows: problems, then warnings, each with why and the command that mends it, and one line of what is fine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from onecard.cli.doctor_findings import worst
from onecard.cli.doctor_records import Facts, Finding

WIDTH, LEAST_WIDTH, MOST_WIDTH = 100, 60, 120
STYLES = {"problem": "bold red", "warning": "bold yellow", "ok": "green"}
RIGHTS = "needs administrator rights, or those of the process's owner"


def show(facts: Facts, findings: Sequence[Finding], fleet: str | None) -> None:
    """The findings on standard output, 100 columns wide when that is not a terminal."""
    console = Console(highlight=False, emoji=False)
    console.width = min(max(console.width, LEAST_WIDTH), MOST_WIDTH) if console.is_terminal else WIDTH
    console.print(headline(findings, fleet))
    for finding in findings:
        if finding.severity != "ok":
            console.print()
            _show(console, finding)
    fine = [finding.what for finding in findings if finding.severity == "ok"]
    if fine:
        console.print()
        console.print(Text.assemble(("fine: ", STYLES["ok"]), ("; ".join(fine), "dim")))
    if facts.cold_start is None:
        console.print(Text("`onecard doctor --cold-start` times each part of a start.", "dim"))


def headline(findings: Sequence[Finding], fleet: str | None) -> Text:
    """How many of each, in one line."""
    where = f"{fleet} on this machine: " if fleet else "this machine: "
    counts = {severity: sum(f.severity == severity for f in findings) for severity in ("problem", "warning")}
    said = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
    return Text.assemble(where, (", ".join(said) or "nothing is wrong", STYLES[worst(tuple(findings))]))


def _show(console: Console, finding: Finding) -> None:
    """What, why, and the command on a line of its own, so that it can be copied."""
    console.print(Text.assemble((f"{finding.severity}: ", STYLES[finding.severity]), finding.what))
    console.print(Padding(Text(finding.why, "dim"), (0, 0, 0, 2), expand=False))
    for line in command_lines(finding):
        console.print(line, soft_wrap=True)


def command_lines(finding: Finding) -> Iterator[Text]:
    """The command, never wrapped by us: a copied line must stay one line."""
    yield Text.assemble(("  $ ", "dim"), (finding.mend, "bold"))
    if finding.rights:
        yield Text(f"    ({RIGHTS})", "dim")


def record_of(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings and facts as plain data, for scripts."""
    return {
        "worst": worst(tuple(findings)),
        "findings": [asdict(finding) for finding in findings],
        "facts": plain(asdict(facts)),
    }


def plain(value: Any) -> Any:
    """Data that JSON can hold: paths as text, sets in order."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(part) for part in value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
