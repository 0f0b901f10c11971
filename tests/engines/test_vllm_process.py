"""The life of a managed vLLM, with a fake that speaks its HTTP: starts, crashes, restarts, drains, and killed sides."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from onecard.engines.vllm_arguments import VllmSettings
from onecard.engines.vllm_engine import VllmEngine
from onecard.engines.vllm_restarts import Restarts
from onecard.errors import AdapterRefused, EngineFailed, MissingPart, UnknownName
from tests.engines.conftest import FINGERPRINT, MadeAdapter, Told, ask, asked, collect

FAKE = (sys.executable, str(Path(__file__).parent / "fake_vllm.py"))
FAST = Restarts(most=2, first_s=0.05)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAKE_VLLM_PLACE", str(tmp_path))
    return tmp_path


def settings(mini: Path) -> VllmSettings:
    return VllmSettings(
        folder=mini, quantization="none", dtype="fp32", device="cpu", context=500, concurrency=4, adapters=2, max_rank=4
    )


def start(mini: Path, **changes: Any) -> VllmEngine:
    asked_for: dict[str, Any] = {
        "model_id": "embedded:mini", "fingerprint": FINGERPRINT, "command": FAKE, "start_s": 30, "grace_s": 5, "restarts": FAST,
    }  # fmt: skip
    return VllmEngine.open(settings(mini), **(asked_for | changes))


@pytest.fixture
def engine(mini: Path, place: Path) -> Iterator[VllmEngine]:
    opened = start(mini)
    yield opened
    opened.close()


def pids(place: Path) -> list[int]:
    return [int(pid) for pid in (place / "pids").read_text().split()]


def gone(processes: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in processes)


def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def again(engine: VllmEngine, started: int) -> bool:
    return eventually(lambda: engine.process.started_count > started and engine.process.state == "ready")


def test_it_answers_loads_and_forgets_adapters_under_names_of_their_own(
    engine: VllmEngine, adapters: dict[str, MadeAdapter], place: Path
) -> None:
    plain, other = adapters["plain"], adapters["other"]
    for made in (plain, other):
        assert engine.load_adapter(made.folder, made.manifest) == made.digest
    told = {
        name: ask(engine, asked("What?", digest))
        for name, digest in (("base", None), ("plain", plain.digest), ("other", other.digest))
    }
    assert len({answer.text for answer in told.values()}) == 3
    lines = [line.split() for line in (place / "loaded").read_text().splitlines()]
    assert [name for name, _ in lines] == [f"{m.manifest.name}@unversioned-{m.digest[:12]}" for m in (plain, other)]
    assert all(folder.endswith(name) for name, folder in lines), "the path is the version's own too"
    engine.remove_adapter(plain.digest)
    with pytest.raises(UnknownName):
        ask(engine, asked("What?", plain.digest))
    assert ask(engine, asked("What?", other.digest)) == told["other"]
    assert engine.info().adapters == (other.digest,)
    assert {part.name for part in engine.memory().parts} == {"base weights", f"adapter {other.digest[:12]}", "kv cache"}
    assert engine.info().engine_version == "vllm 0.0-fake"


def test_nobody_without_the_key_is_answered(engine: VllmEngine) -> None:
    answer = httpx.post(f"{engine.process.url}/v1/completions", json={"model": engine.process.name, "prompt": [1]})
    assert answer.status_code == 401
    command = psutil.Process(engine.process.pid).cmdline()
    assert engine.process.key not in " ".join(command)


def test_an_adapter_that_changes_nothing_once_loaded_is_refused(
    engine: VllmEngine, adapters: dict[str, MadeAdapter], place: Path
) -> None:
    (place / "mute").touch()
    made = adapters["plain"]
    with pytest.raises(AdapterRefused, match="exactly as the base"):
        engine.load_adapter(made.folder, made.manifest)
    (place / "mute").unlink()
    assert engine.info().adapters == ()
    assert engine.load_adapter(made.folder, made.manifest) == made.digest
    assert engine.process.started_count == 1


def test_a_server_that_an_adapter_spoiled_is_restarted(
    engine: VllmEngine, adapters: dict[str, MadeAdapter], place: Path
) -> None:
    plain, other = adapters["plain"], adapters["other"]
    engine.load_adapter(plain.folder, plain.manifest)
    before = ask(engine, asked("What?", plain.digest))
    (place / "poisoned").touch()
    with pytest.raises(AdapterRefused, match="not finite"):
        engine.load_adapter(other.folder, other.manifest)
    (place / "poisoned").unlink()
    assert again(engine, 1)
    assert ask(engine, asked("What?", plain.digest)) == before
    assert engine.info().adapters == (plain.digest,)


def test_adapters_for_vllm_are_checked_before_it_hears_of_them(
    engine: VllmEngine, adapters: dict[str, MadeAdapter], place: Path, tmp_path: Path
) -> None:
    plain = adapters["plain"]
    for bad, words in (
        (plain.trained_on(fingerprint="0" * 64), "fingerprint"),
        (plain.trained_on(quantization="nf4"), "trained on nf4 weights"),
        (adapters["styled"], "adds 2 tokens, which vLLM drops"),
        (MadeAdapter(plain.folder, plain.manifest.model_copy(update={"digest": ""})), "never published"),
    ):
        with pytest.raises(AdapterRefused, match=words):
            engine.load_adapter(bad.folder, bad.manifest)
    with pytest.raises(AdapterRefused) as refused:
        engine.load_adapter(adapters["styled"].folder, adapters["styled"].manifest)
    assert "onecard adapters export tester/styled@" in str(refused.value.next_step)
    assert "--for vllm" in str(refused.value.next_step)
    assert not (place / "loaded").exists()


def test_after_a_crash_it_comes_back_with_its_adapters_and_what_was_in_flight_gets_one_error(
    engine: VllmEngine, adapters: dict[str, MadeAdapter], place: Path
) -> None:
    made = adapters["plain"]
    engine.load_adapter(made.folder, made.manifest)
    before = ask(engine, asked("What?", made.digest))
    killed = pids(place)

    async def killed_meanwhile() -> list[object]:
        running = [
            asyncio.create_task(collect(engine, asked("What?", made.digest, max_new_tokens=400))) for _ in range(3)
        ]
        await asyncio.sleep(0.2)
        os.kill(killed[0], signal.SIGKILL)
        return await asyncio.gather(*running, return_exceptions=True)

    outcomes = asyncio.run(killed_meanwhile())
    assert [type(outcome) for outcome in outcomes] == [EngineFailed] * 3
    assert again(engine, 1)
    assert gone(killed), "its engine and workers too, wherever they are"
    assert ask(engine, asked("What?", made.digest)) == before


def test_a_server_that_keeps_dying_is_given_up_and_says_why(engine: VllmEngine, place: Path) -> None:
    (place / "broken").touch()
    os.kill(pids(place)[0], signal.SIGKILL)
    assert eventually(lambda: engine.process.state == "failed")
    assert engine.process.started_count == 1 + FAST.most
    for use in (lambda: ask(engine, asked("x")), engine.memory, engine.process.check):
        with pytest.raises(EngineFailed, match=r"not started again.*no room for the cache"):
            use()


def test_a_start_that_fails_says_what_vllm_said_and_leaves_nothing(mini: Path, place: Path) -> None:
    (place / "broken").touch()
    with pytest.raises(EngineFailed, match="ended while it started: ValueError: the card has no room for the cache"):
        start(mini)
    assert gone(pids(place))


def test_a_start_that_takes_too_long_says_how_far_it_came(mini: Path, place: Path) -> None:
    (place / "slow").write_text("60")
    with pytest.raises(EngineFailed, match=r"within 1 s; it came as far as: Loading weights took"):
        start(mini, start_s=1)
    assert eventually(lambda: gone(pids(place)))


def test_a_slow_start_is_waited_for(mini: Path, place: Path) -> None:
    (place / "slow").write_text("0.7")
    engine = start(mini)
    assert ask(engine, asked("x")).tokens == 8
    engine.close()


def test_closing_leaves_no_process_and_no_folder(mini: Path, place: Path) -> None:
    engine = start(mini)
    folder = engine.process.folder
    assert folder.is_dir()
    engine.close()
    assert gone(pids(place)) and not folder.exists()
    assert engine.memory().total_bytes == 0
    with pytest.raises(EngineFailed, match="closed"):
        ask(engine, asked("x"))
    engine.close()


def test_draining_lets_requests_in_flight_finish(mini: Path, place: Path) -> None:
    engine = start(mini)
    whole = ask(engine, asked("What?", max_new_tokens=60))

    async def drained_meanwhile() -> Told:
        running = asyncio.create_task(collect(engine, asked("What?", max_new_tokens=60)))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(engine.close, drain=True)
        return Told.of(await running)

    assert asyncio.run(drained_meanwhile()) == whole
    assert (place / "drained").exists() and gone(pids(place))


def test_closing_without_draining_ends_requests_in_flight(mini: Path, place: Path) -> None:
    engine = start(mini)

    async def closed_meanwhile() -> list[object]:
        running = [asyncio.create_task(collect(engine, asked("What?", max_new_tokens=400))) for _ in range(3)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*running, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(closed_meanwhile())] == [EngineFailed] * 3


def test_leaving_a_stream_tells_the_server(engine: VllmEngine, place: Path) -> None:
    async def leave_early() -> None:
        stream = engine.generate(asked("What?", max_new_tokens=400))
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave_early())
    assert eventually((place / "cancelled").exists)


OWNER = """
import os, sys, time
from onecard.engines.vllm_process import VllmProcess
def arguments(name, port, grace_s):
    return ["--served-model-name", name, "--port", str(port), "--shutdown-timeout", "1"]
