"""Other tasks among a suite's questions: another agent's rows asked of this adapter, which must not have unlearned them.

Each is asked under presets of its own name ("quizmaster/default"), without the other adapter's token, and judged by a comparison alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onecard.errors import DataError
from onecard.evaluation.demands import NO_LIMIT
from onecard.evaluation.questions import Question, pick, read_questions
from onecard.fleet.schema import Check, Preset, Regression, Suite


@dataclass(frozen=True)
class OtherTask:
    """One regression of the suite with its rows and the presets they are asked under."""

    name: str
    regression: Regression
    file: Path
    presets: Mapping[str, Preset]


@dataclass(frozen=True)
class Extended:
    """A suite with its regressions as checks. `questions` are those of the regressions, `all_questions` also the rows not picked."""

    suite: Suite
    presets: Mapping[str, Preset]
    questions: tuple[Question, ...]
    all_questions: tuple[Question, ...]
    fewer: bool


def with_regressions(
    suite: Suite, presets: Mapping[str, Preset], others: Sequence[OtherTask], rows: int | None, seed: int
) -> Extended:
    """Every regression as checks that only compare. DataError for faults in their rows, and for two tasks of one name."""
    checks, shown = list(suite.checks), dict(presets)
    questions: list[Question] = []
    everything: list[Question] = []
    for task in others:
        found = read_questions(task.file, task.presets)
        everything += found
        used = dict.fromkeys(question.preset for question in found)
        if any(f"{task.name}/{preset}" in shown for preset in used):
            raise DataError(f"two regressions are called {task.name}", where=str(task.file))
        asked = task.regression.rows if rows is None else min(rows, task.regression.rows)
        own = tuple(_check(task.regression, preset) for preset in used)
        picked = pick(found, Suite(data=str(task.file), rows=asked, checks=own), seed)
        questions += [replace(question, preset=f"{task.name}/{question.preset}") for question in picked]
        checks += [check.model_copy(update={"preset": f"{task.name}/{check.preset}"}) for check in own]
        shown |= {f"{task.name}/{preset}": task.presets[preset].model_copy(update={"token": None}) for preset in used}
    fewer = rows is not None and any(rows < task.regression.rows for task in others)
    whole = suite.model_copy(update={"checks": tuple(checks)})
    return Extended(whole, shown, tuple(questions), tuple(everything), fewer)


def _check(regression: Regression, preset: str) -> Check:
    """A check that any figure keeps, so that only the comparison with the rivals decides."""
    figure = NO_LIMIT if regression.measure == "perplexity" else 0.0
    return Check(preset=preset, no_worse_than=regression.no_worse_than, **{regression.measure: figure})
