"""`onecard evaluate`: a candidate against its agent's suite, beside production and the base; the verdict goes into the store.

The story is `run_evaluation`, which `onecard demo` tells as well. Of a server by URL only a report is written: a verdict is bound to
files, and a server's word about what answered is not those files.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from onecard.adapters.manifest import Verdict
    from onecard.adapters.store import StoredVersion
    from onecard.cli.evaluate_rivals import Rivals
    from onecard.engines.engine import Engine
    from onecard.evaluation.exam import Answerers, Exam
    from onecard.evaluation.gate import GateReport
    from onecard.evaluation.report import EvaluationReport, Judged
    from onecard.fleet.loader import LoadedFleet

Against = Literal["production", "base", "none"]


@dataclass(frozen=True)
class Progress:
    """What is being done. Loading has no `total`; asking has `done` of `total` answers."""

    what: str
    done: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Evaluation:
    """What came out. `verdict` is None when none was given: a trial with fewer rows, or a server by URL."""

    report: EvaluationReport
    file: Path
    verdict: Verdict | None = None
    promoted: bool = False

    @property
    def passed(self) -> bool:
        return self.report.gate.passed


@click.command(short_help="The gate: a candidate against its suite, beside production and base.")
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--agent", required=True, help="The agent whose candidate is judged.")
@click.option("--version", help="Which version: like v0003, or an alias.  [default: candidate]")
@click.option("--rows", type=click.IntRange(min=1), help="Rows per preset; fewer than the suite's make it a trial.")
@click.option(
    "--against",
    type=click.Choice(["production", "base", "none"]),
    multiple=True,
    help="Whom to compare with; may be repeated.  [default: production, when there is one, and base]",
)
@click.option("--promote", is_flag=True, help="Put it into production when it passes.")
@click.option("--url", help="Judge a running OpenAI-compatible server; gives no verdict.")
@click.option("--seed", default=0, show_default=True, help="Picks the rows and seeds sampling.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder for the report.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def evaluate(fleet: Path, agent: str, promote: bool, as_json: bool, **wishes: Any) -> int:
    """Ask AGENT's candidate the held-out questions of its suite and judge the answers.

    Exit code 0 when every check passes, 1 when one does not. The verdict is bound to the version's files; a version
    without a passing one does not reach production. A trial with fewer rows than the suite's gives no verdict.

    \b
    Example:
      onecard evaluate examples/demo.yaml --agent explainer
      onecard evaluate examples/demo.yaml --agent explainer --version v0002 --promote
    """
    from onecard.cli.evaluate_output import bar, console_of, show, visible
    from onecard.cli.weights_fleets import open_fleet

    loaded = open_fleet(fleet)
    with bar(quiet=as_json) as on_progress:
        done = run_evaluation(loaded, agent, promote=promote, on_progress=on_progress, **wishes)
    if as_json:
        click.echo(json.dumps(_record(done), indent=2))
    else:
        show(done.report, done.file)
        console_of().print(visible(_what_now(done, fleet, promote)), soft_wrap=True)
    return 0 if done.passed else 1


def run_evaluation(
    loaded: LoadedFleet,
    agent: str,
    *,
    version: str | None = None,
    rows: int | None = None,
    against: Sequence[Against] = (),
    promote: bool = False,
    url: str | None = None,
    seed: int = 0,
    out: Path = Path("results"),
    engine: Engine | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> Evaluation:
    """Judges one version (the candidate when none is named), writes the report to `out`, records the verdict, promotes if asked.

    `engine` is an open engine of the agent's model; it stays open, with the adapter loaded. Without one it is opened and closed here.
    FleetError, DataError, UnknownName for what cannot be asked, AdapterRefused for an adapter that is not itself, EngineFailed.
    """
    from onecard.cli.evaluate_answerers import in_process, open_engine
    from onecard.cli.evaluate_exam import exam_of
    from onecard.cli.evaluate_rivals import rivals_of
    from onecard.cli.evaluate_tasks import ask_tasks
    from onecard.errors import InputError
    from onecard.evaluation.lm_tasks import demand_harness

    exam, started_at = exam_of(loaded, agent, rows, seed), _now()
    if promote and (url is not None or exam.trial):
        reason = "a server by URL" if url is not None else f"a trial of {rows} rows"
        raise InputError(f"--promote needs a verdict, and {reason} gives none", next_step="leave one of them out")
    if url is not None:
        judged, gate = asyncio.run(_ask_url(loaded, agent, exam, url, version, tuple(against), on_progress))
        return Evaluation(*_written(judged, exam, gate, started_at, out))
    if exam.suite.lm_eval is not None:
        demand_harness()
    stored = _stored(loaded, agent, version or "candidate")
    rivals = rivals_of(loaded, stored, against)
    key = loaded.agent(agent).model
    on_progress(Progress(f"loading {loaded.fleet.models[key].id} with {stored.name}@{stored.version}"))
    answering = engine or open_engine(loaded, key)
    try:
        judged, who = in_process(
            loaded, stored, answering, exam,
            with_base=rivals.base, production=rivals.production, absent=rivals.absent,
        )  # fmt: skip
        gate = asyncio.run(_hold(exam, who, on_progress))
        gate, harness = ask_tasks(
            loaded, answering, judged, exam, rivals, gate, lambda what: on_progress(Progress(what))
        )
    finally:
        if engine is None:
            answering.close()
    report, file = _written(judged, exam, gate, started_at, out, harness)
    if exam.trial:
        return Evaluation(report, file)
    return _recorded(loaded, stored, rivals, report, file, promote)


def _stored(loaded: LoadedFleet, agent: str, reference: str) -> StoredVersion:
    from onecard.adapters.store import Store
    from onecard.errors import FleetError, UnknownName

    name = loaded.agent(agent).adapter_name
    if name is None:
        where = f"{loaded.file}: agents.{agent}.adapter"
        raise FleetError(f"agent {agent} has no adapter to judge", where=where, next_step="name one, and train it")
    try:
        return Store(loaded.store_url).resolve(agent, f"{name}@{reference}")
    except UnknownName as error:
        train = f"onecard train {loaded.file} --agent {agent}" if reference == "candidate" else None
        raise UnknownName(error.problem, where=error.where, allowed=error.allowed, next_step=train) from error


async def _hold(exam: Exam, who: Answerers, on_progress: OnProgress) -> GateReport:
    from onecard.evaluation.exam import hold

    return await hold(exam, who, lambda name, done, total: on_progress(Progress(f"asking {name}", done, total)))


async def _ask_url(
    loaded: LoadedFleet,
    agent: str,
    exam: Exam,
    url: str,
    version: str | None,
    against: tuple[str, ...],
    on_progress: OnProgress,
) -> tuple[Judged, GateReport]:
    from onecard.cli.evaluate_answerers import over_url

    on_progress(Progress(f"reaching {url}"))
    with_base, with_production = "base" in against if against else None, "production" in against
    asked = over_url(loaded, agent, exam, url, version, with_base=with_base, with_production=with_production)
    async with asked as (judged, who):
        return judged, await _hold(exam, who, on_progress)


def _written(
    judged: Judged, exam: Exam, gate: GateReport, started_at: str, out: Path, harness: dict[str, Any] | None = None
) -> tuple[EvaluationReport, Path]:
    """The report and its file. What gives no verdict has a name of its own and never overwrites what did."""
    from onecard import __version__
    from onecard.cli.evaluate_page import page
    from onecard.evaluation.report import EvaluationReport, to_json
    from onecard.evidence.results import write_atomically

    report = EvaluationReport(
        started_at=started_at,
        ended_at=_now(),
        onecard_version=__version__,
        judged=judged,
        data=exam.questions[0].file.name,
        trial=exam.trial,
        leaks_checked=exam.leaks_checked,
        harness=harness or {},
        tasks_left_out=exam.suite.lm_eval is not None and not harness,
        gate=gate,
    )
    version = judged.adapter.rpartition("@")[2] if judged.adapter else None
    marks = (judged.agent, version, "url" if judged.url else None, "trial" if exam.trial else None)
    file = out / f"evaluate-{'-'.join(mark for mark in marks if mark)}.json"
    write_atomically(file, to_json(report))
    write_atomically(file.with_suffix(".md"), page(report))
    return report, file


def _recorded(
    loaded: LoadedFleet, stored: StoredVersion, rivals: Rivals, report: EvaluationReport, file: Path, promote: bool
) -> Evaluation:
    """The verdict goes into the store and, if it passed and that was asked, the version into production.

    GateFailed when production changed while it was judged: then it was compared with what nobody gets any more.
    """
    from onecard.adapters.store import Store
    from onecard.evaluation.gate import verdict

    store = Store(loaded.store_url)
    against: dict[str, Any] = {"base_fingerprint": report.judged.base_fingerprint}
    if rivals.production_known:
        against["production"] = rivals.production_digest
    given = verdict(
        report.gate,
        at=report.ended_at,
        digest=report.judged.digest or "",
        file=str(file.resolve()),
        judged_against=against,
    )
    if report.harness:
        given = given.model_copy(update={"summary": {**given.summary, "harness": report.harness}})
    given = store.record_verdict(stored.agent, stored.name, stored.version, given)
    promoted = promote and given.passed
    if promoted:
        store.promote(stored.agent, stored.name, stored.version)
    return Evaluation(report, file, given, promoted)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _what_now(done: Evaluation, fleet: Path, promote: bool) -> str:
    judged = done.report.judged
    address = f"{judged.agent}/{judged.adapter}"
    if done.promoted:
        return f"{address} is in production. Next: onecard serve {fleet}"
    if judged.url:
        return "No verdict is recorded: the files of what answers at a URL are not seen here."
    if done.report.trial:
        return "No verdict is recorded: a trial asks fewer rows than the suite demands."
    if done.report.gate.outcome == "undecided":
        return f"{'Not promoted. ' if promote else ''}Next: more held-out rows in the suite, or a wider margin"
    if not done.passed:
        return f"{'Not promoted. ' if promote else ''}Next: change its data or recipe, then onecard train {fleet} --agent {judged.agent}"
    return f"Next: onecard adapters promote {address} --fleet {fleet}"


def _record(done: Evaluation) -> dict[str, Any]:
    """What --json prints: everything but the rows, which stand in the report."""
    return {
        **done.report.model_dump(mode="json", by_alias=True, exclude={"gate": {"rows"}}),
        "passed": done.passed,
        "recorded": done.verdict is not None,
        "promoted": done.promoted,
        "report": str(done.file),
    }
