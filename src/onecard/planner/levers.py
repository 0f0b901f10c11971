"""What can be changed in a fleet file to need less memory: every lever with what it costs and what it risks, with the source of that.

A dial (context, callers, the reserve) goes down to any value; a switch (form, engine, cache, a model or adapter left out) is taken or
not. Which levers are worth pulling is not decided here: see advice.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from onecard.errors import FleetError
from onecard.fleet.schema import AgentSpec, Fleet, Quantization
from onecard.planner.cache import is_recurrent, model_engine
from onecard.planner.memory import checked_shape
from onecard.planner.room import Room, with_model
from onecard.planner.shapes import ModelShape
from onecard.planner.training import base_form
from onecard.planner.weights import VLLM_FORMS, form_name, form_of

Risk = Literal["none", "low", "real"]
RISKS: tuple[Risk, ...] = ("none", "low", "real")

USEFUL_CONTEXT = 512  # no advice to go below, unless the fleet is there already
PROMPT_TOKENS = 256  # of an agent that states no shape, beside its image and its longest answer
USEFUL_RESERVE_GIB = 0.5
DROP, ENGINE, FORM, DOUBLE, CACHE, ADAPTER, CALLERS, CONTEXT, RESERVE = range(9)  # the order in which changes are told

HELD = (ENGINE, FORM, CACHE)  # what an engine may be unable to hold
REPLACED, LOST = len(RISKS), len(RISKS) + 1  # another model or the bare base answers; nobody answers
UNANSWERED = "those requests are not answered"

FORM_RISKS: dict[str, tuple[Risk, str]] = {
    "int8": ("low", "LLM.int8() lost nothing measurable up to 175B parameters (arXiv:2208.07339)"),
    "fp8": ("low", "fp8 lost nothing measurable on Llama 3.1 (arXiv:2411.02355)"),
    "nf4": ("real", "4 bits lose more on some models, Llama 3 8B for one (arXiv:2404.14047): evaluate it"),
    "awq": ("real", "4 bits came near 8 bits on Llama 3.1 (arXiv:2411.02355), other models vary: evaluate it"),
}
QLORA = "adapters trained on nf4 reached what 16 bits reached (QLoRA, arXiv:2305.14314)"
NESTED = "double quantization lost nothing measurable (QLoRA, arXiv:2305.14314)"
CACHE_LOSS = "an fp8 cache loses little, and more without calibrated scales (vLLM: quantized KV cache): evaluate it"


@dataclass(frozen=True, eq=False)
class Lever:
    """One change. `place` is the key it changes, of which an advice takes one; `model` whose memory it lowers, "" for the reserve.

    `turn(fleet, value)` gives the changed fleet; `text(value)` and `cost(fleet before, value)` say it. A dial goes from `now` down to
    `least`; a switch has both at 0. Of the options of one place and `family`, that with the lower `harshness` is the gentler.
    """

    place: str
    model: str
    order: int
    risk: Risk
    reason: str
    turn: Callable[[Fleet, int], Fleet]
    text: Callable[[int], str]
    cost: Callable[[Fleet, int], str]
    now: int = 0
    least: int = 0
    family: str = ""
    harshness: int = 0

    @property
    def is_dial(self) -> bool:
        return self.least < self.now

    @property
    def drops(self) -> bool:
        """Whether it leaves a model out."""
        return self.order <= DROP

    @property
    def gravity(self) -> int:
        """0 to 2 as the risk, more where an agent is answered by something else, and most where it is lost."""
        if self.drops and self.risk == "real":
            return LOST if self.reason == UNANSWERED else REPLACED
        return REPLACED if self.order == ADAPTER else RISKS.index(self.risk)


def model_levers(fleet: Fleet, key: str, room: Room) -> tuple[Lever, ...]:
    """Every lever of one model and of the adapters on it; none for a remote one, which takes nothing of the card."""
    if model_engine(fleet.models[key], room.shapes[key]) == "remote":
        return ()
    kinds = (_drop, _engine, _forms, _double, _cache, _adapters, _callers, _context)
    return tuple(lever for kind in kinds for lever in kind(fleet, key, room))


def can_be(fleet: Fleet, key: str, room: Room) -> bool:
    """Whether the model's engine can hold its form, and vLLM the forms that are asked of it here."""
    try:
        shape = checked_shape(key, fleet.models[key], room.shapes)
    except FleetError:
        return False
    spec = fleet.models[key]
    return model_engine(spec, shape) != "vllm" or form_of(spec, shape) in {"none", *VLLM_FORMS}


