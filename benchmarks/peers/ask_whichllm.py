"""whichllm: the estimates under its `plan` command (weights by quantization name, cache by parameters), its model read from the hub.

The functions are called, not the command: the command adds framework and activations to the same figures and prints one sum.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from asking import Answer, answer_all, per_token

# Names of its tables: the GGUF ones that `plan --quant` takes, and the ones it gives repositories of bitsandbytes checkpoints.
NAMES = {
    "16bit": ("F16",),
    "int8": ("Q8_0", "INT8"),
    "nf4": ("Q4_K_M", "BNB_4BIT"),
    "nf4_dq": ("Q4_K_M", "BNB_4BIT"),
}


def ask(model: dict) -> Answer:
    from whichllm.data.quantization import QUANT_BYTES_PER_WEIGHT
    from whichllm.engine.quantization import _NON_GGUF_BYTES_PER_WEIGHT
    from whichllm.engine.vram import estimate_kv_cache
    from whichllm.models.hf import fetch_model_by_id

    known = asyncio.run(fetch_model_by_id(model["id"]))
    if known is None:
        raise LookupError("the repository does not expose enough metadata")
    each = {**_NON_GGUF_BYTES_PER_WEIGHT, **QUANT_BYTES_PER_WEIGHT}
    answers: Answer = {
        quantity: {name: int(known.parameter_count * each[name]) for name in names} for quantity, names in NAMES.items()
    }
    cache = per_token(lambda tokens: estimate_kv_cache(known, tokens), model["long"])
    return answers | {quantity: {"plan": size} for quantity, size in cache.items()}


if __name__ == "__main__":
    answer_all(lambda: version("whichllm"), ask)
