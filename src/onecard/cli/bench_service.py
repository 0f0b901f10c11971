"""What `onecard bench` measures: a URL as it is, or a fleet served by this process for as long as it is measured."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onecard.benchmark.prompts import Prompts
    from onecard.fleet.loader import LoadedFleet


@dataclass(frozen=True)
class Wanted:
    """Whom a person asks for, and with what. `verb` is the one they used, for the next step of an error."""

    target: str
    models: Sequence[str]
    presets: Sequence[str]
    prompts: Path | None
    api_key: str | None
    verb: str
    every_agent: bool = False


@dataclass(frozen=True)
class Service:
    """What is measured: a URL, what each agent is asked, and what the plan records about the fleet (`loaded`, when there is one)."""

    url: str
    prompts: dict[str, Prompts]
    about: dict[str, Any]
    loaded: LoadedFleet | None = None
    deadlines: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def service_of(wanted: Wanted, *, quiet: bool) -> Iterator[Service]:
    """The URL as it is, or the fleet served by this process until the context ends."""
    from onecard.benchmark.prompts import read_prompts, shipped_prompts

    given = read_prompts(wanted.prompts) if wanted.prompts else None
    if re.match(r"https?://", wanted.target):
        names = wanted.models or _asked(_listed(wanted.target, wanted.api_key), wanted)
        yield Service(wanted.target, {model: given or shipped_prompts() for model in names}, {})
        return
    from onecard.cli.serve import serve_in_background
    from onecard.fleet.loader import load_fleet

    loaded = load_fleet(wanted.target)
    names = wanted.models or _asked([*loaded.fleet.agents], wanted)
    asked = {model: given or _held_out(loaded, model) for model in names}
    _check_presets(loaded, list(asked), wanted.presets)
    about = {"server_in_process": True, "fleet": loaded.fleet.name, "fleet_digest": loaded.digest}
    with _loading(quiet) as (on_progress, loaded_now), serve_in_background(loaded, on_progress=on_progress) as running:
        loaded_now()
        yield Service(running.url, asked, about, loaded, _deadlines(loaded, list(asked)))


def _deadlines(loaded: LoadedFleet, models: Sequence[str]) -> dict[str, float]:
    """Each asked agent's own deadline, milliseconds."""
    specs = {model: loaded.fleet.agents.get(model.partition("@")[0]) for model in models}
    return {model: spec.deadline.seconds * 1000 for model, spec in specs.items() if spec and spec.deadline}


def _listed(url: str, api_key: str | None) -> list[str]:
    """What the server's /v1/models lists."""
    import asyncio

    from onecard.wire.client import Client

    async def listed() -> list[str]:
        async with Client(url, api_key=api_key, timeout_s=20) as client:
            return await client.models()

    return asyncio.run(listed())


def _asked(names: Sequence[str], wanted: Wanted) -> Sequence[str]:
    """The names when there is one, or the verb asks them all; InputError that lists them when there are several."""
    from onecard.errors import InputError

    if len(names) == 1 or (names and wanted.every_agent):
        return names
    raise InputError(
        "which agent is to be asked?",
        where=wanted.target,
        allowed=", ".join(names) or None,
        next_step=f"onecard bench {wanted.verb} {shlex.quote(wanted.target)} --model {names[0] if names else 'NAME'}",
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
