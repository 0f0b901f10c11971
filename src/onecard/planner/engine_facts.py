"""What is known of each engine apart from the model: how near it comes to a card's figures and what it takes for itself.

Every constant stands here once, with where it comes from; formulas are in memory.py, speed.py and training.py. Until a machine is
calibrated these are cold-start values, so each carries the range that predictions made from it are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onecard.catalog.units import GIB, MIB
from onecard.fleet.schema import ModelSpec
from onecard.planner.ledger import Tag
from onecard.planner.shapes import Form

EngineName = Literal["local", "vllm", "remote"]

H200 = "measured on one H200 with Mistral-7B shapes, 2026-11-21"


def engine_of(spec: ModelSpec, *, recurrent: bool = False) -> EngineName:
    """What answers for a model whose engine is `auto`: in-process, unless only vLLM can hold that form or a `recurrent` state."""
    if spec.engine != "auto":
        return spec.engine
    return "vllm" if recurrent or spec.quantization in ("awq", "gptq", "fp8") else "local"


@dataclass(frozen=True)
class Range:
    """Factors below and above a predicted time between which the measured one is expected."""

    low: float
    high: float


@dataclass(frozen=True)
class EngineFacts:
    """One engine on one kind of device.

    A pass (one token for every caller, or a piece of prefill) takes the longer of streaming bytes and computing, and what the host
    needs: the longer of both where launches overlap with work (`overlaps`), else their sum. In eager PyTorch that is operators
    launched one by one, each `overhead_us`: those catalog/operators.yaml counts, MODULE_OPERATORS for every module called,
    `linear_operators` more for a Linear in a form (`prefill_linear_operators` where more than one token goes through), and for every
    adapter on a Linear `adapter_operators`, or `mixed_adapter_operators` where a batch mixes several. In one CUDA graph it is
    `layer_us` a layer, and adapters add `adapter_layer_us` a layer for the first and `more_adapters_layer_us` for each further one.
    `step_s`, `line_s` and `word_s` are for choosing tokens: a step, a line more, and a word of the vocabulary in a line; `piece_s` for
    masks and copies of a piece of prefill.
    """

    bandwidth_share: float
    compute_share: float
    eager: bool
    overlaps: bool
    linear_operators: dict[Form, float]
    prefill_linear_operators: dict[Form, float]
    adapter_operators: dict[Form, float]
    mixed_adapter_operators: dict[Form, float]
    layer_us: float
    step_s: float
    line_s: float
    word_s: float
    piece_s: float
    request_s: float
    adapter_layer_us: float
    more_adapters_layer_us: float
    range: Range
    source: str


# What calling a Python module costs beside its operators, in operators: of ten runs of seven architectures this and 7.6 us an operator
# gave every step within 6%, a table of operators alone only within 24%.
MODULE_OPERATORS = 3.7
# What of an architecture that nobody counted, a layer and around the layers: a decoder of the Llama kind.
LAYER_OPERATORS, LAYER_MODULES, OTHER_OPERATORS = 33.0, 13.0, 27.0
# A prefill's traffic beside its matrix products: each operator of a layer moves so many bytes a token and value of the hidden width (8.7
# to 12.8 in five architectures), and attention that no kernel fuses so many a score and head.
BYTES_AN_OPERATOR = 10.0
BYTES_A_SCORE = 40.0
# Attention that no fused kernel takes is a score of operators more a layer: Falcon's multi-query attention.
UNFUSED_ATTENTION_OPERATORS = 20.0

LOCAL_ON_CARD = EngineFacts(
    bandwidth_share=0.90,
    compute_share=0.80,
    eager=True,
    overlaps=True,
    linear_operators={"none": 0.0, "nf4": 4.3, "int8": 32.0},
    prefill_linear_operators={"none": 0.0, "nf4": 15.0, "int8": 40.0},
    adapter_operators={"none": 12.5, "nf4": 16.5, "int8": 15.0},
    mixed_adapter_operators={"none": 25.0, "nf4": 28.0, "int8": 26.0},
    layer_us=0.0,
    step_s=0.0009,
    line_s=0.0001,
    word_s=2.4e-9,
    piece_s=0.0025,
    request_s=0.003,
    adapter_layer_us=0.0,
    more_adapters_layer_us=0.0,
    range=Range(0.6, 1.7),
    source="transformers 5.17 and bitsandbytes, 7B to 14B shapes on one H200, 2026-11-21; the host's share varies with its processor",
)
LOCAL_ON_CPU = EngineFacts(
    bandwidth_share=0.80,
    compute_share=1.0,
    eager=True,
    overlaps=False,
    linear_operators={"none": 0.0, "nf4": 12.9, "int8": 13.5},
    prefill_linear_operators={"none": 0.0, "nf4": 12.9, "int8": 13.5},
    adapter_operators={"none": 4.8, "nf4": 4.8, "int8": 4.8},
    mixed_adapter_operators={"none": 8.8, "nf4": 8.8, "int8": 8.8},
    layer_us=0.0,
    step_s=0.0006,
    line_s=0.0013,
    word_s=0.0,
    piece_s=0.0,
    request_s=0.008,
    adapter_layer_us=0.0,
    more_adapters_layer_us=0.0,
    range=Range(0.5, 2.0),
    source="embedded:mini with transformers and bitsandbytes on two cores of an EPYC, 2026-11-21",
)
VLLM = EngineFacts(
    bandwidth_share=0.90,
    compute_share=0.80,
    eager=False,
    overlaps=False,
    linear_operators={},
    prefill_linear_operators={},
    adapter_operators={},
    mixed_adapter_operators={},
    layer_us=31.0,
    step_s=0.0004,
    line_s=0.000025,
    word_s=0.0,
    piece_s=0.0,
    request_s=0.0027,
    adapter_layer_us=65.0,
    more_adapters_layer_us=19.0,
    range=Range(0.75, 1.35),
    source=f"vLLM 0.26, bf16, CUDA graphs: {H200}",
)

# Rates by form where no vLLM figure was measured: 4-bit and 8-bit kernels reach less of the bandwidth than 16-bit ones.
VLLM_STREAM_FACTOR: dict[Form, float] = {
    "none": 1.0,
    "fp8": 0.9,
    "mxfp4": 0.75,
    "nvfp4": 0.75,
    "int4": 0.75,
    "w8": 0.9,
    "int8": 0.5,
    "awq": 0.75,
    "gptq": 0.75,
    "nf4": 0.4,
}

# Training, fitted to onecard's own loop on 7B shapes on one H200 (2026-11-21): what the host needs is so many times an adapted forward
# pass (no layer recomputed, all of them), and on a card the longer of that and the operations at this share of its rate is what a pass
# takes. int8 layers are not fused, and their products are slower.
TRAINING_SHARE, TRAINING_SHARE_INT8 = 0.415, 0.15
TRAINING_SHARE_CPU = 0.92
TRAINING_FORWARDS, TRAINING_FORWARDS_INT8 = (2.9, 3.6), (2.9, 5.2)
TRAINING_FORWARDS_CPU = (5.4, 7.2)  # with the share, from the demo's two runs on two cores
OPTIMIZER_TENSOR_S = 60e-6
TRAINING_RANGE, TRAINING_RANGE_CPU = Range(0.55, 1.8), Range(0.45, 2.2)

# Cold-start values of a machine that nobody measured.
HOST_OVERHEAD_US = 7.6
CPU_OVERHEAD_US = 10.0
CPU_TFLOPS = 0.08


@dataclass(frozen=True)
class Taken:
    """Memory an engine's process takes beside the model: `bytes`, how sure, and where from."""

    bytes: int
    tag: Tag
    source: str


