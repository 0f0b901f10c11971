"""How far each model of a plan could go: the largest context and most callers, and with --limits both against each other."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from onecard.catalog.units import format_count
from onecard.cli.plan_table import table
from onecard.planner.plan import ModelLimits
from onecard.planner.room import CONCURRENCY_CAP, Frontier


def limits_table(limits: Sequence[ModelLimits]) -> Table:
    """Each model's context and callers, and how far either could go alone."""
    made = table(
        "how far it goes, everything else as it is", ("model", ""), ("id", ""), ("engine", ""), ("context", "right"),
        ("largest", "right"), ("callers", "right"), ("most", "right"),
    )  # fmt: skip
    for limit in limits:
        made.add_row(
            limit.model,
            limit.id,
            limit.engine,
            f"{limit.context:,}",
            _limit(limit.largest_context),
            f"{limit.concurrency:,}",
            _callers(limit.largest_concurrency),
        )
    return made


def frontier_tables(frontier: Frontier, width: int) -> list[Table]:
    """Most callers for a few contexts, and largest context for a few numbers of callers, as wide as the console allows.

    Nothing where not even the least fits, which the table of limits says already.
    """
    if not any(most for _, most in frontier.by_context):
        return []
    most = [(format_count(context), _callers(callers)) for context, callers in frontier.by_context]
    largest = [(f"{callers:,}", _limit(context)) for callers, context in frontier.by_callers]
    return [
        *_rows(f"{frontier.model}: context", "most callers", most, width),
        *_rows(f"{frontier.model}: callers", "largest context", largest, width),
    ]


def _rows(title: str, answer: str, pairs: Sequence[tuple[str, str]], width: int) -> list[Table]:
    """One line of what is asked and one of the answers; in several tables where they are too wide."""
    name, room = max(len(title), len(answer)) + 1, width
    tables: list[list[tuple[str, str]]] = [[]]
    used = name
    for pair in pairs:
        needed = max(map(len, pair)) + 2
        if used + needed > room and tables[-1]:
            tables.append([])
            used = name
        tables[-1].append(pair)
        used += needed
    made = []
    for chosen in tables:
        lines = table("", (title, ""), *((asked, "right") for asked, _ in chosen))
        lines.title = None
        lines.add_row(answer, *(best for _, best in chosen))
        made.append(lines)
    return made


def _limit(limit: int | None) -> str:
    return "-" if limit is None else "none" if limit == 0 else f"{limit:,}"


def _callers(limit: int | None) -> str:
    """As _limit, and where even the most that can be asked for fit: that many or more."""
    return f"{limit:,}+" if limit == CONCURRENCY_CAP else _limit(limit)
