"""The Markdown page: everything in it reads as it stands, whatever the answers hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onecard.cli.evaluate_page import page, plain
from onecard.evaluation.gate import RowRecord, judge
from onecard.evaluation.report import EvaluationReport, Judged
from onecard.evaluation.suite import ScoredAnswer
from onecard.fleet.schema import Check, Suite

HOSTILE = "a | b\n# big <script>x</script> `c` **d** \x1b[31m"


def a_report(text: str) -> EvaluationReport:
    answer = ScoredAnswer(
        text=text, finish_reason="stop", seconds=0.1, tokens=30, ended_by_itself=True, repetition=0, overlap=0.5
    )
    rows = [
        RowRecord(
            line=n, preset="default", prompt=text, reference="r", candidate=answer,
            against={"base": answer.model_copy(update={"tokens": 3}), "production": answer},
        )
        for n in range(1, 4)
    ]  # fmt: skip
    gate = judge(Suite(data="d", checks=(Check(max_tokens=10, no_worse_than={"base": 0.1}),)), rows, "a" * 64, 0)
    judged = Judged(
        fleet="f", fleet_digest="0" * 64, agent="writer", adapter="style@v0002", digest="1" * 64, model="embedded:mini",
        quantization="nf4", tokens_counted_by="base tokenizer", production="v0001",
    )  # fmt: skip
    return EvaluationReport(
        started_at="2026-11-21T12:00:00+00:00", ended_at="2026-11-21T12:01:00+00:00", onecard_version="1", judged=judged,
        data="test.jsonl", trial=False, leaks_checked=True, gate=gate,
    )  # fmt: skip


def test_it_tells_the_verdict_why_and_the_failing_rows_side_by_side() -> None:
    text = page(a_report("It is so."))
    assert text.startswith("# writer/style@v0002: **failed**\n")
    assert "production is v0001" in text and "seed 0" in text
    assert "- default: 0 of 3 answers (0%) end by themselves within 10 tokens; at least 95% must" in text
    assert "| reference | candidate | production | base |" in text
    assert "-100.0 points" in text


def test_hostile_answers_do_not_become_markup() -> None:
    text = page(a_report(HOSTILE))
    assert "<script>" not in text and "\x1b" not in text and "\n# big" not in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| r |")}
    assert widths <= {5}


@given(st.text(max_size=60))
def test_a_text_stays_in_its_cell(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown and "|" not in shown and "<script" not in shown
