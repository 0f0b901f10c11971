"""`onecard demo`: the whole story on the embedded base, told step by step: plan, train, gate, publish, serve, ask, load, report.

Every step calls what its own verb calls, on an ordinary fleet file in an ordinary folder; nothing here is special to the demo but the
telling. Ctrl-C stops at any step and leaves whole files only; running it again trains new versions in the same store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.benchmark.report_data import Sample
    from onecard.cli.demo_output import Teller
    from onecard.cli.evaluate import Evaluation
    from onecard.cli.train import FinishedRun
    from onecard.evidence.results import ResultFile
    from onecard.fleet.loader import LoadedFleet
    from onecard.planner.plan import Plan
    from onecard.wire.health import Health

FLEET = "demo.yaml"
STYLES, QUIZ = "explainer", "quizmaster"
CALLERS = (1, 2, 3, 4, 5, 6)
REQUESTS = 4
NEW_TOKENS = 32  # answers of one length, so that what grows with the callers is the waiting


@dataclass
class Told:
    """What the story has found out so far."""

    plan: Plan
    trained: dict[str, FinishedRun] = field(default_factory=dict)
    judged: dict[str, Evaluation] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    health: Health | None = None
    load: ResultFile | None = None


@click.command(short_help="The whole story on the embedded base, on a CPU.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("onecard-demo"),
    show_default=True,
    help="Where the fleet, its data, the store and the report are written.",
)
def demo(folder: Path) -> None:
    """Plan, train two adapters, gate them, publish, serve, load-test and report, on a real (small) model.

    Takes a few minutes on two CPU cores and needs no GPU and no download. The folder holds an ordinary fleet afterwards: change it and
    use the other verbs on it.

    \b
    Example:
      onecard demo
      onecard demo --folder /tmp/try
    """
    from onecard.cli.demo_output import Teller

    teller = Teller()
    teller.opening()
    with alone_in(folder):
        loaded = prepare(folder)
        told = Told(plan_story(loaded, teller))
        for agent in (STYLES, QUIZ):
            train_story(loaded, agent, told, teller)
        for agent in (STYLES, QUIZ):
            gate_story(loaded, agent, told, teller)
        serve_story(loaded, told, teller)
        page = report_story(loaded, told, teller)
    teller.closing(loaded.file, page)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder and holds it: a second demo there is told so at once and harms nothing."""
    from filelock import FileLock, Timeout

    from onecard.adapters.durable import disk_errors
    from onecard.errors import InputError, StoreBusy

    if folder.exists() and not folder.is_dir():
        raise InputError("not a folder", where=str(folder), next_step="name another with --folder")
    with disk_errors(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".demo.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreBusy(
                "another demo is running in this folder",
                where=str(folder),
                next_step=f"wait for it, or onecard demo --folder {folder}-2",
            ) from None
    try:
        yield
    finally:
        lock.release()


def prepare(folder: Path) -> LoadedFleet:
    """Copies the example fleet and the data it names; a fleet file that is there already is kept, so that it can be changed."""
    from onecard.evidence.results import write_atomically
    from onecard.fleet.examples import examples_folder
    from onecard.fleet.loader import load_fleet

    source = examples_folder()
    for name in (FLEET, *_data_files(source / FLEET)):
        target = folder / name
        if not target.exists():
            write_atomically(target, (source / name).read_bytes())
    return load_fleet(folder / FLEET)


def _data_files(fleet_file: Path) -> list[str]:
    from onecard.fleet.loader import load_fleet

    agents = load_fleet(fleet_file).fleet.agents.values()
    named = [name for agent in agents for name in (agent.data, agent.suite.data if agent.suite else None) if name]
    return list(dict.fromkeys(named))


def plan_story(loaded: LoadedFleet, teller: Teller) -> Plan:
    from onecard.cli.plan import plan_of
    from onecard.errors import DoesNotFit

    teller.step("Plan", "what the fleet takes of this machine and how fast it should be, before anything is loaded")
    made = plan_of(loaded)
    teller.plan(made)
    if not made.fits:
        raise DoesNotFit(
            "this machine has too little free memory for the demo", next_step=f"onecard plan {loaded.file}"
        )
    return made


def train_story(loaded: LoadedFleet, agent: str, told: Told, teller: Teller) -> None:
    """Trains and publishes one adapter, and shows that the ones before it are still the same bytes."""
    from onecard.adapters.store import Store
    from onecard.cli.train import run_training

    recipe = loaded.agent(agent).recipe
    why = "two styles, chosen by a token" if agent == STYLES else "asks an exam question about a term"
    teller.step(
        f"Train {agent}", f"{why}; LoRA rank {recipe.lora.rank if recipe else '?'} on the frozen 4-bit base (QLoRA)"
    )
    with teller.training() as display:
        done = run_training(loaded, agent, on_progress=display, say=display.say)
    teller.trained(done)
    store = Store(loaded.store_url)
    for other in (run.stored for run in told.trained.values()):
        store.verify(other.agent, other.name, other.version)
        teller.untouched(other)
    told.trained[agent] = done


