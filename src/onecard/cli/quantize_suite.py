"""The agent's own suite, asked of a model before and after it is quantized: which questions, and what the answers come to.

No adapter answers: both are the bare model, whose presets have no token. What compares with production, needs a deadline or
likelihoods is left out; it is the gate's, and asked of what is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onecard.weights.quantize_order import Asked, Said

if TYPE_CHECKING:
    from onecard.evaluation.exam import Exam
    from onecard.evaluation.questions import Question
    from onecard.evaluation.suite import Answer
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.schema import Suite

SEED = 0
SOURCE, MADE = "source", "quantized"
# Demands of a check that are no business of written answers, and what they are when nothing is demanded.
LEFT_OUT: Mapping[str, Any] = {
    "in_time": False, "no_worse_than": {}, "better_than": None, "accuracy": None, "mrr": None, "perplexity": None,
}  # fmt: skip


@dataclass(frozen=True)
class SuiteAsked:
    """The suite's questions, and the same as the model reads them."""

    agent: str
    exam: Exam
    questions: tuple[Asked, ...]

    def judged(self, before: list[Said], after: list[Said]) -> dict[str, Any]:
        """Figures of what was made, each with its paired difference to the source, what was made minus the source."""
        from onecard.evaluation.exam import Answerers, hold

        who = Answerers(
            name=MADE,
            candidate=_replay(self.exam, after),
            count_tokens=None,
            concurrency=1,
            against={SOURCE: _replay(self.exam, before)},
        )
        report = asyncio.run(hold(self.exam, who))
        return {
            "agent": self.agent,
            "suite_digest": report.suite_digest,
            "asked": len(report.rows),
            "same_answers": sum(one.text == other.text for one, other in zip(before, after, strict=True)) / len(after),
            "checks": [
                {
                    "preset": check.preset,
                    "check": check.check,
                    "statistic": check.statistic,
                    "observed": check.observed,
                    "threshold": check.threshold,
                    "kept": check.observed >= check.threshold if check.at_least else check.observed <= check.threshold,
                    "difference": check.against[SOURCE].model_dump(mode="json"),
                }
                for check in report.checks
            ],
        }


def suite_of(
    loaded: LoadedFleet, agent: str, tokenizer: Any, stop_ids: tuple[int, ...], chat: bool
) -> SuiteAsked | None:
    """What is asked of both; None for an agent without a suite, or whose suite has nothing for written answers.

    DataError and FleetError for a suite's file that is missing or faulty.
    """
    from onecard.engines.local.tokens import chat_text
    from onecard.evaluation.exam import bare, prepare

    spec = loaded.agent(agent)
    suite = _of_written_answers(spec.suite) if spec.suite and (spec.task, spec.input) == ("generate", "text") else None
    if suite is None:
        return None
    file = loaded.existing(suite.data, f"agents.{agent}.suite.data")
    exam = prepare(suite, bare(spec.presets), file, training=None, rows=None, seed=SEED)

    def asked(question: Question) -> Asked:
        preset, text = exam.presets[question.preset], question.prompt
        if chat:
            text = chat_text(tokenizer, [{"role": "user", "content": text}], answer_next=True)
        number = question.number(SEED)
        return Asked(text, preset.max_new_tokens, preset.temperature, preset.top_p, number, stop_ids)

    return SuiteAsked(agent, exam, tuple(map(asked, exam.questions)))


def _of_written_answers(suite: Suite) -> Suite | None:
    from onecard.evaluation.gate import demands_of

    checks = [check.model_copy(update=dict(LEFT_OUT)) for check in suite.checks]
    left = tuple(check for check in checks if demands_of(check))
    return suite.model_copy(update={"checks": left, "regressions": (), "lm_eval": None}) if left else None


def _replay(exam: Exam, said: list[Said]) -> Any:
    """An answerer that says what was said."""
    from onecard.evaluation.suite import Answer

    known = {id(question): one for question, one in zip(exam.questions, said, strict=True)}

    async def ask(question: Question) -> Answer:
        one = known[id(question)]
        return Answer(one.text, one.reason, 0.0, one.tokens)

    return ask
