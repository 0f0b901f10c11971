"""Tables of a finished comparison: errors against the truth, by tool, quantity and family. Pure: from the JSON document to Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from asking import CACHE, QUANTITIES, WEIGHTS

NAMES = {
    "16bit": "weights, 16 bits",
    "int8": "weights, int8",
    "nf4": "weights, nf4",
    "nf4_dq": "weights, nf4 + double quantization",
    "kv_per_token": "KV cache, one token more",
    "cache_at_long": "cache of one sequence of 32,768 tokens (or the model's limit)",
}
SHORT_NAMES = {
    "16bit": "16 bits",
    "int8": "int8",
    "nf4": "nf4",
    "nf4_dq": "nf4 + DQ",
    "kv_per_token": "KV, one token more",
    "cache_at_long": "cache at 32,768",
}
CLOSE = 0.5  # percent

Rows = list[dict[str, Any]]


def error_percent(said: float, true: float) -> float:
    """Signed error; where the truth is nothing it is 0 or endless."""
    if true:
        return 100 * (said - true) / true
    return 0.0 if said == 0 else float("inf")


def answers_of(rows: Rows, tool: str, quantity: str) -> dict[str, dict[str, float]]:
    """By the tool's own name for the quantity: model id to bytes."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        for name, said in row["tools"].get(tool, {}).get("answers", {}).get(quantity, {}).items():
            found.setdefault(name, {})[row["id"]] = said
    return found


def best_name(rows: Rows, tool: str, quantity: str) -> str | None:
    """Of the tool's names for this quantity the one that serves it best: the smallest median error."""
    names = answers_of(rows, tool, quantity)
    return min(names, key=lambda name: summary(rows, tool, quantity, name)["median_abs_error_percent"], default=None)


def summary(rows: Rows, tool: str, quantity: str, name: str) -> dict[str, Any]:
    """n answered, median |error|, the worst with its model, how many are within 0.5% and how many exact."""
    truth = {row["id"]: row["truth"][quantity] for row in rows}
    said = answers_of(rows, tool, quantity)[name]
    errors = {model: error_percent(size, truth[model]) for model, size in said.items()}
    worst = max(errors, key=lambda model: abs(errors[model]))
    return {
        "answered": len(errors),
        "of": len(rows),
        "median_abs_error_percent": statistics.median(map(abs, errors.values())),
        "worst_percent": errors[worst],
        "worst_model": worst,
        "worst_ratio": said[worst] / truth[worst] if truth[worst] else float("inf"),
        "within_half_percent": sum(abs(error) <= CLOSE for error in errors.values()),
        "exact": sum(same(size, truth[model]) for model, size in said.items()),
    }


def same(said: float, true: float) -> bool:
    """Equal to the byte; a tool that prints rounded GiB is given a ten-thousandth."""
    return said == true or (said != round(said) and true > 0 and abs(said - true) / true < 1e-4)


def tables(document: Mapping[str, Any]) -> str:
    """The Markdown of one document."""
    rows, tools = document["models"], list(document["tools"])
    catalog, outside = [row for row in rows if row["in_catalog"]], [row for row in rows if not row["in_catalog"]]
    parts = overview(rows, tools, f"All {len(rows)} models")
    parts += overview(catalog, tools, f"The {len(catalog)} models of the catalog") if catalog else []
    parts += overview(outside, tools, f"The {len(outside)} models outside it") if outside else []
    whole = [row for row in rows if not row["truth"]["kept"]]
    if 0 < len(whole) < len(rows):
        parts += overview(whole, tools, f"The {len(whole)} models without experts and without Falcon's layers")
    for quantity in QUANTITIES:
        parts += quantity_table(rows, tools, quantity)
    parts += family_table(rows, tools, "kv_per_token", "one token more")
    parts += family_table(rows, tools, "cache_at_long", "one sequence of 32,768 tokens or the model's limit")
    return "\n".join(parts)


def overview(rows: Rows, tools: Iterable[str], title: str) -> list[str]:
    """One row a tool: how many it has right of how many it answered, and the median error, by its best name for each quantity."""
    lines = [
        f"### {title}",
        "",
        "Within 0.5% of the truth (one token more: exact) / answered, then the median |error|.",
        "",
        f"| tool | {' | '.join(SHORT_NAMES[quantity] for quantity in QUANTITIES)} |",
        "|---|" + "---|" * len(QUANTITIES),
    ]
    for tool in tools:
        cells = []
        for quantity in QUANTITIES:
            name = best_name(rows, tool, quantity)
            if name is None:
                cells.append("no answer")
                continue
            found = summary(rows, tool, quantity, name)
            cells.append(
                f"{right(found, quantity)} / {found['answered']}, {percent(found['median_abs_error_percent'])}"
            )
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    return [*lines, ""]


