"""What vLLM is started with, from what the plan counted on. Pure: settings in, arguments and environment out.

Defaults of vLLM that would change answers are named away: sampling defaults of generation_config.json, the dtype of the checkpoint, code
from the checkpoint, and everything from the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onecard.errors import AdapterRefused, InputError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values of --max-lora-rank (vllm/config/lora.py, 0.32)
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
IN_CHECKPOINT = ("awq", "gptq")  # forms that vLLM reads from the checkpoint's own config
SERVED = ("none", *IN_CHECKPOINT, "fp8")
LEAST_CACHE_GIB = 1
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class VllmSettings:
    """One server. `memory_fraction` is its share of the card, `cache_bytes` its key-value cache on a CPU.

    `adapters` are resident at once, none over `max_rank`; with 0 of them LoRA is off. `longest` is what the base was built for, tokens.
    """

    folder: Path
    quantization: str
    dtype: Literal["bf16", "fp16", "fp32"]
    device: Device
    context: int
    concurrency: int
    adapters: int
    max_rank: int
    longest: int | None = None
    published: str = "none"
    kv_cache: Literal["auto", "fp8"] = "auto"
    memory_fraction: float | None = None
    cache_bytes: int | None = None


def check_settings(settings: VllmSettings, where: str) -> None:
    """InputError for what vLLM cannot hold."""
    if settings.concurrency < 1:
        raise InputError(f"a concurrency of {settings.concurrency}", where=where, allowed="1 or more")
    if settings.longest is not None and settings.context > settings.longest:
        raise InputError(
            f"a context of {settings.context} tokens",
            where=where,
            allowed=f"up to {settings.longest}, as the base was built",
        )
    if settings.quantization not in SERVED:
        raise InputError(
            f"vLLM does not hold {settings.quantization}, a form of bitsandbytes", where=where, allowed=", ".join(SERVED),
            next_step="set engine: local, or quantize the checkpoint with `onecard quantize`",
        )  # fmt: skip
    if settings.quantization in IN_CHECKPOINT and settings.published == "none":
        raise InputError(
            f"the checkpoint is not {settings.quantization}", where=where,
            next_step=f"quantize it first with `onecard quantize`, or name a checkpoint that is {settings.quantization}",
        )  # fmt: skip
    if settings.quantization == "none" and settings.published != "none":
        raise InputError(f"the checkpoint is {settings.published}, none was asked for", where=where)


def rank_setting(rank: int, where: str) -> int:
    """The --max-lora-rank for a rank; AdapterRefused for one that vLLM has no setting for."""
    fitting = [setting for setting in RANKS if setting >= rank]
    if not fitting:
        raise AdapterRefused(
            f"rank {rank} is over what vLLM serves", where=where, allowed=f"a rank up to {RANKS[-1]}",
            next_step="train it with a lower rank",
        )  # fmt: skip
    return fitting[0]


def window(settings: VllmSettings) -> int:
    """--max-model-len: the context, and one token more where the base allows: scoring a full context asks for one new token."""
    return settings.context + (1 if settings.longest is None or settings.longest > settings.context else 0)


def arguments(settings: VllmSettings, *, name: str, port: int, grace_s: float) -> list[str]:
    """The arguments of vllm.entrypoints.openai.api_server; the key is not among them, since anybody can read a command line."""
    said = [
        "--model", str(settings.folder), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(window(settings)), "--max-num-seqs", str(settings.concurrency),
        "--dtype", DTYPES[settings.dtype], "--kv-cache-dtype", settings.kv_cache,
        "--generation-config", "vllm", "--shutdown-timeout", str(round(grace_s)),
    ]  # fmt: skip
    if settings.quantization == "fp8" and settings.published == "none":
        said += ["--quantization", "fp8"]
    if settings.adapters:
        rank = rank_setting(settings.max_rank, str(settings.folder))
        # One more in memory than are wanted: a promotion loads the new version before the old one goes.
        slots = settings.adapters + (
            1 if settings.device == "cpu" else 0
        )  # on a CPU the base needs one (vllm_no_adapter.py)
        loras = (str(slots), str(slots + 1))
        said += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", loras[0], "--max-cpu-loras", loras[1]]
    if settings.device == "cpu":
        said.append("--enforce-eager")  # compiling for a CPU takes minutes at every new version
    elif settings.memory_fraction is not None:
        said += ["--gpu-memory-utilization", f"{settings.memory_fraction:.4f}"]
    return said


def environment(settings: VllmSettings, inherited: Mapping[str, str], *, key: str, scratch: Path) -> dict[str, str]:
    """The server's environment: its key, its own temporary folder, nothing from the network, nothing told to anybody."""
    gib = max(-(-(settings.cache_bytes or 0) >> 30), LEAST_CACHE_GIB)
    dropped = {name: value for name, value in inherited.items() if not name.startswith("VLLM_API_KEY")}
    return {
        **dropped,
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(scratch),
        **({"VLLM_CPU_KVCACHE_SPACE": str(gib)} if settings.device == "cpu" else {}),
    }
