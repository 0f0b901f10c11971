"""What is shown: counts in words, licences, bars on a terminal and lines in a log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onecard.catalog.units import GIB
from onecard.cli import fetch_output
from onecard.cli.fetch_output import bars, licence_words, show_plan
from onecard.cli.fetch_targets import Skipped, Target
from onecard.weights.fetch import FileState, LeftOut, Listing, RemoteFile, RepoPlan
from onecard.weights.fetch_transfer import Track

LARGE = RemoteFile("model.safetensors", 10 * GIB, "a" * 64)
SMALL = RemoteFile("config.json", 1000, "b" * 40)
LISTING = Listing("org/name", "main", "c" * 40, (SMALL, LARGE), licence="llama-3.1-community", gated=True)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What goes to the console, as text; `shown.terminal()` makes it a terminal."""
    text = io.StringIO()

    def use(terminal: bool) -> io.StringIO:
        monkeypatch.setattr(
            fetch_output, "console", lambda: Console(file=text, force_terminal=terminal, width=120, soft_wrap=True)
        )
        return text

    return use


def test_the_plan_is_told_in_words(shown: Any) -> None:
    text = shown(False)
    states = (FileState(SMALL, "whole", 1000), FileState(LARGE, "partial", 4 * GIB))
    left_out = tuple(LeftOut(f"part-{number}.bin", "a pickle") for number in range(5))
    plan = RepoPlan(LISTING, states, left_out)
    show_plan([(Target("org/name", "why so", "beware"), plan)], [Skipped("tiny", "here")], 20 * GIB, Path("/models"))
    said = text.getvalue()
    for words in (
        "tiny: here", "org/name at cccccccccccc: why so", "Llama 3.1 Community License, not fully open; gated", "note: beware",
        "2 files, 10.00 GiB; 1 whole; 1 partial (4.00 GiB of it here, resumed)", "part-0.bin, part-1.bin, part-2.bin and 2 more (a pickle)",
        "to fetch: 6.00 GiB; 20.00 GiB free in /models",
    ):  # fmt: skip
        assert words in said


def test_a_short_file_says_from_where_it_resumes(shown: Any) -> None:
    text = shown(False)
    plan = RepoPlan(LISTING, (FileState(LARGE, "damaged", held_bytes=4 * GIB, fault="short"),))
    show_plan([(Target("org/name", "why"), plan)], [], 0, Path("/models"))
    assert "damaged: model.safetensors: short; it is fetched again; resumes from 4.00 GiB" in text.getvalue()


def test_a_licence_is_what_its_owner_wrote_and_what_the_catalog_knows() -> None:
    assert licence_words("mit") == "MIT License, fully open"
    assert "the catalog does not know it" in licence_words("my-licence")
    assert "allows nothing" in licence_words(None)


def test_bars_show_what_moves_and_the_sum(shown: Any) -> None:
    text = shown(True)
    plan = RepoPlan(LISTING, (FileState(SMALL, "whole", 1000), FileState(LARGE, "absent")))
    track = Track(LISTING, LARGE, done_bytes=5 * GIB, phase="fetching", note="the hub answers 503: again in 1 s")
    with bars([plan], quiet=False) as tick:
        tick([track])
        tick.__self__.shown.refresh()  # type: ignore[attr-defined]
        track.phase = "checking"
        tick([track])
        track.phase = "whole"
        tick([track])
    said = text.getvalue()
    assert (
        "model.safetensors" in said
        and "in all" in said
        and "5.0/10.0 GiB" in said
        and "10.0/10.0 GiB" in said
        and "again in 1 s" in said
    )


def test_a_log_gets_a_line_for_each_file_once(shown: Any) -> None:
    text = shown(False)
    track = Track(LISTING, LARGE, note="another process fetches it")
    with bars([], quiet=False) as tick:
        tick([track])
        tick([track])
        track.phase = "whole"
        tick([track])
    assert text.getvalue().splitlines() == [
        "org/name: model.safetensors: another process fetches it",
        "org/name: model.safetensors: 10.00 GiB, whole",
    ]


def test_quiet_is_quiet(shown: Any) -> None:
    text = shown(True)
    with bars([], quiet=True) as tick:
        tick([Track(LISTING, LARGE, phase="whole")])
    assert text.getvalue() == ""
