"""The suite's lm-evaluation-harness tasks, asked of the candidate and its rivals in the engine that answered the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onecard.cli.evaluate_rivals import Rivals
from onecard.engines.engine import Engine, GenerationRequest
from onecard.errors import FleetError
from onecard.evaluation.exam import Exam
from onecard.evaluation.gate import GateReport
from onecard.evaluation.lm_tasks import PlainText, load_harness, run_tasks, task_checks, with_tasks
from onecard.evaluation.report import Judged
from onecard.fleet.loader import LoadedFleet


def ask_tasks(
    loaded: LoadedFleet,
    engine: Engine,
    judged: Judged,
    exam: Exam,
    rivals: Rivals,
    gate: GateReport,
    on_begin: Callable[[str], None],
) -> tuple[GateReport, dict[str, Any]]:
    """The report with the tasks' checks, and what was asked: the harness's version and each task's rows by digest."""
    wanted = exam.suite.lm_eval
    if wanted is None:
        return gate, {}
    include = loaded.resolve(wanted.include) if wanted.include else None
    if include is not None and not include.is_dir():
        raise FleetError(f"no folder '{include}'", where=f"{loaded.file}: agents.{judged.agent}.suite.lm_eval.include")
    who: dict[str, str | None] = {str(judged.adapter): judged.digest}
    if rivals.production is not None:
        who["production"] = judged.production_digest
    if rivals.base:
        who["base"] = None
    asked = {}
    for name, digest in who.items():
        on_begin(f"asking {name} the tasks of lm_eval")
        asked[name] = run_tasks(wanted, include, _plain_text(engine, digest), exam.seed)
    ours = asked.pop(str(judged.adapter))
    checks = task_checks(wanted, ours, asked, exam.seed, rivals.absent)
    told = {rows.task: {"rows": len(rows.values), "documents_sha256": rows.documents_sha256} for rows in ours}
    return with_tasks(gate, checks), {"lm_eval": getattr(load_harness(), "__version__", "unknown"), "tasks": told}


def _plain_text(engine: Engine, adapter: str | None) -> PlainText:
    """An adapter, or the base for None, asked without template or preset."""

    async def generate(prompt: str, stops: tuple[str, ...], most_tokens: int) -> str:
        request = GenerationRequest(text=prompt, adapter=adapter, max_new_tokens=most_tokens, stop=stops)
        return "".join([chunk.text async for chunk in engine.generate(request)])

    async def score(prompt: str, texts: Sequence[str]) -> list[float]:
        means = await engine.score(GenerationRequest(text=prompt, adapter=adapter), texts)
        return [mean * engine.count_tokens(text) for mean, text in zip(means, texts, strict=True)]

    return PlainText(generate, score, engine.info().concurrency)
