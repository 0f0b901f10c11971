"""The plan of a fleet: what it takes of the card, what it leaves, how fast it answers, what training costs, what to change.

`plan` is a function from wishes (the fleet) and facts (card, shapes, evidence) to one record. It reads no file, no clock and no GPU;
the same facts always give the same plan, and every figure in it says how sure it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onecard.catalog.cards import Card, Price
from onecard.catalog.units import GIB
from onecard.errors import FleetError
from onecard.fleet.schema import Fleet
from onecard.planner.advice import Advice, Room, advise, largest_concurrency, largest_context, smallest_need
from onecard.planner.cache import model_engine, token_bytes
from onecard.planner.engine_facts import Taken
from onecard.planner.faster import Faster, faster
from onecard.planner.ledger import Ledger
from onecard.planner.memory import Shapes
from onecard.planner.requests import AgentSpeed, agent_speed
from onecard.planner.speed import SpeedFacts, cold_start, is_cpu
from onecard.planner.training_run import DataFacts, TrainingPlan, training_plan
from onecard.planner.warnings import warnings

# How far the assumed lines may be off, as a share of them: below this headroom a fleet that fits is called tight.
TIGHT_SHARE = 0.3
# On cards made to hold exactly what was planned 3 of 6 fleets ran; the plan was at most 1.2% too small in 45 cases on an H200.
TIGHT_OF_NEED = 0.015


@dataclass(frozen=True)
class Evidence:
    """What is known beside the catalog: the machine's measured speed, the training rows of each agent, and what a process was seen to
    take of the card beside torch's memory."""

    speed: SpeedFacts | None = None
    data: Mapping[str, DataFacts] = field(default_factory=dict)
    context: Taken | None = None


@dataclass(frozen=True)
class ModelLimits:
    """How far one model could go with everything else as it is. 0: not even the least fits. None: nothing on this card limits it."""

    model: str
    id: str
    engine: str
    context: int
    largest_context: int | None
    concurrency: int
    largest_concurrency: int | None
    kv_bytes_per_token: float
    image_tokens: int | None


@dataclass(frozen=True)
class Plan:
    """Everything the planner has to say of one fleet on one card. Sizes in bytes, times in seconds, prices in US dollars."""

    fleet: Fleet
    card: Card
    speed: SpeedFacts
    serving: Ledger
    limits: tuple[ModelLimits, ...]
    agents: tuple[AgentSpeed, ...]
    trainings: tuple[TrainingPlan, ...]
    advice: tuple[Advice, ...]
    faster: tuple[Faster, ...]
    smallest_need_bytes: int | None
    warnings: tuple[str, ...]

    @property
    def price(self) -> Price | None:
        """What an hour of the card costs: every quote with provider, date and source."""
        return self.card.price

    @property
    def reserve_bytes(self) -> int:
        return round(self.fleet.reserve_gib * GIB)

    @property
    def available_bytes(self) -> int:
        """What the card gives, less the reserve."""
        return self.card.total_bytes - self.reserve_bytes

    @property
    def need_bytes(self) -> int:
        return self.serving.total_bytes

    @property
    def headroom_bytes(self) -> int:
        """What is left; negative: what is missing."""
        return self.available_bytes - self.need_bytes

    @property
    def serving_fits(self) -> bool:
        return self.headroom_bytes >= 0

    @property
    def tight(self) -> bool:
        """It fits, by less than the plan may be off."""
        return self.serving_fits and self.headroom_bytes < narrow_bytes(self.serving)

    @property
    def fits(self) -> bool:
        """Serving fits, and so does every training run alone on the card."""
        return self.serving_fits and all(training.fits for training in self.trainings)


def narrow_bytes(ledger: Ledger) -> float:
    """Headroom below which "fits" is not certain: what assumed lines may be off by, or the whole."""
    return max(TIGHT_SHARE * ledger.bytes_tagged("assumed"), TIGHT_OF_NEED * ledger.total_bytes)


def plan(fleet: Fleet, card: Card, shapes: Shapes, evidence: Evidence | None = None) -> Plan:
    """The plan of this fleet on this card; `shapes` has one entry per key of `fleet.models`.

    FleetError where the fleet asks for what a model or its engine cannot do, CatalogError for an adapter target nobody has.
    """
    evidence = evidence or Evidence()
    room = _room(fleet, card, shapes, evidence.context)
    speed = evidence.speed or cold_start(card)
    serving = room.ledger(fleet)
    agents = tuple(agent_speed(fleet, name, shapes, speed, on_cpu=room.on_cpu) for name in fleet.agents)
    advice = advise(fleet, room, speed, agents)
    stuck = serving.total_bytes > room.available_bytes and not advice
    return Plan(
        fleet=fleet,
        card=card,
        speed=speed,
        serving=serving,
        limits=tuple(_limits(fleet, key, room) for key in fleet.models),
        agents=agents,
        trainings=tuple(_trainings(fleet, card, room, speed, evidence.data)),
        advice=advice,
        faster=tuple(way for now in agents for way in faster(fleet, now.agent, room, speed, now)),
        smallest_need_bytes=smallest_need(fleet, room)[0] if stuck else None,
        warnings=warnings(fleet, card, shapes),
    )


def _room(fleet: Fleet, card: Card, shapes: Shapes, context: Taken | None) -> Room:
    available = card.total_bytes - round(fleet.reserve_gib * GIB)
    if available <= 0:
        raise FleetError(
            f"the reserve of {fleet.reserve_gib:g} GiB leaves nothing of the {card.total_gib:.4g} GiB of {card.name}",
            where="reserve_gib",
            allowed=f"below {card.total_gib:.4g}",
        )
    return Room(available, shapes, is_cpu(card), card.fp8, context)


def _limits(fleet: Fleet, key: str, room: Room) -> ModelLimits:
    spec, shape = fleet.models[key], room.shapes[key]
    engine = model_engine(spec, shape)
    here = engine != "remote"
    return ModelLimits(
        model=key,
        id=spec.id,
        engine=engine,
        context=spec.context,
        largest_context=largest_context(fleet, key, room) if here else None,
        concurrency=spec.concurrency,
        largest_concurrency=largest_concurrency(fleet, key, room) if here else None,
        kv_bytes_per_token=token_bytes(spec, shape),
        image_tokens=shape.image_tokens,
    )


def _trainings(
    fleet: Fleet, card: Card, room: Room, speed: SpeedFacts, data: Mapping[str, DataFacts]
) -> list[TrainingPlan]:
    """One run for each agent with a recipe, alone on the card."""
    plans = []
    for name, agent in fleet.agents.items():
        recipe = agent.recipe
        shape = room.shapes[agent.model]
        if recipe is None or model_engine(fleet.models[agent.model], shape) == "remote":
            continue
        made = training_plan(
            name,
            agent.model,
            recipe,
            shape,
            data.get(name),
            speed,
            card.price,
            room.available_bytes,
            on_cpu=room.on_cpu,
            context=room.context,
        )
        plans.append(made)
    return plans
