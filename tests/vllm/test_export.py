"""`onecard adapters export --for vllm`, served by a real vLLM: the greedy tokens are those of our own engine.

The adapter is trained here, on the embedded base, with two added tokens, so that both the LoRA and the rows matter. Both engines
compute in fp32: in bf16 a tie between two tokens could fall either way.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from onecard.adapters.store import Store, StoredVersion
from onecard.cli.main import main
from onecard.engines.engine import GenerationRequest, Message
from onecard.engines.local.engine import LocalEngine
from onecard.weights.inventory import fingerprint, resolve

VLLM = os.environ.get("ONECARD_VLLM_PYTHON")
START_S = 480  # 40 s on two idle cores, minutes where others work on them too
NEW_TOKENS = 24
STYLES = ("<STYLE_TERSE>", "<STYLE_VERBOSE>")
QUESTIONS = ("What is a mutex?", "Explain the term cache.", "What does a compiler do?")
FLEET = """
name: exported
card: {vram_gib: 4, bandwidth_gbs: 20}
store: ./modelstore
models: {base: {id: "embedded:mini", quantization: none}}
agents:
  writer:
    model: base
    adapter: style@production
    data: DATA
    recipe:
      added_tokens: ["<STYLE_TERSE>", "<STYLE_VERBOSE>"]
      base_quantization: none
      lora: {rank: 8, alpha: 16, dropout: 0.0, targets: all-linear}
      batch: {rows: 8, accumulate: 1}
      optimizer: {learning_rate: 2.0e-3, warmup_ratio: 0}
      epochs: 1
      max_length: 256
      gradient_checkpointing: false
    presets: {terse: {token: "<STYLE_TERSE>"}, verbose: {token: "<STYLE_VERBOSE>"}}
"""


@contextmanager
def served(exported: Path, folder: Path) -> Iterator[str]:
    """The address of a vLLM that serves an export under the names base and style; it has ended when the block is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    record = json.loads((exported / "export.json").read_text())
    command = [
        str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", str(exported / "base"), "--served-model-name", "base",
        "--enable-lora", "--max-lora-rank", str(record["max_lora_rank"]), "--lora-modules", f"style={exported / 'adapter'}",
        "--max-model-len", "256", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager",
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(folder), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_S
        while not _healthy(url):
            assert process.poll() is None and time.monotonic() < end, (folder / "vllm.log").read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server with its engine and workers; while it starts it does not listen to SIGTERM."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def ask_ours(stored: StoredVersion, contents: list[str]) -> list[tuple[str, int]]:
    """(text, tokens) of our own engine's greedy answers with the adapter as it was published."""
    base = resolve("embedded:mini", Path())
    engine = LocalEngine.open(
        base, model_id="embedded:mini", fingerprint=fingerprint(base), quantization="none", double_quantization=True,
        dtype="fp32", device="cpu", context=256, concurrency=1,
    )  # fmt: skip

    async def ask() -> list[tuple[str, int]]:
        answers = []
        for content in contents:
            request = GenerationRequest(messages=(Message("user", content),), adapter=digest, max_new_tokens=NEW_TOKENS)
            chunks = [chunk async for chunk in engine.generate(request)]
            answers.append(("".join(chunk.text for chunk in chunks), sum(chunk.tokens for chunk in chunks)))
        return answers

    try:
        digest = engine.load_adapter(stored.folder, stored.manifest)
        return asyncio.run(ask())
    finally:
        engine.close()


def ask_vllm(url: str, contents: list[str]) -> list[tuple[str, int]]:
    answers = []
    for content in contents:
        body = {
            "model": "style", "temperature": 0, "max_tokens": NEW_TOKENS, "messages": [{"role": "user", "content": content}],
        }  # fmt: skip
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
        answers.append((answer["choices"][0]["message"]["content"].lstrip(), answer["usage"]["completion_tokens"]))
    return answers


@pytest.mark.timeout(900)
def test_an_exported_adapter_with_added_tokens_answers_in_vllm_as_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(__file__).parents[2] / "examples" / "data" / "style-train.jsonl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET.replace("DATA", str(data)))
    assert main(["train", str(fleet), "--agent", "writer", "--limit-rows", "160"]) == 0
    exported = tmp_path / "exported"
    capsys.readouterr()
    asked = [
        "adapters",
        "export",
        "writer/style@candidate",
        "--fleet",
        str(fleet),
        "--for",
        "vllm",
        "--to",
        str(exported),
    ]
    assert main([*asked, "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)["proof"]
    assert proof["equal"] and proof["max_logit_difference"] == 0.0

    stored = Store(tmp_path / "modelstore").resolve("writer", "style@candidate")
    contents = [f"{style} {question}" for style in STYLES for question in QUESTIONS]
    ours = ask_ours(stored, contents)
    assert len({text for text, _ in ours}) > 3, "the styles and questions matter to it"
    (tmp_path / "vllm").mkdir()
    with served(exported, tmp_path / "vllm") as url:
        assert ask_vllm(url, contents) == ours