CARD_CONTEXT = Taken(round(0.45 * GIB), "assumed", "0.3 to 0.6 GiB on most cards, 0.75 to 0.82 seen on an H200")
# cuBLAS keeps a workspace for each thread that multiplies: 32 MiB on Hopper, 8 on older cards. One opens, one works.
WORKSPACES = Taken(64 * MIB, "fitted", "two of cuBLAS, 32 MiB each on Hopper and less before it")
TRAINING_HOLES = Taken(round(0.2 * GIB), "fitted", f"0.2 to 1.4 GiB reserved beyond what 15 runs allocated, {H200}")
TRAINING_HOLES_OF_LOSS = 0.35  # the loss comes in pieces of another size than anything else
# Resident sets with the CPU builds on Linux: torch, transformers, peft, bitsandbytes and FastAPI; the same without FastAPI and with what
# compiled kernels of the matrix library keep.
CPU_PROCESS = Taken(round(0.52 * GIB), "fitted", "seen with torch, peft and FastAPI imported")
CPU_TRAINING_PROCESS = Taken(round(0.61 * GIB), "fitted", "seen with torch, peft and bitsandbytes imported")
# The resident set of three runs on the embedded base (passes of 512, 2,512 and 8,192 tokens) grew by 1.7 times what a card's allocator
# would hold, within 1%: norms and activations are the architecture's own there.
CPU_ACTIVATIONS = 1.7


def graphs(concurrency: int) -> Taken:
    """vLLM captures a CUDA graph for 1, 2, 4 and every eighth batch size up to twice the callers."""
    sizes = 3 + min(2 * concurrency, 512) // 8
    source = f"{sizes} batch sizes of them"
    return Taken(round((0.05 + 0.006 * sizes) * GIB), "assumed", source)


LOCAL_PREFILL_TOKENS = 2048  # tokens that go through the layers at once: engines/local/batch.py, PREFILL_TOKENS
VLLM_PREFILL_TOKENS = 2048  # most tokens vLLM prefills at once by default; longer prompts go in pieces
VLLM_KV_BLOCK = 16

# Share of what comes and goes that torch reserves beyond it, with segments that can grow: 2% to 17% in 44 of 45 runs on one H200, 24% in
# one. What stays loses next to nothing.
SLACK_OF_WORKING = 0.12
SLACK_FLOOR = 32 * MIB
