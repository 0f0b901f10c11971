"""Checkpoints of `onecard quantize` served by vLLM: the forms of llm-compressor that its CPU build reads too. Of int8 that is w8a8, whose
inputs are rounded as well; int8 of the weights alone needs a card there.

Runs where ONECARD_QUANTIZE_PYTHON names an interpreter with llm-compressor and ONECARD_VLLM_PYTHON one with vLLM; elsewhere nothing
is collected.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from onecard.cli.main import main

VLLM = os.environ.get("ONECARD_VLLM_PYTHON")
START_S = 300  # 25 to 45 s on two idle cores
END_S = 20


@contextmanager
def served(model: Path, folder: Path) -> Iterator[str]:
    """The address of a vLLM that serves this model; it and its workers have ended when the block is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "made"),
        *(
            "--max-model-len",
            "256",
            "--dtype",
            "bfloat16",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--enforce-eager",
        ),
    ]
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
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_S)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["awq", "gptq", "w8a8"])
def test_what_was_made_is_served(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    data = Path(__file__).parents[2] / "examples" / "data" / "style-train.jsonl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = tmp_path / "made"
    asked = ["quantize", "embedded:mini", "--to", form, "--data", str(data), "--samples", "32", "--output", str(made)]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["perplexity"]["change_percent"] < 15

    (tmp_path / "vllm").mkdir()
    with served(made, tmp_path / "vllm") as url:
        body = {
            "model": "made",
            "temperature": 0,
            "max_tokens": 40,
            "messages": [{"role": "user", "content": "What is a mutex?"}],
        }
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    assert "mutex" in answer["choices"][0]["message"]["content"].lower()
