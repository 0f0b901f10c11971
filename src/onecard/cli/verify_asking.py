"""Asks a running service the way its users will: its pages, each agent, every style, and everything wrong on purpose.

What comes back is handed on as records; whether it is good is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from onecard.cli import verify_malformed
from onecard.cli.verify_malformed import Answered, Malformed
from onecard.cli.verify_records import Check, Neighbours, Wanted, judged, not_asked, on_a_busy_machine, unseen
from onecard.cli.verify_served import Named, Page
from onecard.cli.verify_style import (
    NOT_COMPARED,
    TIMED,
    Generated,
    consistency_check,
    generate_check,
    not_compared,
    repetition_check,
    suite_checks,
    time_check,
)
from onecard.errors import EngineFailed, OnecardError

if TYPE_CHECKING:
    from onecard.evaluation.exam import Exam
    from onecard.evaluation.gate import GateReport
    from onecard.evaluation.questions import Question
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.schema import Suite

TIMEOUT_S = 300.0
GENERATED = 3  # answers of POST /generate a preset
ONE_TOKEN = 1
OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Asking:
    """A service, the fleet it serves, the digests of the store, and how much is asked.

    `neighbours`: who else kept the processor busy before the service was started; None where a card answers or nobody can tell.
    """

    url: str
    loaded: LoadedFleet
    digests: dict[str, str | None]
    wanted: Wanted
    neighbours: Neighbours | None = None


def http(url: str) -> httpx.Client:
    """A plain client that no proxy stands before."""
    return httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)


def page(client: httpx.Client, path: str) -> Page:
    try:
        answer = client.get(path)
    except httpx.HTTPError as error:
        return Page(path, None, str(error) or type(error).__name__)
    return Page(path, answer.status_code, answer.text)


def who_answers(client: httpx.Client, agent: str) -> Named:
    """One token under the agent's name, on the route that takes any adapter."""
    body = {"model": agent, "prompt": "What is a stack?", "max_tokens": ONE_TOKEN}
    try:
        answer = client.post("/v1/completions", json=body)
    except httpx.HTTPError as error:
        return Named(agent, problem=f"no answer: {str(error) or type(error).__name__}")
    if answer.status_code != 200:
        return Named(agent, problem=f"answered {answer.status_code}: {answer.text[:90]}")
    names = (f"x-onecard-{name}" for name in ("agent", "digest", "adapter"))
    return Named(agent, *(answer.headers.get(name, "") for name in names))


def malformed_checks(client: httpx.Client, loaded: LoadedFleet) -> Iterator[Check]:
    """Every wrong request, one after the other; at the end the service must still be well."""
    from onecard.fleet.presets import default_preset

    agent, spec = next(iter(loaded.fleet.agents.items()))
    table = verify_malformed.requests(agent, default_preset(spec.presets), loaded.fleet.models[spec.model].context)
    for asked in table:
        yield verify_malformed.check_of(asked, _send(client, asked))
    after = page(client, "/ready")
    yield judged(
        "requests", verify_malformed.AFTER, "the service still answers", after.status == 200, f"{after.status}: {after.text[:60]}",
        "200", f"GET /ready after {len(table)} wrong requests", "a wrong request stopped it: onecard verify --only requests",
    )  # fmt: skip


def _send(client: httpx.Client, asked: Malformed) -> Answered:
    try:
        answer = client.request(asked.method, asked.path, content=asked.body or None, headers=asked.headers)
    except httpx.HTTPError as error:
        return Answered(None, f"{type(error).__name__}: {error}")
    return Answered(answer.status_code, answer.text)


def style_checks(asking: Asking, agent: str, on_progress: OnProgress) -> Iterator[Check]:
    """The agent's suite over HTTP, its prompts again under other seeds, and POST /generate in every preset."""
    spec, loaded = asking.loaded.agent(agent), asking.loaded
    again = f"change its data or recipe, then onecard train {loaded.file} --agent {agent}"
    if spec.task != "generate" or spec.input != "text":
        yield not_asked(
            "style", agent, "every preset obeyed over HTTP", f"{spec.task} of {spec.input} is not generated text"
        )
        return
    prompts: dict[str, list[str]] = {}
    if spec.suite is None:
        yield not_asked("style", agent, "held-out rows", "the fleet names no suite: nothing says what its styles are")
    else:
        try:
            from onecard.cli.evaluate_exam import exam_of

            asked_rows = min(asking.wanted.rows, spec.suite.rows)
            exam, whole = (_own(exam_of(loaded, agent, rows, 0), spec.presets) for rows in (asked_rows, None))
            for question in exam.questions:
                prompts.setdefault(question.preset, []).append(question.prompt)
            yield from _suite(asking, agent, exam, whole, again, on_progress)
            yield from _other_tasks(agent, spec.suite)
        except EngineFailed as error:  # nobody answered, or another than the service had named
            next_step = error.next_step or f"onecard serve {loaded.file} --check"
            yield judged(
                "style", agent, "held-out rows", False, str(error), "answers of this adapter", asking.url, next_step
            )
        except OnecardError as error:
            yield unseen(
                "style", agent, "held-out rows", str(error), "", error.next_step or f"onecard evaluate {loaded.file}"
            )
    with http(asking.url) as client:
        for preset in spec.presets:
            on_progress(f"asking {agent} in the style {preset} over POST /generate")
            answers = [_generated(client, agent, preset, prompt) for prompt in _some(prompts, preset)]
            yield generate_check(agent, spec, preset, answers, asking.digests.get(agent), again)


