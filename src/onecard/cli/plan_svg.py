"""The card's memory by agent as one SVG: a tall bar with a label beside every part, and a clear edge where the card ends.

It is read without colour (letters), stays apart for colour-blind eyes, follows the viewer's light or dark scheme, needs no font
from anywhere, and is narrow, so that it fits a phone and a page. Labels have a place of their own and never overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape as escaped
from pathlib import Path

from onecard.catalog.units import GIB, MIB, format_bytes
from onecard.cli.plan_bar import colour
from onecard.cli.plan_parts import Part, parts_of
from onecard.evidence.results import write_atomically
from onecard.planner.plan import Plan

WIDTH = 480
BAR_LEFT, BAR_WIDTH = 46, 74
TEXT_LEFT, TEXT_RIGHT = 176, WIDTH - 16
TOP, BOTTOM = 100, 30
LEAST_HEIGHT = 320
NAME_HEIGHT, DETAIL_HEIGHT, GAP = 19, 15, 9
# Widths of letters differ between fonts: reckoned wide, so that nothing leaves its line. Pixels a letter at 13 and at 12 pixels.
NAME_LETTER, DETAIL_LETTER = 8.2, 6.9
SIZE_ROOM = 84

STYLE = """
svg { color-scheme: light dark; }
.paper { fill: #ffffff; } .ink { fill: #1b1f24; } .dim { fill: #57606a; } .line { stroke: #8c959f; fill: none; }
.free { fill: none; stroke: #8c959f; stroke-dasharray: 4 3; } .edge { stroke: #c5221f; } .alarm { fill: #b3201d; }
.good { fill: #116329; } .letter { fill: #14171a; font-weight: 700; } .beyond { stroke: #7d120e; }
text { font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; font-size: 12px; }
.title { font-size: 17px; font-weight: 700; } .name { font-size: 13px; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; } .ink { fill: #e6edf3; } .dim { fill: #9da7b1; } .line, .free { stroke: #6e7681; }
  .edge { stroke: #ff7b72; } .alarm { fill: #ff7b72; } .good { fill: #56d364; }
}
"""


@dataclass(frozen=True)
class Label:
    """A part with the lines of its detail, where its piece of the bar is, and where its text begins. Pixels from the bar's top."""

    part: Part
    detail: tuple[str, ...]
    begins: float
    ends: float
    y: float

    @property
    def height(self) -> float:
        return NAME_HEIGHT + DETAIL_HEIGHT * len(self.detail) + GAP


def write_svg(plan: Plan, file: Path) -> None:
    """Writes the picture whole or not at all. DiskFull or ResultError when it cannot be written."""
    write_atomically(file, plan_svg(plan))


def plan_svg(plan: Plan) -> str:
    """The picture of a plan as the text of an SVG file."""
    labels, height = layout(parts_of(plan))
    whole = sum(label.part.bytes for label in labels)
    scale = height / whole
    edge = TOP + plan.card.total_bytes * scale if plan.headroom_bytes < 0 else None
    total = TOP + height + BOTTOM
    shapes = [*_scale(whole, scale), *(_piece(label) for label in labels)]
    if edge is not None:
        shapes += _edge(edge, TOP + height, format_bytes(plan.card.total_bytes))
    shapes += [shape for label in labels for shape in (*_letter(label), *_words(label))]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total:.0f}" width="{WIDTH}" role="img"'
            f' style="max-width:100%;height:auto" aria-labelledby="title desc">',
            f'<title id="title">{escape(_title(plan))}: {escape(_verdict(plan))}</title>',
            f'<desc id="desc">{escape(_spoken(labels))}</desc>',
            f"<style>{STYLE}</style>",
            '<defs><pattern id="others" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<rect width="7" height="7" fill="#aab1b9"/><path d="M0 0V7" stroke="#6b737c" stroke-width="3"/></pattern>'
            '<pattern id="over" width="9" height="9" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<path d="M0 0V9" class="beyond" stroke-width="3"/></pattern></defs>',
            f'<rect class="paper" width="{WIDTH}" height="{total:.0f}" rx="8"/>',
            *_head(plan),
            *shapes,
            "</svg>",
            "",
        ]
    )


def layout(parts: Sequence[Part]) -> tuple[tuple[Label, ...], float]:
    """Every part's piece of the bar and the place of its text, and the height of both, pixels.

    Texts keep the order of the pieces and stand as near to them as they can without touching each other.
    """
    letters = int((TEXT_RIGHT - TEXT_LEFT) / DETAIL_LETTER)
    details = [tuple(_wrapped(part.detail, letters)) for part in parts]
    heights = [NAME_HEIGHT + DETAIL_HEIGHT * len(lines) + GAP for lines in details]
    height = max(LEAST_HEIGHT, sum(heights) + 4.0)
    whole = sum(part.bytes for part in parts)
    begins, reached, free_from = [], 0, 0.0
    for part in parts:
        begins.append(height * reached / whole)
        reached += part.bytes
    below = sum(heights)  # what the texts from here on need
    labels = []
    for number, part in enumerate(parts):
        ends = begins[number + 1] if number + 1 < len(parts) else height
        wished = (begins[number] + ends - heights[number] + GAP) / 2
        y = min(max(wished, free_from), height - below)
        labels.append(Label(part, details[number], begins[number], ends, y))
        free_from, below = y + heights[number], below - heights[number]
    return tuple(labels), height


def _wrapped(text: str, letters: int) -> Iterator[str]:
    """The text in lines of at most so many letters; a word that is longer is cut."""
    line = ""
    for word in text.split():
        while len(word) > letters:
            word, rest = word[: letters - 1] + "-", word[letters - 1 :]
            yield from [line] if line else []
            line, word = word, rest
        if line and len(line) + 1 + len(word) > letters:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        yield line


def escape(text: str) -> str:
    """Text as XML may hold it."""
    return escaped("".join(letter if letter.isprintable() else " " for letter in text))


def _title(plan: Plan) -> str:
    return f"{plan.fleet.name} on {plan.card.name}"


def _verdict(plan: Plan) -> str:
    left = format_bytes(abs(plan.headroom_bytes))
    if not plan.serving_fits:
        return f"does not fit: {left} too much"
    return f"fits, but only just: {left} to spare" if plan.tight else f"fits: {left} to spare"


def _spoken(labels: Sequence[Label]) -> str:
    """The picture in words, for who cannot see it."""
    return "; ".join(f"{label.part.name} {format_bytes(label.part.bytes)}" for label in labels)


def _head(plan: Plan) -> Iterator[str]:
    style = "good" if plan.serving_fits and not plan.tight else "alarm" if not plan.serving_fits else "ink"
    yield f'<text class="title ink" x="16" y="30">{escape(_cut(_title(plan), 46))}</text>'
    yield f'<text class="name {style}" x="16" y="51">{escape(_verdict(plan))}</text>'
    need, card, reserve = (format_bytes(size) for size in (plan.need_bytes, plan.card.total_bytes, plan.reserve_bytes))
    sums = f"{need} needed of {card} less {reserve} reserve"
    yield f'<text class="dim" x="16" y="69">{escape(sums)}</text>'


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "..."


def _scale(whole: int, scale: float) -> Iterator[str]:
    """A tick and a figure every so many GiB or MiB, five to ten of them."""
    unit, name = (GIB, "GiB") if whole >= 2 * GIB else (MIB, "MiB")
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if whole / unit / step <= 10)
    yield f'<text class="dim" x="{BAR_LEFT - 8}" y="{TOP + 4}" text-anchor="end">{name}</text>'
    for number in range(0, int(whole / unit) + 1, step):
        y = TOP + number * unit * scale
        yield f'<path class="line" d="M{BAR_LEFT - 5} {y:.1f}H{BAR_LEFT}"/>'
        if number:
            yield f'<text class="dim" x="{BAR_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number}</text>'