def right(found: Mapping[str, Any], quantity: str) -> int:
    return int(found["exact" if quantity == "kv_per_token" else "within_half_percent"])


def quantity_table(rows: Rows, tools: Iterable[str], quantity: str) -> list[str]:
    """One row for each name a tool has for the quantity."""
    title = NAMES[quantity][0].upper() + NAMES[quantity][1:]
    last = "exact" if quantity == "kv_per_token" else "within 0.5%"
    lines = [
        f"### {title}: {len(rows)} models",
        "",
        f"| tool | asked as | answered | median \\|error\\| | worst | {last} |",
        "|---|---|---|---|---|---|",
    ]
    for tool in tools:
        names = answers_of(rows, tool, quantity)
        if not names:
            lines.append(f"| {tool} | no answer | | | | |")
        for name in names:
            found = summary(rows, tool, quantity, name)
            lines.append(
                f"| {tool} | {name} | {found['answered']} | {percent(found['median_abs_error_percent'])} | "
                f"{worst(found, quantity)} | {right(found, quantity)} |"
            )
    return [*lines, ""]


def worst(found: Mapping[str, Any], quantity: str) -> str:
    off = found["worst_percent"]
    if off == 0:
        return "none off"
    size = f"{off:+.3f}%" if abs(off) < 1 else f"{off:+.1f}%" if quantity in WEIGHTS else times(found["worst_ratio"])
    return f"{size} ({found['worst_model'].rpartition('/')[2]})"


def times(ratio: float) -> str:
    return "some for none" if ratio == float("inf") else f"{ratio:.3g}x"


def percent(value: float) -> str:
    if value == float("inf"):
        return "endless"
    if value == 0:
        return "0"
    return "under 0.001%" if value < 0.001 else f"{value:.3f}%" if value < 0.1 else f"{value:.1f}%"


def family_table(rows: Rows, tools: Iterable[str], quantity: str, title: str) -> list[str]:
    """For each family how many a tool has right, and the span of its ratios to the truth."""
    tools = [tool for tool in tools if best_name(rows, tool, quantity)]
    families = sorted({row["truth"]["family"] for row in rows})
    lines = [
        f"### By kind of attention: {title}",
        "",
        "Right of answered, then the ratio said / true from the smallest to the largest.",
        "",
        f"| kind (models) | {' | '.join(tools)} |",
        "|---|" + "---|" * len(tools),
    ]
    for family in families:
        members = [row for row in rows if row["truth"]["family"] == family]
        cells = [family_cell(members, tool, quantity, best_name(rows, tool, quantity)) for tool in tools]
        lines.append(f"| {family} ({len(members)}) | {' | '.join(cells)} |")
    return [*lines, ""]


def family_cell(rows: Rows, tool: str, quantity: str, name: str | None) -> str:
    said = answers_of(rows, tool, quantity).get(str(name), {})
    if not said:
        return "no answer"
    truth = {row["id"]: row["truth"][quantity] for row in rows}
    if quantity == "kv_per_token":
        good = sum(same(size, truth[model]) for model, size in said.items())
    else:
        good = sum(abs(error_percent(size, truth[model])) <= CLOSE for model, size in said.items())
    ratios = sorted(
        size / truth[model] if truth[model] else (1.0 if size == 0 else float("inf")) for model, size in said.items()
    )
    if good == len(said):
        return f"{good} of {len(said)}"
    spread = " to ".join(dict.fromkeys(times(ratio) for ratio in (ratios[0], ratios[-1])))
    return f"{good} of {len(said)}: {spread}"


def misses(document: Mapping[str, Any], tool: str) -> list[str]:
    """Every model and quantity where this tool is over 0.5% (weights, long cache) or not exact (one token), and what it refused."""
    found = []
    for row in document["models"]:
        told = row["tools"].get(tool, {})
        if "why" in told:
            found.append(f"{row['id']}: no answer: {told['why']}")
        for quantity in QUANTITIES:
            for said in told.get("answers", {}).get(quantity, {}).values():
                true = row["truth"][quantity]
                off = error_percent(said, true)
                if (said != true) if quantity == CACHE[0] else abs(off) > CLOSE:
                    found.append(f"{row['id']}: {NAMES[quantity]}: said {said:,.0f}, true {true:,} ({off:+.2f}%)")
    return found
