"""Tiny adapters as PEFT writes them, made byte by byte: no torch in the tests of the store."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onecard.adapters.manifest import Manifest
from onecard.adapters.store import Store

MODULES = tuple(f"base_model.model.model.layers.{i}.self_attn.{p}_proj" for i in range(2) for p in "qv")
RANK, WIDTH = 4, 8


def floats(count: int, seed: float = 0.5) -> bytes:
    """F32 values that are finite and not zero, different for each seed."""
    return struct.pack(f"<{count}f", *(seed + 0.001 * i for i in range(count)))


def safetensors_bytes(tensors: Mapping[str, tuple[str, Sequence[int], bytes]]) -> bytes:
    """A safetensors file; `tensors` maps a name to (dtype, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lora_tensors(seed: float = 0.5) -> dict[str, tuple[str, Sequence[int], bytes]]:
    """Pairs of rank 4 for q_proj and v_proj in two layers of width 8."""
    tensors: dict[str, tuple[str, Sequence[int], bytes]] = {}
    for number, module in enumerate(MODULES):
        tensors[f"{module}.lora_A.weight"] = ("F32", (RANK, WIDTH), floats(RANK * WIDTH, seed + number))
        tensors[f"{module}.lora_B.weight"] = ("F32", (WIDTH, RANK), floats(RANK * WIDTH, seed - number))
    return tensors


def peft_config(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"], "bias": "none",
        "use_dora": False, "use_rslora": False, "lora_bias": False, "rank_pattern": {}, "alpha_pattern": {},
        "modules_to_save": None, "trainable_token_indices": None, "base_model_name_or_path": "embedded:mini",
    }  # fmt: skip
    return config | changes


def a_manifest(agent: str = "writer", name: str = "style", **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "agent": agent,
        "name": name,
        "base": {"id": "embedded:mini", "fingerprint": "f" * 64, "quantization": "nf4"},
        "rank": RANK,
        "alpha": 8,
        "targets": ("q_proj", "v_proj"),
        "chat_template_sha256": "c" * 64,
        "stop_ids": (2,),
        "recipe": {"name": "style-tokens"},
        "data_sha256": "d" * 64,
        "training": {
            "rows": 10, "trained_tokens": 400, "steps": 3, "seconds": 1.5, "tokens_s": 266.7, "peak_memory_bytes": 10**9,
            "memory_kind": "process-rss", "hardware": "two cores", "versions": {"torch": "2.13.0"},
            "curve": [{"step": 1, "loss": 2.5, "learning_rate": 2e-4}, {"step": 3, "loss": 1.25, "learning_rate": 0.0}],
        },
    }  # fmt: skip
    return Manifest.model_validate(fields | changes)


def write_adapter(folder: Path, seed: float = 0.5, **config: Any) -> Path:
    """A folder that passes every check with `a_manifest`; another seed gives another content."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(**config)))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(lora_tensors(seed)))
    (folder / "README.md").write_text("An adapter for tests.\n")
    return folder


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too: path -> content, None for a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "trained")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "modelstore", lock_timeout_s=20)


S3 = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server on the loopback, with a bucket named `bucket`."""
    import s3fs

    program = Path(__file__).parents[2] / "benchmarks" / "local_s3.py"
    with subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin and server.stdout
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=url).mkdir("bucket")
        yield url
        server.stdin.close()


@pytest.fixture
def s3_url(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in the bucket, and an environment that leads to its server."""
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    for key, value in {**S3, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(key, value)
    return f"s3://bucket/{os.urandom(6).hex()}"


@pytest.fixture
def memory_url() -> Iterator[str]:
    import fsspec

    place = f"memory://tests-{os.urandom(6).hex()}"
    yield place
    if Store(place).exists():
        fsspec.filesystem("memory").rm(place.removeprefix("memory:/"), recursive=True)


@pytest.fixture(params=["local", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same store in a folder, in memory and on S3: what is tested with it is true of all three."""
    if request.param == "local":
        return Store(tmp_path / "modelstore", lock_timeout_s=20)
    return Store(request.getfixturevalue(f"{request.param}_url"), lock_timeout_s=20, cache=tmp_path / "cache")


@pytest.fixture(scope="session")
def makes() -> ModuleType:
    """This file's functions: test modules are imported on their own and cannot import one another."""
    return sys.modules[__name__]
