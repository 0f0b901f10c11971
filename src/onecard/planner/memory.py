"""The serving ledger: what is resident on the card while a fleet answers, part by part.

Weights, KV cache and adapters follow exactly from shapes. Working memory is the worst moment the engine allows, with every caller at
full context (working.py). What an engine's process takes for itself is assumed until it is measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from onecard.errors import FleetError
from onecard.fleet.recipe import LoraSection
from onecard.fleet.schema import AgentSpec, Fleet, ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.cache import cache_line, check_cache, is_recurrent, model_engine
from onecard.planner.engine_facts import Taken
from onecard.planner.ledger import Ledger, Line, Tag, ledger
from onecard.planner.shapes import ModelShape
from onecard.planner.weights import VLLM_FORMS, form_name, form_of, weight_lines
from onecard.planner.working import worst_moment

Shapes = Mapping[str, ModelShape]

LOCAL_RUNS = "followed tensor by tensor; whole models on one H200 agreed within 1%"


def serving_ledger(fleet: Fleet, shapes: Shapes, *, on_cpu: bool = False, context: Taken | None = None) -> Ledger:
    """Every byte that is resident while the fleet serves. `shapes` has one entry per key of `fleet.models`; `context` is what a
    process was seen to take of the card beside torch's memory.

    FleetError for a model no shape is given for, a context the model does not reach, or a form its engine cannot hold.
    """
    lines: list[Line] = []
    for key, spec in fleet.models.items():
        shape = checked_shape(key, spec, shapes)
        if model_engine(spec, shape) == "remote":
            continue
        lines += weight_lines(key, spec, shape)
        lines.append(cache_line(key, spec, shape))
        lines += adapter_lines(key, fleet, shape)
        adapted = any(agent.model == key and agent.adapter for agent in fleet.agents.values())
        lines.append(working_line(key, spec, shape, adapted=adapted))
    lines += process_lines(fleet, shapes, on_cpu=on_cpu, context=context)
    pooled = {key for key, spec in fleet.models.items() if model_engine(spec, shapes[key]) == "vllm"}
    lines.append(_slack(lines, pooled))
    return ledger(lines)


def checked_shape(key: str, spec: ModelSpec, shapes: Shapes) -> ModelShape:
    """The model's shape, with its wishes checked against what it and its engine can do."""
    shape = shapes.get(key)
    if shape is None:
        raise FleetError(
            "nothing is known of this model", where=f"models.{key}", next_step="give its shape to the planner"
        )
    if shape.max_context is not None and spec.context > shape.max_context:
        raise FleetError(
            f"{spec.id} reaches {shape.max_context} tokens, not {spec.context}",
            where=f"models.{key}.context",
            allowed=f"16 to {shape.max_context}",
        )
    form = form_of(spec, shape)
    if spec.engine == "local" and form in VLLM_FORMS:
        raise FleetError(
            f"the local engine cannot hold {form_name(form)}",
            where=f"models.{key}.quantization",
            allowed="none, int8, nf4" if shape.published == "none" else "a checkpoint that is not quantized",
            next_step="or set engine: vllm",
        )
    if spec.engine == "local" and is_recurrent(shape):
        raise FleetError(
            f"the local engine cannot hold the recurrent state of {spec.id}",
            where=f"models.{key}.engine",
            allowed="auto, vllm, remote",
        )
    check_cache(key, spec, shape)
    return shape


def adapter_lines(key: str, fleet: Fleet, shape: ModelShape) -> list[Line]:
    """One line for each agent whose adapter is resident on this model: fp32 as trained in process, 16 bits in vLLM."""
    lines = []
    width = 4 if model_engine(fleet.models[key], shape) == "local" else 2
    for agent, wish in fleet.agents.items():
        if wish.model != key or wish.adapter is None:
            continue
        lora = wish.recipe.lora if wish.recipe else LoraSection()
        tag: Tag = "exact" if wish.recipe else "assumed"
        size = (lora_weights(shape, lora) + added_rows(shape, wish)) * width
        rows = f", {len(wish.recipe.added_tokens)} tokens" if wish.recipe and wish.recipe.added_tokens else ""
        assumed = "" if wish.recipe else ", assumed"
        form = "fp32" if width == 4 else "16 bits"
        source = f"rank {lora.rank} on {len(shape.targets(lora.targets))} projections in {form}{rows}{assumed}"
        lines.append(Line(f"adapter {wish.adapter_name}", agent, size, tag, source, "adapters"))
    return lines


