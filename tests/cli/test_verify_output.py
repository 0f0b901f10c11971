"""The report as it is read: marks, figures, next steps, and nothing of an answer taken for markup."""

from __future__ import annotations

import io

from rich.console import Console

from onecard.cli.verify_output import folded, line, show, visible
from onecard.cli.verify_records import Check

CHECKS = [
    Check("plan", "serving", "fits", "pass", "0.55 GiB", "at most 4 GiB", "onecard plan"),
    Check(
        "style", "writer", "length", "fail", "90 tokens", "at most 49", "said [bold]x[/bold]\x1b[31m", "train it again"
    ),
    Check("load", "base", "nf4", "could not be checked", "no card here", "nf4"),
    Check("load", "other", "nf4", "could not be checked", "no card here", "nf4"),
    Check("gate", "writer", "passed", "not applicable", "no suite"),
]


def shown(checks: list[Check]) -> str:
    text = io.StringIO()
    show(checks, "trial", 3.2, console=Console(file=text, width=120, markup=False, highlight=False))
    return text.getvalue()


def test_the_report_says_what_was_seen_what_was_needed_and_what_to_do() -> None:
    text = shown(CHECKS)
    for words in ("trial: 5 checks in 3 s", "FAIL", "90 tokens", "at most 49", "next: train it again", "unseen", "n/a"):
        assert words in text
    assert "1 failed  (1 pass, 1 fail, 1 not applicable, 2 could not be checked)" in text
    assert "[bold]x[/bold]" in text and "\x1b" not in text
    assert text.count("\n    no card here\n") == 1, "one reason is said once, with everything it stands for"
    assert "not verified as a whole" in shown(CHECKS[2:])


def test_a_line_has_no_control_characters() -> None:
    assert line(CHECKS[1]).startswith("FAIL   style writer: length")
    assert visible("a\x1b[2Jb") == "a\N{REPLACEMENT CHARACTER}[2Jb"


def test_clear_refusals_are_one_line_and_what_is_not_one_stands_alone() -> None:
    refused = [
        Check("requests", name, "POST /generate", "pass", "400: no", "400") for name in ("bad JSON", "empty prompt")
    ]
    wrong = Check("requests", "huge body", "POST /generate", "fail", "answered 500", "413", "", "say so")
    after = Check("requests", "after all of them", "the service still answers", "pass", "200", "200")
    assert [check.subject for check in folded([*refused, wrong, after])] == [
        "2 wrong requests", "huge body", "after all of them",
    ]  # fmt: skip
    assert "bad JSON, empty prompt" in shown([*refused, wrong, after])
    assert folded(refused[:1]) == refused[:1]
