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

    A step (one token for every caller, or a prefill) takes the longer of streaming bytes and computing, plus what the host needs:
    `operators` launched one by one at `overhead_us` each in eager PyTorch, or `layer_us` a layer where the step is one CUDA graph.
    `operator_us_factor` is how much longer than plain an operator takes in a form, `adapter_us_factor` the same for an adapter's own.
    In graphs, adapters add `adapter_layer_us` a layer for the first and `more_adapters_layer_us` for each further one in the batch.
    """

    bandwidth_share: float
    compute_share: float
    eager: bool
    operator_us_factor: dict[Form, float]
    layer_us: float
    step_s: float
    line_s: float
    request_s: float
    adapter_us_factor: float
    adapter_layer_us: float
    more_adapters_layer_us: float
    range: Range
    source: str


# Operators of one decoder step in transformers 5.19 (a decoder of the Llama kind, counted with a dispatch mode): a part per layer,
# a part per Linear by form, a few around the layers. A LoRA adds six per Linear it targets; where a batch mixes several, eleven each.
LAYER_OPERATORS = 49
LINEAR_OPERATORS: dict[Form, int] = {"none": 1, "nf4": 4, "int8": 6}
OTHER_OPERATORS = 9
ADAPTER_OPERATORS = 6
MIXED_ADAPTER_OPERATORS = 11

LOCAL_ON_CARD = EngineFacts(
    bandwidth_share=0.90,
    compute_share=0.80,
    eager=True,
    # 16.8, 7.9 and 22.7 us an operator: 29.9, 49.0 and 14.8 tokens/s. That 16 bits ran slower than nf4 is what was seen.
    operator_us_factor={"none": 1.68, "nf4": 0.79, "int8": 2.27},
    layer_us=0.0,
    step_s=0.0,
    line_s=0.0002,
    request_s=0.015,
    adapter_us_factor=0.79,
    adapter_layer_us=0.0,
    more_adapters_layer_us=0.0,
    range=Range(0.6, 1.6),
    source=f"transformers and bitsandbytes, one caller: {H200}; host overhead varies with the machine's processor",
)
LOCAL_ON_CPU = EngineFacts(
    bandwidth_share=0.80,
    compute_share=1.0,
    eager=True,
    operator_us_factor={"none": 1.0, "nf4": 1.45, "int8": 1.5},
    layer_us=0.0,
    step_s=0.0006,
    line_s=0.0013,
    request_s=0.008,
    adapter_us_factor=0.50,
    adapter_layer_us=0.0,
    more_adapters_layer_us=0.0,
    range=Range(0.5, 2.0),
    source="embedded:mini with transformers and bitsandbytes on two cores of an EPYC, 2026-11-21",
)
VLLM = EngineFacts(
    bandwidth_share=0.90,
    compute_share=0.80,
    eager=False,
    operator_us_factor={},
    layer_us=31.0,
    step_s=0.0004,
    line_s=0.000025,
    request_s=0.0027,
    adapter_us_factor=0.0,
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
    "int8": 0.5,
    "awq": 0.75,
    "gptq": 0.75,
    "nf4": 0.4,
}

# Training, fitted to TRL 1.16 QLoRA of a 7B on one H200: 454 tokens/s a row at a time and 2,599 in batches of 16 (rows of about 267
# tokens, as their memory says), 4,693 and 7,029 with 2048 x 4 packed tokens with and without checkpointing; within 25% of each.
TRAINING_SHARE = 0.253
TRAINING_SHARE_CPU = 0.60
TRAINING_OPERATOR_FACTOR = 3.5
TRAINING_RANGE, TRAINING_RANGE_CPU = Range(0.55, 1.6), Range(0.45, 2.2)
PADDING = 1.10  # rows of similar length share a batch; the rest is padding

# Cold-start values of a machine that nobody measured.
HOST_OVERHEAD_US = 10.0
CPU_OVERHEAD_US = 16.0
CPU_TFLOPS = 0.08


@dataclass(frozen=True)
class Taken:
    """Memory an engine's process takes beside the model: `bytes`, how sure, and where from."""

    bytes: int
    tag: Tag
    source: str


CARD_CONTEXT = Taken(round(0.45 * GIB), "assumed", "0.3 to 0.6 GiB on most cards")
# Resident sets with the CPU builds on Linux: torch, transformers, peft, bitsandbytes and FastAPI; torch, trl, datasets, peft.
CPU_PROCESS = Taken(round(0.48 * GIB), "fitted", "seen with torch, peft and FastAPI imported")
CPU_TRAINING_PROCESS = Taken(round(0.56 * GIB), "fitted", "seen with torch, trl and datasets imported")
# The resident set of two runs on the embedded base grew by 2.0 to 2.3 times what a card's allocator would hold: fp32 beside bf16
# under autocast, and pages the C library keeps.
CPU_ACTIVATIONS = 2.2


def graphs(concurrency: int) -> Taken:
    """vLLM captures a CUDA graph for 1, 2, 4 and every eighth batch size up to twice the callers."""
    sizes = 3 + min(2 * concurrency, 512) // 8
    source = f"{sizes} batch sizes of them"
    return Taken(round((0.05 + 0.006 * sizes) * GIB), "assumed", source)


VLLM_PREFILL_TOKENS = 2048  # most tokens vLLM prefills at once by default; longer prompts go in pieces
VLLM_KV_BLOCK = 16

# Share of what torch allocates that is lost to rounding and to holes: little for weights, which stay, more for what comes and goes.
SLACK_OF_WEIGHTS = 0.01
SLACK_OF_WORKING = 0.10
SLACK_FLOOR = 32 * MIB