def _piece(label: Label) -> str:
    """The part's piece of the bar."""
    y, tall = TOP + label.begins, max(label.ends - label.begins, 0.8)
    box = f'x="{BAR_LEFT}" y="{y:.1f}" width="{BAR_WIDTH}" height="{tall:.1f}"'
    if label.part.kind == "free":
        return f'<rect class="free" {box}/>'
    return f'<rect {box} fill="{_fill(label.part)}" stroke="#1b1f24" stroke-width="0.6"/>'


def _letter(label: Label) -> Iterator[str]:
    """The part's letter on its piece, where there is room."""
    if label.ends - label.begins >= 13:
        x, y = BAR_LEFT + BAR_WIDTH / 2, TOP + (label.begins + label.ends) / 2 + 4.5
        yield f'<text class="letter" x="{x:.0f}" y="{y:.1f}" text-anchor="middle">{label.part.letter}</text>'


def _fill(part: Part) -> str:
    return "url(#others)" if part.kind == "reserve" else colour(part)


def _words(label: Label) -> Iterator[str]:
    """A leader from the piece, then letter, name, size, and the detail below."""
    part, y = label.part, TOP + label.y
    bar, chip = BAR_LEFT + BAR_WIDTH, TEXT_LEFT - 26
    middle = TOP + (label.begins + label.ends) / 2
    yield f'<path class="line" d="M{bar} {middle:.1f}H{bar + 5}L{chip - 4} {y + 9:.1f}H{chip}"/>'
    if part.kind == "free":
        yield f'<rect class="free" x="{chip}" y="{y + 1:.1f}" width="18" height="16"/>'
    else:
        box = f'x="{chip}" y="{y + 1:.1f}" width="18" height="16"'
        yield f'<rect {box} fill="{_fill(part)}" stroke="#1b1f24" stroke-width="0.6"/>'
        yield f'<text class="letter" x="{chip + 9}" y="{y + 13.5:.1f}" text-anchor="middle">{part.letter}</text>'
    name = _cut(part.name, int((TEXT_RIGHT - TEXT_LEFT - SIZE_ROOM) / NAME_LETTER))
    yield f'<text class="name ink" x="{TEXT_LEFT}" y="{y + 13.5:.1f}">{escape(name)}</text>'
    yield f'<text class="name ink" x="{TEXT_RIGHT}" y="{y + 13.5:.1f}" text-anchor="end">{format_bytes(part.bytes)}</text>'
    for number, line in enumerate(label.detail):
        below = y + NAME_HEIGHT + 10 + number * DETAIL_HEIGHT
        yield f'<text class="dim" x="{TEXT_LEFT}" y="{below:.1f}">{escape(line)}</text>'


def _edge(edge: float, bottom: float, size: str) -> Iterator[str]:
    """The card's end across the bar, and what is beyond it hatched."""
    tall = bottom - edge
    yield f'<rect x="{BAR_LEFT}" y="{edge:.1f}" width="{BAR_WIDTH}" height="{tall:.1f}" fill="url(#over)" opacity="0.55"/>'
    yield f'<rect x="{BAR_LEFT}" y="{edge:.1f}" width="{BAR_WIDTH}" height="{tall:.1f}" fill="none" class="edge" stroke-width="1.5"/>'
    yield f'<path class="edge" d="M6 {edge:.1f}H{BAR_LEFT + BAR_WIDTH + 10}" stroke-width="3"/>'
    said = f"red line: the card ends at {size}; hatched: does not fit"
    yield f'<text class="name alarm" x="16" y="{bottom + 19:.1f}">{said}</text>'