def reserve_lever(fleet: Fleet) -> Lever | None:
    """Less left for others, in hundredths of a GiB; None where little is left for them already."""
    now, least = int(fleet.reserve_gib * 100), round(USEFUL_RESERVE_GIB * 100)
    if now <= least:
        return None
    return Lever(
        "reserve_gib", "", RESERVE, "real", "memory runs out if another program takes more: look at what they hold first",
        lambda fleet, hundredths: fleet.model_copy(update={"reserve_gib": hundredths / 100}),
        lambda hundredths: f"reserve_gib: {fleet.reserve_gib:g} -> {hundredths / 100:g}",
        lambda _, hundredths: f"{hundredths / 100:g} GiB are left for the desktop and other programs",
        now, least,
    )  # fmt: skip


def least_context(fleet: Fleet, key: str, shape: ModelShape) -> int:
    """Context that the agents need by their own account (deadline, presets, image), and not below what is useful at all."""
    wanted = [USEFUL_CONTEXT]
    for agent in fleet.agents.values():
        if key not in (agent.model, *agent.fallback):
            continue
        longest = 1 if agent.task == "rerank" else max(preset.max_new_tokens for preset in agent.presets.values())
        prompt = PROMPT_TOKENS + ((shape.image_tokens or 0) if agent.input == "image" else 0)
        if agent.deadline:
            prompt, longest = agent.deadline.prompt_tokens, max(agent.deadline.new_tokens, longest)
        wanted.append(prompt + longest)
    return min(fleet.models[key].context, max(wanted))


