"""Tasks of EleutherAI's lm-evaluation-harness, asked of our own answerers through the harness's Python API and judged as checks.

The harness makes prompts and scores rows; who passes is decided here, paired row by row with the rivals as everywhere else. Prompts go
to the model as plain text, without chat template or preset, as the harness publishes its results. It is an optional part.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from onecard.errors import InputError, MissingPart, OnecardError
from onecard.evaluation.comparisons import Absent, comparisons
from onecard.evaluation.demands import Demand, sentence
from onecard.evaluation.gate import CheckResult, GateReport, settled
from onecard.evaluation.paired import paired_difference
from onecard.fleet.schema import LmEval

KINDS = ("multiple_choice", "generate_until")


@dataclass(frozen=True)
class PlainText:
    """Answers plain text. `generate(prompt, stops, most_tokens)`; `score(prompt, texts)`: the whole log-likelihood of each, in nats."""

    generate: Callable[[str, tuple[str, ...], int], Awaitable[str]]
    score: Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]
    concurrency: int


@dataclass(frozen=True)
class TaskRows:
    """One task's metric, row by row. `documents_sha256` says what was asked."""

    task: str
    metric: str
    more_is_better: bool
    values: tuple[float, ...]
    documents_sha256: str


def demand_harness() -> None:
    """MissingPart, without the import that takes seconds."""
    if importlib.util.find_spec("lm_eval") is None:
        load_harness()


def load_harness() -> Any:
    """The harness; MissingPart with the line that installs it."""
    try:
        return importlib.import_module("lm_eval")
    except ImportError as error:
        raise MissingPart(
            f"lm-evaluation-harness is not installed ({error.name})",
            where="suite.lm_eval",
            next_step="pip install 'onecard[eval]'",
        ) from error


def run_tasks(wanted: LmEval, include: Path | None, asked: PlainText, seed: int) -> list[TaskRows]:
    """Every task's rows by one answerer. Blocks; not for use inside an event loop.

    InputError for a task nobody knows, and for tasks that need more than likelihoods of choices and generated text.
    """
    harness = load_harness()
    tasks = importlib.import_module("lm_eval.tasks")
    try:
        manager = tasks.TaskManager(include_path=str(include) if include else None)
        found = harness.simple_evaluate(
            model=as_model(asked),
            tasks=list(wanted.tasks),
            limit=wanted.limit,
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except OnecardError:
        raise
    except Exception as error:  # whatever a task file, a data set or the harness raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the harness could not run: {reason}", where="suite.lm_eval") from error
    return [_rows(task, found, wanted) for task in found["samples"]]


def as_model(asked: PlainText) -> Any:
    """An answerer as a language model of the harness."""
    model = importlib.import_module("lm_eval.api.model")

    class Answering(model.LM):  # type: ignore[misc, name-defined]
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            """Choices of one prompt are scored together. Greediness is not known, so metrics that need it are refused in `_rows`."""
            groups = [(prompt, [r.args[1] for r in of]) for prompt, of in groupby(requests, key=lambda r: r.args[0])]
            scores = _all([partial(asked.score, *group) for group in groups], asked.concurrency)
            return [(float(value), False) for of_prompt in scores for value in of_prompt]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return _all([partial(asked.generate, *_generation(*r.args)) for r in requests], asked.concurrency)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise InputError("the task scores whole texts", where="suite.lm_eval", allowed=", ".join(KINDS))

    return Answering()


def task_checks(
    wanted: LmEval,
    ours: Sequence[TaskRows],
    theirs: Mapping[str, Sequence[TaskRows]],
    seed: int,
    absent: Mapping[str, Absent],
) -> list[CheckResult]:
    """One check per task: the metric's mean against `at_least`, and the comparisons that are demanded."""
    results = []
    for number, rows in enumerate(ours):
        values = [value if rows.more_is_better else -value for value in rows.values]
        share = set(values) <= {0.0, 1.0}
        demand = Demand(
            *(f"lm_eval/{rows.task}", "lm_eval", rows.metric, "share" if share else "mean", wanted.at_least, True),
            lambda answer: 0.0,
        )
        rivals = {name: of[number].values for name, of in theirs.items()}
        against = {
            name: paired_difference(values, [v if rows.more_is_better else -v for v in other], seed)
            for name, other in rivals.items()
        }
        compared = [
            one for rival, margin in wanted.no_worse_than.items()
            for one in comparisons(demand, [(rival, "no worse", margin)], against, absent)
        ]  # fmt: skip
        observed = demand.figure(values)
        told = sentence(demand, values, observed)
        results.append(settled(demand, values, observed, told, against, compared, failing=()))
    return results


def with_tasks(report: GateReport, checks: Sequence[CheckResult]) -> GateReport:
    """The report with the tasks' checks among its own."""
    passed = report.passed and all(check.passed for check in checks)
    return report.model_copy(update={"checks": (*report.checks, *checks), "passed": passed})


def _rows(task: str, found: Mapping[str, Any], wanted: LmEval) -> TaskRows:
    samples = found["samples"][task]
    kind = found["configs"][task].get("output_type")
    metrics = list(dict.fromkeys(metric for sample in samples for metric in sample["metrics"]))
    metric = wanted.metric or (metrics[0] if metrics else "none")
    greedy = kind == "multiple_choice" and metric == "exact_match"
    if kind not in KINDS or metric not in metrics or greedy:
        problem = f"{task} ({kind}) cannot be judged by {metric}"
        allowed = f"tasks of kind {' and '.join(KINDS)}; here {', '.join(metrics) or 'no metric'}"
        raise InputError(problem, where="suite.lm_eval", allowed=allowed)
    first = samples[0].get("filter")
    rows = sorted((s for s in samples if s.get("filter") == first), key=lambda sample: sample["doc_id"])
    documents = json.dumps([row["doc"] for row in rows], sort_keys=True, default=str)
    return TaskRows(
        task=task,
        metric=metric,
        more_is_better=bool(found["higher_is_better"][task].get(metric, True)),
        values=tuple(float(row[metric]) for row in rows),
        documents_sha256=hashlib.sha256(documents.encode()).hexdigest(),
    )


def _generation(prompt: str, settings: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    until = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    return prompt, tuple(stop for stop in stops if stop), int(settings.get("max_gen_toks", 256))


def _all(calls: Sequence[Callable[[], Awaitable[Any]]], concurrency: int) -> list[Any]:
    """The results in order, so many at once."""

    async def run() -> list[Any]:
        free = asyncio.Semaphore(max(1, concurrency))

        async def one(call: Callable[[], Awaitable[Any]]) -> Any:
            async with free:
                return await call()

        return list(await asyncio.gather(*(one(call) for call in calls)))

    return asyncio.run(run())
