"""How a ledger looks: bars in proportion, what is too long in red, colours only where they belong."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from onecard.cli import data_output
from onecard.cli.data_output import bar_of, counting, histogram, ledger_table, print_remarks
from onecard.cli.data_samples import Part, Sample
from onecard.training.ledger import Ledger, RowTokens
from onecard.training.remarks import Remark


def ledger(*lengths: int, **changes) -> Ledger:
    rows = tuple(RowTokens(f"a:{n}", None, 1, n - 1, n, True, n > 50) for n in lengths)
    return Ledger(rows, (), (), 50, **changes)


def shown(*things, colours: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=colours, color_system="standard" if colours else None)
    for thing in things:
        console.print(thing)
    return out.getvalue()


@pytest.mark.parametrize(("count", "halves"), [(0, 0), (1, 1), (10, 1), (100, 10), (500, 50), (1000, 100)])
def test_bars_are_in_proportion_and_nothing_that_exists_vanishes(count, halves):
    bar = bar_of(count, 1000, 50)
    assert 2 * bar.count(data_output.FULL) + bar.count(data_output.HALF) == halves


def test_the_histogram_has_a_line_for_every_range_and_red_for_what_is_too_long():
    lines = shown(histogram(ledger(10, 10, 12, 95)), colours=True).splitlines()
    assert lines[0].lstrip().startswith("10-") and "3" in lines[0]
    assert "\x1b[31m" in lines[-1] and "\x1b[31m" not in lines[0]


def test_warnings_stand_below_the_table_that_training_shows():
    made = ledger(10, warnings=(Remark("a:1", "[bold]odd[/bold]", "mend it"),))
    assert "warning: a:1: [bold]odd[/bold]" in shown(ledger_table(made))
    assert "warning" not in shown(ledger_table(made, with_warnings=False))


def test_only_the_word_warning_is_coloured():
    out = io.StringIO()
    print_remarks(Console(file=out, force_terminal=True, color_system="standard"), [Remark("a:1", "odd", "mend it")])
    assert "\x1b[1;33mwarning: \x1b[0ma:1: odd" in out.getvalue()
    assert "next: \x1b[0mmend it" in out.getvalue()


def test_learned_read_and_special_parts_differ():
    out = io.StringIO()
    parts = (Part("<s>", False, True), Part("ask", False, False), Part("told", True, False), Part("</s>", True, True))
    data_output.print_samples(
        Console(file=out, force_terminal=True, color_system="standard", width=60), [Sample("a:1", None, 4, parts)]
    )
    body = out.getvalue()
    assert "\x1b[35m<s>" in body and "\x1b[2mask" in body and "\x1b[4;32mtold" in body and "\x1b[4;35m</s>" in body


def test_a_bar_appears_on_a_terminal_once_it_takes_a_while(monkeypatch):
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=100)
    monkeypatch.setattr(data_output, "console_of", lambda stderr: terminal)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(data_output, "monotonic", lambda: clock.now)
    with counting(quiet=False) as tell:
        tell(10, 0)
        clock.now = 5.0
        tell(1000, 0)
        tell(512, 2000)
    assert "counting tokens: 512 of 2,000 rows" in out.getvalue()
    out.truncate(0)
    with counting(quiet=True) as tell:
        tell(512, 2000)
    assert "512" not in out.getvalue()
