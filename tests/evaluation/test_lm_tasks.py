"""The harness's door, the judgement of its rows, and, where it is installed, a real task file with local rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from onecard.errors import InputError, MissingPart
from onecard.evaluation.gate import Absent, GateReport
from onecard.evaluation.lm_tasks import PlainText, TaskRows, load_harness, run_tasks, task_checks, with_tasks
from onecard.fleet.schema import LmEval

WANTED = LmEval(tasks=("colours",), at_least=0.6, no_worse_than={"production": 0.05, "base": 0.05})


def rows(*values: float, more_is_better: bool = True) -> TaskRows:
    return TaskRows("colours", "acc", more_is_better, values, "0" * 64)


def test_without_the_harness_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingPart, match=r"pip install .onecard\[eval\]"):
        load_harness()


def test_a_task_is_judged_by_its_mean_and_row_by_row_against_the_rivals() -> None:
    good, bad = rows(*[1.0, 1.0, 1.0, 0.0] * 30), rows(*[0.0, 1.0, 1.0, 0.0] * 30)
    absent = {"production": Absent("nothing is in production yet", excused=True)}
    (same,) = task_checks(WANTED, [good], {"base": [good]}, 0, absent)
    (worse,) = task_checks(WANTED.model_copy(update={"at_least": 0.0}), [bad], {"base": [good]}, 0, absent)
    (low,) = task_checks(WANTED, [bad], {"base": [bad]}, 0, absent)
    assert (same.preset, same.check, same.asked, same.observed) == ("lm_eval/colours", "acc", 120, 0.75)
    assert [check.outcome for check in (same, worse, low)] == ["passed", "failed", "failed"]
    assert [one.outcome for one in same.comparisons] == ["skipped", "passed"]
    assert worse.against["base"].mean == -0.25


def test_few_rows_of_a_task_cannot_tell() -> None:
    (check,) = task_checks(WANTED, [rows(1.0, 1.0)], {"base": [rows(1.0, 1.0)], "production": [rows(1.0, 1.0)]}, 0, {})
    assert check.outcome == "undecided"


def test_a_failed_task_fails_the_gate() -> None:
    (check,) = task_checks(LmEval(tasks=("t",), at_least=0.9), [rows(0.0, 1.0)], {}, 0, {})
    assert not check.passed and check.why[0] == "lm_eval/colours: 1 of 2 answers (50%) acc; at least 90% must"
    before = GateReport(passed=True, suite_digest="0" * 64, seed=0, checks=(), rows=())
    assert with_tasks(before, [check]).outcome == "failed" and before.outcome == "passed"


COLOURS = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


def a_task(folder: Path, kind: str, metric: str, more: str) -> Path:
    """A task file of the harness with twelve rows of its own."""
    data = folder / "colours.jsonl"
    things = [("sky", "blue"), ("grass", "green"), ("snow", "white")] * 4
    lines = [
        {"question": f"The {t} of {n} is", "choices": ["blue", "green", "white"], "answer": c}
        for n, (t, c) in enumerate(things)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = COLOURS.format(file=data, kind=kind, metric=metric, more=more)
    (folder / "colours.yaml").write_text(text)
    return folder


async def knows(prompt: str, texts: Sequence[str]) -> list[float]:
    """Likes the right colour of sky and grass, and takes snow for green."""
    right = "blue" if "sky" in prompt else "green"
    return [-1.0 if right in text else -5.0 for text in texts]


async def says(prompt: str, stops: tuple[str, ...], most_tokens: int) -> str:
    assert "\n" in stops
    return " blue"


def test_a_real_task_of_choices(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    folder = a_task(tmp_path, "multiple_choice", "acc", 'doc_to_choice: "{{choices}}"')
    (found,) = run_tasks(LmEval(tasks=("colours",)), folder, PlainText(says, knows, 2), 0)
    assert (found.task, found.metric, found.more_is_better) == ("colours", "acc", True)
    assert found.values == (1.0, 1.0, 0.0) * 4
    (fewer,) = run_tasks(LmEval(tasks=("colours",), limit=6), folder, PlainText(says, knows, 2), 0)
    assert len(fewer.values) == 6 and fewer.documents_sha256 != found.documents_sha256


def test_a_real_task_of_written_answers(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    trimmed = "[{name: trim, filter: [{function: remove_whitespace}, {function: take_first}]}]"
    more = f'generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}\nfilter_list: {trimmed}'
    folder = a_task(tmp_path, "generate_until", "exact_match", more)
    (found,) = run_tasks(LmEval(tasks=("colours",)), folder, PlainText(says, knows, 2), 0)
    assert found.values == (1.0, 0.0, 0.0) * 4


def test_tasks_that_cannot_be_judged_and_unknown_ones_say_so(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(InputError, match="the harness could not run"):
        run_tasks(LmEval(tasks=("nobody_knows_it",)), tmp_path, PlainText(says, knows, 2), 0)
    folder = a_task(tmp_path, "multiple_choice", "acc", 'doc_to_choice: "{{choices}}"')
    with pytest.raises(InputError, match="cannot be judged by f1"):
        run_tasks(LmEval(tasks=("colours",), metric="f1"), folder, PlainText(says, knows, 2), 0)
