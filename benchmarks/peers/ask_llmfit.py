"""llmfit (a Rust program in a wheel): `llmfit plan`, by its own catalog where the model is in it, else by its custom-model file.

An entry of that file is written from the config and the hub's parameter count, as its documentation asks. Weights are its
`disk_size_gb` in 10^9 bytes, the cache its `kv_cache_gb` in GiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

from asking import Answer, answer_all

LONG_ENOUGH = 2**24
PROGRAM = Path(sys.executable).parent / "llmfit"
NAMES = {
    "16bit": ("BF16",),
    "int8": ("Q8_0", "GPTQ-Int8"),
    "nf4": ("Q4_K_M", "AWQ-4bit", "mlx-4bit"),
    "nf4_dq": ("Q4_K_M", "AWQ-4bit", "mlx-4bit"),
}


def ask(model: dict) -> Answer:
    if model["id"] not in catalog():
        add_to_custom_models(model)
    answers: Answer = {}
    for quantity, names in NAMES.items():
        answers[quantity] = {name: plan(model["id"], 64, name)["disk_size_gb"] * 1e9 for name in names}

    # Its cache grows in a straight line and is printed to a hundredth of a GiB: a long context keeps the rounding out.
    rows = plan(model["id"], LONG_ENOUGH, "BF16")["kv_alternatives"]
    each = next(row["kv_cache_gb"] for row in rows if row["kv_quant"] == "fp16") * 2**30 / LONG_ENOUGH
    answers["kv_per_token"] = {"fp16": each}
    answers["cache_at_long"] = {"fp16": each * model["long"]}
    return answers


def run(*arguments: str) -> str:
    done = subprocess.run([PROGRAM, "--json", "--no-dashboard", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line and "GLIBC" not in line]
        raise LookupError(said[0] if said else f"exit code {done.returncode}")
    return done.stdout


@cache
def catalog() -> frozenset[str]:
    return frozenset(entry["name"] for entry in json.loads(run("list")))


@cache
def plan(model_id: str, tokens: int, quantization: str) -> dict:
    said = json.loads(run("plan", model_id, "--context", str(tokens), "--quant", quantization))
    if said["model_name"].lower() != model_id.lower():
        raise LookupError(f"it took {said['model_name']} for {model_id}")
    return said


def add_to_custom_models(model: dict) -> None:
    config = model["whole_config"]
    text = config.get("text_config", config)
    attention = ("num_attention_heads", "n_head", "n_heads", *(() if "state_size" in text else ("num_heads",)))
    heads = next((text[key] for key in attention if key in text), None)  # heads of a state are none of attention
    hidden = text.get("hidden_size") or text.get("n_embd") or text.get("d_model")
    billions = model["parameters"] / 1e9
    entry = {
        "name": model["id"],
        "provider": model["id"].partition("/")[0],
        "parameter_count": f"{billions:.1f}B",
        "parameters_raw": model["parameters"],
        "min_ram_gb": billions * 0.58,
        "recommended_ram_gb": billions * 0.58 + 1,
        "min_vram_gb": billions * 0.58,
        "quantization": "Q4_K_M",
        "context_length": model["long"],
        "use_case": "General chat",
        "num_hidden_layers": next(
            (text[key] for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in text), None
        ),
        "num_attention_heads": heads,
        "num_key_value_heads": text.get("num_key_value_heads") or heads,
        "head_dim": (text.get("head_dim") or hidden // heads) if heads else None,
        "hidden_size": hidden,
    }
    file = Path(os.environ["LLMFIT_CUSTOM_MODELS"])
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    file.write_text(json.dumps([*known, entry]), encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMFIT_CUSTOM_MODELS"] = str(Path(folder) / "custom_models.json")
        answer_all(lambda: version("llmfit"), ask)
