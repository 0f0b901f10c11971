"""Whether a model fits this card alone, in which form and with how much context; and when it does not, what would.

What a person settled is planned as it stands. What is open is chosen here: the most precise form that leaves room for a useful context,
and as much context as fits, up to the model's own limit and 8,192 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onecard.catalog.quantization import Quantization
from onecard.cli.model_shapes import shape_of
from onecard.cli.use_overrides import NAME as OVERRIDES
from onecard.cli.use_targets import Place, Target, copy_of, others_of_role
from onecard.errors import DoesNotFit, FleetError, OnecardError
from onecard.fleet.loader import LoadedFleet
from onecard.fleet.schema import AgentSpec, Fleet, ModelSpec
from onecard.planner.memory import checked_shape
from onecard.planner.room import Room, largest_context, with_model
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import is_cpu
from onecard.planner.weights import as_published, form_name, form_of

if TYPE_CHECKING:
    from onecard.catalog.cards import Card
    from onecard.evidence.calibration import Calibration
    from onecard.planner.plan import Plan

CONTEXT = 8192
USEFUL_CONTEXT = 512
OFFERED = 3
# Forms of a checkpoint that vLLM is told by name (since vLLM 0.29 `awq` and `gptq` take the fast kernels too); any other it reads itself.
VLLM_METHODS = ("awq", "gptq", "bitsandbytes", "fp8")


@dataclass(frozen=True)
class Ground:
    """What a model is held against: the card, what is left for others, and what was measured of the card."""

    card: Card
    reserve_gib: float
    calibration: Calibration | None = None
    offline: bool = False


@dataclass(frozen=True)
class Fitted:
    """A model as it would run here. `largest` is the most context that fits in this form, uncapped by what was wished; 0: none does."""

    target: Target
    spec: ModelSpec
    shape: ModelShape
    fleet: Fleet
    largest: int
    fits: bool

    @property
    def form(self) -> str:
        """The form in words, such as 16-bit or nf4+DQ."""
        return form_name(form_of(self.spec, self.shape), self.spec.double_quantization)


def ground_of(place: Place, card_id: str | None, *, offline: bool = False, calibration: Path | None = None) -> Ground:
    """The card asked for, else the fleet's, else this machine's, with its calibration if there is one."""
    from onecard.catalog.machine import resolve_card
    from onecard.cli.plan import calibration_of, card_of
    from onecard.fleet.starter import reserve_gib

    fleet = place.fleet.fleet if place.fleet else None
    card = card_of(fleet, card_id) if fleet else resolve_card(card_id or "auto")
    reserve = fleet.reserve_gib if fleet else reserve_gib(card)
    return Ground(card, reserve, calibration_of(card, calibration), offline)


def fitted(target: Target, place: Place, ground: Ground) -> Fitted:
    """The model in its form with its context. FleetError, CatalogError or InputError for what cannot be planned at all."""
    shape = shape_of(target.id, place.folder, offline=ground.offline)
    try:
        tries = [_in_form(target, form, shape, place, ground) for form in _forms(target, shape, ground)]
    except FleetError as error:
        at = target.settled.get((error.where or "").rpartition(".")[2], target.source)
        raise FleetError(error.problem, where=at, allowed=error.allowed, next_step=error.next_step) from None
    wish = _wish(target, shape)
    whole = [one for one in tries if one.fits and one.spec.context >= wish]
    return (whole or sorted(tries, key=lambda one: -one.spec.context if one.fits else 0))[0]


def plan_of(made: Fitted, place: Place, ground: Ground) -> Plan:
    """The plan of the model alone on the card."""
    from onecard.cli.plan import planned

    file = place.fleet.file if place.fleet else place.folder / "fleet.yaml"
    key = next(iter(made.fleet.models))
    return planned(LoadedFleet(made.fleet, file), ground.card, {key: made.shape}, ground.calibration)


def repository_of(made: Fitted, place: Place) -> str | None:
    """What an engine is told to load: a folder, a hub id, or a copy in the form. None: nobody knows a copy in this form."""
    from onecard.cli.model_shapes import is_local
    from onecard.weights.inventory import resolve

    target, form = made.target, made.spec.quantization
    if form in ("awq", "gptq") and not as_published(form, made.shape):
        return target.copy or copy_of(target, form)
    if is_local(target.id, place.folder):
        named = Path(target.id).expanduser()
        return str(
            (place.folder / named).resolve().parent if named.suffix == ".json" else resolve(target.id, place.folder)
        )
    return target.copy or target.id


def vllm_form(made: Fitted, ground: Ground) -> str | None:
    """vLLM's name of the form: "" where the checkpoint says it itself, None where vLLM has no such form.

    It makes no int8 of 16-bit weights, and its CPU build holds nothing of bitsandbytes.
    """
    named = _vllm_name(made.spec.quantization, made.shape)
    return None if named == "bitsandbytes" and is_cpu(ground.card) else named


def _vllm_name(form: Quantization, shape: ModelShape) -> str | None:
    if as_published(form, shape):
        said = shape.config.get("quantization_config") or {}
        method = said.get("quant_method") if isinstance(said, dict) else None
        return method if method in VLLM_METHODS else ""
    names: dict[Quantization, str | None] = {"none": "", "nf4": "bitsandbytes", "int8": None}
    return names.get(form, form)


def refusal(made: Fitted, plan: Plan, place: Place, ground: Ground) -> DoesNotFit:
    """The error for a model that does not fit, with what would."""
    from onecard.catalog.units import format_bytes

    spec, over = made.spec, max(-plan.headroom_bytes, 0)
    callers = f" for {spec.concurrency} callers" if spec.concurrency > 1 else ""
    need, free = format_bytes(plan.need_bytes), format_bytes(plan.available_bytes)
    offers = [*_offers(made, place, ground)]
    fallback = f"a smaller model (`onecard models --fits {ground.card.id}`) or a larger card"
    return DoesNotFit(
        f"{made.target.id} as {made.form} with {spec.context:,} tokens of context{callers} needs {need}, and {ground.card.name} has "
        f"{free} for it: {format_bytes(over)} too much",
        where=made.target.source,
        next_step="; or ".join(offers or [fallback]) + "; or --force",
    )


def _in_form(target: Target, form: Quantization, shape: ModelShape, place: Place, ground: Ground) -> Fitted:
    """The target held in one form, with the context that was set or else as much of the wish as fits."""
    wish = _wish(target, shape)
    spec = target.spec.model_copy(update={"quantization": form, "context": wish})
    fleet, key = _alone(target, spec, place, ground)
    checked_shape(key, spec, {key: shape})
    room = _room(ground, key, shape)
    largest = 0 if room.available_bytes <= 0 else largest_context(fleet, key, room)
    if "context" in target.settled:
        return Fitted(target, spec, shape, fleet, largest, largest >= wish)
    fits = largest >= min(USEFUL_CONTEXT, wish)
    context = min(wish, _readable(largest)) if fits else wish
    return Fitted(
        target,
        spec.model_copy(update={"context": context}),
        shape,
        with_model(fleet, key, context=context),
        largest,
        fits,
    )


def _forms(target: Target, shape: ModelShape, ground: Ground) -> list[Quantization]:
    """Forms to choose from, the most precise first; the one that was set, or that the checkpoint is in, alone."""
    if "quantization" in target.settled:
        return [target.spec.quantization]
    return ["none"] if shape.published != "none" else _ladder(target, shape, ground)


def _ladder(target: Target, shape: ModelShape, ground: Ground) -> list[Quantization]:
    """Forms that vLLM makes of 16-bit weights while it loads them, and awq where somebody has made a copy."""
    forms: list[Quantization] = ["none"]
    forms += ["fp8"] if ground.card.fp8 else []
    forms += ["awq"] if copy_of(target, "awq") else []
    return [*forms, "nf4"] if shape.quantizable else forms


def _wish(target: Target, shape: ModelShape) -> int:
    return target.spec.context if "context" in target.settled else min(CONTEXT, shape.max_context or CONTEXT)


def _alone(target: Target, spec: ModelSpec, place: Place, ground: Ground) -> tuple[Fleet, str]:
    """The model alone on the card, with the adapters of the agents it has in the fleet; their deadlines and rows are not asked for."""
    from onecard.fleet.schema import CustomCard

    key = target.key or "model"
    agents: dict[str, AgentSpec] = {}
    for name, agent in place.fleet.fleet.agents.items() if place.fleet and target.key else ():
        if agent.model == key:
            recipe = agent.recipe.model_copy(update={"data": None}) if agent.recipe else None
            alone = {"fallback": (), "deadline": None, "data": None, "suite": None, "recipe": recipe}
            agents[name] = agent.model_copy(update=alone)
    fleet_card: str | CustomCard = place.fleet.fleet.card if place.fleet else ground.card.id
    return Fleet.model_construct(
        name="use",
        card=fleet_card,
        reserve_gib=ground.reserve_gib,
        store=place.fleet.fleet.store if place.fleet else "./modelstore",
        models={key: spec},
        agents=agents or {"any": AgentSpec(model=key)},
    ), key


def _room(ground: Ground, key: str, shape: ModelShape) -> Room:
    from onecard.catalog.units import GIB
    from onecard.planner.calibrated import calibrated_context

    available = ground.card.total_bytes - round(ground.reserve_gib * GIB)
    context = calibrated_context(ground.calibration) if ground.calibration else None
    return Room(available, {key: shape}, is_cpu(ground.card), ground.card.fp8, context)


def _readable(tokens: int) -> int:
    """A little less, so that it is easy to read and to remember."""
    return tokens // 256 * 256 if tokens >= 1024 else tokens // 16 * 16


def _offers(made: Fitted, place: Place, ground: Ground) -> Iterator[str]:
    """What would fit instead: less context, fewer callers, another form, another model of the role."""
    target, spec = made.target, made.spec
    least = min(USEFUL_CONTEXT, spec.context)
    if made.largest >= least:
        yield f"`context: {_readable(made.largest)}` for it in {OVERRIDES}"
    elif spec.concurrency > 1:
        one = target.spec.model_copy(update={"concurrency": 1})
        alone = _in_form(_with(target, one), spec.quantization, made.shape, place, ground)
        if alone.largest >= least:
            yield f"`concurrency: 1, context: {_readable(min(alone.largest, spec.context))}` for it in {OVERRIDES}"
    if made.shape.published == "none":
        for form in _ladder(target, made.shape, ground):
            if form != spec.quantization:
                other = _attempt(_with(target, target.spec), form, made.shape, place, ground)
                if other is not None and other.largest >= least:
                    tokens = min(_readable(other.largest), spec.context)
                    yield f"`quantization: {form}, context: {tokens}` for it in {OVERRIDES}"
    found = 0
    for candidate in others_of_role(target):
        other = _fitting(candidate, place, ground)
        if other is not None and found < OFFERED:
            found += 1
            yield f"`onecard use {candidate.id}` ({other.form}, {other.spec.context:,} tokens)"


def _with(target: Target, spec: ModelSpec) -> Target:
    return Target(
        target.asked, target.id, spec, target.source, target.settled, target.role, target.key, override=target.override
    )


def _attempt(target: Target, form: Quantization, shape: ModelShape, place: Place, ground: Ground) -> Fitted | None:
    try:
        return _in_form(target, form, shape, place, ground)
    except FleetError:
        return None


def _fitting(candidate: Target, place: Place, ground: Ground) -> Fitted | None:
    try:
        other = fitted(candidate, place, ground)
    except OnecardError:
        return None
    return other if other.fits else None
