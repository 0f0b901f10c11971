"""`onecard serve`: every agent of a fleet from one base, over HTTP on this machine.

The port is claimed before anything is loaded. Ctrl-C and SIGTERM end it with exit code 0 once the requests in flight are answered; a
second Ctrl-C ends it at once with 130.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from onecard.fleet.loader import LoadedFleet
    from onecard.serving.check import CheckReport, Probe
    from onecard.serving.running import Running
    from onecard.serving.service import Service

WIDTH = 100
QUESTION = "What is a hash table?"


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback only: without keys anyone may ask.")
@click.option(
    "--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one and shows it."
)
@click.option("--check", is_flag=True, help="Load, ask every agent, show the memory really taken, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts: one line once it serves.")
def serve(fleet: Path, host: str, port: int, check: bool, as_json: bool) -> int:
    """Serve every agent of FLEET from one base, each with its own adapter.

    An adapter that does not verify stops the start. Ctrl-C stops it: requests in flight are answered first (at most
    30 seconds), then it exits with 0; a second Ctrl-C does not wait and exits with 130.

    \b
    Example:
      onecard serve examples/demo.yaml
      onecard serve examples/demo.yaml --port 0 --check
    """
    from onecard.fleet.loader import load_fleet

    loaded = load_fleet(fleet)
    if check:
        return _check(loaded, as_json)
    from onecard.serving.listening import listen, url_of
    from onecard.serving.running import run

    listening = listen(host, port)
    try:
        service = _start(loaded, as_json)
    except BaseException:
        listening.close()
        raise
    if as_json:
        click.echo(json.dumps({"url": url_of(listening), **service.health().model_dump(mode="json")}))
    else:
        _show(service, loaded, url_of(listening))
    whole = run(service, listening)
    if not as_json:
        click.echo("stopped" if whole else "stopped at once: requests in flight were cut off", err=not whole)
    return 0 if whole else 130


@contextmanager
def serve_in_background(
    loaded: LoadedFleet, port: int = 0, *, on_progress: Callable[[str], None] = lambda step: None
) -> Iterator[Running]:
    """The fleet's service on loopback while the context is open; `.url` is where, `.service` what. Port 0 takes a free one."""
    from onecard.serving.listening import listen
    from onecard.serving.running import run_in_background
    from onecard.serving.start import start

    listening = listen("127.0.0.1", port)
    try:
        service = start(loaded, on_progress)
    except BaseException:
        listening.close()
        raise
    with run_in_background(service, listening) as running:
        yield running


def _start(loaded: LoadedFleet, quiet: bool) -> Service:
    from onecard.serving.start import start

    with _steps(quiet) as on_progress:
        return start(loaded, on_progress)


def _check(loaded: LoadedFleet, as_json: bool) -> int:
    """Loads and probes over HTTP; exit code 1 when an agent does not answer as itself."""
    import asyncio

    from onecard.serving.check import check

    with _steps(as_json) as on_progress, serve_in_background(loaded, on_progress=on_progress) as running:
        on_progress("asking every agent")
        report = asyncio.run(check(running.url, question=_question(loaded)))
    if as_json:
        click.echo(json.dumps(report.record(), indent=2))
    else:
        _show_report(report)
    return 0 if report.passed else 1


@contextmanager
def _steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows the step that is being taken: a spinner on a terminal, a line each elsewhere, nothing with --json."""
    console = _console(stderr=True)
    if quiet:
        yield lambda step: None
    elif not console.is_terminal:
        yield lambda step: console.print(step)
    else:
        status: AbstractContextManager[Any] = console.status("starting")
        with status as shown:
            yield lambda step: shown.update(step)


def _show(service: Service, loaded: LoadedFleet, url: str) -> None:
    console = _console()
    health = service.health()
    table = _table("agent", "adapter", "digest", "presets (the first answers by default)", "base")
    for answerer in service.directory.agents:
        names = sorted(answerer.presets, key=lambda name: name != answerer.default_preset)
        adapter = answerer.adapter or "none: the bare base"
        table.add_row(answerer.agent, adapter, (answerer.digest or "-")[:12], ", ".join(names), answerer.model)
    console.print(table)
    for model in health.models:
        console.print(
            f"{model.name}: {model.id}, {model.quantization}, {model.dtype} on {model.device}, "
            f"context {model.context}, {model.concurrency} callers at once; {_memory_line(service, model.name)}"
        )
    console.print(f"\n[bold]serving at {url}[/bold]   OpenAI clients: base_url {url}/v1", soft_wrap=True)
    if service.directory.agents:
        console.print("try:")
        console.print(f"  {_curl(service, loaded, url)}", soft_wrap=True, markup=False)
    console.print("Ctrl-C stops it")


def _curl(service: Service, loaded: LoadedFleet, url: str) -> str:
    """A line that asks the first agent in its default style."""
    first = service.directory.agents[0]
    body = {"agent": first.agent, "style": first.default_preset, "prompt": _question(loaded)}
    return f"curl {url}/generate -H 'content-type: application/json' -d {shlex.quote(json.dumps(body))}"


def _question(loaded: LoadedFleet) -> str:
    """Something the fleet's agents are about: the first held-out prompt of a suite, if it is short; else a general question."""
    for agent in loaded.fleet.agents.values():
        file = loaded.resolve(agent.suite.data) if agent.suite else None
        if file is None or not file.is_file():
            continue
        try:
            with file.open(encoding="utf-8") as lines:
                prompt = json.loads(next(lines)).get("prompt")
        except (OSError, ValueError, StopIteration, AttributeError):
            continue
        if isinstance(prompt, str) and 0 < len(prompt) <= 100:
            return prompt
    return QUESTION


def _show_report(report: CheckReport) -> None:
    console = _console()
    table = _table("agent", "adapter", "preset", "tokens", "first token", "whole answer", "answer, or what is wrong")
    for probe in report.probes:
        table.add_row(*_probe_row(probe))
    console.print(table)
    memory = report.health.memory
    parts = _table("memory part", "model", "MiB")
    for part in memory.parts:
        parts.add_row(part.name, part.model, f"{part.bytes / 2**20:,.1f}")
    console.print(parts)
    if memory.gpu_bytes is not None:
        console.print(f"GPU memory at its peak: {memory.gpu_bytes / 2**30:.2f} GiB")
    if memory.process_bytes is not None:
        console.print(f"the process: {memory.process_bytes / 2**30:.2f} GiB resident, the libraries included")
    if report.health.detail:
        console.print(f"the service says: {report.health.detail}", markup=False)
    good = sum(probe.problem is None for probe in report.probes)
    console.print(f"{good} of {len(report.probes)} agents answer as themselves")


def _probe_row(probe: Probe) -> list[str]:
    from rich.markup import escape

    head = [probe.agent, probe.adapter or "none", probe.preset]
    if probe.problem is not None:
        return [*head, "-", "-", "-", f"[bold red]no:[/bold red] {escape(probe.problem)}"]
    words = " ".join(probe.text.split())
    shown = words if len(words) <= 60 else f"{words[:57]}..."
    first = "-" if probe.first_token_s is None else f"{probe.first_token_s:.2f} s"
    return [*head, str(probe.tokens), first, f"{probe.latency_s:.2f} s", escape(shown)]


def _memory_line(service: Service, model: str) -> str:
    parts = service.health().memory.parts
    return " + ".join(
        f"{part.name} {part.bytes / 2**20:,.1f} MiB" for part in parts if part.model == model and part.bytes
    )


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in ("tokens", "MiB") else "left")
    return table


def _console(*, stderr: bool = False) -> Console:
    """100 columns wide when it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, stderr=stderr, width=WIDTH)
