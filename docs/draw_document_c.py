"""Writes docs/document-c.md: document C's choice of three models for three agents, planned, with our ranges beside its claims.

`python docs/draw_document_c.py` rewrites the page, `--check` exits 1 when it differs from what the planner says now. Every figure on the
page is computed here; the text around them has none of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onecard.cli.claims_check import check
from onecard.cli.claims_output import claimed, expected
from onecard.cli.claims_subjects import memory_range, planned, training_of
from onecard.evidence.claims import Subject, claims_about
from onecard.evidence.claims_file import shipped_claims
from onecard.planner.chance import chance
from onecard.planner.requests import AgentSpeed

PAGE = Path(__file__).parent / "document-c.md"
CARD, CALLERS, CONTEXT, PROMPT = "mi300x", 4, 4096, 300  # callers, context and prompt as in examples/qa-mi300x.yaml
ROWS, LONGEST = 1000, 4096  # rows to price, each as long as the document's recipes allow


@dataclass(frozen=True)
class Candidate:
    """A model, and the recipe it is trained with."""

    name: str
    id: str
    recipe: str


@dataclass(frozen=True)
class Job:
    """What an agent is asked for: so many tokens within so many seconds."""

    name: str
    seconds: float
    new_tokens: int
    recipe: str


CANDIDATES = (
    Candidate("Phi-4 14B", "microsoft/phi-4", "question-writer"),
    Candidate("Qwen3-8B", "Qwen/Qwen3-8B", "question-answerer"),
    Candidate("Mistral-NeMo-12B", "mistralai/Mistral-Nemo-Instruct-2407", "conversation"),
    Candidate("Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", "question-writer"),
    Candidate("Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", "question-answerer"),
    Candidate("Mistral-7B", "mistralai/Mistral-7B-Instruct-v0.3", "conversation"),
)
JOBS = (Job("question", 10, 200, "question-writer"), Job("answer", 6, 50, "question-answerer"))
Form = tuple[str, Literal["none", "nf4", "fp8"], Literal["local", "vllm"]]
FORMS: tuple[Form, ...] = (
    ("nf4, in process", "nf4", "local"),
    ("16 bits, vLLM", "none", "vllm"),
    ("fp8, vLLM", "fp8", "vllm"),
)


def subject(candidate: Candidate, form: Form, job: Job) -> Subject:
    """One candidate doing one job, with its adapter."""
    return Subject(
        model=candidate.id,
        quantization=form[1],
        engine=form[2],
        card=CARD,
        callers=CALLERS,
        context=CONTEXT,
        prompt_tokens=PROMPT,
        new_tokens=job.new_tokens,
        recipe=job.recipe,
    )


def page() -> str:
    """The whole page."""
    return "\n".join((*introduction(), *deadlines(), *training(), *claims())) + "\n"


def introduction() -> Iterator[str]:
    question, answer = JOBS
    yield "# Document C's choice, planned"
    yield ""
    yield "<!-- written by docs/draw_document_c.py; do not edit -->"
    yield ""
    yield (
        f"Document C wants a question of about {question.new_tokens} tokens within {question.seconds:g} s and an answer of about "
        f"{answer.new_tokens} within {answer.seconds:g} s from one MI300X, and weighs six models. Below each is planned in the form "
        "the document trains in and in two that serve faster. Nothing here was measured on that card: ranges are what the planner "
        "expects nine of ten measured times to fall into, and the claims are the document's own."
    )
    yield ""
    yield (
        f"Prompts of {PROMPT} tokens, {CALLERS} callers and {CONTEXT:,} tokens of context are those of "
        "[examples/qa-mi300x.yaml](../examples/qa-mi300x.yaml); the document does not say them. `onecard plan examples/qa-mi300x.yaml` "
        "shows the three first models together on the card, and `onecard claims check --document C` the verdicts."
    )
    yield ""


def deadlines() -> Iterator[str]:
    """Memory, time and probability of every candidate in every form, for both jobs."""
    yield "## Deadlines"
    yield ""
    yield (
        "`alone`: one caller. `95%`: the time within which 95 of 100 requests are answered while all callers ask. `in time`: the "
        "probability that this is within the deadline."
    )
    yield ""
    heads = ["model", "form", "memory GiB"]
    for job in JOBS:
        heads += [f"{job.name} in {job.seconds:g} s: alone", "95%", "in time"]
    yield from table(heads, [deadline_row(candidate, form) for candidate in CANDIDATES for form in FORMS])


def deadline_row(candidate: Candidate, form: Form) -> list[str]:
    cells = [candidate.name, form[0]]
    for number, job in enumerate(JOBS):
        made = planned(subject(candidate, form, job), Path())
        if number == 0:
            low, _, high = memory_range(made.serving)
            cells.append(span(low, high))
        cells += times(made.agents[0], job)
    return cells


def times(agent: AgentSpeed, job: Job) -> list[str]:
    """A lone caller's range, the percentile's range, and the probability that it is in time."""
    if agent.alone is None or agent.busy is None:
        return ["-", "-", "-"]
    probability = chance(agent.busy, job.seconds)
    shown = "over 99%" if probability > 0.99 else "under 1%" if probability < 0.01 else f"{probability:.0%}"
    return [f"{span(agent.alone.low, agent.alone.high)} s", f"{span(agent.busy.low, agent.busy.high)} s", shown]


def training() -> Iterator[str]:
    """What a run takes and costs, and how many tokens the claimed hours would be."""
    hours = next(claim for claim in shipped_claims().claims if claim.id == "c4-hours-phi4")
    low, high = hours.bounds
    yield "## Training"
    yield ""
    yield (
        f"The document expects {claimed(hours)} an agent without saying how many rows it has. So the table prices {ROWS:,} rows of "
        f"{LONGEST:,} tokens, the longest its recipes take, in the recipe's three epochs, and says how many tokens the claimed hours "
        "would train instead. Each run has the card to itself; the base is in nf4; prices are the catalog's, with provider and date "
        "in `onecard cards show mi300x`."
    )
    yield ""
    heads = ["model", "recipe", "peak GiB", "hours", "USD", f"million tokens in {low:g} to {high:g} h"]
    yield from table(heads, [training_row(candidate, low, high) for candidate in CANDIDATES])


def training_row(candidate: Candidate, low_hours: float, high_hours: float) -> list[str]:
    run_of = Subject(model=candidate.id, card=CARD, recipe=candidate.recipe, rows=ROWS, row_tokens=LONGEST)
    run = training_of(planned(run_of, Path()), run_of)
    least, _, most = memory_range(run.ledger)
    cells = [candidate.name, candidate.recipe, span(least, most)]
    if run.time is None:
        return [*cells, "-", "-", "-"]
    seconds, tokens = run.time.seconds, run.time.tokens / 1e6
    usd = "-" if run.time.usd is None else span(*run.time.usd)
    trained = low_hours * 3600 * tokens / seconds.high, high_hours * 3600 * tokens / seconds.low
    return [*cells, span(seconds.low / 3600, seconds.high / 3600), usd, span(*trained)]


def claims() -> Iterator[str]:
    """Every claim of the document with its verdict."""
    yield "## What the document claims or asks for"
    yield ""
    rows = [check(claim, Path()) for claim in claims_about(shipped_claims().claims, document="C")]
    lines = [
        [
            row.claim.statement,
            claimed(row.claim),
            expected(row),
            row.judgement.verdict,
            why(row.judgement.why, row.remark),
        ]
        for row in rows
    ]
    yield from table(["claim", "claimed", "predicted", "verdict", "why"], lines)


def why(reason: str, remark: str | None) -> str:
    return f"{reason}; {remark}" if remark else reason


def span(low: float, high: float) -> str:
    """A range with two figures that count."""
    return f"{figure(low)} to {figure(high)}" if figure(low) != figure(high) else figure(low)


def figure(value: float) -> str:
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{float(f'{value:.2g}'):g}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table and an empty line."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


def main() -> int:
    new = page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != new:
            print(f"{PAGE.name} differs from what the planner says; run `python docs/{Path(__file__).name}`")
            return 1
        return 0
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
