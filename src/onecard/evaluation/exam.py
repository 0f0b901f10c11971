"""One evaluation from held-out rows to a report: prepare the questions, ask the candidate and its rivals the same ones, judge.

Whoever answers is a callable; where it comes from (an engine, a URL, a test) is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard.evaluation.gate import GateReport, RowRecord, judge, suite_digest
from onecard.evaluation.leaks import TrainingRow, refuse_leaks
from onecard.evaluation.questions import Question, pick, read_questions
from onecard.evaluation.suite import Ask, CountTokens, ScoredAnswer, ask_all, score
from onecard.fleet.schema import Preset, Suite

OnAnswer = Callable[[str, int, int], None]  # who is asked, answers so far, of how many


@dataclass(frozen=True)
class Exam:
    """What will be asked. `trial`: fewer rows than the suite demands, too few for a verdict."""

    suite: Suite
    presets: Mapping[str, Preset]
    questions: Sequence[Question]
    seed: int
    trial: bool
    leaks_checked: bool


@dataclass(frozen=True)
class Answerers:
    """Who is asked, at most `concurrency` questions at once. `count_tokens` None: the answerers' own counts are taken."""

    name: str
    candidate: Ask
    count_tokens: CountTokens | None
    concurrency: int
    against: Mapping[str, Ask] = field(default_factory=dict)


def prepare(
    suite: Suite,
    presets: Mapping[str, Preset],
    file: Path,
    *,
    training: Iterable[TrainingRow] | None,
    rows: int | None,
    seed: int,
) -> Exam:
    """The questions of a suite, its data at `file`; `rows` overrides the suite's number. DataError for faults and for leaks.

    Every row of the file is held against the training rows, asked or not; `training` None skips that.
    """
    questions = read_questions(file, presets)
    if training is not None:
        refuse_leaks(questions, training)
    asked = suite if rows is None else suite.model_copy(update={"rows": rows})
    return Exam(
        suite=asked,
        presets=presets,
        questions=pick(questions, asked, seed),
        seed=seed,
        trial=asked.rows < suite.rows,
        leaks_checked=training is not None,
    )


async def hold(exam: Exam, who: Answerers, on_answer: OnAnswer = lambda name, done, total: None) -> GateReport:
    """Asks the candidate, then each rival, and judges. Errors are those of `suite.ask_all`."""

    async def scored(name: str, ask: Ask) -> list[ScoredAnswer]:
        answers = await ask_all(
            exam.questions,
            ask,
            concurrency=who.concurrency,
            on_answer=lambda done, total: on_answer(name, done, total),
        )
        pairs = zip(exam.questions, answers, strict=True)
        return [score(question, answer, who.count_tokens) for question, answer in pairs]

    candidates = await scored(who.name, who.candidate)
    rivals = {name: await scored(name, ask) for name, ask in who.against.items()}
    rows = [
        RowRecord(
            line=question.line,
            preset=question.preset,
            prompt=question.prompt,
            reference=question.completion,
            candidate=candidates[number],
            against={name: answers[number] for name, answers in rivals.items()},
        )
        for number, question in enumerate(exam.questions)
    ]
    return judge(exam.suite, rows, suite_digest(exam.suite, exam.presets, exam.questions), exam.seed)


def bare(presets: Mapping[str, Preset]) -> dict[str, Preset]:
    """The presets for the bare base: to it an adapter's token is only strange text."""
    return {name: preset.model_copy(update={"token": None}) for name, preset in presets.items()}
