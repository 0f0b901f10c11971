"""Draws docs/pictures/plan.svg, the picture in the README: what `onecard plan examples/style-a10g.yaml` prints."""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from onecard.cli import plan_output
from onecard.cli.plan import plan_of
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet

PICTURE = Path(__file__).parent / "pictures" / "plan.svg"


def main() -> None:
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
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
