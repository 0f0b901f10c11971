"""Whether a training run fits into the memory that is really free, asked before a weight is loaded.

The plan is the planner's, of the rows' counted lengths; the free memory is the machine's of this moment. Afterwards the same plan stands
beside what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecard.catalog.units import format_bytes

if TYPE_CHECKING:
    from onecard.adapters.manifest import Manifest, TrainingRecord
    from onecard.catalog.cards import Card
    from onecard.fleet.loader import LoadedFleet
    from onecard.planner.training_run import DataFacts, TrainingPlan
    from onecard.training.ledger import Ledger
    from onecard.training.order import Progress

NOT_ALLOCATED = ("driver context", "allocator holes")  # of a card's memory, beside what torch's allocator hands out


@dataclass(frozen=True)
class MemoryPlan:
    """The plan of one run against `free_bytes`, what this process could have of the device's memory now.

    `held_bytes` is what the process takes of a processor's memory before anything is loaded; it takes the place of the plan's assumption
    where it is more, as after another run in the same process.
    """

    plan: TrainingPlan
    free_bytes: int
    on_card: bool
    held_bytes: int = 0

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.free_bytes

    @property
    def peak_bytes(self) -> int:
        if self.on_card:
            return self.plan.peak_bytes
        process = sum(line.bytes for line in self.plan.ledger.lines if line.kind == "process")
        return self.plan.peak_bytes - process + max(process, self.held_bytes)

    @property
    def measured_alike_bytes(self) -> int:
        """The part of the peak that a run measures: a process' resident set, or what torch's allocator hands out on a card."""
        if not self.on_card:
            return self.peak_bytes
        return sum(line.bytes for line in self.plan.ledger.lines if line.part not in NOT_ALLOCATED)

    @property
    def sentence(self) -> str:
        where = "the card's memory" if self.on_card else "memory"
        return f"planned peak {format_bytes(self.peak_bytes)}, {format_bytes(self.free_bytes)} of {where} are free"


@dataclass
class Watch:
    """Hears every stage of a run: compares the plan with what is free before anything is loaded, and remembers the last step."""

    loaded: LoadedFleet
    agent: str
    force: bool
    on_progress: Callable[[Progress], None]
    say: Callable[[str], None]
    step: int = 0
    memory: MemoryPlan | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "training":
            self.step = progress.step
        self.on_progress(progress)
        if progress.ledger is not None and not progress.ledger.faults:
            self.memory = planned_memory(self.loaded, self.agent, progress.ledger, self.force, self.say)

    def with_plan(self, manifest: Manifest) -> Manifest:
        """The manifest with what was planned: the rows' lengths, which the plan is made of, are counted after the order is given."""
        planned = self.memory.measured_alike_bytes if self.memory else None
        return manifest.model_copy(update={"training": manifest.run.model_copy(update={"planned_peak_bytes": planned})})


def planned_memory(
    loaded: LoadedFleet, agent: str, ledger: Ledger, force: bool, say: Callable[[str], None]
) -> MemoryPlan | None:
    """Says the plan, and raises DoesNotFit when it does not fit and is not forced. None, and a word, where nothing can be planned."""
    from onecard.errors import CatalogError

    try:
        found = memory_plan(loaded, agent, ledger)
    except CatalogError as error:
        say(f"Memory: not planned, {error.problem}.")
        return None
    if force and not found.fits:
        say(f"Memory: {found.sentence}: it does not fit by the plan, and is tried anyway.")
        return found
    demand_fit(found, f"{loaded.file}: agents.{agent}.recipe")
    say(f"Memory: {found.sentence}.")
    return found


def memory_plan(loaded: LoadedFleet, agent: str, ledger: Ledger) -> MemoryPlan:
    """The plan of an agent's run over these rows on this machine.

    CatalogError when nobody knows the base's architecture, so that nothing can be planned.
    """
    from onecard.catalog.machine import available_ram_bytes
    from onecard.cli.model_shapes import shape_of
    from onecard.cli.plan import calibration_of
    from onecard.engines.local.loading import choose_device
    from onecard.planner.calibrated import calibrated_speed
    from onecard.planner.engine_facts import Taken
    from onecard.planner.speed import cold_start
    from onecard.planner.training_run import training_plan
    from onecard.training.memory import available_bytes, used_bytes

    spec = loaded.agent(agent)
    recipe, model = spec.recipe, loaded.fleet.models[spec.model]
    assert recipe is not None  # whoever has rows counted has a recipe
    card, device = machine_card(loaded), choose_device("auto")
    measured = calibration_of(card, None)
    on_card = device.type != "cpu"
    held = 0 if on_card else used_bytes(device)
    plan = training_plan(
        agent,
        spec.model,
        recipe,
        shape_of(model.id, loaded.folder),
        facts_of(ledger, str(loaded.data_file(agent))),
        calibrated_speed(measured, card) if measured else cold_start(card),
        card.price,
        free := available_bytes(device) if on_card else available_ram_bytes() + held,
        on_cpu=not on_card,
        # Asking a card for its free memory opens the driver's context: what that takes is no longer free.
        context=Taken(0, "measured", "taken already") if on_card else None,
    )
    return MemoryPlan(plan, free, on_card, held)


def machine_card(loaded: LoadedFleet) -> Card:
    """The card of this machine; the fleet's where the catalog does not know this one."""
    from onecard.catalog.machine import detect_card
    from onecard.cli.plan import card_of
    from onecard.errors import CatalogError

    try:
        return detect_card()
    except CatalogError:
        return card_of(loaded.fleet)


def facts_of(ledger: Ledger, source: str) -> DataFacts:
    """The rows as the planner wants them, counted and not guessed."""
    from onecard.planner.training_run import DataFacts

    return DataFacts(
        rows=len(ledger.rows),
        tokens=sum(row.total for row in ledger.rows),
        longest=max(row.longest for row in ledger.rows),
        tag="exact",
        source=f"{source}: counted",
    )


def demand_fit(found: MemoryPlan, where: str) -> None:
    """DoesNotFit with the cheapest change of the recipe that would make it fit."""
    if found.fits:
        return
    from onecard.errors import DoesNotFit

    place = "the card's memory" if found.on_card else "this machine's memory"
    raise DoesNotFit(
        f"training would take {format_bytes(found.peak_bytes)} at its peak, "
        f"and {format_bytes(found.free_bytes)} of {place} are free",
        where=where,
        next_step=f"{cheapest(found.plan.advice)}, or try anyway with --force: passes then get smaller when memory runs out",
    )


def cheapest(advice: tuple[str, ...]) -> str:
    """The advice as one clause: changes of the recipe that cost least and suffice together."""
    *changes, last = advice or ("free some memory",)
    if last.startswith("even then"):
        return last
    return f"change the recipe: {'; '.join((*changes, last))}" if advice else last


def beside_measured(record: TrainingRecord) -> Iterator[str]:
    """`planned 0.74 GiB (21% too high)` for the plan and the rehearsed step, as far as they are known."""
    pairs = (("planned", record.planned_peak_bytes), ("rehearsed", record.rehearsed_peak_bytes))
    for what, size in pairs:
        if size:
            yield f"{what} {format_bytes(size)} ({off(size, record.peak_memory_bytes)})"


def off(predicted: int, measured: int) -> str:
    """How far a prediction lay from its measurement, in percent of what was measured."""
    share = (predicted - measured) / measured if measured else 0.0
    if abs(share) < 0.005:
        return "right to 1%"
    return f"{abs(share):.0%} too {'high' if share > 0 else 'low'}"
