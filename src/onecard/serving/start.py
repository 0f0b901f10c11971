"""From a fleet file to a service: every wish checked before anything is loaded, one engine a model, every agent's own adapter.

Nothing is dropped silently: what this service cannot serve, and an adapter that would not answer as itself, stop the start with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from onecard.adapters.store import Store, StoredVersion
from onecard.engines.engine import Engine
from onecard.errors import AdapterRefused, FleetError, UnknownName
from onecard.fleet.loader import LoadedFleet
from onecard.fleet.schema import AgentSpec
from onecard.serving.answerers import BASE, Answerer, Directory
from onecard.serving.limits import Limits
from onecard.serving.opening import choice_of, here, open_model
from onecard.serving.residency import Residency
from onecard.serving.service import FleetName, Service
from onecard.weights.start_times import StartClock

OnProgress = Callable[[str], None]


def start(
    loaded: LoadedFleet,
    on_progress: OnProgress = lambda step: None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> Service:
    """A service with everything loaded. `on_progress` is told each step before it is taken.

    FleetError for what cannot be served, UnknownName for an adapter that is not in the store, AdapterRefused for one that does not verify,
    MissingPart for weights that are not on disk. Whatever was opened by then is closed.
    """
    check_servable(loaded)
    choices = {key: choice_of(loaded, key, here()) for key in loaded.fleet.models}
    stored = find_adapters(loaded)
    engines: dict[str, Engine] = {}
    clock = StartClock()
    try:
        for key, spec in loaded.fleet.models.items():
            on_progress(f"{key}: {choices[key]}")
            on_progress(f"loading {spec.id}" + (f" in {spec.quantization}" if spec.quantization != "none" else ""))
            wanted = [
                stored[agent] for agent, wish in loaded.fleet.agents.items() if wish.model == key and agent in stored
            ]
            engines[key] = open_model(loaded, key, choices[key], wanted, clock)
        with clock.part("load the adapters"):
            agents = [
                _answerer(agent, spec, engines[spec.model], stored.get(agent), on_progress)
                for agent, spec in loaded.fleet.agents.items()
            ]
        clock.done(next(iter(loaded.fleet.models.values())).id)
        service = Service(
            FleetName(loaded.fleet.name, loaded.digest), engines, Directory(agents, _base(engines)), limits
        )
        service.residency = Residency(service, loaded, _answerer)
        return service
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise


def check_servable(loaded: LoadedFleet) -> None:
    """FleetError naming the first agent that this service does not serve."""
    for name, agent in loaded.fleet.agents.items():
        if problem := _unserved(agent):
            key, what = problem
            raise FleetError(
                f"agent {name} cannot be served: {what}",
                where=f"{loaded.file}: agents.{name}.{key}",
                next_step=f"serve a fleet without {name}; `onecard plan` already counts it",
            )


def find_adapters(loaded: LoadedFleet) -> dict[str, StoredVersion]:
    """The stored version of every agent that has an adapter; UnknownName says which command makes a missing one."""
    found = {}
    for agent, spec in loaded.fleet.agents.items():
        if spec.adapter is not None:
            found[agent] = _resolve(loaded, agent, spec.adapter)
    return found


def _unserved(agent: AgentSpec) -> tuple[str, str] | None:
    """The key and the reason when an agent wants what is not served."""
    if agent.input == "image":
        return "input", "images are not served"
    if agent.fallback:
        return "fallback", "fallback models are not served"
    return None


def _resolve(loaded: LoadedFleet, agent: str, reference: str) -> StoredVersion:
    store = Store(loaded.store_url)
    try:
        return store.resolve(agent, reference)
    except UnknownName as error:
        name = reference.partition("@")[0]
        raise UnknownName(
            f"agent {agent} has no adapter {reference} ({error.problem})",
            where=f"{loaded.file}: agents.{agent}.adapter",
            allowed=error.allowed,
            next_step=_how_to_get(loaded, store, agent, name),
        ) from error


def _how_to_get(loaded: LoadedFleet, store: Store, agent: str, name: str) -> str:
    """Train it; or, when it was trained and only nobody promoted it, let it through the gate."""
    try:
        trained = bool(store.versions(agent, name))
    except UnknownName:
        trained = False
    if trained:
        return f"onecard evaluate {loaded.file} --agent {agent} --promote"
    return f"onecard train {loaded.file} --agent {agent}"


def _answerer(
    agent: str,
    spec: AgentSpec,
    engine: Engine,
    stored: StoredVersion | None,
    on_progress: OnProgress = lambda step: None,
) -> Answerer:
    """An agent whose adapter is loaded and verified by the engine; AdapterRefused names the agent."""
    bare = Answerer(agent, spec.model, engine, presets=dict(spec.presets), task=spec.task)
    if stored is None:
        return bare
    address = f"{stored.name}@{stored.version}"
    on_progress(f"loading {address} for {agent}")
    try:
        digest = engine.load_adapter(stored.folder, stored.manifest)
    except AdapterRefused as error:
        raise AdapterRefused(
            f"{address} of agent {agent} does not answer as itself: {error.problem}",
            where=error.where or str(stored.folder),
            allowed=error.allowed,
            next_step=error.next_step or f"onecard adapters verify {agent}/{address}",
        ) from error
    chat = bool(stored.manifest.recipe.get("chat_template", True))
    return replace(bare, adapter=address, digest=digest, chat=chat)


def _base(engines: Mapping[str, Engine]) -> Answerer | None:
    """The bare base: the model called `base`, or the only one. With several and none of that name, no model is the base."""
    key = BASE if BASE in engines else next(iter(engines)) if len(engines) == 1 else None
    return Answerer(BASE, key, engines[key]) if key is not None else None
