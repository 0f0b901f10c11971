"""The engine of one model of a fleet: chosen, checked and opened in one place for `serve`, `evaluate` and whoever else needs one.

The choice itself is pure (`engines/choice.py`); here are the facts it is made from. Imports of the engines stand inside: they are heavy.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, cast

from onecard.adapters.store import StoredVersion
from onecard.catalog.units import GIB
from onecard.engines.choice import LOCAL_MISSING, Choice, Here, Wanted, choose_engine
from onecard.engines.engine import Engine
from onecard.engines.vllm_base import ExportedBase, exported_base
from onecard.errors import FleetError, InputError, MissingPart, OnecardError
from onecard.fleet.loader import LoadedFleet
from onecard.fleet.schema import ModelSpec
from onecard.weights.start_times import StartClock

LOCAL_FORMS = ("none", "int8", "nf4")
CARDS = ("/dev/nvidiactl", "/dev/kfd")
REMOTE_KEY = "ONECARD_REMOTE_KEY"  # of the server of a model with engine: remote


def here(environ: Mapping[str, str] = os.environ) -> Here:
    """This machine, without importing anything heavy."""
    return Here(
        card=any(Path(device).exists() for device in CARDS),
        local=all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft")),
        vllm=bool(importlib.util.find_spec("vllm") or environ.get("ONECARD_VLLM_PYTHON")),
    )


def choice_of(loaded: LoadedFleet, key: str, machine: Here) -> Choice:
    """What answers for a model of the fleet, and why. FleetError for a form that its engine does not hold."""
    spec = loaded.fleet.models[key]
    export = _export_of(loaded, spec)
    agents = {name: agent for name, agent in loaded.fleet.agents.items() if agent.model == key}
    adapted = {name: agent for name, agent in agents.items() if agent.adapter}
    adding = tuple(name for name, agent in adapted.items() if agent.recipe and agent.recipe.added_tokens)
    wanted = Wanted(
        engine=spec.engine,
        quantization=spec.quantization,
        kv_cache=spec.kv_cache,
        adapters=len(adapted),
        added_tokens=adding,
        exported_for=export.address if export else None,
        scores=any(agent.task == "rerank" for agent in agents.values()),
    )
    choice = choose_engine(wanted, machine)
    where = f"{loaded.file}: models.{key}"
    if choice.engine == "local" and spec.quantization not in LOCAL_FORMS:
        raise FleetError(
            f"{spec.quantization} is not served by the local engine",
            where=f"{where}.quantization",
            allowed=", ".join(LOCAL_FORMS),
        )
    if choice.engine == "vllm" and spec.quantization in ("int8", "nf4"):
        raise FleetError(
            f"{spec.quantization} is not served by vLLM", where=f"{where}.quantization", allowed="none, awq, gptq, fp8",
            next_step="set engine: local",
        )  # fmt: skip
    if choice.missing:
        raise MissingPart(
            f"engine {choice.engine} is not installed ({choice.reason})", where=where, next_step=choice.missing
        )
    return choice


def open_model(
    loaded: LoadedFleet, key: str, choice: Choice, stored: Iterable[StoredVersion] = (), clock: StartClock | None = None
) -> Engine:
    """The engine of one model, opened. `stored` are the adapters it will be asked to load. Errors are the engine's own."""
    spec, clock = loaded.fleet.models[key], clock or StartClock()
    if choice.engine == "remote":
        return _open_remote(loaded, spec)
    if choice.engine == "vllm":
        return _open_vllm(loaded, key, spec, tuple(stored), clock)
    return _open_local(loaded, spec, clock)


def _open_local(loaded: LoadedFleet, spec: ModelSpec, clock: StartClock) -> Engine:
    from onecard.weights.inventory import fingerprint, resolve

    folder = resolve(spec.id, loaded.folder)
    try:
        with clock.part("import torch, transformers, peft"):
            from onecard.engines.local.engine import LocalEngine
    except ImportError as error:
        raise MissingPart(f"{error.name} is not installed", where="engine: local", next_step=LOCAL_MISSING) from error
    with clock.part("hash the weights"):
        digest = fingerprint(folder)
    with clock.part("open the model"):
        return LocalEngine.open(
            folder,
            model_id=spec.id,
            fingerprint=digest,
            quantization=cast(Literal["none", "int8", "nf4"], spec.quantization),  # checked by choice_of
            double_quantization=spec.double_quantization,
            context=spec.context,
            concurrency=spec.concurrency,
        )


def _open_vllm(
    loaded: LoadedFleet, key: str, spec: ModelSpec, stored: tuple[StoredVersion, ...], clock: StartClock
) -> Engine:
    from onecard.engines.vllm_arguments import VllmSettings
    from onecard.engines.vllm_engine import VllmEngine
    from onecard.weights.inventory import fingerprint, resolve

    folder = resolve(spec.id, loaded.folder)
    export = exported_base(folder)
    owner = next((version.manifest for version in stored if export and version.digest == export.digest), None)
    with clock.part("hash the weights"):
        digest = owner.base.fingerprint if owner else fingerprint(folder)
    on_card = here().card
    agents = [agent for agent in loaded.fleet.agents.values() if agent.model == key and agent.adapter]
    ranks = [version.manifest.rank for version in stored] + [agent.recipe.lora.rank for agent in agents if agent.recipe]
    settings = VllmSettings(
        folder=folder,
        quantization=spec.quantization,
        dtype="bf16",
        device="cuda" if on_card else "cpu",
        context=spec.context,
        concurrency=spec.concurrency,
        adapters=len(agents),
        max_rank=max(ranks, default=1),
        kv_cache=spec.kv_cache,
        memory_fraction=memory_fraction(loaded, key) if on_card else None,
    )
    with clock.part("open the model"):
        return VllmEngine.open(settings, model_id=spec.id, fingerprint=digest, owner=owner)


def _open_remote(loaded: LoadedFleet, spec: ModelSpec) -> Engine:
    from onecard.engines.remote import RemoteEngine

    return RemoteEngine.open(
        cast(str, spec.url),  # the schema has it that a remote model names one
        model_id=spec.id,
        quantization=spec.quantization,
        context=spec.context,
        concurrency=spec.concurrency,
        key=os.environ.get(REMOTE_KEY),
    )


def memory_fraction(loaded: LoadedFleet, key: str) -> float | None:
    """vLLM's share of the card: all of it less the reserve for one model, and for several an equal part of that.

    None where the card is not known here; vLLM then takes its own default.
    """
    from onecard.catalog.cards import find_card
    from onecard.catalog.machine import resolve_card

    wish = loaded.fleet.card
    try:
        if not isinstance(wish, str):
            total = wish.vram_gib * GIB
        else:
            total = (resolve_card(wish) if wish == "auto" else find_card(wish)).total_bytes
    except OnecardError:
        return None
    resident = sum(model.engine != "remote" for model in loaded.fleet.models.values())
    return max((total - loaded.fleet.reserve_gib * GIB) / total / max(resident, 1), 0.05)


def _export_of(loaded: LoadedFleet, spec: ModelSpec) -> ExportedBase | None:
    """The export that a model's folder is the base of, where the folder is here."""
    from onecard.weights.inventory import resolve

    if spec.engine == "remote":
        return None
    try:
        return exported_base(resolve(spec.id, loaded.folder))
    except (InputError, MissingPart):
        return None  # opening it says what is wrong with it
