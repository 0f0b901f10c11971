"""What an agent's requests take, alone and among others, and whether its deadline holds: meets, misses or unclear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onecard.fleet.schema import Deadline, Fleet
from onecard.planner.cache import model_engine
from onecard.planner.ledger import Tag
from onecard.planner.memory import Shapes
from onecard.planner.speed import Answering, Seconds, SpeedFacts

Verdict = Literal["meets", "misses", "unclear", "unknown"]

PROMPT_TOKENS = 512  # of an agent whose fleet file gives no shape


@dataclass(frozen=True)
class AgentSpeed:
    """What an agent's requests take. `alone`: one caller; `busy`: the model's concurrency reached with requests of this shape.

    `shape_tag` is exact when the agent's deadline gives the shape and assumed otherwise. Times are None where the card's compute
    rate is not known or the model is remote.
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
    busy: Seconds | None
    tokens_s: float | None
    deadline_s: float | None
    percentile: float | None
    verdict: Verdict
    source: str

    @property
    def margin_s(self) -> float | None:
        """Seconds between the deadline and the expected time when busy; negative: late."""
        return None if self.deadline_s is None or self.busy is None else self.deadline_s - self.busy.expected


def judge(busy: Seconds | None, deadline: Deadline | None) -> Verdict:
    """meets: even the high end is in time; misses: even the low end is late; unclear: in between."""
    if deadline is None or busy is None:
        return "unknown"
    if busy.high <= deadline.seconds:
        return "meets"
    return "misses" if busy.low > deadline.seconds else "unclear"


def agent_speed(fleet: Fleet, name: str, shapes: Shapes, speed: SpeedFacts, *, on_cpu: bool = False) -> AgentSpeed:
    """An agent's requests: of its deadline's shape, or a prompt of 512 tokens and its longest preset where it has none."""
    agent = fleet.agents[name]
    spec, shape, deadline = fleet.models[agent.model], shapes[agent.model], agent.deadline
    engine = model_engine(spec, shape)
    prompt, new = _request_shape(fleet, name)
    times: dict[str, Seconds] = {}
    tokens_s, source = None, "remote: not predicted"
    if engine != "remote":
        answering = answering_of(fleet, name, shapes, speed, on_cpu=on_cpu)
        times = {what: Seconds.around(s, answering.factors) for what, s in _expected(answering, prompt, new).items()}
        tokens_s = spec.concurrency / answering.step_s(spec.concurrency, prompt + new // 2)
        source = f"{answering.engine.source}; {speed.source}"
        if speed.tflops is None:  # without a compute rate only decoding, which streams, can be timed
            times = {"itl": times["itl"]}
    return AgentSpeed(
        agent=name,
        model=agent.model,
        engine=engine,
        prompt_tokens=prompt,
        new_tokens=new,
        shape_tag="exact" if deadline else "assumed",
        callers=spec.concurrency,
        ttft=times.get("ttft"),
        itl=times.get("itl"),
        alone=times.get("alone"),
        busy=times.get("busy"),
        tokens_s=tokens_s,
        deadline_s=deadline.seconds if deadline else None,
        percentile=deadline.percentile if deadline else None,
        verdict=judge(times.get("busy"), deadline),
        source=source,
    )


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


def _request_shape(fleet: Fleet, name: str) -> tuple[int, int]:
    """(prompt tokens, new tokens). Scoring needs the prompt alone; its first token stands for the score."""
    agent = fleet.agents[name]
    if agent.deadline:
        return agent.deadline.prompt_tokens, agent.deadline.new_tokens
    longest = max(preset.max_new_tokens for preset in agent.presets.values())
    new = 1 if agent.task == "rerank" else longest
    return max(min(PROMPT_TOKENS, fleet.models[agent.model].context - new), 1), new


def _expected(answering: Answering, prompt: int, new: int) -> dict[str, float]:
    """Expected seconds: first token and every further one alone, the whole request alone, and with all callers at once."""
    ttft, itl = answering.prefill_s(1, prompt), answering.step_s(1, prompt + new // 2)
    callers = answering.spec.concurrency
    busy = answering.prefill_s(callers, prompt) + answering.step_s(callers, prompt + new // 2) * (new - 1)
    return {"ttft": ttft, "itl": itl, "alone": ttft + itl * (new - 1), "busy": busy}