def gate_story(loaded: LoadedFleet, agent: str, told: Told, teller: Teller) -> None:
    """The gate, and promotion of what passes; GateFailed ends the demo, as it would end a release."""
    from onecard.cli.evaluate import run_evaluation
    from onecard.errors import GateFailed

    teller.step(
        f"Gate {agent}", "questions about terms that no training row mentions; only what passes goes into production"
    )
    with teller.asking() as on_progress:
        done = run_evaluation(loaded, agent, promote=True, out=loaded.folder / "results", on_progress=on_progress)
    told.judged[agent] = done
    teller.judged(done)
    if not done.passed:
        raise GateFailed(
            f"{agent} did not pass its suite", where=str(done.file), next_step="its report says which answers"
        )


def serve_story(loaded: LoadedFleet, told: Told, teller: Teller) -> None:
    """Serves all agents from one base, asks a held-out question in every style, then sends load."""
    import asyncio

    from onecard.cli.serve import serve_in_background

    teller.step("Serve", "one base in memory, both adapters on it, an OpenAI-compatible API on this machine only")
    with teller.waiting("loading") as on_progress, serve_in_background(loaded, on_progress=on_progress) as running:
        teller.serving(running)
        told.samples, told.health = asyncio.run(_ask(running.url, loaded, teller))
        teller.step(
            "Load", f"{CALLERS[0]} to {CALLERS[-1]} callers at once, every answer timed from its intended start"
        )
        told.load = _load(running.url, loaded, teller)


async def _ask(url: str, loaded: LoadedFleet, teller: Teller) -> tuple[list[Sample], Health]:
    """The same held-out question to both styles and to the bare base, and a text to the quiz master."""
    from onecard.benchmark.report_data import Sample, SampleAnswer
    from onecard.wire.client import Client

    async def answer(client: Client, label: str, model: str, preset: str | None, prompt: str) -> SampleAnswer:
        from onecard.wire.chat import ChatMessage, ChatRequest

        extra = {"preset": preset} if preset else {}
        request = ChatRequest(
            model=model, messages=(ChatMessage(role="user", content=prompt),), max_tokens=220, **extra
        )
        got = await client.timed_chat(request)
        return SampleAnswer(
            label=label,
            text=got.text,
            adapter=got.who.adapter,
            tokens=got.tokens,
            seconds=round(got.end_s - got.sent_s, 3),
        )

    question, text = _held_out(loaded, STYLES), _held_out(loaded, QUIZ)
    samples = []
    async with Client(url) as client:
        with teller.waiting("asking"):
            asked = [("terse", STYLES, "terse"), ("verbose", STYLES, "verbose"), ("the bare base", "base", None)]
            answers = [await answer(client, label, model, preset, question) for label, model, preset in asked]
            samples.append(Sample(question=question, answers=tuple(answers)))
            quiz = await answer(client, "quizmaster", QUIZ, None, text)
            samples.append(Sample(question=text, answers=(quiz,)))
        for sample in samples:
            teller.sample(sample)
        return samples, await client.health()


def _held_out(loaded: LoadedFleet, agent: str) -> str:
    """The first prompt of an agent's held-out rows."""
    from onecard.benchmark.prompts import read_prompts

    suite = loaded.agent(agent).suite
    assert suite is not None  # demo.yaml has one; a changed file without one is refused at the gate
    return read_prompts(loaded.existing(suite.data, f"agents.{agent}.suite.data")).rows[0].text


def _load(url: str, loaded: LoadedFleet, teller: Teller) -> ResultFile:
    from onecard.benchmark.prompts import read_prompts
    from onecard.benchmark.sweep import SweepPlan
    from onecard.cli.bench import measure

    suite = loaded.agent(STYLES).suite
    assert suite is not None
    plan = SweepPlan(
        url=url,
        prompts={STYLES: read_prompts(loaded.resolve(suite.data))},
        callers=CALLERS,
        requests=REQUESTS,
        repeats=1,
        max_new_tokens=NEW_TOKENS,
        presets=("verbose",),
        server_in_process=True,
        command=f"onecard bench sweep {loaded.file} --model {STYLES} --preset verbose --max-new-tokens {NEW_TOKENS} "
        f"--requests {REQUESTS} --repeats 1",
        fleet=loaded.fleet.name,
        fleet_digest=loaded.digest,
    )
    kept = measure(plan, loaded.folder / "results")
    teller.loaded(kept.result)
    if not kept.result.complete:
        raise KeyboardInterrupt
    return kept.result


def report_story(loaded: LoadedFleet, told: Told, teller: Teller) -> Path:
    """One page with everything that was predicted and measured."""
    from onecard.benchmark.report_data import Measured, assemble
    from onecard.cli.demo_report import extras_of
    from onecard.cli.report import write_report

    teller.step("Report", "what was predicted beside what was measured")
    extras = extras_of(loaded, told)
    teller.comparisons(extras.comparisons)
    assert told.load is not None
    data = assemble([Measured(name="sweep", result=told.load)], [extras])
    with teller.waiting("drawing"):
        written = write_report(data, loaded.folder / "report.html")
    return written.page
