"""A drawn picture, and how it enters a page: its few colours become CSS variables, so that it follows the reader's light or dark theme.

Colours are Okabe and Ito's, told apart by colour-blind readers. The page's style sheet gives every variable its light and its dark value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INK, MUTED, GRID = "#1c2026", "#626973", "#dde1e6"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
# The CSS variable each colour becomes in a page.
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {c: f"series-{n}" for n, c in enumerate(SERIES, 1)}


@dataclass(frozen=True)
class Picture:
    """A plot ready to be written or embedded. `caption` says how to read it; `alt` stands in for it."""

    name: str
    caption: str
    alt: str
    svg: str
    png: bytes


def themed(picture: Picture) -> str:
    """The SVG for a page: colours follow the page's CSS variables, ids are its own, no XML prologue, a text alternative."""
    body = picture.svg[picture.svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # The figure's own white sheet goes: the page behind it may be dark. What is drawn white on purpose takes the page's colour.
    body = re.sub(r'<g id="patch_1">.*?</g>', "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="patch_\d+">\s*<path [^>]*style="fill: #ffffff"/>\s*</g>', "", body)
    body = re.sub(r"#ffffff\b", "var(--paper, #ffffff)", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable}, {colour})")
    body = re.sub(r'\bid="', f'id="{picture.name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{picture.name}-", body)
    return body.replace("<svg ", '<svg aria-hidden="true" ', 1)
