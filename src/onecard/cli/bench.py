"""`onecard bench`: load a service, any OpenAI-compatible one, and time it from the intended start of every request.

`measure` is what `onecard demo` calls as well: a plan in, two files and a result out. Progress goes to standard error, figures to
standard output.
"""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onecard.benchmark.prompts import Prompts
    from onecard.benchmark.sweep import SweepPlan
    from onecard.evidence.results import ResultFile
    from onecard.fleet.loader import LoadedFleet


@dataclass(frozen=True)
class Kept:
    """A result and the two files it stands in."""

    result: ResultFile
    file: Path
    table: Path


@click.group()
def bench() -> None:
    """Load a service and time it from the intended start of every request.

    \b
    Example:
      onecard bench sweep examples/demo.yaml --model explainer
      onecard bench sweep http://127.0.0.1:8700 --model explainer --preset terse
    """


@bench.command(short_help="Latency and throughput against concurrent callers.")
@click.argument("target", metavar="URL|FLEET")
@click.option("--model", "models", multiple=True, metavar="AGENT", help="Who is asked; several share the load equally.")
@click.option(
    "--preset", "presets", multiple=True, metavar="NAME", help="The agent's preset.  [default: each row's own]"
)
@click.option("--callers", default="1..6", show_default=True, help="Concurrent callers: 1..6 or 1,2,4,8.")
@click.option("--requests", type=click.IntRange(1), default=30, show_default=True, help="Requests of each caller.")
@click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Repeats of every number of callers."
)
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer, tokens.  [default: the preset's]")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSONL rows {"prompt": ...}.  [default: the agent\'s held-out rows, else a dozen shipped questions]',
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder for JSON and CSV.",
)
@click.option("--seed", default=0, show_default=True, help="Decides the order of the prompts.")
@click.option(
    "--warmup", type=click.IntRange(0), default=1, show_default=True, help="Uncounted requests of each caller."
)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, help="Seconds a request."
)
@click.option("--api-key", envvar="ONECARD_API_KEY", help="Key of the service, or $ONECARD_API_KEY. Never recorded.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def sweep(
    target: str,
    models: tuple[str, ...],
    presets: tuple[str, ...],
    callers: str,
    out: Path,
    as_json: bool,
    **wishes: Any,
) -> int:
    """A closed loop: each caller sends its next request the moment its previous answer has ended.

    URL is any OpenAI-compatible service; a FLEET file is served by this command while it is measured. Every request
    goes into a JSON file, one row per step into a CSV beside it. Ctrl-C keeps what was measured (exit code 130).

    \b
    Example:
      onecard bench sweep examples/demo.yaml --model explainer --callers 1..6 --requests 30 --repeats 3
      onecard bench sweep http://127.0.0.1:8700 --model explainer --preset terse --max-new-tokens 32
    """
    from onecard.benchmark.prompts import read_prompts
    from onecard.benchmark.sweep import SweepPlan, parse_callers

    _check_folder(out)
    file = wishes["prompts"]
    given = read_prompts(file) if file else None
    with _service(target, models, presets, given, wishes["api_key"], quiet=as_json) as service:
        plan = SweepPlan(
            url=service.url,
            prompts=service.prompts,
            presets=presets,
            callers=parse_callers(callers),
            requests=wishes["requests"],
            repeats=wishes["repeats"],
            warmup_requests=wishes["warmup"],
            max_new_tokens=wishes["max_new_tokens"],
            seed=wishes["seed"],
            timeout_s=wishes["timeout"],
            api_key=wishes["api_key"],
            command=_command(target, tuple(service.prompts), presets, callers, wishes),
            **service.about,
        )
        kept = measure(plan, out, quiet=as_json)
    return _conclude(kept, as_json)


def measure(plan: SweepPlan, out: Path, *, quiet: bool = False) -> Kept:
    """Runs the sweep with a live table, and writes JSON and CSV into `out`. Errors are those of `Sweep.run` and of writing."""
    from onecard.benchmark.sweep import Sweep
    from onecard.cli.bench_table import LiveTable

    if quiet:
        result = Sweep(plan).run()
    else:
        with LiveTable(plan) as table:
            result = Sweep(plan, table).run()
    return _keep(_free_name(out, "+".join(plan.prompts)), result)


@dataclass(frozen=True)
class _Service:
    """What is measured: a URL, what each agent is asked, and what the plan records about the fleet."""

    url: str
    prompts: dict[str, Prompts]
    about: dict[str, Any]


@contextmanager
def _service(
    target: str,
    models: Sequence[str],
    presets: Sequence[str],
    given: Prompts | None,
    api_key: str | None,
    *,
    quiet: bool,
) -> Iterator[_Service]:
    """The URL as it is, or the fleet served by this process until the context ends."""
    from onecard.benchmark.prompts import shipped_prompts

    if re.match(r"https?://", target):
        asked = {model: given or shipped_prompts() for model in models or _only(_listed(target, api_key), target)}
        yield _Service(target, asked, {})
        return
    from onecard.cli.serve import serve_in_background
    from onecard.fleet.loader import load_fleet

    loaded = load_fleet(target)
    asked = {model: given or _held_out(loaded, model) for model in models or _only([*loaded.fleet.agents], target)}
    _check_presets(loaded, list(asked), presets)
    about = {"server_in_process": True, "fleet": loaded.fleet.name, "fleet_digest": loaded.digest}
    with _loading(quiet) as (on_progress, loaded_now), serve_in_background(loaded, on_progress=on_progress) as running:
        loaded_now()
        yield _Service(running.url, asked, about)


