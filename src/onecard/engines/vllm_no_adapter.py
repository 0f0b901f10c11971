"""An adapter of zeros, under which vLLM's CPU build is asked for the bare base.

Its CPU operators index the stacked adapters with -1 for a row without one, which is the last slot: beside adapters in one batch the base
answers with whichever adapter lies there (vllm/lora/ops/torch_ops/lora_ops.py, 0.32; docs/decisions/014-vllm-process.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from onecard.errors import InputError

NAME = "no-adapter"
_IN_LAYER = re.compile(r"\.\d+\.")  # not the embedding and not the head


def write_no_adapter(folder: Path, linears: Mapping[str, tuple[int, int] | None]) -> None:
    """A LoRA of rank 1 on one layer, A and B zero: adding it changes no bit. InputError for a base without a layer of known size."""
    sizes = {name: size for name, size in linears.items() if size is not None and _IN_LAYER.search(name)}
    if not sizes:
        raise InputError("no layer of this base shows its size, so adapters cannot be mixed with it on a CPU")
    module, (inputs, outputs) = next(iter(sizes.items()))
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "bias": "none",
        "target_modules": [module.rpartition(".")[2]], "base_model_name_or_path": None, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = {"A": [1, inputs], "B": [outputs, 1]}
    header, start = {}, 0
    for side, shape in shapes.items():
        end = start + 4 * shape[0] * shape[1]
        name = f"base_model.model.{module}.lora_{side}.weight"
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    (folder / "adapter_model.safetensors").write_bytes(len(written).to_bytes(8, "little") + written + bytes(start))
