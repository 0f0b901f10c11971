"""The story of a verification: read the files, judge them, start the service, ask it everything, stop it, look at what is left.

Every check goes to `on_check` the moment it is known. What one criterion cannot see does not keep the others from being looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from onecard.cli import verify_adapter, verify_environment, verify_served
from onecard.cli.verify_facts import MachineSeen, installed_versions, read_adapter, read_machine, room_of
from onecard.cli.verify_records import OF_THE_SERVICE, Check, Neighbours, Wanted, judged, unseen

if TYPE_CHECKING:
    from onecard.cli.verify_adapter import AdapterSeen
    from onecard.cli.verify_service import Started
    from onecard.fleet.loader import LoadedFleet

BUSY_OVER_S = 0.5
OnCheck = Callable[[Check], None]
OnProgress = Callable[[str], None]


def run_verification(
    loaded: LoadedFleet,
    wanted: Wanted,
    on_check: OnCheck = lambda check: None,
    on_progress: OnProgress = lambda step: None,
) -> tuple[Check, ...]:
    """Every wanted check of the fleet. FleetError for an agent nobody has; a criterion that cannot look says so instead of raising."""
    agents = wanted.agents or tuple(loaded.fleet.agents)
    for agent in agents:
        loaded.agent(agent)
    found: list[Check] = []
    # Closed, so that Ctrl-C between two checks ends the child too.
    with closing(_checks(loaded, wanted, agents, on_progress)) as checks:
        for check in checks:
            if check.criterion in wanted.criteria:
                found.append(check)
                on_check(check)
    return tuple(found)


def _checks(
    loaded: LoadedFleet, wanted: Wanted, agents: tuple[str, ...], on_progress: OnProgress
) -> Generator[Check, None, None]:
    on_progress("reading this machine and the plan")
    machine = read_machine(loaded)
    yield from _of_the_machine(loaded, machine)
    on_progress("hashing the adapters' files")
    adapters = {agent: read_adapter(loaded, agent) for agent in agents}
    for seen in adapters.values():
        yield from _of_the_store(loaded, wanted, machine, seen)
    if wanted.needs_service:
        yield from _of_the_service(loaded, wanted, agents, machine, adapters, on_progress)


def _of_the_machine(loaded: LoadedFleet, machine: MachineSeen) -> Iterator[Check]:
    file = str(loaded.file)
    described = not isinstance(loaded.fleet.card, str)
    card = verify_environment.FleetCard(machine.fleet_card, described, machine.other_card)
    yield from verify_environment.environment_checks(machine.facts, card, file)
    if machine.plan is not None:
        yield from verify_environment.plan_checks(machine.plan, file)
    else:
        yield from verify_environment.unplanned(loaded.fleet, machine.plan_fault, file)


def _of_the_store(loaded: LoadedFleet, wanted: Wanted, machine: MachineSeen, seen: AdapterSeen) -> Iterator[Check]:
    file, elsewhere = str(loaded.file), machine.other_card
    yield from verify_adapter.adapter_checks(seen, file, elsewhere=elsewhere)
    room = room_of(machine, seen.agent, wanted.training_gib)
    yield from verify_adapter.training_checks(seen, room, installed_versions(), file, elsewhere=elsewhere)
    yield from verify_adapter.gate_checks(seen, file, elsewhere=elsewhere)


def _of_the_service(
    loaded: LoadedFleet,
    wanted: Wanted,
    agents: tuple[str, ...],
    machine: MachineSeen,
    adapters: dict[str, AdapterSeen],
    on_progress: OnProgress,
) -> Iterator[Check]:
    """Starts the child, asks it, stops it. On another machine than the fleet's nothing is started."""
    from onecard.cli.verify_service import started
    from onecard.errors import EngineFailed

    what = "serves on a free loopback port"
    if machine.other_card is not None:
        yield unseen("service", "start", what, machine.other_card)
        yield from verify_served.not_started(loaded.fleet, wanted.criteria, machine.other_card, agents, machine.plan)
        return
    before, neighbours = _leftovers(loaded), _neighbours(machine)
    digests = {agent: seen.stored.digest if seen.stored else None for agent, seen in adapters.items()}
    try:
        with started(loaded.file, on_progress) as service:
            yield from _asked(loaded, wanted, agents, machine, digests, service, neighbours, on_progress)
            if "service" in wanted.criteria:
                on_progress("stopping the service")
                yield from _stopped(loaded, service, before)
    except EngineFailed as error:
        # Whatever of the service was asked for: that it does not start is a failure of the fleet, not a gap in what was seen.
        asked = [name for name in OF_THE_SERVICE if name in wanted.criteria]
        criterion = "service" if "service" in asked else asked[0]
        yield Check(
            criterion, "start", what, "fail", error.problem, "a process that says where",
            f"onecard serve {loaded.file} --port 0", _mend(error.problem, loaded.file),
        )  # fmt: skip
        yield from verify_served.not_started(loaded.fleet, wanted.criteria, "the service did not start", agents)


