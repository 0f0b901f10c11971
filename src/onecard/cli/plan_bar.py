"""The card's memory as one bar by agent: a letter and a colour a part, read by the letters alone where there is no colour.

What does not fit stands beyond a wall at the card's end, drawn with exclamation marks.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from onecard.catalog.units import format_bytes
from onecard.cli.plan_parts import Part, parts_of
from onecard.planner.plan import Plan

# Hues that stay apart for colour-blind eyes (Okabe and Ito), light enough for black letters: (weights, agents, work) of each model.
HUES = (
    ("#56b4e9", "#9dd3f3", "#c9e7f9"),
    ("#e69f00", "#f2c766", "#f8e0ae"),
    ("#2fb58c", "#86d3ba", "#bfe7da"),
    ("#cc79a7", "#dfa9c8", "#efd3e3"),
    ("#b5a62b", "#d6cb72", "#ebe5b8"),
    ("#e0773a", "#ecaa84", "#f6d5c2"),
)
SHADES = {"weights": 0, "agent": 1, "cache": 1, "working": 2}
OTHERS = {"process": "#9aa5b1", "slack": "#c3c9d0", "reserve": "#8a8f98", "free": "grey35"}


def colour(part: Part) -> str:
    """The fill of a part: its model's hue, darker for weights than for agents and work; greys for what belongs to no model."""
    if part.hue is None:
        return OTHERS[part.kind]
    return HUES[part.hue % len(HUES)][SHADES[part.kind]]


def memory_bar(plan: Plan, width: int) -> list[Text]:
    """The card as a bar of one letter a part, then what each letter is. Read by letters alone where there is no colour."""
    parts = parts_of(plan)
    whole = max(plan.card.total_bytes, sum(part.bytes for part in parts))
    cells = width - 2
    wall = round(cells * plan.card.total_bytes / whole) if plan.headroom_bytes < 0 else cells + 1
    wall = min(wall, cells - 1) if wall <= cells else wall  # something always stands beyond it
    bar, ends, reached = Text("["), 0, 0
    for part in parts:
        reached += part.bytes
        end = round(cells * reached / whole)
        style = "dim" if part.kind == "free" else f"bold black on {colour(part)}"
        for cell in range(ends, end):
            filled = (
                (part.letter or " ") if cell == ends else "!" if cell > wall else " " if part.kind == "free" else "-"
            )
            bar.append("|" if cell == wall else filled, "bold white on red" if cell == wall else style)
        ends = end
    bar.append("]")
    lines = [bar]
    if wall < cells:
        said = (
            "the card ends here ^".rjust(wall + 2) if wall > cells // 2 else " " * (wall + 1) + "^ the card ends here"
        )
        lines.append(Text(said, "bold red"))
    return lines + _flow([_legend(part) for part in parts], width)


def _legend(part: Part) -> Text:
    """A part's letter, name and size."""
    letter = (f" {part.letter or ' '} ", "dim" if part.kind == "free" else f"bold black on {colour(part)}")
    return Text.assemble(letter, f" {part.name} {format_bytes(part.bytes)}")


def _flow(words: Sequence[Text], width: int) -> list[Text]:
    """Texts laid beside each other in as many lines as they need."""
    lines = [Text()]
    for word in words:
        if lines[-1].cell_len and lines[-1].cell_len + 3 + word.cell_len > width:
            lines.append(Text())
        lines[-1].append("   " if lines[-1].cell_len else "").append_text(word)
    return lines
