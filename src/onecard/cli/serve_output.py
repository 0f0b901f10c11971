"""What `onecard serve` shows: who answers, a line to try, and after a check what was said and what it really took."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from onecard.fleet.loader import LoadedFleet
    from onecard.serving.check import CheckReport, Probe
    from onecard.serving.service import Service
    from onecard.wire.health import MemoryHealth

WIDTH = 100
QUESTION = "What is a hash table?"
# Kinds of the plan's lines, in the order they are shown, and how the engine's parts are called that belong to them.
KINDS: Mapping[str, str] = {"weights": "base weights", "adapters": "adapter ", "cache": "kv cache"}
OUTSIDE = "working memory, libraries, allocator"


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows the step that is being taken: a spinner on a terminal, a line each elsewhere, nothing with --json."""
    console = _console(stderr=True)
    if quiet:
        yield lambda step: None
    elif not console.is_terminal:
        yield lambda step: console.print(step, markup=False)
    else:
        with console.status("starting") as shown:
            yield lambda step: shown.update(step)


def show_service(service: Service, loaded: LoadedFleet, url: str) -> None:
    """Who answers, from what, where, and a line to try it with."""
    console = _console()
    table = _table("agent", "adapter", "digest", "presets (the first answers by default)", "model")
    for answerer in service.directory.agents:
        names = sorted(answerer.presets, key=lambda name: name != answerer.default_preset)
        adapter = answerer.adapter or "none: the bare base"
        table.add_row(answerer.agent, adapter, (answerer.digest or "-")[:12], ", ".join(names), answerer.model)
    console.print(table)
    health = service.health()
    for model in health.models:
        held = "not quantized" if model.quantization == "none" else model.quantization
        taken = sum(part.bytes for part in health.memory.parts if part.model == model.name)
        console.print(
            f"{model.name}: {model.id}, {held}, {model.dtype} on {model.device}, {taken / 2**20:,.1f} MiB with its "
            f"adapters; context {model.context}, {model.concurrency} callers at once",
            markup=False,
        )
    console.print(f"\n[bold]serving at {url}[/bold]   (OpenAI clients: base_url {url}/v1)", soft_wrap=True)
    if service.directory.agents:
        console.print(f"try:   {_curl(service, loaded, url)}", soft_wrap=True, markup=False)
    console.print("Ctrl-C stops it")


def show_report(report: CheckReport, planned: Mapping[str, int] | None) -> None:
    """What every agent said, and the memory taken beside the plan; `planned` maps the plan's kinds to bytes."""
    console = _console()
    table = _table("agent", "adapter", "preset", "tokens", "first token", "whole answer", "answer, or what is wrong")
    for probe in report.probes:
        table.add_row(*_probe_row(probe))
    console.print(table)
    console.print(_memory_table(report.health.memory, planned))
    if planned is not None:
        console.print("The plan counts every caller with a full context; measured was after one request at a time.")
    if report.health.detail:
        console.print(f"the service says: {report.health.detail}", markup=False)
    good = sum(probe.problem is None for probe in report.probes)
    console.print(f"{good} of {len(report.probes)} agents answer as themselves")


def memory_rows(memory: MemoryHealth, planned: Mapping[str, int] | None) -> list[tuple[str, int | None, int | None]]:
    """(part, bytes planned, bytes measured), the whole last. What no part of the engine holds is the process's own."""
    rows: list[tuple[str, int | None, int | None]] = []
    for kind, name in KINDS.items():
        measured = sum(part.bytes for part in memory.parts if part.name.startswith(name))
        rows.append((kind, planned.get(kind, 0) if planned else None, measured))
    taken = memory.taken_bytes
    inside = sum(part.bytes for part in memory.parts)
    rest = None if planned is None else sum(size for kind, size in planned.items() if kind not in KINDS)
    rows.append((OUTSIDE, rest, None if taken is None else taken - inside))
    where = "GPU memory at its peak" if memory.gpu_bytes is not None else "the process, resident"
    return [*rows, (where, None if planned is None else sum(planned.values()), taken)]


def question_of(loaded: LoadedFleet) -> str:
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


def _curl(service: Service, loaded: LoadedFleet, url: str) -> str:
    """A line that asks the first agent in its default style."""
    first = service.directory.agents[0]
    body = {"agent": first.agent, "style": first.default_preset, "prompt": question_of(loaded)}
    return f"curl {url}/generate -H 'content-type: application/json' -d {shlex.quote(json.dumps(body))}"


def _memory_table(memory: MemoryHealth, planned: Mapping[str, int] | None) -> Table:
    table = _table("memory, MiB", *(("planned",) if planned is not None else ()), "measured")
    for part, plan, measured in memory_rows(memory, planned):
        figures = [plan, measured] if planned is not None else [measured]
        table.add_row(part, *("-" if size is None else f"{size / 2**20:,.1f}" for size in figures))
    return table


def _probe_row(probe: Probe) -> list[str]:
    from rich.markup import escape

    head = [probe.agent, probe.adapter or "none", probe.preset]
    if probe.problem is not None:
        return [*head, "-", "-", "-", f"[bold red]no:[/bold red] {escape(probe.problem)}"]
    words = " ".join(probe.text.split())
    shown = words if len(words) <= 60 else f"{words[:57]}..."
    first = "-" if probe.first_token_s is None else f"{probe.first_token_s:.2f} s"
    return [*head, str(probe.tokens), first, f"{probe.latency_s:.2f} s", escape(shown)]


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        figures = column in ("tokens", "first token", "whole answer", "planned", "measured")
        table.add_column(column, overflow="fold", justify="right" if figures else "left")
    return table


def _console(*, stderr: bool = False) -> Console:
    """100 columns wide when it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, stderr=stderr, width=WIDTH)
