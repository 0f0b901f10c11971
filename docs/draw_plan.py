"""Draws the README's pictures: docs/pictures/plan.svg, what `onecard plan examples/style-a10g.yaml` prints, and docs/pictures/card.svg,
what `onecard plan examples/justnews-rtx3090.yaml --svg card.svg` draws: one base on one card, and the agents that share it."""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from onecard.cli import plan_output
from onecard.cli.plan import plan_of
from onecard.cli.plan_svg import write_svg
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    draw_screen(PICTURES / "plan.svg")
    write_svg(plan_of(load_fleet(examples_folder() / "justnews-rtx3090.yaml")), PICTURES / "card.svg")


def draw_screen(picture: Path) -> None:
    """The terminal as rich draws it, with a font that is there instead of one from the network."""
    file = examples_folder() / "style-a10g.yaml"
    paper = Console(
        record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    plan_output.Console = functools.partial(lambda console, **_: console, paper)  # type: ignore[misc, assignment]
    plan_output.show(plan_of(load_fleet(file)), Path("examples") / file.name)
    svg = paper.export_svg(title="onecard plan examples/style-a10g.yaml", theme=MONOKAI)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace(
        "Fira Code", "DejaVu Sans Mono"
    )  # no network
    picture.parent.mkdir(exist_ok=True)
    picture.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
