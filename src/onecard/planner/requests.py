"""What an agent's requests take, alone and among others, and how probable it is that its deadline holds.

Two uncertainties are kept apart. Requests differ from one another (`closed_loop.py`): that makes the percentile; and the prediction
of any time may be wrong by the engine's range (`chance.py`): that makes the probability that this percentile is in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from onecard.errors import InputError
from onecard.fleet.schema import Deadline, Fleet
from onecard.planner import engine_facts as facts
from onecard.planner.cache import model_engine
from onecard.planner.chance import Verdict, chance, spread_range, verdict, widened
from onecard.planner.closed_loop import steady_percentiles
from onecard.planner.engine_facts import Range
from onecard.planner.ledger import Tag
from onecard.planner.load import Load, Shape
from onecard.planner.memory import Shapes
from onecard.planner.speed import Answering, Seconds, SpeedFacts

PROMPT_TOKENS = 512  # of an agent whose fleet file gives no shape
PERCENTILE = 95.0  # of an agent without a deadline
# How far the computation of events was off where its times for a lone caller were right: root mean square 9% in the median request (29
# loads) and 14% in the 95th percentile (23 loads), part of it the unrest of a machine that shares its host. Decision 010 has the table.
EVENTS_RANGE = spread_range(0.10)


@dataclass(frozen=True)
class PerHour:
    """Requests an hour, expected and in the range of the prediction."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class AgentSpeed:
    """What an agent's requests take. `alone`: one caller, a typical request. With the model's callers all asking, its agents in equal
    parts, `typical` is the median request and `busy` the time within which `percentile` of them are answered (95 without a deadline).

    `probability` is that of `busy` being within the deadline. `shape_tag` is exact when the agent's deadline gives the shape and
    assumed otherwise. Times are None where the card's compute rate is not known or the model is remote.
    """

    agent: str
    model: str
    engine: str
    prompt_tokens: int
    new_tokens: int
    shape_tag: Tag
    callers: int
    ttft: Seconds | None
    itl: Seconds | None
    alone: Seconds | None
    typical: Seconds | None
    busy: Seconds | None
    tokens_s: float | None
    requests_per_hour: PerHour | None
    deadline_s: float | None
    percentile: float
    probability: float | None
    verdict: Verdict
    source: str

    @property
    def margin_s(self) -> float | None:
        """Seconds between the deadline and the expected time of its percentile; negative: late."""
        return None if self.deadline_s is None or self.busy is None else self.deadline_s - self.busy.expected

    @property
    def because(self) -> str | None:
        """How the verdict follows, in a sentence; None without one."""
        if self.busy is None or self.probability is None:
            return None
        times = (
            f"{self.busy.expected:.3g} s expected, {self.busy.low:.3g} to {self.busy.high:.3g} s in nine of ten cases"
        )
        asked = f"{self.percentile:g}% of requests within {self.deadline_s:g} s with {self.callers} callers"
        return f"{asked}: {times}; probability {self.probability:.1%}"


def judge(busy: Seconds | None, deadline: Deadline | None) -> Verdict:
    """What the probability that `busy` is within the deadline amounts to: meets from 95% on, misses up to 5%, else unclear."""
    return verdict(chance(busy, deadline.seconds) if deadline and busy else None)


