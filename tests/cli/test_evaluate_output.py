"""The bar on a terminal: what it says while loading and asking, and that it is gone afterwards."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from onecard.cli import evaluate_output
from onecard.cli.evaluate import Progress
from onecard.cli.evaluate_output import bar, visible


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would get on standard error."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(evaluate_output, "console_of", lambda stderr=False: console)
    return written


def test_the_bar_names_what_it_waits_for_and_counts_answers(screen: io.StringIO) -> None:
    with bar(quiet=False) as on_progress:
        on_progress(Progress("loading [mini]"))
        on_progress(Progress("asking style@v0001", 1, 6))
        on_progress(Progress("asking style@v0001", 5, 6))
        on_progress(Progress("asking base", 6, 6))
    shown = screen.getvalue()
    assert "asking base" in shown and "6/6" in shown
    assert "0/?" not in shown


def test_quiet_says_nothing(screen: io.StringIO) -> None:
    with bar(quiet=True) as on_progress:
        on_progress(Progress("loading"))
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred\x07", "\ufffd[31mred\ufffd"),
        ("[bold]not markup[/]", "[bold]not markup[/]"),
    ],
)
def test_text_is_shown_as_it_stands(text: str, shown: str) -> None:
    written = io.StringIO()
    Console(file=written, width=100, highlight=False).print(visible(text))
    assert written.getvalue() == shown + "\n"