def _suite(asking: Asking, agent: str, exam: Exam, whole: Exam, again: str, on_progress: OnProgress) -> Iterator[Check]:
    """A part of the suite's rows; all of them where the part does not keep what the whole may keep."""
    spec, callers = asking.loaded.agent(agent), asking.loaded.fleet.models[asking.loaded.agent(agent).model].concurrency
    on_progress(f"asking {agent} {len(exam.questions)} held-out questions")
    gate, counted = _held(asking, agent, exam)
    if not gate.passed and len(whole.questions) > len(exam.questions):
        on_progress(f"asking {agent} all {len(whole.questions)}: so few do not settle it")
        gate, counted = _held(asking, agent, whole)
    evidence = f"{exam.questions[0].file.name}, chat completions, the {counted}'s count"
    suite = spec.suite
    assert suite is not None
    for one in suite_checks(agent, gate, suite.rows, evidence, again):
        timed = one.what.startswith(TIMED)
        yield on_a_busy_machine(one, asking.neighbours) if timed else one
    limit_s = spec.deadline.seconds if spec.deadline else asking.wanted.seconds
    judged_for_repetition = {check.preset for check in suite.checks if check.repetition is not None}
    by_preset = {check.preset: [row for row in gate.rows if row.preset == check.preset] for check in suite.checks}
    for preset, rows in by_preset.items():
        if preset not in judged_for_repetition:
            yield repetition_check(agent, preset, rows, evidence, again)
        slower = f"lower max_new_tokens, concurrency or the model; onecard plan {asking.loaded.file}"
        yield on_a_busy_machine(time_check(agent, preset, rows, limit_s, callers, slower), asking.neighbours)
    on_progress(f"asking {agent} again under {asking.wanted.seeds} seeds")
    by_seed = {
        seed: _held(asking, agent, _fewer(exam, asking.wanted, seed))[0].rows for seed in range(asking.wanted.seeds)
    }
    for check in suite.checks:
        found = consistency_check(agent, check, by_seed, spec.presets[check.preset].temperature, again)
        if found is not None:
            yield found


def _own(exam: Exam, presets: Collection[str]) -> Exam:
    """The exam without the rows of other tasks: those are judged beside a rival alone, and here nobody is."""
    checks = tuple(check for check in exam.suite.checks if check.preset in presets)
    own = [question for question in exam.questions if question.preset in presets]
    return replace(exam, suite=exam.suite.model_copy(update={"checks": checks}), questions=own)


def _other_tasks(agent: str, suite: Suite) -> Iterator[Check]:
    for other in suite.regressions:
        yield not_asked(
            "style", agent, f"not unlearned: {other.agent or other.data}", not_compared(other.no_worse_than)
        )


def _fewer(exam: Exam, wanted: Wanted, seed: int) -> Exam:
    """The first questions of every preset, to be asked under another seed."""
    taken: dict[str, list[Question]] = {}
    for question in exam.questions:
        taken.setdefault(question.preset, []).append(question)
    questions = [question for several in taken.values() for question in several[: wanted.prompts]]
    return replace(exam, questions=questions, seed=seed)


def _held(asking: Asking, agent: str, exam: Exam) -> tuple[GateReport, str]:
    """The exam over HTTP, by the gate's own way of asking a URL; and who counted the tokens."""
    from onecard.cli.evaluate_answerers import over_url
    from onecard.evaluation.exam import hold
    from onecard.evaluation.gate import Absent

    nobody = {rival: Absent(NOT_COMPARED, excused=True) for rival in ("production", "base")}

    async def held() -> tuple[GateReport, str]:
        async with over_url(asking.loaded, agent, exam, asking.url, None, with_base=False) as (judged, who):
            return await hold(exam, replace(who, absent=nobody)), judged.tokens_counted_by

    return asyncio.run(held())


def _some(prompts: dict[str, list[str]], preset: str) -> Sequence[str]:
    """A few held-out prompts of a preset, of another one, or the shipped ones."""
    from onecard.benchmark.prompts import SHIPPED

    others = next(iter(prompts.values()), list(SHIPPED))
    return (prompts.get(preset) or others)[:GENERATED]


def _generated(client: httpx.Client, agent: str, preset: str, prompt: str) -> Generated:
    """One answer of POST /generate, scored; anything but a 200 with the documented fields is a problem."""
    from onecard.evaluation import scorers
    from onecard.evaluation.suite import ScoredAnswer

    asked_s = time.monotonic()
    try:
        answer = client.post("/generate", json={"prompt": prompt, "style": preset, "agent": agent})
        said: dict[str, Any] = json.loads(answer.text)
    except (httpx.HTTPError, ValueError) as error:
        return Generated(preset, prompt, problem=f"no answer: {str(error) or type(error).__name__}")
    if answer.status_code != 200 or set(said) != {"response", "style", "tokens", "latency_s"}:
        return Generated(preset, prompt, problem=f"answered {answer.status_code}: {answer.text[:90]}")
    scored = ScoredAnswer(
        text=said["response"],
        finish_reason="stop",  # /generate does not say; what was cut shows in the count of tokens
        seconds=round(time.monotonic() - asked_s, 4),
        tokens=said["tokens"],
        ended_by_itself=True,
        repetition=scorers.repetition(said["response"]),
        overlap=0.0,
    )
    headers = answer.headers
    return Generated(
        preset, prompt, scored, said["style"], headers.get("x-onecard-adapter", ""), headers.get("x-onecard-digest", "")
    )