process = VllmProcess({command!r}, arguments, lambda key, scratch: {{**os.environ, "VLLM_API_KEY": key}}, where="here", start_s=30)
process.start()
print(process.folder, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_when_onecard_is_killed(place: Path) -> None:
    source = OWNER.format(command=FAKE)
    owner = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    assert folder.is_dir() and not gone(pids(place))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert eventually(lambda: gone(pids(place)) and not folder.exists())


def test_nothing_is_left_when_the_guard_is_killed_and_it_comes_back(engine: VllmEngine, place: Path) -> None:
    killed, guard = pids(place), psutil.Process(engine.process.pid).parent()
    assert guard is not None
    guard.kill()
    assert again(engine, 1)
    assert gone(killed[:2]), "the group; what had left it is out of reach without its guard"
    os.kill(killed[2], signal.SIGKILL)
    assert ask(engine, asked("x")).tokens == 8


def test_an_interpreter_that_is_not_there_is_named(mini: Path, place: Path) -> None:
    with pytest.raises(MissingPart, match="cannot be run"):
        start(mini, command=("/nonexistent/python", "-m", "vllm"))


def test_arguments_come_from_what_was_planned(engine: VllmEngine, place: Path) -> None:
    said = (place / "arguments").read_text()
    for words in (
        '"--max-model-len", "501"',
        '"--max-num-seqs", "4"',
        '"--max-lora-rank", "8"',
        '"--max-loras", "3"',
        '"--dtype", "float32"',
    ):
        assert words in said
    assert "trust-remote-code" not in said
    assert replace(settings(Path()), adapters=0).adapters == 0
