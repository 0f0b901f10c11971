"""One evaluation from held-out rows to a report: prepare the questions, ask the candidate and its rivals the same ones, judge.

Whoever answers is a callable; where it comes from (an engine, a URL, a test) is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard.errors import DataError, InputError
from onecard.evaluation.demands import GENERATED, SCORED_CANDIDATES, WITH_CANDIDATES
from onecard.evaluation.gate import Absent, GateReport, RowRecord, judge, suite_digest
from onecard.evaluation.leaks import TrainingRow, refuse_leaks
from onecard.evaluation.questions import Question, pick, read_questions
from onecard.evaluation.regressions import OtherTask, with_regressions
from onecard.evaluation.suite import (
    Answer,
    Ask,
    CountTokens,
    Likelihoods,
    Score,
    ScoredAnswer,
    ask_all,
    ranking,
    score,
    score_all,
)
from onecard.fleet.schema import Check, Deadline, Preset, Suite

OnAnswer = Callable[[str, int, int], None]  # who is asked, answers so far, of how many


@dataclass(frozen=True)
class Exam:
    """What will be asked. `trial`: fewer rows than the suite demands, too few for a verdict. `ranks`: the agent's task is rerank.

    `suite` holds the checks of regressions too, and `presets` theirs under names of their own.
    """

    suite: Suite
    presets: Mapping[str, Preset]
    questions: Sequence[Question]
    seed: int
    trial: bool
    leaks_checked: bool
    deadline: Deadline | None = None
    ranks: bool = False

    def checks(self, question: Question) -> list[Check]:
        return [check for check in self.suite.checks if check.preset == question.preset]

    def generates(self, question: Question) -> bool:
        """Whether an answer is written, or ranked, and not only scored."""
        checks = self.checks(question)
        return any(check.valid_json or check.in_time or _demands(check, GENERATED) for check in checks)

    def alone(self, question: Question) -> bool:
        return any(check.in_time for check in self.checks(question))

    def likelihoods(self, question: Question) -> tuple[bool, bool]:
        """Whether its candidates and its reference are scored beside what is generated."""
        checks = self.checks(question)
        candidates = any(_demands(check, SCORED_CANDIDATES) for check in checks)
        ranked = self.ranks and self.generates(question)
        return candidates and not ranked, any(check.perplexity is not None for check in checks)

    @property
    def needs_scores(self) -> bool:
        return self.ranks or any(any(self.likelihoods(question)) for question in self.questions)


@dataclass(frozen=True)
class Answerers:
    """Who is asked, at most `concurrency` questions at once. `count_tokens` None: the answerers' own counts are taken.

    `score` and `scores_against` give likelihoods; `cannot_score` says why they do not. `absent`: rivals that are not asked, and why.
    """

    name: str
    candidate: Ask
    count_tokens: CountTokens | None
    concurrency: int
    against: Mapping[str, Ask] = field(default_factory=dict)
    score: Score | None = None
    scores_against: Mapping[str, Score] = field(default_factory=dict)
    cannot_score: str = "who answers gives no likelihoods"
    absent: Mapping[str, Absent] = field(default_factory=dict)


def prepare(
    suite: Suite,
    presets: Mapping[str, Preset],
    file: Path,
    *,
    training: Iterable[TrainingRow] | None,
    rows: int | None,
    seed: int,
    others: Sequence[OtherTask] = (),
    deadline: Deadline | None = None,
    ranks: bool = False,
) -> Exam:
    """The questions of a suite, its data at `file`; `rows` overrides the suite's number. DataError for faults and for leaks.

    Every row of the file is held against the training rows, asked or not; `training` None skips that. `others` are the tasks of the
    suite's regressions.
    """
    questions = read_questions(file, presets)
    asked = suite if rows is None else suite.model_copy(update={"rows": rows})
    more = with_regressions(asked, presets, others, rows, seed)
    if training is not None:
        refuse_leaks([*questions, *more.all_questions], training)
    exam = Exam(
        suite=more.suite,
        presets=more.presets,
        questions=[*pick(questions, asked, seed), *more.questions],
        seed=seed,
        trial=asked.rows < suite.rows or more.fewer,
        leaks_checked=training is not None,
        deadline=deadline,
        ranks=ranks,
    )
    for question in exam.questions:
        if question.best is None and (ranks or any(_demands(c, WITH_CANDIDATES) for c in exam.checks(question))):
            allowed = 'a row such as {"query": ..., "candidates": ["...", "..."], "best": 0}'
            raise DataError("the row has no candidates to choose from", where=question.where, allowed=allowed)
    return exam


async def hold(exam: Exam, who: Answerers, on_answer: OnAnswer = lambda name, done, total: None) -> GateReport:
    """Asks the candidate, then each rival, and judges. Errors are those of `suite.ask_all`; InputError where likelihoods are missing."""
    if exam.needs_scores and (who.score is None or set(who.scores_against) != set(who.against)):
        raise InputError(
            f"the suite needs log-likelihoods, and {who.cannot_score}",
            where="suite.checks",
            allowed="exact, choice, overlap and the other checks of written answers",
            next_step="judge it without --url, or by a server whose completions know echo and logprobs",
        )
    candidates = await _scored(exam, who, who.name, who.candidate, who.score, on_answer, alone=True)
    rivals = {
        name: await _scored(exam, who, name, ask, who.scores_against.get(name), on_answer, alone=False)
        for name, ask in who.against.items()
    }
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
    digest = suite_digest(exam.suite, exam.presets, exam.questions)
    return judge(
        exam.suite,
        rows,
        digest,
        exam.seed,
        deadline=exam.deadline,
        concurrency=who.concurrency,
        absent=who.absent,
    )


async def _scored(
    exam: Exam, who: Answerers, name: str, ask: Ask, likely: Score | None, on_answer: OnAnswer, *, alone: bool
) -> list[ScoredAnswer]:
    """All rows of one answerer: answers at full load, then likelihoods, then, for latency, the same answers one at a time."""
    writes = ranking(likely) if exam.ranks and likely is not None else ask

    def step(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_answer(what, done, total)

    asked = [question for question in exam.questions if exam.generates(question)]
    answers: dict[int, Answer] = dict(
        zip(
            map(id, asked), await ask_all(asked, writes, concurrency=who.concurrency, on_answer=step(name)), strict=True
        )
    )
    found: dict[int, Likelihoods] = {}
    to_score = [question for question in exam.questions if any(exam.likelihoods(question))]
    if to_score and likely is not None:
        told = step(f"{name}, likelihoods")
        scores = await score_all(to_score, likely, exam.likelihoods, concurrency=who.concurrency, on_answer=told)
        found = dict(zip(map(id, to_score), scores, strict=True))
    timed = [question for question in exam.questions if alone and exam.alone(question)]
    single = await ask_all(timed, writes, concurrency=1, on_answer=step(f"{name}, one at a time"))
    seconds = {id(question): answer.seconds for question, answer in zip(timed, single, strict=True)}
    return [
        score(q, answers.get(id(q)), who.count_tokens, found.get(id(q)), seconds.get(id(q))) for q in exam.questions
    ]


def _demands(check: Check, names: Sequence[str]) -> bool:
    return any(getattr(check, name) is not None for name in names)


def bare(presets: Mapping[str, Preset]) -> dict[str, Preset]:
    """The presets for the bare base: to it an adapter's token is only strange text."""
    return {name: preset.model_copy(update={"token": None}) for name, preset in presets.items()}
