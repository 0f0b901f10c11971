"""What the engine tells and asks its vLLM besides generating: adapters to load and forget, probes, sizes. Blocking calls."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from onecard.engines.vllm_process import VllmProcess
from onecard.errors import EngineFailed, OnecardError
from onecard.wire.faults import error_of

CALL_S = 600.0  # a first probe may compile
LARGEST_NOISE = 0.05  # nats by which two probes of one adapter may differ: in bf16, sums depend on who else is computed
GIB = 1 << 30
_WEIGHTS = re.compile(r"Model loading took ([\d.]+) GiB")
_CACHE = re.compile(r"Available KV cache memory: ([\d.]+) GiB")
_CACHE_METRIC = re.compile(r'kv_cache_memory_bytes="(\d+)"')
_NVIDIA = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")


def load(process: VllmProcess, name: str, folder: Path) -> None:
    """Makes an adapter known; vLLM reads its files at once."""
    _call(process, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})


def forget(process: VllmProcess, name: str) -> None:
    """Makes vLLM forget a name; requests that have begun finish."""
    _call(process, "/v1/unload_lora_adapter", {"lora_name": name})


def version(process: VllmProcess) -> str:
    """vLLM's version, as it says itself."""
    try:
        answer = httpx.get(f"{process.url}/version", trust_env=False, timeout=30)
        return str(answer.json()["version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise EngineFailed("it does not tell its version", where=process.url) from error


def probe(process: VllmProcess, name: str, prompt: Sequence[int]) -> tuple[float, ...]:
    """The log-probabilities of a prompt's tokens under a name, from the second token on."""
    body = {"model": name, "prompt": list(prompt), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    answer = json.loads(_call(process, "/v1/completions", body))
    try:
        told = answer["choices"][0]["prompt_logprobs"][1:]
        return tuple(float(at[str(token)]["logprob"]) for at, token in zip(told, prompt[1:], strict=True))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineFailed("vLLM did not say how likely the prompt is", where=process.url) from error


def probe_problem(base: Sequence[float], own: Sequence[float], again: Sequence[float]) -> str | None:
    """Why an adapter that was probed twice must not answer: not finite, not the same twice, or no different from the base."""
    if not all(map(math.isfinite, (*own, *again))):
        return "the loaded adapter computes values that are not finite"
    noise = max((abs(one - two) for one, two in zip(own, again, strict=True)), default=0.0)
    if noise > LARGEST_NOISE:
        return f"the loaded adapter does not answer the same twice: {noise:.3g} nats apart"
    effect = max((abs(one - two) for one, two in zip(own, base, strict=True)), default=0.0)
    return None if effect > 2 * noise else "loaded, it answers exactly as the base does"


def weights_bytes(log: str, folder: Path) -> int:
    """What vLLM says the base took; on a CPU, where it does not say, the size of the files."""
    if said := _WEIGHTS.findall(log):
        return round(float(said[-1]) * GIB)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def cache_bytes(process: VllmProcess, log: str) -> int:
    """The key-value cache, by its metrics or its log; 0 where neither says."""
    try:
        metrics = httpx.get(f"{process.url}/metrics", trust_env=False, timeout=10).text
    except httpx.HTTPError:
        metrics = ""
    if told := _CACHE_METRIC.search(metrics):
        return int(told[1])
    said = _CACHE.findall(log)
    return round(float(said[-1]) * GIB) if said else 0


def held_bytes(pid: int, *, on_card: bool) -> int:
    """What the server and its processes hold: resident memory, or on a card what the driver says; 0 where it does not say."""
    try:
        server = psutil.Process(pid)
        tree = [server, *server.children(recursive=True)]
    except psutil.Error:
        return 0
    return _on_card({process.pid for process in tree}) if on_card else sum(map(_resident, tree))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _on_card(pids: set[int]) -> int:
    try:
        lines = subprocess.run(_NVIDIA, capture_output=True, text=True, timeout=10, check=False).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return 0
    used = [line.split(",") for line in lines]
    return sum(int(line[1]) << 20 for line in used if len(line) == 2 and _is_of(line, pids))


def _is_of(line: list[str], pids: set[int]) -> bool:
    return line[0].strip().isdigit() and int(line[0]) in pids and line[1].strip().isdigit()


def _call(process: VllmProcess, path: str, body: Mapping[str, Any]) -> bytes:
    headers = {"authorization": f"Bearer {process.key}"}
    try:
        answer = httpx.post(process.url + path, json=dict(body), headers=headers, timeout=CALL_S, trust_env=False)
    except httpx.HTTPError as error:
        raise EngineFailed(f"vLLM does not answer ({type(error).__name__})", where=process.url) from error
    if answer.status_code != 200:
        raise _as_failure(error_of(answer.status_code, answer.content, process.url + path))
    return answer.content


def _as_failure(error: OnecardError) -> EngineFailed:
    """What vLLM refuses to us is never the caller's mistake."""
    return EngineFailed(error.problem, where=error.where)