def _listed(url: str, api_key: str | None) -> list[str]:
    """What the server's /v1/models lists."""
    import asyncio

    from onecard.wire.client import Client

    async def listed() -> list[str]:
        async with Client(url, api_key=api_key, timeout_s=20) as client:
            return await client.models()

    return asyncio.run(listed())


def _only(names: Sequence[str], target: str) -> Sequence[str]:
    """The names when there is one; InputError that lists them when there are several."""
    from onecard.errors import InputError

    if len(names) == 1:
        return names
    raise InputError(
        "which agent is to be asked?",
        where=target,
        allowed=", ".join(names) or None,
        next_step=f"onecard bench sweep {shlex.quote(target)} --model {names[0] if names else 'NAME'}",
    )


def _held_out(loaded: LoadedFleet, model: str) -> Prompts:
    """The rows of the agent's suite, which its adapter was not trained on; the shipped questions without a suite."""
    from onecard.benchmark.prompts import read_prompts, shipped_prompts

    agent = model.partition("@")[0]
    suite = None if agent == "base" else loaded.agent(agent).suite
    return read_prompts(loaded.existing(suite.data, f"agents.{agent}.suite.data")) if suite else shipped_prompts()


def _check_presets(loaded: LoadedFleet, models: Sequence[str], presets: Sequence[str]) -> None:
    """UnknownName for a preset an asked agent does not have, before anything is loaded."""
    from onecard.errors import UnknownName, nearest

    for agent in (model.partition("@")[0] for model in models):
        known = list(loaded.agent(agent).presets) if agent != "base" else list(presets)
        for preset in presets:
            if preset not in known:
                problem = f"agent '{agent}' has no preset '{preset}'{nearest(preset, known)}"
                raise UnknownName(problem, where="--preset", allowed=", ".join(known))


def _check_folder(folder: Path) -> None:
    """Writes and removes a file, so that a wrong folder is said before the measurement and not after it."""
    from onecard.evidence.results import write_atomically

    probe = folder / ".onecard-can-write"
    write_atomically(probe, "")
    probe.unlink(missing_ok=True)


def _free_name(folder: Path, agent: str) -> Path:
    """<folder>/sweep-<agent>-<UTC>.json, one that does not exist yet."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", agent)[:80]
    stem = f"sweep-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    number, file = 1, folder / f"{stem}.json"
    while file.exists():
        number += 1
        file = folder / f"{stem}-{number}.json"
    return file


def _keep(file: Path, result: ResultFile) -> Kept:
    """Writes the result; when its folder fails now, it goes to the system's temporary folder rather than away."""
    from onecard.errors import OnecardError
    from onecard.evidence.results import write_results

    try:
        return Kept(result, file, write_results(file, result))
    except OnecardError as error:
        kept = Path(tempfile.gettempdir()) / file.name
        write_results(kept, result)
        raise type(error)(error.problem, where=error.where, next_step=f"the result was kept in {kept}") from None


def _command(target: str, models: Sequence[str], presets: Sequence[str], callers: str, wishes: dict[str, Any]) -> str:
    """The command line that repeats the measurement; the key is left out."""
    words = ["onecard", "bench", "sweep", target]
    words += [word for model in models for word in ("--model", model)]
    words += [word for preset in presets for word in ("--preset", preset)]
    words += ["--callers", callers]
    for name in ("requests", "repeats", "warmup", "seed", "max_new_tokens", "prompts"):
        if wishes[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(wishes[name])]
    return shlex.join(words)


def _conclude(kept: Kept, as_json: bool) -> int:
    """Shows figures, paths and the next command. The exit code is 130 after Ctrl-C; EngineFailed when the server stopped answering."""
    from onecard.errors import EngineFailed

    result = kept.result
    if as_json:
        click.echo(json.dumps(_record(kept), indent=2))
    else:
        _show(kept)
    if result.complete:
        return 0
    if result.stopped_because == "interrupted":
        return 130
    problem = result.stopped_because or "the sweep did not finish"
    raise EngineFailed(problem, where=result.what.url, next_step=f"what was measured is in {kept.file}")


def _record(kept: Kept) -> dict[str, Any]:
    from onecard.benchmark.statistics import caller_points, caution

    return {
        "result": str(kept.file),
        "csv": str(kept.table),
        "complete": kept.result.complete,
        "stopped_because": kept.result.stopped_because,
        "caution": caution(kept.result),
        "callers": [asdict(point) for point in caller_points(kept.result.steps)],
    }


def _show(kept: Kept) -> None:
    from rich.text import Text

    from onecard.benchmark.statistics import caution
    from onecard.cli.bench_table import console_of, figures_table

    console = console_of()
    console.print(figures_table(kept.result.steps))
    if not kept.result.complete:
        done = sum(len(step.requests) for step in kept.result.steps)
        console.print(Text(f"partial: {kept.result.stopped_because}; {done} requests were kept", style="yellow"))
    warning = caution(kept.result)
    if warning:
        console.print(Text(warning, style="yellow"))
    for label, text in (
        ("result", kept.file),
        ("table", kept.table),
        ("next", f"onecard report {shlex.quote(str(kept.file))}"),
    ):
        console.print(Text(f"{label:>6}  ", style="dim") + Text(str(text)), soft_wrap=True)


@contextmanager
def _loading(quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """How to say what is being loaded, and how to say that it is; a spinner on a terminal, a line each elsewhere."""
    from onecard.cli.bench_table import console_of

    console = console_of(stderr=True)
    if quiet:
        yield (lambda step: None), (lambda: None)
    elif not console.is_terminal:
        yield (lambda step: console.print(step, markup=False)), (lambda: None)
    else:
        spinner = console.status("loading")
        with spinner:
            yield (lambda step: spinner.update(step)), spinner.stop
