"""One candidate in one form in the place of an agent's model: what a choice is made between, and what it is made from.

Records only. The whole fleet is planned with the candidate, because the other agents of that model move with it and the other models
stay; `tryout.py` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onecard.catalog.cards import Card
from onecard.catalog.units import GIB
from onecard.evidence.claims import Measured
from onecard.fleet.schema import Fleet, Quantization
from onecard.planner.engine_facts import EngineName, Taken
from onecard.planner.ledger import Ledger, Tag
from onecard.planner.memory import Shapes
from onecard.planner.plan import narrow_bytes
from onecard.planner.requests import AgentSpeed
from onecard.planner.room import Room
from onecard.planner.shapes import Form, ModelShape
from onecard.planner.speed import SpeedFacts, is_cpu
from onecard.planner.training_run import DataFacts, TrainingPlan


@dataclass(frozen=True)
class Copy:
    """A repository that holds the model in a form already. `verified` false: nobody saw it."""

    id: str
    bytes: int | None
    verified: bool


@dataclass(frozen=True)
class Facts:
    """What is known of a candidate beside its shape; None: not known. `missing` says why there is no such repository.

    `copies`: repositories in forms no engine makes while loading. `disk_bytes`: the published weights, 0 for what is on this disk.
    """

    licence: str | None = None
    fully_open: bool | None = None
    commercial: bool | None = None
    licence_reason: str | None = None
    licence_source: str | None = None
    gated: bool | None = None
    gate_source: str | None = None
    disk_bytes: int | None = None
    disk_source: str | None = None
    disk_caution: str | None = None
    kind: str | None = None
    copies: Mapping[str, Copy] = field(default_factory=dict)
    missing: str | None = None
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A model that might take the place. `shape` None: there is no such repository, and `facts.missing` says so."""

    id: str
    facts: Facts
    shape: ModelShape | None = None


@dataclass(frozen=True)
class Place:
    """Where candidates are tried: a fleet, the agent whose model is chosen, and what is known of card, speed and training rows.

    `context`: what a process was seen to take of the card beside torch's memory.
    """

    fleet: Fleet
    agent: str
    card: Card
    shapes: Shapes
    speed: SpeedFacts
    data: Mapping[str, DataFacts] = field(default_factory=dict)
    context: Taken | None = None

    @property
    def key(self) -> str:
        """The model whose place it is."""
        return self.fleet.agents[self.agent].model

    @property
    def moving(self) -> tuple[str, ...]:
        """The agents that go with the model, the one that is asked about first."""
        others = [name for name, agent in self.fleet.agents.items() if agent.model == self.key and name != self.agent]
        return (self.agent, *others)

    @property
    def available_bytes(self) -> int:
        return self.card.total_bytes - round(self.fleet.reserve_gib * GIB)

    @property
    def images(self) -> bool:
        """Whether an agent that moves is given images."""
        return any(self.fleet.agents[name].input == "image" for name in self.moving)

    def room(self, shape: ModelShape) -> Room:
        shapes = {**self.shapes, self.key: shape}
        return Room(self.available_bytes, shapes, is_cpu(self.card), self.card.fp8, self.context)


@dataclass(frozen=True)
class Download:
    """What must be fetched: a repository and its bytes; None where nobody knows them."""

    id: str
    bytes: int | None
    tag: Tag
    source: str


@dataclass(frozen=True, eq=False)
class Option:
    """A candidate in one form, planned. `refused` says why the place cannot hold it, and then there are no figures.

    `wanted_context` is what the fleet asks for; it is planned with no more than the model reaches. `speeds` are empty until
    `with_speeds`, then the agent's comes first. `measured` holds what result files say, by the column it belongs to.
    """

    candidate: Candidate
    quantization: Quantization
    fleet: Fleet
    key: str
    agent: str
    form: Form
    engine: EngineName | None
    available_bytes: int
    wanted_context: int
    images_wanted: bool
    download: Download
    refused: str | None = None
    ledger: Ledger | None = None
    trainings: tuple[TrainingPlan, ...] = ()
    largest_context: int | None = None
    speeds: tuple[AgentSpeed, ...] = ()
    measured: Mapping[str, Measured] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.candidate.id

    @property
    def parameters(self) -> int:
        """Of the whole model, every expert counted."""
        return self.candidate.shape.layout.parameters if self.candidate.shape else 0

    @property
    def bits(self) -> float:
        """Bits a weight as it is held, scales included."""
        if self.ledger is None or not self.parameters:
            return 0.0
        return round(8 * self.ledger.of(self.key).bytes_of_kind("weights") / self.parameters, 1)

    @property
    def need_bytes(self) -> int | None:
        """Of the whole fleet."""
        return None if self.ledger is None else self.ledger.total_bytes

    @property
    def own_bytes(self) -> int | None:
        """What is left of the need when the other models with their agents are taken out."""
        if self.ledger is None:
            return None
        mine = {self.key, "process"} | {n for n, agent in self.fleet.agents.items() if agent.model == self.key}
        return sum(line.bytes for line in self.ledger.lines if line.owner in mine)

    @property
    def headroom_bytes(self) -> int | None:
        return None if self.need_bytes is None else self.available_bytes - self.need_bytes

    @property
    def tight(self) -> bool:
        """It fits, by less than the plan may be off."""
        left = self.headroom_bytes
        return self.ledger is not None and left is not None and 0 <= left < narrow_bytes(self.ledger)

    @property
    def reach(self) -> int | None:
        """The longest context the model itself can be asked for; None where its config does not say."""
        return self.candidate.shape.max_context if self.candidate.shape else None

    @property
    def training(self) -> TrainingPlan | None:
        """The agent's own run."""
        return next((run for run in self.trainings if run.agent == self.agent), None)

    @property
    def speed(self) -> AgentSpeed | None:
        return self.speeds[0] if self.speeds else None
