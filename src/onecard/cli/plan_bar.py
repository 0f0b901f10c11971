"""The card's memory as one bar: a letter and a colour a part, read by the letters alone where there is no colour."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

from rich.text import Text

from onecard.catalog.units import format_bytes
from onecard.planner.ledger import Kind
from onecard.planner.plan import Plan

# Light enough for black letters.
COLOURS = ("#7aa2f7", "#73daca", "#bb9af7", "#e0af68", "#9ece6a", "#f7768e", "#ff9e64", "#2ac3de")
FREE, RESERVE = "grey35", "grey62"
PARTS: tuple[tuple[str, Kind], ...] = (
    ("KV cache", "cache"),
    ("adapters", "adapters"),
    ("working memory", "working"),
    ("processes and slack", "process"),
)


def segments(plan: Plan) -> list[tuple[str, int, str]]:
    """(name, bytes, colour) of the card's memory in order: models' weights, cache, adapters, work, processes, reserve, free."""
    parts: list[tuple[str, int]] = []
    for key in plan.fleet.models:
        weights = sum(line.bytes for line in plan.serving.of(key).lines if line.kind == "weights")
        parts.append((f"{key} weights", weights))
    parts += [(name, plan.serving.bytes_of_kind(kind)) for name, kind in PARTS]
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
        style = "dim" if colour == FREE else f"bold black on {colour}"
        bar.append((_letter(number, colour) + "-" * (end - ends))[: end - ends], style)
        ends = end
    bar.append("]")
    lines = [bar]
    if plan.headroom_bytes < 0:
        end = round(cells * plan.card.total_bytes / whole)
        said = "the card ends here ^".rjust(end + 1) if end > cells // 2 else " " * end + "^ the card ends here"
        lines.append(Text(said, "bold red"))
    legend = []
    for number, (name, size, colour) in enumerate(parts):
        legend.append(
            Text.assemble((f" {_letter(number, colour)} ", f"bold black on {colour}"), f" {name} {format_bytes(size)}")
        )
    return lines + _flow(legend, width)


def _letter(number: int, colour: str) -> str:
    return " " if colour == FREE else ascii_letters[number % len(ascii_letters)].swapcase()


def _flow(words: Sequence[Text], width: int) -> list[Text]:
    """Texts laid beside each other in as many lines as they need."""
    lines = [Text()]
    for word in words:
        if lines[-1].cell_len and lines[-1].cell_len + 3 + word.cell_len > width:
            lines.append(Text())
        lines[-1].append("   " if lines[-1].cell_len else "").append_text(word)
    return lines