def lora_weights(shape: ModelShape, lora: LoraSection) -> int:
    """Parameters of A and B: rank x (inputs + outputs) of every targeted Linear."""
    return sum(lora.rank * (s.in_features + s.out_features) * s.count for s in shape.targeted(lora.targets))


def added_rows(shape: ModelShape, agent: AgentSpec) -> int:
    """Parameters of the rows that added tokens take in embedding and, untied, in the head."""
    tokens = len(agent.recipe.added_tokens) if agent.recipe else 0
    tables = 2 if "lm_head" in shape.layout.components else 1
    return tokens * tables * shape.layout.hidden_size


def working_line(key: str, spec: ModelSpec, shape: ModelShape, *, adapted: bool) -> Line:
    """What a step needs at its worst moment."""
    if model_engine(spec, shape) == "local":
        moment = worst_moment(spec, shape, adapted=adapted)
        tag: Tag = "fitted" if shape.experts == 1 else "assumed"
        return Line("working memory", key, moment.bytes, tag, f"{moment.when}; {LOCAL_RUNS}", "working")
    prefill, source = _vllm_prefill(spec, shape)
    # The last position's logits of every caller: 16 bits, and twice fp32 while a token is chosen.
    logits = spec.concurrency * shape.layout.vocab_size * 10
    return Line("working memory", key, prefill + logits, "assumed", source, "working")


def _vllm_prefill(spec: ModelSpec, shape: ModelShape) -> tuple[int, str]:
    """Bytes alive together in the widest layer of a prefill, and how many tokens that is for."""
    tokens = max(min(spec.context, facts.VLLM_PREFILL_TOKENS), spec.concurrency)
    return tokens * (8 * shape.layout.hidden_size + 6 * shape.widest), f"prefill in pieces of {tokens} tokens"


def process_lines(fleet: Fleet, shapes: Shapes, *, on_cpu: bool, context: Taken | None = None) -> list[Line]:
    """What the processes take: all in-process models share one, each vLLM has its own."""
    engines = {key: model_engine(spec, shapes[key]) for key, spec in fleet.models.items()}
    lines = []
    if "local" in engines.values():
        taken = facts.CPU_PROCESS if on_cpu else context or facts.CARD_CONTEXT
        lines.append(_process("Python and libraries" if on_cpu else "driver context", "process", taken))
        if not on_cpu:
            lines.append(_process("library workspaces", "process", facts.WORKSPACES))
    for key, engine in engines.items():
        if engine == "vllm":
            lines.append(_process("vLLM process", key, facts.CPU_PROCESS if on_cpu else context or facts.CARD_CONTEXT))
            if not on_cpu:
                lines.append(_process("CUDA graphs", key, facts.graphs(fleet.models[key].concurrency)))
    return lines


def _process(part: str, owner: str, taken: Taken) -> Line:
    return Line(part, owner, taken.bytes, taken.tag, taken.source, "process")


def _slack(lines: list[Line], pooled: set[str]) -> Line:
    """Memory lost to holes between what comes and goes. Models in `pooled` keep their cache in one piece, which loses nothing."""
    moves = sum(
        line.bytes for line in lines if line.kind == "working" or (line.kind == "cache" and line.owner not in pooled)
    )
    source = f"{facts.SLACK_OF_WORKING:.0%} of cache and working memory; 2% to 17% seen"
    floor = facts.SLACK_FLOOR if moves else 0
    return Line(
        "allocator slack", "process", max(round(facts.SLACK_OF_WORKING * moves), floor), "fitted", source, "process"
    )