def _context(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    now, least = fleet.models[key].context, least_context(fleet, key, room.shapes[key])
    if least >= now:
        return
    told = all(agent.deadline for agent in fleet.agents.values() if agent.model == key)
    longer = "longer requests are refused, and not every agent says how long its own are"
    yield Lever(
        f"models.{key}.context", key, CONTEXT, "none" if told else "low",
        "the requests its agents state still fit" if told else longer,
        lambda fleet, tokens: with_model(fleet, key, context=tokens),
        lambda tokens: f"models.{key}.context: {now} -> {tokens}",
        lambda _, tokens: f"prompt and answer together at most {tokens} tokens",
        now, least,
    )  # fmt: skip


def _callers(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    now = fleet.models[key].concurrency
    if now == 1:
        return
    yield Lever(
        f"models.{key}.concurrency", key, CALLERS, "none", "answers stay the same",
        lambda fleet, callers: with_model(fleet, key, concurrency=callers),
        lambda callers: f"models.{key}.concurrency: {now} -> {callers}",
        lambda _, callers: f"{now - callers} of {now} callers at once wait their turn",
        now, 1,
    )  # fmt: skip


def _forms(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    """Smaller forms the model could be held in; whether the engine that then answers can hold them is for `can_be`."""
    spec, shape = fleet.models[key], room.shapes[key]
    held = form_of(spec, shape)
    if spec.engine != "vllm" and not is_recurrent(shape) and shape.quantizable:
        ladder: dict[str, tuple[Quantization, ...]] = {"none": ("int8", "nf4"), "fp8": ("nf4",), "int8": ("nf4",)}
        for number, form in enumerate(ladder.get(held, ())):
            yield _form(fleet, key, shape, form, "local", number)
    if room.on_cpu:
        return
    ladder = {"none": ("fp8", "awq"), "fp8": ("awq",), "int8": ("awq",)}
    for number, form in enumerate(ladder.get(held, ())):
        if form != "fp8" or room.fp8:
            yield _form(fleet, key, shape, form, "vllm", number)


def _form(fleet: Fleet, key: str, shape: ModelShape, form: Quantization, family: str, number: int) -> Lever:
    spec = fleet.models[key]
    before = form_name(form_of(spec, shape), spec.double_quantization)
    risk, reason = FORM_RISKS[form]
    agents = [agent for agent in fleet.agents.values() if agent.model == key]
    if form == "nf4" and agents and all(a.adapter and a.recipe and base_form(a.recipe, shape) == "nf4" for a in agents):
        risk, reason = "low", QLORA
    return Lever(
        f"models.{key}.quantization", key, FORM, risk, reason,
        lambda fleet, _: with_model(fleet, key, quantization=form, double_quantization=True),
        lambda _: f"models.{key}.quantization: {before} -> {form}",
        lambda fleet, _: _form_cost(fleet, key, shape, form),
        family=family, harshness=number,
    )  # fmt: skip


def _form_cost(fleet: Fleet, key: str, shape: ModelShape, form: Quantization) -> str:
    """What another form asks of the person: a checkpoint, vLLM, adapters trained anew."""
    words = [f"needs vLLM and an {form} checkpoint"] if form in ("awq", "fp8") else []
    learned_elsewhere = [
        name
        for name, agent in fleet.agents.items()
        if agent.model == key and agent.adapter and not (agent.recipe and base_form(agent.recipe, shape) == form)
    ]
    if learned_elsewhere:
        named = ", ".join(learned_elsewhere)
        local = form in ("int8", "nf4")
        words.append(f"train {named} again on {form}" if local else f"{named} learned on other weights")
    return "; ".join(words) or "the same agents on smaller weights"


def _double(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    spec, shape = fleet.models[key], room.shapes[key]
    if form_of(spec, shape) != "nf4" or spec.quantization != "nf4" or spec.double_quantization:
        return
    adapted = [name for name, agent in fleet.agents.items() if agent.model == key and agent.adapter]
    yield Lever(
        f"models.{key}.double_quantization", key, DOUBLE, "none", NESTED,
        lambda fleet, _: with_model(fleet, key, double_quantization=True),
        lambda _: f"models.{key}.double_quantization: false -> true",
        lambda *_: f"train {', '.join(adapted)} on it too" if adapted else "nothing else",
    )  # fmt: skip


def _engine(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    """vLLM prefills in pieces and never copies its cache, so long contexts of many callers take less than in process."""
    spec = fleet.models[key]
    if room.on_cpu or model_engine(spec, room.shapes[key]) != "local":
        return
    yield Lever(
        f"models.{key}.engine", key, ENGINE, "none", "the same weights, prefilled in pieces and without copies of the cache",
        lambda fleet, _: with_model(fleet, key, engine="vllm"),
        lambda _: f"models.{key}.engine: {spec.engine} -> vllm",
        lambda *_: "vLLM must be installed",
    )  # fmt: skip


def _cache(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    spec = fleet.models[key]
    if not room.fp8 or spec.kv_cache == "fp8":
        return
    yield Lever(
        f"models.{key}.kv_cache", key, CACHE, "low", CACHE_LOSS,
        lambda fleet, _: with_model(fleet, key, kv_cache="fp8"),
        lambda _: f"models.{key}.kv_cache: {spec.kv_cache} -> fp8",
        lambda *_: "keys and values in 8 bits",
    )  # fmt: skip


def _adapters(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    for name, agent in fleet.agents.items():
        if agent.model == key and agent.adapter:
            yield _adapter(name, agent)


def _adapter(name: str, agent: AgentSpec) -> Lever:
    def turn(fleet: Fleet, _: int) -> Fleet:
        bare = fleet.agents[name].model_copy(update={"adapter": None})
        return fleet.model_copy(update={"agents": {**fleet.agents, name: bare}})

    return Lever(
        f"agents.{name}.adapter", agent.model, ADAPTER, "real", "it answers like the untrained base: evaluate it",
        turn,
        lambda _: f"agents.{name}.adapter: leave out {agent.adapter_name}",
        lambda *_: f"{name} is answered by the bare base, or goes",
    )  # fmt: skip


def _drop(fleet: Fleet, key: str, room: Room) -> Iterator[Lever]:
    mine = [agent for agent in fleet.agents.values() if agent.model == key]
    risk: Risk = "real" if mine else "low"
    reason = "nobody answers when the first model fails"
    if mine:
        every = all(agent.fallback for agent in mine)
        reason = "another model answers, without adapter: evaluate it" if every else UNANSWERED
    yield Lever(
        f"models.{key}", key, DROP if mine else DROP - 1, risk, reason,  # what only stands in goes first
        lambda fleet, _: without_model(fleet, key),
        lambda _: f"drop models.{key}",
        lambda fleet, _: _drop_cost(fleet, key),
    )  # fmt: skip


def _drop_cost(fleet: Fleet, key: str) -> str:
    """Who is gone, and who answers for the others."""
    left = without_model(fleet, key).agents
    mine = [name for name, agent in fleet.agents.items() if agent.model == key]
    gone = [name for name in mine if name not in left]
    words = [f"agent{'s' * (len(gone) > 1)} {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone"] if gone else []
    words += [f"agent {name} is answered by {left[name].model}" for name in mine if name in left]
    return "; ".join(words) or "its agents lose a fallback"


def without_model(fleet: Fleet, key: str) -> Fleet:
    """The fleet without a model: agents go to their first fallback, bare, as an adapter fits one base only; the others go too."""
    agents: dict[str, AgentSpec] = {}
    for name, agent in fleet.agents.items():
        fallback = tuple(other for other in agent.fallback if other != key)
        if agent.model != key:
            agents[name] = agent.model_copy(update={"fallback": fallback})
        elif fallback:
            bare = {"model": fallback[0], "fallback": fallback[1:], "adapter": None, "recipe": None}
            agents[name] = agent.model_copy(update=bare)
    models = {name: spec for name, spec in fleet.models.items() if name != key}
    return fleet.model_copy(update={"models": models, "agents": agents})
