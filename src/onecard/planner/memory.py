"""The serving ledger: what is resident on the card while a fleet answers, part by part.

Weights, KV cache and adapters follow exactly from shapes. Working memory is the worst moment the engine allows: every caller at full
context. What an engine's process takes for itself is assumed until it is measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from onecard.catalog.quantization import component_bytes
from onecard.catalog.units import KIB
from onecard.errors import FleetError
from onecard.fleet.recipe import LoraSection
from onecard.fleet.schema import AgentSpec, Fleet, ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.engine_facts import EngineName, Taken, engine_of
from onecard.planner.ledger import Ledger, Line, Tag, ledger
from onecard.planner.shapes import Form, ModelShape

Shapes = Mapping[str, ModelShape]

PARTS = {
    "linear": "linear layers",
    "lm_head": "head",
    "vision_tower": "vision tower",
    "audio_tower": "audio tower",
    "other_embeddings": "other embeddings",
    "qformer": "Q-Former",
    "router": "routers",
    "conv": "convolutions",
}


def serving_ledger(fleet: Fleet, shapes: Shapes, *, on_cpu: bool = False) -> Ledger:
    """Every byte that is resident while the fleet serves. `shapes` has one entry per key of `fleet.models`.

    FleetError for a model no shape is given for, a context the model does not reach, or a form its engine cannot hold.
    """
    lines: list[Line] = []
    for key, spec in fleet.models.items():
        shape = checked_shape(key, spec, shapes)
        if engine_of(spec, recurrent=is_recurrent(shape)) == "remote":
            continue
        lines += weight_lines(key, spec, shape)
        lines.append(cache_line(key, spec, shape))
        lines += adapter_lines(key, fleet, shape)
        lines.append(working_line(key, spec, shape))
    lines += process_lines(fleet, shapes, on_cpu=on_cpu)
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
    if spec.engine == "local" and spec.quantization in ("awq", "gptq", "fp8"):
        raise FleetError(
            f"the local engine cannot hold {spec.quantization}",
            where=f"models.{key}.quantization",
            allowed="none, int8, nf4",
            next_step="or set engine: vllm",
        )
    if spec.engine == "local" and is_recurrent(shape):
        raise FleetError(
            f"the local engine cannot hold the recurrent state of {spec.id}",
            where=f"models.{key}.engine",
            allowed="auto, vllm, remote",
        )
    return shape


def is_recurrent(shape: ModelShape) -> bool:
    """Whether layers keep a state instead of keys and values (linear attention, state space)."""
    return shape.kv.fixed_state_bytes > 0


def model_engine(spec: ModelSpec, shape: ModelShape) -> EngineName:
    """What answers for this model."""
    return engine_of(spec, recurrent=is_recurrent(shape))


def form_of(spec: ModelSpec, shape: ModelShape) -> Form:
    """The form the weights are really held in: `none` means what the checkpoint already is, and some layers cannot be quantized."""
    return held_form(spec.quantization, shape)


def held_form(asked: Form, shape: ModelShape) -> Form:
    """What becomes of a wish: transformers leaves layers that are not plain Linears (Falcon's) in 16 bits."""
    if asked == "none":
        return shape.published
    return "none" if asked in ("int8", "nf4") and not shape.quantizable else asked


def weight_lines(key: str, spec: ModelSpec, shape: ModelShape) -> list[Line]:
    """One line a component, as the libraries store them."""
    form = form_of(spec, shape)
    if spec.quantization == "none" and shape.published_bytes is not None:
        source = f"the published checkpoint is {form} already: its size on disk"
        return [Line(f"weights ({form})", key, shape.published_bytes, "measured", source, "weights")]
    if form == "mxfp4":
        return _mxfp4_lines(key, shape)
    sizes = component_bytes(shape.layout, form, double_quantization=spec.double_quantization)
    lines = []
    for component, size in sizes.items():
        part = PARTS.get(component, component)
        quantized = form != "none" and any(s.component == component and s.quantized for s in shape.layout.linears)
        if form in ("awq", "gptq", "fp8"):
            quantized = component == "linear"
        held = form_name(form, spec.double_quantization) if quantized else "16-bit"
        lines.append(Line(f"{part} ({held})", key, size, "exact", shape.source, "weights"))
    return lines


def form_name(form: Form, double_quantization: bool = True) -> str:
    """nf4 with double quantization is "nf4+DQ", 16 bits are "16-bit"."""
    if form == "none":
        return "16-bit"
    return "nf4+DQ" if form == "nf4" and double_quantization else form


def _mxfp4_lines(key: str, shape: ModelShape) -> list[Line]:
    """Experts in 4 bits with one byte of scale per 32, the rest in 16 bits."""
    counts = shape.layout.components
    experts = counts.get("experts", 0)
    rest = sum(counts.values()) - experts
    source = f"{shape.source}; mxfp4 holds 32 weights in 17 bytes"
    return [
        Line("experts (mxfp4)", key, experts * 17 // 32, "exact", source, "weights"),
        Line("everything else (16-bit)", key, rest * 2, "exact", shape.source, "weights"),
    ]


def cache_line(key: str, spec: ModelSpec, shape: ModelShape) -> Line:
    """Keys and values of every caller at full context, 16 bits each."""
    kv = shape.kv
    if model_engine(spec, shape) == "local":
        # Its cache keeps every position of sliding layers too, so that lines of a batch can be padded and cut.
        size = round(spec.concurrency * spec.context * kv.bytes_per_token())
        window = ", sliding layers kept whole" if kv.layers_sliding else ""
    else:
        blocks = -(-spec.context // facts.VLLM_KV_BLOCK) * facts.VLLM_KV_BLOCK
        size = kv.bytes_for(blocks, spec.concurrency)
        window = f", {kv.layers_sliding} layers stop at {kv.window}" if kv.layers_sliding else ""
    each = f"{kv.bytes_per_token() / KIB:.4g} KiB x {spec.context} tokens x {spec.concurrency}"
    image = f", image {shape.image_tokens} of them" if shape.image_tokens else ""
    return Line("KV cache (16-bit)", key, size, "exact", each + window + image, "cache")


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


def working_line(key: str, spec: ModelSpec, shape: ModelShape) -> Line:
    """What a step needs at its worst moment: a prefill of the longest prompts, or the cache written anew while a caller joins."""
    prefill, source = _prefill_bytes(spec, shape)
    copied = cache_line(key, spec, shape).bytes if model_engine(spec, shape) == "local" and spec.concurrency > 1 else 0
    if copied > prefill:
        source = "the cache, rewritten at a join"
    # The last position's logits of every caller: 16 bits, and twice fp32 while a token is chosen.
    logits = spec.concurrency * shape.layout.vocab_size * 10
    return Line("working memory", key, max(copied, prefill) + logits, "assumed", source, "working")


def _prefill_bytes(spec: ModelSpec, shape: ModelShape) -> tuple[int, str]:
    """Bytes alive together in the widest layer of a prefill, and how many tokens that is for."""
    hidden, wide = shape.layout.hidden_size, shape.widest
    # The MLP's input and residual in 16 bits, a norm in fp32, gate, up and their product; int8 sums up in 32 bits first.
    per_token = 8 * hidden + (8 if spec.quantization == "int8" else 6) * wide
    if model_engine(spec, shape) == "vllm":
        tokens = max(min(spec.context, facts.VLLM_PREFILL_TOKENS), spec.concurrency)
        return tokens * per_token, f"prefill in pieces of {tokens} tokens"
    mask = spec.concurrency * spec.context**2 * 2 if spec.concurrency > 1 else 0
    unpacked = 2 * shape.largest_linear if spec.quantization == "nf4" else 0  # one layer at a time, in 16 bits
    tokens = spec.context * spec.concurrency
    return tokens * per_token + mask + unpacked, f"{spec.concurrency} x {spec.context} tokens prefilled at once"


def process_lines(fleet: Fleet, shapes: Shapes, *, on_cpu: bool) -> list[Line]:
    """What the processes take: all in-process models share one, each vLLM has its own."""
    engines = {key: model_engine(spec, shapes[key]) for key, spec in fleet.models.items()}
    lines = []
    if "local" in engines.values():
        taken = facts.CPU_PROCESS if on_cpu else facts.CARD_CONTEXT
        lines.append(_process("Python and libraries" if on_cpu else "driver context", "process", taken))
    for key, engine in engines.items():
        if engine == "vllm":
            lines.append(_process("vLLM process", key, facts.CPU_PROCESS if on_cpu else facts.CARD_CONTEXT))
            if not on_cpu:
                lines.append(_process("CUDA graphs", key, facts.graphs(fleet.models[key].concurrency)))
    return lines


def _process(part: str, owner: str, taken: Taken) -> Line:
    return Line(part, owner, taken.bytes, taken.tag, taken.source, "process")


def _slack(lines: list[Line], pooled: set[str]) -> Line:
    """Memory lost to rounding and holes. Models in `pooled` keep their cache in one piece, which loses nothing."""
    stays = sum(line.bytes for line in lines if line.kind in ("weights", "adapters"))
    moves = sum(
        line.bytes for line in lines if line.kind == "working" or (line.kind == "cache" and line.owner not in pooled)
    )
    size = round(facts.SLACK_OF_WEIGHTS * stays + facts.SLACK_OF_WORKING * moves)
    source = f"{facts.SLACK_OF_WEIGHTS:.0%} of fixed, {facts.SLACK_OF_WORKING:.0%} of moving parts"
    floor = facts.SLACK_FLOOR if stays else 0
    return Line("allocator slack", "process", max(size, floor), "assumed", source, "process")