def agent_speed(
    fleet: Fleet,
    name: str,
    shapes: Shapes,
    speed: SpeedFacts,
    *,
    on_cpu: bool = False,
    callers: int | None = None,
    parts: Mapping[str, float] | None = None,
) -> AgentSpeed:
    """An agent's requests: of its deadline's shape, or a prompt of 512 tokens and its longest preset where it has none.

    `callers` ask at once (the model's concurrency where it is not said); `parts` says what part of them each agent of the model gets.
    """
    agent = fleet.agents[name]
    deadline, engine = agent.deadline, model_engine(fleet.models[agent.model], shapes[agent.model])
    prompt, new = request_shape(fleet, name)
    percent = deadline.percentile if deadline else PERCENTILE
    times: dict[str, Seconds] = {}
    tokens_s, hourly, source = None, None, "remote: not predicted"
    load = load_of(fleet, name, shapes, callers=callers, parts=parts)
    if engine != "remote":
        answering = answering_of(fleet, name, shapes, speed, on_cpu=on_cpu)
        tokens_s = load.lines / answering.step_s(load.lines, prompt + new // 2)
        source = f"{answering.engine.source}; {speed.source}"
        times = _alone(answering, prompt, new)
        if speed.tflops is None:  # without a compute rate only decoding, which streams, can be timed
            times = {"itl": times["itl"]}
        else:
            among, hourly = _among_others(load, with_adapters_of(answering, fleet, load), name, percent)
            times |= among
    probability = chance(times["busy"], deadline.seconds) if deadline and "busy" in times else None
    return AgentSpeed(
        agent=name,
        model=agent.model,
        engine=engine,
        prompt_tokens=prompt,
        new_tokens=new,
        shape_tag="exact" if deadline else "assumed",
        callers=load.callers,
        **{what: times.get(what) for what in ("ttft", "itl", "alone", "typical", "busy")},
        tokens_s=tokens_s,
        requests_per_hour=hourly,
        deadline_s=deadline.seconds if deadline else None,
        percentile=percent,
        probability=probability,
        verdict=verdict(probability),
        source=source,
    )


def load_of(
    fleet: Fleet, name: str, shapes: Shapes, *, callers: int | None = None, parts: Mapping[str, float] | None = None
) -> Load:
    """What the agent's model is asked: by all its agents in equal parts, or in `parts`. InputError for parts that are no parts of it."""
    key = fleet.agents[name].model
    spec = fleet.models[key]
    sharing = [other for other, agent in fleet.agents.items() if agent.model == key]
    given = dict(parts) if parts is not None else dict.fromkeys(sharing, 1.0)
    if any(other not in sharing for other in given) or any(not 0 <= part < inf for part in given.values()):
        raise InputError(
            f"parts of the load: {given}", where="parts", allowed=f"0 or more for each of {', '.join(sharing)}"
        )
    if not given.get(name):
        raise InputError(f"{name} has no part of the load", where="parts", allowed="above 0")
    if callers is not None and callers < 1:
        raise InputError(f"{callers} callers", where="callers", allowed="1 or more")
    asked = [(other, *request_shape(fleet, other), part) for other, part in given.items() if part]
    piecewise = model_engine(spec, shapes[key]) == "vllm"
    return Load(
        shapes=tuple(
            Shape(o, prompt, new, longest_answer(fleet, o, prompt, new), part) for o, prompt, new, part in asked
        ),
        callers=callers or spec.concurrency,
        lines=spec.concurrency,
        piece_tokens=facts.VLLM_PREFILL_TOKENS if piecewise else None,
    )


def longest_answer(fleet: Fleet, name: str, prompt: int, new: int) -> int:
    """Tokens after which an answer is cut: by the agent's longest preset or the context, but not below the typical answer."""
    agent = fleet.agents[name]
    if agent.task == "rerank":
        return new
    longest = max(preset.max_new_tokens for preset in agent.presets.values())
    return max(new, min(longest, fleet.models[agent.model].context - prompt))


def answering_of(fleet: Fleet, name: str, shapes: Shapes, speed: SpeedFacts, *, on_cpu: bool) -> Answering:
    """The agent's model as it answers, with all the adapters that share its batches."""
    agent = fleet.agents[name]
    shape = shapes[agent.model]
    adapted = [other for other in fleet.agents.values() if other.model == agent.model and other.adapter]
    recipe = agent.recipe or next((other.recipe for other in adapted if other.recipe), None)
    targeted = shape.targeted(recipe.lora.targets if recipe else "all-linear")
    return Answering(
        spec=fleet.models[agent.model],
        shape=shape,
        speed=speed,
        adapters=len(adapted),
        adapted=agent.adapter is not None,
        targeted_linears=sum(linear.count for linear in targeted),
        on_cpu=on_cpu,
    )


def request_shape(fleet: Fleet, name: str) -> tuple[int, int]:
    """(prompt tokens, new tokens) of a typical request. Scoring needs the prompt alone; its first token stands for the score."""
    agent = fleet.agents[name]
    if agent.deadline:
        return agent.deadline.prompt_tokens, agent.deadline.new_tokens
    longest = max(preset.max_new_tokens for preset in agent.presets.values())
    new = 1 if agent.task == "rerank" else longest
    return max(min(PROMPT_TOKENS, fleet.models[agent.model].context - new), 1), new


def busy_factors(answering: Answering) -> Range:
    """How far times among others may lie from expected ones: the engine's range, and what the computation of events itself misses."""
    return widened(answering.factors, EVENTS_RANGE)


def with_adapters_of(answering: Answering, fleet: Fleet, load: Load) -> Answering:
    """The model with the adapters of those who ask it, and no others."""
    asking = sum(fleet.agents[shape.agent].adapter is not None for shape in load.shapes)
    return answering if asking == answering.adapters else replace(answering, adapters=asking)


def _alone(answering: Answering, prompt: int, new: int) -> dict[str, Seconds]:
    """The first token, every further one, and a whole typical request of a lone caller."""
    ttft, itl = answering.prefill_s(1, prompt), answering.step_s(1, prompt + new // 2)
    expected = {"ttft": ttft, "itl": itl, "alone": ttft + itl * (new - 1)}
    return {what: Seconds.around(seconds, answering.factors) for what, seconds in expected.items()}


def _among_others(load: Load, answering: Answering, name: str, percent: float) -> tuple[dict[str, Seconds], PerHour]:
    """The agent's median request and its percentile under the load, and how many of its requests are answered in an hour."""
    (typical, busy), rate = steady_percentiles(load, answering, name, (50, percent))
    factors, hourly = busy_factors(answering), 3600 * rate
    times = {"typical": Seconds.around(typical, factors), "busy": Seconds.around(busy, factors)}
    return times, PerHour(hourly / factors.high, hourly, hourly / factors.low)
