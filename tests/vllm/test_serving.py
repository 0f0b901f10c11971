"""A real vLLM as a managed engine under the contract of every engine: one server, whose base is the export of the styled adapter.

It computes in fp32: in bf16 a tie between two tokens could fall either way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import psutil
import pytest

from onecard.engines.engine import Engine
from onecard.engines.local.vllm_export import export_for_vllm
from onecard.engines.vllm_arguments import VllmSettings
from onecard.engines.vllm_engine import VllmEngine
from onecard.engines.vllm_restarts import Restarts
from onecard.errors import EngineFailed
from onecard.weights.inventory import fingerprint

pytest.register_assert_rewrite("tests.engines.contract")

from tests.engines.conftest import MadeAdapter, adapters, ask, asked, collect, mini, one_thread  # noqa: E402, F401
from tests.engines.contract import *  # noqa: E402, F403
from tests.engines.contract import CONTEXT, RAMBLING, Subject, check_closing, eventually, subject_of  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not os.environ.get("ONECARD_VLLM_PYTHON"), reason="ONECARD_VLLM_PYTHON names no vLLM"),
    pytest.mark.timeout(900),
]
START_S = 480  # 30 s on two idle cores, minutes where others work on them too


def settings(folder: Path) -> VllmSettings:
    return VllmSettings(
        folder=folder, quantization="none", dtype="fp32", device="cpu", context=CONTEXT, concurrency=4,
        adapters=3, max_rank=4,
    )  # fmt: skip


def idle(engine: Engine) -> bool:
    """Whether nothing runs; one token is asked for first, because vLLM counts again only when it computes."""
    process = cast(VllmEngine, engine).process
    body = {"model": process.name, "prompt": [1], "max_tokens": 1}
    httpx.post(
        f"{process.url}/v1/completions", json=body, headers={"authorization": f"Bearer {process.key}"}, timeout=60
    )
    lines = httpx.get(f"{process.url}/metrics", timeout=60).text.splitlines()
    running = [line for line in lines if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{"))]
    return bool(running) and all(float(line.split()[-1]) == 0 for line in running)


@pytest.fixture(scope="module")
def real(mini: Path, adapters: dict[str, MadeAdapter]) -> dict[str, MadeAdapter]:  # noqa: F811
    """The adapters as trained on the embedded base itself, whose fingerprint the export compares."""
    return {name: made.trained_on(fingerprint=fingerprint(mini)) for name, made in adapters.items()}


@pytest.fixture(scope="module")
def subject(mini: Path, real: dict[str, MadeAdapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:  # noqa: F811
    exported = tmp_path_factory.mktemp("served") / "export"
    styled = real["styled"]
    export_for_vllm(styled.folder, styled.manifest, mini, exported, proven=False)

    def start() -> VllmEngine:
        return VllmEngine.open(
            settings(exported / "base"), model_id="embedded:mini", fingerprint=fingerprint(mini), owner=styled.manifest,
            start_s=START_S, restarts=Restarts(first_s=0.1),
        )  # fmt: skip

    opened = subject_of(mini, "none", real, start, idle)
    yield opened
    opened.engine.close()


def test_after_sigkill_of_the_server_it_comes_back_with_its_adapters(subject: Subject) -> None:
    engine = cast(VllmEngine, subject.engine)
    server = psutil.Process(engine.process.pid)
    killed = [server, *server.children(recursive=True)]

    async def killed_meanwhile() -> list[object]:
        running = [asyncio.create_task(collect(engine, RAMBLING)) for _ in range(3)]
        await asyncio.sleep(1)
        server.kill()
        return await asyncio.gather(*running, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(killed_meanwhile())] == [EngineFailed] * 3
    assert eventually(lambda: engine.process.started_count == 2 and engine.process.state == "ready", within_s=START_S)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in killed)
    told = [ask(engine, request) for request in subject.requests()]
    assert told == list(subject.expected.values())


def test_closing_ends_what_is_in_flight_and_leaves_nothing(subject: Subject) -> None:
    """The last of this file: the engine is used up by it."""
    process = cast(VllmEngine, subject.engine).process
    server = psutil.Process(process.pid)
    tree, folder = [server, *server.children(recursive=True)], process.folder
    check_closing(subject.engine)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in tree)
    assert not folder.exists()