def _asked(
    loaded: LoadedFleet,
    wanted: Wanted,
    agents: tuple[str, ...],
    machine: MachineSeen,
    digests: dict[str, str | None],
    service: Started,
    neighbours: Neighbours | None,
    on_progress: OnProgress,
) -> Iterator[Check]:
    """Everything that is asked while the service runs. Memory comes last: what counts is what it takes after all of it."""
    from onecard.cli import verify_asking as asking
    from onecard.cli.verify_load import deadline_checks

    them = asking.Asking(service.url, loaded, digests, wanted, neighbours)
    with asking.http(service.url) as client:
        if "service" in wanted.criteria:
            pages = [asking.page(client, path) for path in ("/health", "/ready")]
            yield from verify_served.start_checks(service.seconds, service.url, *pages)
            on_progress("asking every agent who it is")
            named = {agent: asking.who_answers(client, agent) for agent in agents}
            yield from verify_served.named_checks(named, digests, str(loaded.file))
        if "load" in wanted.criteria:
            yield from verify_served.load_checks(service.health, loaded.fleet, machine.plan)
        for agent in agents if "style" in wanted.criteria else ():
            yield from asking.style_checks(them, agent, on_progress)
        if "requests" in wanted.criteria:
            on_progress("sending malformed requests")
            yield from asking.malformed_checks(client, loaded) if loaded.fleet.agents else ()
        if "deadline" in wanted.criteria:
            on_progress("measuring a load against the deadlines")
            yield from deadline_checks(them, machine.plan, machine.other_card, agents)
        if "memory" in wanted.criteria:
            yield from _memory(asking.page(client, "/health").text, loaded, machine)


def _memory(text: str, loaded: LoadedFleet, machine: MachineSeen) -> Iterable[Check]:
    from pydantic import ValidationError

    from onecard.wire.health import Health

    try:
        health = Health.model_validate_json(text)
    except ValidationError:
        what, next_step = "memory of serving, after all requests", f"onecard serve {loaded.file} --check"
        return [
            judged("memory", "serving", what, False, f"GET /health: {text[:90]}", "an answer", "GET /health", next_step)
        ]
    return verify_served.memory_checks(health, machine.plan, machine.other_card, str(loaded.file))


def _stopped(loaded: LoadedFleet, service: Started, before: frozenset[str]) -> Iterable[Check]:
    from onecard.cli.verify_service import stop

    ended = stop(service)
    return verify_served.stop_checks(ended, tuple(sorted(_leftovers(loaded) - before)))


def _neighbours(machine: MachineSeen) -> Neighbours | None:
    """Who keeps this processor busy now, while nothing of ours runs; None where a card answers."""
    from onecard.planner.speed import is_cpu

    if machine.plan is None or not is_cpu(machine.plan.card):
        return None
    cores = psutil.cpu_count() or 1
    return Neighbours(float(psutil.cpu_percent(BUSY_OVER_S)) / 100 * cores, cores)


def _leftovers(loaded: LoadedFleet) -> frozenset[str]:
    """What killed processes left in the store and the caches, as the doctor finds it."""
    from onecard.cli.doctor_places import read_leftovers

    store = None if "://" in loaded.store_url else Path(loaded.store_url)
    try:
        return frozenset(f"{left.what}: {left.path}" for left in read_leftovers(store))
    except OSError:
        return frozenset()


def _mend(said: str, file: Path) -> str:
    """The next step that the child itself named, or where to look."""
    named = [part.strip().removeprefix("next:").strip() for part in said.split(";") if part.strip().startswith("next:")]
    return named[-1] if named else f"onecard doctor {file}"
