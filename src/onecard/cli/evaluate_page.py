"""The evaluation as a Markdown page beside its JSON: the checks, what kept it from passing, and telling rows side by side.

Answers are data: nothing in them is taken for markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from onecard.cli.evaluate_output import difference, name_of, needed, note
from onecard.evaluation.demands import figure_text
from onecard.evaluation.report import EvaluationReport, most_telling

ROWS = 10
SAID = {"passed": "passed", "failed": "**failed**", "undecided": "**cannot tell**"}


def page(report: EvaluationReport) -> str:
    """The whole page."""
    judged, gate = report.judged, report.gate
    rivals = list(dict.fromkeys(name for check in gate.checks for name in check.against))
    against = f"; production is {judged.production}" if judged.production else ""
    lines = [
        f"# {plain(name_of(report))}: {SAID[gate.outcome]}",
        "",
        f"{len(gate.rows)} held-out rows of {plain(report.data)}, {report.ended_at}, onecard {report.onecard_version}. "
        f"Base {plain(judged.model)} ({judged.quantization}){against}. Suite {gate.suite_digest[:12]}, seed {gate.seed}."
        f"{' A trial: no verdict.' if report.trial else ''}",
        "",
        *_table(
            [
                "preset",
                "answers",
                "asked",
                "needed",
                "observed",
                *(f"candidate - {r} (95%)" for r in rivals),
                "verdict",
            ],
            [
                [
                    *(check.preset, check.check, str(check.asked), needed(check)),
                    figure_text(check.statistic, check.observed, check.threshold),
                    *(difference(check, rival) for rival in rivals),
                    SAID[check.outcome],
                ]
                for check in gate.checks
            ],
        ),
        "",
        *(f"- {plain(sentence)}" for check in gate.checks for sentence in check.why),
        "",
        "Intervals are paired bootstrap intervals of 95%. A comparison passes only by its whole interval, so a candidate that is worse "
        "in any one of them passes with at most 2.5% probability; a good one may still come out as `cannot tell`.",
        "",
    ]
    for place, row in most_telling(gate, ROWS):
        names = sorted(row.against, key=lambda name: name != "production")
        answers = [row.candidate, *(row.against[name] for name in names)]
        lines += [f"## Line {row.line}, {plain(row.preset)}: {plain(place)}", "", plain(row.prompt), ""]
        texts = [answer.text if answer.generated else "(not written)" for answer in answers]
        notes = ["", *(note(answer) for answer in answers)]
        lines += [*_table(["reference", "candidate", *names], [[row.reference, *texts], notes]), ""]
    return "\n".join(lines)


def plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    for special in "\\`*_[]<>|#&~":
        shown = shown.replace(special, f"&#{ord(special)};" if special in "<>&|" else f"\\{special}")
    return shown.replace("\n", "<br>")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell if cell in SAID.values() else plain(cell) for cell in cells)} |"

    return [line(headers), f"|{' --- |' * len(headers)}", *map(line, rows)]
